"""A TCP connection to an address in numbers, or a socket at hand, for one protocol that reads all that comes.

asyncio's own transport does more than an ssh connection asks for: three turns of the loop to begin, the names of both
ends, flow control that asyncssh takes no part in (the windows of its channels bound what waits). A cold fan-out pays a
tenth of its CPU time for that. Names, and loops with transports of their own, go asyncio's way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["SocketTransport", "connect_address", "family_of"]

_READ_BYTES = 256 * 1024
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)


def family_of(host: str) -> socket.AddressFamily | None:
    """Return the family of an address in numbers; None for a name, and for an address with a zone."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None


async def connect_address(
    make: Callable[[], asyncio.Protocol], family: socket.AddressFamily, address: tuple[str, int]
) -> SocketTransport:
    """Connect a protocol, which `make` makes once the connection stands.

    Raises:
        OSError: it does not come about; ConnectionRefusedError where nothing listens.

    Cancellation: the socket is closed.
    """
    near = socket.socket(family)
    try:
        near.setblocking(False)
        error = near.connect_ex(address)
        if error in _UNDER_WAY:
            await _until_writable(near)
            error = near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"{os.strerror(error)} ({address[0]}, port {address[1]})")
        transport = SocketTransport(near, make(), address)
        transport.start()
        return transport
    except BaseException:
        near.close()
        raise


async def _until_writable(near: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[None] = loop.create_future()
    loop.add_writer(near, _tell, writable)
    try:
        await writable
    finally:
        loop.remove_writer(near)


def _tell(writable: asyncio.Future[None]) -> None:
    if not writable.done():
        writable.set_result(None)


class SocketTransport(asyncio.Transport):
    """Moves bytes between a connected socket and its protocol. Closing does not wait for what is not sent yet.

    Args:
        near: the socket, which is the transport's from now on.
        protocol: hears of what comes, and once of the end.
        peer: the other end's address, None where it has none.
    """

    __slots__ = ("_loop", "_peer", "_protocol", "_socket", "_unsent")

    def __init__(self, near: socket.socket, protocol: asyncio.Protocol, peer: tuple[str, int] | None = None) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._socket = near
        self._peer = peer
        self._protocol: asyncio.Protocol | None = protocol  # None once closed
        self._unsent = bytearray()

    def start(self) -> None:
        """Begin: the protocol learns of its transport, then of what comes."""
        assert self._protocol is not None
        self._loop.add_reader(self._socket, self._read)
        self._protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: asyncio's signature
        if name == "sockname":
            return self._socket.getsockname()
        return {"socket": self._socket, "peername": self._peer}.get(name, default)

    def is_closing(self) -> bool:
        return self._protocol is None

    def _read(self) -> None:
        assert self._protocol is not None
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._protocol.data_received(data)
        elif not self._protocol.eof_received():
            self._end(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._protocol is None:
            return
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data) and not self.is_closing():
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._socket, self._send_more)

    def _send_more(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent and not self.is_closing():
            self._loop.remove_writer(self._socket)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """Return how many bytes the socket took."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._end(error)
            return 0

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        """Close the socket now; the protocol hears of it in the loop's next turn."""
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._loop.call_soon(protocol.connection_lost, error)
