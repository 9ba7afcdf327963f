"""What a SOCKS client says: SOCKS5 (CONNECT, no authentication), SOCKS4 and 4a.

Names are not resolved here: they travel to the far side as they are.

Source: RFC 1928; the SOCKS4 and SOCKS4A protocol notes of NEC (openssh.com/txt/socks4.protocol, socks4a.protocol).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Generator

from aioremote.errors import TunnelError, TunnelRefused
from aioremote.tunnels.sockets import NearSocket
from aioremote.types import Endpoint

__all__ = ["SocksGreeting", "SocksHandshake"]

_SECONDS = 30.0  # for a client to say where it wants to
_MAX_BYTES = 1024  # the longest request is far below
_NO_METHOD = b"\x05\xff"
_UNKNOWN_COMMAND, _UNKNOWN_ADDRESS = 7, 8


class SocksHandshake:
    """One client's handshake, without any I/O: fed as its bytes come.

    Args:
        say: called with what the client is to be answered.

    Attributes:
        target: where it wants to, once it has said so.
        failed: whether this is no SOCKS request that can be served; what is to be said to that has been said.
        rest: what the client has sent beyond the handshake.
    """

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._held = b""
        self._version = 5
        self._steps = self._talk()
        self._wanted = next(self._steps)
        self.target: Endpoint | None = None
        self.failed: bool = False

    @property
    def rest(self) -> bytes:
        """See the class."""
        return self._held

    def feed(self, data: bytes) -> None:
        """Take the client's next bytes."""
        self._held += data
        try:
            while self.target is None and (found := self._cut()) is not None:
                self._wanted = self._steps.send(found)
        except StopIteration:
            self.failed = self.target is None
        if self.target is None and len(self._held) > _MAX_BYTES:
            self.failed = True

    def _cut(self) -> bytes | None:
        """Return the piece that the current step waits for: a number of bytes, or (0) all before a NUL."""
        size = self._wanted or self._held.find(b"\0") + 1
        if not size or len(self._held) < size:
            return None
        found, self._held = self._held[:size], self._held[size:]
        return found if self._wanted else found[:-1]

    def _talk(self) -> Generator[int, bytes, None]:
        self._version = (yield 1)[0]
        if self._version == 5:
            yield from self._talk_5()
        elif self._version == 4:
            yield from self._talk_4()

    def _talk_5(self) -> Generator[int, bytes, None]:
        methods = yield (yield 1)[0] or 1
        if 0 not in methods:
            return self._say(_NO_METHOD)
        self._say(b"\x05\x00")
        _, command, _, kind = yield 4
        if kind in (1, 4):
            host = str(ipaddress.ip_address((yield 4 if kind == 1 else 16)))
        elif kind == 3:
            host = (yield (yield 1)[0] or 1).decode("ascii", "replace")
        else:
            return self._say(_reply_5(_UNKNOWN_ADDRESS))
        port = int.from_bytes((yield 2), "big")
        if command != 1:
            return self._say(_reply_5(_UNKNOWN_COMMAND))
        self.target = Endpoint(host, port)
        yield 1

    def _talk_4(self) -> Generator[int, bytes, None]:
        command, *place = yield 7
        port, address = int.from_bytes(bytes(place[:2]), "big"), bytes(place[2:])
        yield 0  # the user's name, which is not used
        host = str(ipaddress.ip_address(address))
        if address[:3] == b"\0\0\0" and address[3]:
            host = (yield 0).decode("ascii", "replace")
        if command != 1:
            return self._say(_REFUSED_4)
        self.target = Endpoint(host, port)
        yield 1

    def reply(self, error: Exception | None) -> bytes:
        """Return what the client is to be told once the connection stands, or has failed with `error`."""
        if self._version == 4:
            return _GRANTED_4 if error is None else _REFUSED_4
        if error is None:
            return _reply_5(0)
        return _reply_5(5 if isinstance(error, TunnelRefused) else 2 if isinstance(error, TunnelError) else 1)


_GRANTED_4 = b"\x00\x5a" + bytes(6)
_REFUSED_4 = b"\x00\x5b" + bytes(6)


def _reply_5(code: int) -> bytes:
    return b"\x05" + bytes([code]) + b"\x00\x01" + bytes(6)


class SocksGreeting:
    """Reads from a connection what its client wants, and calls `over` once: with None where it is not to be served."""

    def __init__(self, near: NearSocket, over: Callable[[NearSocket, SocksHandshake | None], None]) -> None:
        self._near = near
        self._over = over
        self._said = SocksHandshake(near.put)
        self._timer = asyncio.get_running_loop().call_later(_SECONDS, near.abort)
        self._told = False

    def received(self, data: bytes) -> None:
        self._said.feed(data)
        if self._said.target is not None:
            self._near.set_hold(True)
            self._tell(self._said)
        elif self._said.failed:
            self._near.finish()

    def ended(self) -> None:
        self._near.abort()

    def full(self, is_full: bool) -> None:  # noqa: FBT001  # a Sink's
        return None

    def closed(self, error: BaseException | None) -> None:
        self._tell(None)

    def _tell(self, said: SocksHandshake | None) -> None:
        self._timer.cancel()
        if not self._told:
            self._told = True
            self._over(self._near, said)
