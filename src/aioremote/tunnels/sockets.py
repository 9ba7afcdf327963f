"""The near sockets of tunnels: connections that are spliced, listeners that expose nothing before they are whole.

Not for the far side: that is `Transport.open_connection` and `open_listener`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import anyio

from aioremote._core.splice import Sink, Spliceable
from aioremote.errors import TunnelError

if TYPE_CHECKING:
    from aioremote.types import Endpoint

__all__ = ["NearListener", "NearSocket", "connect_near", "resolve_near"]

_BACKLOG = 1024
_PORT_TRIES = 10  # for one port that is free on each of several addresses
_WRITE_BUFFER_BYTES = 256 * 1024


class NearSocket(asyncio.Protocol, Spliceable):
    """One near connection. Nothing is read from it until `splice`.

    Args:
        accepted: called once it stands.
    """

    def __init__(self, accepted: Callable[[NearSocket], None] | None = None) -> None:
        self._accepted = accepted
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._early: list[bytes | None] = []  # what came before `splice`, None for the end: uvloop reads all the same
        self._lost = False
        self._error: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if self._accepted is not None:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.received(data)
        else:
            self._early.append(data)
            self.set_hold(True)

    def eof_received(self) -> bool:
        if self._sink is not None:
            self._sink.ended()
        else:
            self._early.append(None)
        return True

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.full(True)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost, self._error = True, exc
        if self._sink is not None:
            self._sink.closed(exc)

    def splice(self, sink: Sink) -> None:
        self._sink = sink
        early, self._early = self._early, []
        for data in early:
            sink.ended() if data is None else sink.received(data)
        if self._lost:
            sink.closed(self._error or anyio.BrokenResourceError())
        elif self._transport is not None:
            self._transport.resume_reading()

    def put(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def put_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            with suppress(OSError):  # reset meanwhile, of which `connection_lost` tells; nothing of it for who calls
                self._transport.write_eof()

    def set_hold(self, held: bool) -> None:  # noqa: FBT001
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading() if held else self._transport.resume_reading()

    def finish(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection, so that its peer does not take what it got for the whole."""
        if self._transport is not None and not self._lost:
            raw = self._transport.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._transport.abort()


class NearListener:
    """Listening near sockets, one for each address of the name.

    Args:
        accepted: called with each connection.

    Attributes:
        port: the real port, 0 for a unix socket.
    """

    def __init__(self, accepted: Callable[[NearSocket], None]) -> None:
        self._accepted = accepted
        self._servers: list[asyncio.Server] = []
        self._path = ""
        self.port: int = 0

    async def open(self, bind: Endpoint) -> None:
        """Bind all addresses, then listen.

        Raises:
            TunnelError: a port or path is taken, forbidden or impossible; then nothing listens.
        """
        if bind.path:
            bound = [_bind_path(bind.path)]
            self._path = bind.path
        else:
            bound = _bind_ports(await resolve_near(bind), bind)
            self.port = bound[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        while bound:
            self._servers.append(await self._serve(loop, bound.pop()))

    async def _serve(self, loop: asyncio.AbstractEventLoop, bound: socket.socket) -> asyncio.Server:
        def make() -> NearSocket:
            return NearSocket(self._accepted)

        if bound.family == socket.AF_UNIX:
            return await loop.create_unix_server(make, sock=bound, backlog=_BACKLOG)
        return await loop.create_server(make, sock=bound, backlog=_BACKLOG)

    def close(self) -> None:
        """Listen no more; the port or path is free at once."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._path = ""


def _bind_path(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.setblocking(False)
        found.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
    except OSError as error:
        found.close()
        why = "something is there already" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise TunnelError(f"cannot listen on {path}: {why}; give the path of a socket that does not exist") from error
    return found


async def resolve_near(place: Endpoint) -> list[tuple[int, tuple[str, int]]]:
    """Return (family, address) of each near address of a host.

    Raises:
        TunnelError: the name is not known.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TunnelError(f"the near name {place.host!r} cannot be resolved: {error.strerror}") from error
    except UnicodeError as error:
        raise TunnelError(f"{place.host!r} is no host name: {error}") from error
    return list(dict.fromkeys((family, (str(address[0]), place.port)) for family, _, _, _, address in found))


def _bind_ports(places: Sequence[tuple[int, tuple[str, int]]], bind: Endpoint) -> list[socket.socket]:
    """Bind one port on all addresses; of several, those that this computer has."""
    for tries_left in reversed(range(_PORT_TRIES)):
        bound: list[socket.socket] = []
        try:
            return _bind_all(places, bound)
        except OSError as error:
            for found in bound:
                found.close()
            if bind.port or error.errno != errno.EADDRINUSE or not tries_left:
                why = "it is taken" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
                raise TunnelError(f"cannot listen on {bind}: {why}; port 0 picks a free one") from error
    raise AssertionError


def _bind_all(places: Sequence[tuple[int, tuple[str, int]]], bound: list[socket.socket]) -> list[socket.socket]:
    port, absent = places[0][1][1], None
    for family, (host, _) in places:
        try:
            found = socket.socket(family, socket.SOCK_STREAM)
            bound.append(found)
            found.setblocking(False)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found.bind((host, port))
            port = found.getsockname()[1]
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            absent = error
            if bound and bound[-1].family == family:
                bound.pop().close()
    if absent is not None and not bound:
        raise absent
    return bound


async def connect_near(target: Endpoint) -> NearSocket:
    """Connect to a near port or unix socket; OSError where that fails."""
    loop = asyncio.get_running_loop()
    if target.path:
        _, found = await loop.create_unix_connection(NearSocket, target.path)
    else:
        _, found = await loop.create_connection(NearSocket, target.host, target.port)
    return found
