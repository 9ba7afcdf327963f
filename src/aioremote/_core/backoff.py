"""Waits between tries that grow and differ, so that many who lost one server do not return to it together."""

from __future__ import annotations

import random
from collections.abc import Iterator

from aioremote.errors import AuthenticationError, ConfigError, HostKeyError
from aioremote.types import Reconnect

__all__ = ["may_pass", "pauses", "reconnect_policy"]


def may_pass(error: Exception) -> bool:
    """Whether what keeps a host that was reachable from being reached may pass by itself."""
    return not isinstance(error, (AuthenticationError, ConfigError, HostKeyError))


def pauses(policy: Reconnect) -> Iterator[float]:
    """Yield the seconds to wait before each try, the first at once; ends after the last try that is allowed."""
    number = 0
    while policy.attempts is None or number < policy.attempts:
        most = min(policy.most_delay, policy.first_delay * 2 ** min(number - 1, 32)) if number else 0.0
        yield most * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        number += 1


def reconnect_policy(reconnect: bool | Reconnect) -> Reconnect | None:  # noqa: FBT001
    """Return the policy that ``reconnect=`` asks for."""
    return reconnect if isinstance(reconnect, Reconnect) else Reconnect() if reconnect else None
