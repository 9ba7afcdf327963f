"""The words that name a tunnel on the command line, as ssh knows them from ``-L``, ``-R`` and ``-D``.

Source: ssh(1). Unlike there two ports alone will do (``5433:5432``), and nothing but ``*`` stands for all addresses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aioremote.tunnels.checks import tunnel_end
from aioremote.types import Endpoint

if TYPE_CHECKING:
    from aioremote.machine import Machine
    from aioremote.tunnels.tunnel import Tunnel

__all__ = ["Forward", "read_forward", "read_socks"]

_LOOPBACK, _ALL = "localhost", "0.0.0.0"  # noqa: S104  # only where it is asked for
_SEPARATOR = re.compile(r":(?![^\[]*\])")  # none within the brackets of an IPv6 address
_FORM = "give LPORT:DHOST:DPORT, as ssh takes it; a path in the place of a port is a unix socket"


@dataclass(frozen=True, slots=True)
class Forward:
    """One tunnel that was asked for.

    Attributes:
        kind: "local" listens here, "reverse" at the far end, "socks" here for a proxy's clients.
        near: the near end.
        far: the far end; None for "socks".
    """

    kind: Literal["local", "reverse", "socks"]
    near: Endpoint
    far: Endpoint | None

    def tunnel(self, machine: Machine, *, reconnect: bool) -> Tunnel:
        """Return the tunnel, not open yet."""
        near, far = self.near, self.far
        if far is None:
            return machine.socks_proxy(near.port, host=near.host, reconnect=reconnect)
        return machine.tunnel(
            near.path or near.port,
            far.path or far.port,
            lhost=near.host,
            dhost=far.host,
            reverse=self.kind == "reverse",
            reconnect=reconnect,
        )

    def ends(self, tunnel: Tunnel) -> tuple[str, str]:
        """Return the near and the far end of the open tunnel, with the real ports."""
        near = str(Endpoint(self.near.host, tunnel.lport, self.near.path))
        return near, "SOCKS" if self.far is None else str(Endpoint(self.far.host, tunnel.dport, self.far.path))


def read_forward(word: str, *, reverse: bool = False) -> Forward:
    """Read ``[LHOST:]LPORT:DHOST:DPORT``; what stands first is listened on, at the far end with `reverse`.

    Raises:
        ValueError: no such form, or what cannot be a port.
    """
    *listen, last = [part.removeprefix("[").removesuffix("]") for part in _SEPARATOR.split(word)]
    target = _LOOPBACK
    if "/" not in last and len(listen) > 1:
        target = listen.pop()
    first, second = _listening(word, listen), _end(word, target, last)
    return Forward("reverse", second, first) if reverse else Forward("local", first, second)


def read_socks(word: str) -> Forward:
    """Read ``[LHOST:]LPORT``, of a SOCKS proxy.

    Raises:
        ValueError: as `read_forward`.
    """
    parts = [part.removeprefix("[").removesuffix("]") for part in _SEPARATOR.split(word)]
    near = _listening(word, parts)
    if near.path:
        raise ValueError(f"{word!r}: a SOCKS proxy listens on a port, not on a path")
    return Forward("socks", near, None)


def _listening(word: str, parts: list[str]) -> Endpoint:
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"{word!r} is no tunnel: {_FORM}")
    *host, port = parts
    return _end(word, _ALL if host == ["*"] else host[0] if host else _LOOPBACK, port)


def _end(word: str, host: str, port: str) -> Endpoint:
    if "/" in port:
        return tunnel_end(port, "", word)
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{word!r} is no tunnel: {_FORM}")
    return tunnel_end(int(port), host, word)
