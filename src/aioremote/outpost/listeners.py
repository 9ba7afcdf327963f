"""Listeners of the far side over a link.

The far half is in `far.listening`. A channel that the far end opens is taken for a connection only where a listener
here has asked for it; any other is refused.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup

from aioremote.errors import RemoteError, TunnelError
from aioremote.outpost.far.handlers import REFUSED, Handler
from aioremote.outpost.far.places import ABORT, ACCEPTED, pack_place
from aioremote.outpost.link import CHANNEL_WINDOW
from aioremote.outpost.sockets import Connection, refusal
from aioremote.types import Endpoint

if TYPE_CHECKING:
    from aioremote.outpost.link import Link

__all__ = ["FarListener", "open_listener"]

_WAITING_CONNECTIONS = 128  # accepted by the far side and not served yet; more are turned away
_CLOSE_SECONDS = 2.0

# By link: the listeners that were asked for, by the name that the far end has for each.
_listeners: WeakKeyDictionary[Link, dict[bytes, FarListener]] = WeakKeyDictionary()


class FarListener(Handler, Listener[ByteStream]):
    """Connections that the far side accepts.

    Args:
        link: the link.
        bind: where to listen.
    """

    def __init__(self, link: Link, bind: Endpoint) -> None:
        self.bind: Endpoint = bind
        self._link = link
        self._number = 0
        self._streams, self._accepted = anyio.create_memory_object_stream[Connection](_WAITING_CONNECTIONS)
        self._opening: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._error: RemoteError | None = None
        self._closed = False

    async def open(self) -> None:
        """Ask the far side to listen, and learn the port that it has picked."""
        bind = self.bind
        try:
            self._number = self._link.open("listen", self, pack_place(bind.host, bind.port, os.fsencode(bind.path)))
            asked = _listeners.setdefault(self._link, {})
            if not asked:
                self._link.serve(ACCEPTED, _take_accepted)
            asked[b"%d" % self._number] = self
            port = int(await self._opening)
        except BaseException:
            self.discard()
            if self._number:
                self._link.reset(self._number)
            raise
        if not bind.path:
            self.bind = Endpoint(bind.host, port)

    # what the link calls

    def on_accept(self, header: bytes) -> None:
        if not self._opening.done():
            self._opening.set_result(header)

    def on_eof(self) -> None:
        self._end(TunnelError(f"{self._link.host}: the far side listens on {self.bind} no more", host=self._link.host))

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        self._end(refusal(self._link, code, text, f"cannot listen on {self.bind}", TunnelError))

    def on_lost(self, text: str) -> None:
        self._end(self._link.error("unknown"))

    def _end(self, error: RemoteError) -> None:
        if not self._opening.done():
            self._opening.set_exception(error)
        self._error = self._error or error
        self._over.set()
        self._streams.close()

    def take(self, number: int, host: str, port: int) -> Connection | None:
        """Take a connection; None for one too many."""
        connection = Connection(self._link, Endpoint(host, port, self.bind.path), number)
        try:
            self._streams.send_nowait(connection)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None
        return connection

    # Listener

    async def serve(self, handler: Callable[[ByteStream], Awaitable[Any]], task_group: TaskGroup | None = None) -> None:
        """Serve each connection in a task of its own.

        Raises:
            ConnectionLost: the link ended, so that nothing listens any more.
            anyio.ClosedResourceError: this listener was closed.
        """
        async with anyio.create_task_group() as own:
            group = task_group or own
            async for stream in self._accepted:
                group.start_soon(_serve_one, handler, stream)
            if self._closed or self._error is None:
                raise anyio.ClosedResourceError
            raise self._error

    def discard(self) -> None:
        """Take no more connections, without waiting, and turn away who waits to be served."""
        self._closed = True
        _listeners.get(self._link, {}).pop(b"%d" % self._number, None)
        self._streams.close()
        with suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                self._accepted.receive_nowait().abort()
        self._accepted.close()

    async def aclose(self) -> None:
        self.discard()
        self._link.eof(self._number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._over.wait()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.local_address: lambda: self.bind.path or (self.bind.host, self.bind.port)
        }
        if not self.bind.path:
            attributes[SocketAttribute.local_port] = lambda: self.bind.port
        return attributes


async def _serve_one(handler: Callable[[ByteStream], Awaitable[Any]], stream: Connection) -> None:
    async with stream:
        await handler(stream)


def _take_accepted(link: Link, number: int, header: bytes) -> Handler | None:
    """Take a connection that a listener of this end has asked for, and no other."""
    name, _, peer = header.partition(b" ")
    port, _, host = peer.decode("utf-8", "replace").partition(" ")
    listener = _listeners.get(link, {}).get(name)
    if listener is None:
        link.reject(number, REFUSED, "nobody here has asked for it")
        return None
    taken = listener.take(number, host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0)
    if taken is None:
        link.send_message(number, ABORT, end=True)
        return Handler()
    link.accept(number)
    link.widen(number, CHANNEL_WINDOW)
    return taken


async def open_listener(link: Link, bind: Endpoint) -> Listener[ByteStream]:
    """Listen on the far side.

    Raises:
        TunnelError: the port or path is taken, forbidden or impossible; nothing listens.
        ConnectionLost, ClosedError: the link is over.
        BusyError: the far end takes no more channels at once.
    """
    listener = FarListener(link, bind)
    await listener.open()
    return listener
