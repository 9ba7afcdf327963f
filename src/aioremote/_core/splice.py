"""Two byte streams joined into one connection by plain callbacks: no task and no switch per chunk.

A `Spliceable` hands what arrives to a `Sink` and takes bytes by `put`; `Relay` joins two of them, with half-close and
back-pressure. `Pumped` makes one of any anyio ByteStream, at the price of three tasks. Not for reading or writing a
stream oneself.
"""

from __future__ import annotations

import abc
import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio

from aioremote._core.streams import CHUNK_BYTES, HIGH_WATER_BYTES
from aioremote.errors import RemoteError

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["Pumped", "Relay", "Sink", "Spliceable", "SplicingListener"]


class Sink(Protocol):
    """Who takes what a spliced stream tells. After `closed` nothing more comes."""

    def received(self, data: bytes) -> None:
        """Bytes have arrived."""
        ...

    def ended(self) -> None:
        """The peer sends nothing more; it may still read."""
        ...

    def full(self, is_full: bool) -> None:  # noqa: FBT001  # its only argument
        """Too much waits to be sent (True), or that is over (False)."""
        ...

    def closed(self, error: BaseException | None) -> None:
        """The stream is gone both ways; with an error where it was not closed in order."""
        ...


class Spliceable(abc.ABC):
    """A stream that works by calls, none of which waits."""

    @abc.abstractmethod
    def splice(self, sink: Sink) -> None:
        """Tell `sink` of everything from now on, and first of what waits."""

    @abc.abstractmethod
    def put(self, data: bytes) -> None:
        """Send bytes; dropped where the stream is gone."""

    @abc.abstractmethod
    def put_eof(self) -> None:
        """Send nothing more."""

    @abc.abstractmethod
    def set_hold(self, held: bool) -> None:  # noqa: FBT001
        """Stop what arrives, or let it go on; a little may still come."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Close in order, once what was put is sent."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Close at once."""


class SplicingListener(abc.ABC):
    """A listener that can do without a task for each connection."""

    @abc.abstractmethod
    async def give(self, take: Callable[[Spliceable], None]) -> None:
        """Call `take` with each connection, who has to close it, until nothing listens any more."""


class _Way:
    """What one of the two streams tells, passed on to the other."""

    __slots__ = ("_count", "_relay", "_target", "has_ended", "is_closed")

    def __init__(self, relay: Relay, target: Spliceable, count: Callable[[int], None]) -> None:
        self._relay = relay
        self._target = target
        self._count = count
        self.has_ended = False
        self.is_closed = False

    def received(self, data: bytes) -> None:
        self._count(len(data))
        self._target.put(data)

    def ended(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._target.put_eof()
            self._relay.check()

    def full(self, is_full: bool) -> None:  # noqa: FBT001
        self._target.set_hold(is_full)

    def closed(self, error: BaseException | None) -> None:
        if not self.is_closed:
            self.has_ended = self.is_closed = True
            self._target.abort() if error is not None else self._target.finish()
            self._relay.check()


class Relay:
    """Joins `near` and `far` until both are closed.

    Args:
        near, far: the two streams; the relay closes both.
        sent, received: called with the size of what goes from near to far, and back.
        done: called once, when both are closed.
    """

    __slots__ = ("_back", "_done", "_far", "_near", "_there", "_waiter")

    def __init__(
        self,
        near: Spliceable,
        far: Spliceable,
        *,
        sent: Callable[[int], None],
        received: Callable[[int], None],
        done: Callable[[Relay], None],
    ) -> None:
        self._near = near
        self._far = far
        self._done = done
        self._waiter: asyncio.Future[None] | None = None
        self._there = _Way(self, far, sent)
        self._back = _Way(self, near, received)

    def start(self) -> None:
        """Join them."""
        self._far.splice(self._back)
        self._near.splice(self._there)

    def check(self) -> None:
        """Close both once both have ended; tell when both are closed."""
        if self._there.is_closed and self._back.is_closed:
            self._done(self)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        elif self._there.has_ended and self._back.has_ended:
            self._near.finish()
            self._far.finish()

    async def wait_closed(self) -> None:
        """Wait until both are closed."""
        if not (self._there.is_closed and self._back.is_closed):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def abort(self) -> None:
        """Close both at once."""
        self._near.abort()
        self._far.abort()


class Pumped(Spliceable):
    """Any ByteStream as a Spliceable, for as long as somebody awaits `run`.

    Args:
        stream: closed with this.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._sink: Sink | None = None
        self._waiting: deque[bytes | None] = deque()  # None: the end of what is sent
        self._size = 0
        self._full = False
        self._finishing = False
        self._to_write = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._task: asyncio.Task[object] | None = None
        self._aborted = False

    def splice(self, sink: Sink) -> None:
        self._sink = sink

    def put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        self._judge()
        self._to_write.set()

    def put_eof(self) -> None:
        self._waiting.append(None)
        self._to_write.set()

    def set_hold(self, held: bool) -> None:  # noqa: FBT001
        self._may_read.clear() if held else self._may_read.set()

    def finish(self) -> None:
        self._finishing = True
        self._to_write.set()

    def abort(self) -> None:
        self._aborted = True
        if self._task is not None:
            self._task.cancel()

    def _judge(self) -> None:
        full = self._size > (HIGH_WATER_BYTES // 2 if self._full else HIGH_WATER_BYTES)
        if full != self._full and self._sink is not None:
            self._full = full
            self._sink.full(full)

    async def run(self) -> None:
        """Move the bytes until both ways are closed; `splice` comes first."""
        assert self._sink is not None
        error: BaseException | None = anyio.BrokenResourceError()
        try:
            await self._move(self._sink)
            error = None
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteError, OSError):
            pass  # told to the sink
        finally:
            try:
                await (self._stream.aclose() if error is None else anyio.aclose_forcefully(self._stream))
            finally:
                self._sink.closed(error)

    async def _move(self, sink: Sink) -> None:
        async with asyncio.TaskGroup() as group:
            self._task = group.create_task(self._move_both(group, sink))
            if self._aborted:
                self._task.cancel()
        if self._aborted:
            raise anyio.BrokenResourceError

    async def _move_both(self, group: asyncio.TaskGroup, sink: Sink) -> None:
        reading = group.create_task(self._read(sink))
        try:
            await self._write()
        finally:
            reading.cancel()

    async def _read(self, sink: Sink) -> None:
        with suppress(anyio.EndOfStream):
            while True:
                await self._may_read.wait()
                sink.received(await self._stream.receive(CHUNK_BYTES))
        sink.ended()

    async def _write(self) -> None:
        while self._waiting or not self._finishing:
            if not self._waiting:
                self._to_write.clear()
                await self._to_write.wait()
                continue
            data = self._waiting.popleft()
            if data is None:
                await self._stream.send_eof()
            else:
                await self._stream.send(data)
                self._size -= len(data)
                self._judge()
