"""TLS at the daemon's door. Until a client is authenticated, its socket is read record by record, and no further.

asyncio's own TLS takes what there is, 256 KiB at once, before it judges the first byte. Here nothing of the first
record is taken before its head was judged, and of what follows no more than a login needs: the rest stays where it is.
Not for who is let in.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["ServerTls"]

T = TypeVar("T")
MAX_HELLO_BYTES = 4096
MAX_LOGIN_BYTES = 4096  # of all records behind the first: a certificate, a proof of its key or of a token
_HEAD_BYTES = 5  # of a record: type, version, length. Source: RFC 8446, section 5.1
_MOST_BYTES = 16384  # of what is in a record
_HANDSHAKE = b"\x16\x03"


class ServerTls:
    """TLS with one client: first over its socket, then on bytes that somebody else receives and sends.

    Attributes:
        ended: whether the client has said that nothing follows.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.ended: bool = False
        self._sock = sock
        self._heard = ssl.MemoryBIO()
        self._said = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._heard, self._said, server_side=True)
        self._left = MAX_LOGIN_BYTES

    @classmethod
    async def accept(cls, sock: socket.socket, context: ssl.SSLContext) -> ServerTls:
        """Do the handshake with whoever begins one.

        Raises:
            PermissionError: it is no TLS, or longer than a login is; what is too long was not read.
            ssl.SSLError: it failed.
            ConnectionError: the client has gone.
        """
        head = await _first_head(sock)
        size = int.from_bytes(head[3:])
        if head[:2] != _HANDSHAKE or size > MAX_HELLO_BYTES:
            raise PermissionError(f"no TLS: it began with {head!r}")
        tls = cls(sock, context)
        tls._left += _HEAD_BYTES + size
        await tls._until(tls._tls.do_handshake)
        return tls

    @property
    def certificate(self) -> bytes | None:
        """The client's, in DER; None where it has shown none."""
        return self._tls.getpeercert(binary_form=True)

    async def say(self, data: bytes) -> None:
        """Send this, and what TLS itself has to say."""
        await asyncio.get_running_loop().sock_sendall(self._sock, self.sealed(data))

    async def line(self, most: int) -> bytes:
        """Read a line, or what there is of one that is longer than `most` bytes."""
        line = b""
        while not line.endswith(b"\n") and len(line) <= most:
            data = await self._until(lambda: self._tls.read(most + 1))
            if not data:
                raise ConnectionAbortedError("closed before it has proved its token")
            line += data
        return line

    async def _until(self, step: Callable[[], T]) -> T:
        """Take records until `step` has all it needs."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self.say(b"")
            except ssl.SSLError:
                with suppress(OSError):
                    self._sock.send(self._said.read())  # the alert
                raise
            else:
                await self.say(b"")
                return result
            head = await self._exactly(_HEAD_BYTES)
            self._heard.write(head + await self._exactly(int.from_bytes(head[3:])))

    async def _exactly(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise PermissionError(f"more than {MAX_LOGIN_BYTES} bytes before it is authenticated")
        data, loop = b"", asyncio.get_running_loop()
        while len(data) < count:
            more = await loop.sock_recv(self._sock, count - len(data))
            if not more:
                raise ConnectionAbortedError("closed before it is authenticated")
            data += more
        return data

    # afterwards

    def opened(self, data: bytes) -> bytes:
        """Return what is in the bytes received; ssl.SSLError where they are not the client's."""
        self._heard.write(data)
        parts: list[bytes] = []
        with suppress(ssl.SSLWantReadError):
            while part := self._tls.read(_MOST_BYTES):
                parts.append(part)
            self.ended = True
        return b"".join(parts)

    def sealed(self, data: bytes) -> bytes:
        """Return the bytes to send for some content; without content, what TLS itself has to say."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        return self._said.read()

    def farewell(self) -> bytes:
        """Return the bytes that tell the client of the end."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._said.read()


async def _first_head(sock: socket.socket) -> bytes:
    """Wait until a record stands at the door, and look at its head: what only waits costs no TLS."""
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _HEAD_BYTES)  # else each byte would wake us
    loop.add_reader(sock, _tell_once, there)
    try:
        await there
    finally:
        loop.remove_reader(sock)
    head = sock.recv(_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    if len(head) < _HEAD_BYTES:
        raise ConnectionAbortedError("closed before the handshake")
    return head


def _tell_once(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)
