"""What an ssh connection is asked to be: plain values, checked before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from aioremote.host_keys import HostKeys
from aioremote.types import Reconnect

if TYPE_CHECKING:
    from aioremote.protocols import PasswordProvider

__all__ = ["Guard", "SshSettings", "keyfile_names"]

Guard = Literal["auto", "always", "never"]
DEFAULT_CONFIG = "~/.ssh/config"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """Everything about a connection but the host, user and port. Many machines may share one.

    Attributes:
        keyfiles: private keys to offer; with any given, neither the agent nor the default keys are.
        password: a str, or an async provider that is asked when the server wants one. Never shown.
        passphrase: for encrypted key files. Never shown.
        host_keys: how the server proves who it is.
        config: an ssh_config file to read; None ignores all of them.
        connect_timeout: seconds for resolving, connecting, the handshake and authentication together, counted from
            leaving the connect gate.
        keepalive: seconds of silence after which the server is asked for a sign of life.
        keepalive_count: unanswered signs of life after which the connection is lost.
        agent_forwarding: whether far programs may use the near ssh agent.
        guard: when the loop that ends far process trees is opened: with the first long or second concurrent command, at
            connect, or never.
        max_sessions: how many sessions the server allows on one connection; None learns it from the first refusal.
        reconnect: how a lost connection is tried again when it is next needed; None leaves it lost.
        jumps: through how many hosts of ProxyJump lines this host is a step already; set on the way, not by callers.
    """

    keyfiles: tuple[str, ...] = ()
    password: str | PasswordProvider | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    host_keys: HostKeys = field(default_factory=HostKeys.strict)
    config: str | None = DEFAULT_CONFIG
    connect_timeout: float = 15.0
    keepalive: float = 15.0
    keepalive_count: int = 3
    agent_forwarding: bool = False
    guard: Guard = "auto"
    max_sessions: int | None = None
    reconnect: Reconnect | None = None
    jumps: int = 0

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "keepalive"):
            seconds: object = getattr(self, name)
            if not isinstance(seconds, (int, float)):
                raise TypeError(f"{name}={seconds!r}: give a number of seconds")
            if not seconds > 0:
                raise ValueError(f"{name}={seconds!r}: give a positive number of seconds")
        if not isinstance(cast(object, self.keepalive_count), int):
            raise TypeError(f"keepalive_count={self.keepalive_count!r}: give a whole number")
        if self.keepalive_count < 1:
            raise ValueError(f"keepalive_count={self.keepalive_count!r}: give at least 1")
        if self.guard not in ("auto", "always", "never"):
            raise ValueError(f"guard={self.guard!r}: give 'auto', 'always' or 'never'")
        if not isinstance(cast(object, self.host_keys), HostKeys):
            raise TypeError(
                f"host_keys={self.host_keys!r}: give a HostKeys policy; "
                "HostKeys.insecure_no_check() is the one without checks"
            )


def keyfile_names(keyfile: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> tuple[str, ...]:
    """Return the given key files, one or several, with ``~`` expanded."""
    if keyfile is None:
        return ()
    if isinstance(keyfile, (str, os.PathLike)):
        keyfile = [keyfile]
    return tuple(os.path.expanduser(os.fspath(name)) for name in keyfile)
