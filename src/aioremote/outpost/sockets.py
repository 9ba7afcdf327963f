"""Connections of the far side over a link: anyio streams, each on a channel, spliced without tasks.

The far half is in `far.sockets`. Not for listeners (`listeners`).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from aioremote._core.splice import Sink, Spliceable
from aioremote._core.streams import Feed, StreamAttribute
from aioremote.errors import BusyError, RemoteError, TunnelError, TunnelRefused
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import UNKNOWN, Handler
from aioremote.outpost.far.places import ABORT, BROKEN, CLOSE, ENDED, REFUSES, pack_place

if TYPE_CHECKING:
    from aioremote.outpost.link import Link
    from aioremote.types import Endpoint

__all__ = ["Connection", "open_connection", "refusal"]

_CLOSE_SECONDS = 2.0
MAX_WORD_BYTES = 64
_ERRNOS = {name: number for number, name in errno.errorcode.items()}


class Connection(Handler, ByteStream, Spliceable):
    """One connection of the far side: bytes both ways, half-close, resets, back-pressure.

    Args:
        link: the link.
        peer: what it leads to, or who has connected.
        number: the channel.
    """

    def __init__(self, link: Link, peer: Endpoint, number: int = 0) -> None:
        self.number: int = number
        self._link = link
        self._peer = peer
        self._feed = Feed(self._hold)
        self._owed = 0  # credit, while a reader is slow
        self._full = False
        self._room: asyncio.Future[None] | None = None
        self._sending = False
        self._eof_said = False
        self._closing = False
        self._peer_ended = False
        self._over = asyncio.Event()
        self._sink: Sink | None = None
        self._error: BaseException | None = None
        self._opening: asyncio.Future[None] | None = None

    async def open(self, target: Endpoint) -> None:
        """Have the far side connect; errors as `open_connection`."""
        self._opening = asyncio.get_running_loop().create_future()
        self.number = self._link.open("connect", self, pack_place(target.host, target.port, os.fsencode(target.path)))
        try:
            await self._opening
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._opening = None

    # what the link calls

    def on_accept(self, header: bytes) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_result(None)

    def on_data(self, data: bytes) -> None:
        if not self._closing or self._sink is not None:
            self._feed.feed(data)
        self._used(cost(data))

    def on_message(self, data: bytes, more: bool) -> None:
        self._used(cost(data))
        word = data[:1]
        if word == ENDED:
            self._peer_ended = True
            self._feed.end()
        elif word == BROKEN:
            self._end(anyio.BrokenResourceError())
        elif word == REFUSES:
            self._refuse(0, data[1:].decode("utf-8", "replace"))
            self._end(anyio.BrokenResourceError())

    def on_eof(self) -> None:
        self._link.eof(self.number)
        self._end(None)

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        self._refuse(code, text)
        self._end(anyio.BrokenResourceError())

    def on_lost(self, text: str) -> None:
        self._fail_opening(self._link.error("not_started"))
        self._end(anyio.BrokenResourceError())

    def on_writable(self) -> None:
        self._full = False
        self._release_writer()
        if self._sink is not None:
            self._sink.full(False)

    def _refuse(self, code: int, text: str) -> None:
        self._fail_opening(refusal(self._link, code, text, f"cannot connect to {self._peer}", TunnelRefused))

    def _fail_opening(self, error: RemoteError) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(error)

    def _end(self, error: BaseException | None) -> None:
        """Tell, once, that the connection is gone both ways."""
        if self._over.is_set():
            return
        self._over.set()
        self._error = error
        if error is None:
            self._feed.end()
        if self._sink is not None:
            self._sink.closed(error)
        self._feed.end(error)
        self._release_writer()

    def _release_writer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _used(self, count: int) -> None:
        if self._feed.holding and not self._closing:
            self._owed += count
        else:
            self._link.grant(self.number, count)

    def _hold(self, held: bool) -> None:  # a Feed's callback
        if not held and self._owed:
            owed, self._owed = self._owed, 0
            self._link.grant(self.number, owed)

    # ByteStream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._feed.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if self._sending:
            raise BusyError(f"somebody is writing to the connection to {self._peer} already")
        if self._eof_said and (self._closing or not self._over.is_set()):
            raise anyio.ClosedResourceError
        if self._over.is_set():
            raise anyio.BrokenResourceError
        self._sending = True
        try:
            if item:
                self._full = not self._link.send(self.number, bytes(item))
            while self._full and not self._over.is_set():
                self._room = asyncio.get_running_loop().create_future()
                await self._room
        finally:
            self._sending, self._room = False, None
        if self._over.is_set():
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        self.put_eof()

    def abort(self) -> None:
        """Drop the connection at once; its peer sees a reset."""
        self._eof_said = self._closing = True
        if self._over.is_set():
            return
        self._hold(False)
        if self._opening is None and self._link.room(self.number) > MAX_WORD_BYTES:
            self._link.send_message(self.number, ABORT, end=True)
        else:  # of what waits nothing need go
            self._link.reset(self.number)
        self._end(anyio.BrokenResourceError())

    # Spliceable

    def splice(self, sink: Sink) -> None:
        self._sink = sink
        self._feed.divert(sink.received, sink.ended)
        if self._over.is_set():
            sink.closed(self._error)
        elif self._full:
            sink.full(True)

    def put(self, data: bytes) -> None:
        if self._eof_said or self._over.is_set() or not data:
            return
        if not self._link.send(self.number, data) and not self._full:
            self._full = True
            if self._sink is not None:
                self._sink.full(True)

    def put_eof(self) -> None:
        if not self._eof_said:
            self._eof_said = True
            if not self._over.is_set():
                self._link.send_message(self.number, ENDED)

    def set_hold(self, held: bool) -> None:
        self._feed.set_hold(held)

    def finish(self) -> None:
        """Close in order: what was put still goes out, what comes is dropped. The far end closes when it has it all."""
        if self._closing:
            return
        self._closing = True
        self._hold(False)
        if not (self._eof_said and self._peer_ended) and not self._over.is_set():
            self._link.send_message(self.number, CLOSE, end=True)
        self._eof_said = True

    async def aclose(self) -> None:
        self.finish()
        await self._feed.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):  # the close is ordered; only its confirmation is waited for
                await self._over.wait()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.remote_address: lambda: self._peer.path or (self._peer.host, self._peer.port),
            StreamAttribute.readable: lambda: self._feed.readable,
        }


def refusal(link: Link, code: int, text: str, what: str, kind: type[TunnelError]) -> TunnelError:
    """Return the error for what the far side would not do, with its errno where that is an OSError too."""
    name, _, why = text.partition(" ")
    if code == UNKNOWN or name not in _ERRNOS:
        return TunnelError(f"{link.host}: {what}: {text or 'given up by the far end'}", host=link.host)
    error = kind(f"{link.host}: {what}: {why}", host=link.host)
    if isinstance(error, OSError):
        error.errno = _ERRNOS[name]
    return error


async def open_connection(link: Link, target: Endpoint) -> ByteStream:
    """Connect from the far side.

    Raises:
        TunnelRefused: it does not come about; `errno` says why.
        ConnectionLost, ClosedError: the link is over.
        BusyError: the far end takes no more channels at once.

    Cancellation: what has come about is reset.
    """
    connection = Connection(link, target)
    await connection.open(target)
    return connection
