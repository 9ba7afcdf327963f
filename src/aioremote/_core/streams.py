"""Streams of bytes: what a transport feeds, what a reader takes, and the bounds between them.

`Feed` is the one receive stream of this package. A transport's callbacks put bytes in without awaiting; a reader either
awaits chunks or diverts the flow to a plain function, which costs no task and no switch. A slow reader holds the
transport back.
"""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio
from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import ByteReceiveStream, ByteSendStream

from aioremote.errors import BusyError

__all__ = ["Capture", "FarInput", "Feed", "LineSplitter", "StreamAttribute", "Writable", "pump"]

HIGH_WATER_BYTES = 256 * 1024  # a Feed holds its source back above this
CHUNK_BYTES = 64 * 1024


def _ignore(_: object) -> None:
    return None


def _nothing() -> None:
    return None


class Writable(Protocol):
    """What takes bytes by a channel's rules."""

    async def write(self, data: bytes) -> None:
        """Write all of it, as fast as it is taken."""
        ...

    def write_eof(self) -> None:
        """Say that nothing else comes."""
        ...


class FarInput(ByteSendStream):
    """The near end of a far standard input, with the channel's back-pressure: one writer at a time.

    Args:
        target: what takes the bytes.
        prompt: returns what takes them without waiting, None where they would have to wait.
    """

    def __init__(self, target: Writable, prompt: Callable[[], Callable[[bytes], None] | None] = _nothing) -> None:
        self._target = target
        self._prompt = prompt
        self._busy = False
        self._closed = False

    def prompt(self) -> Callable[[bytes], None] | None:
        """Return what sends bytes at once, None where they would have to wait; for this turn of the loop."""
        return None if self._busy or self._closed else self._prompt()

    async def send(self, item: bytes) -> None:
        if self._busy:
            raise BusyError("somebody is writing to this standard input already")
        if self._closed:
            raise anyio.ClosedResourceError
        self._busy = True
        try:
            await self._target.write(item)
        finally:
            self._busy = False

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._target.write_eof()


class StreamAttribute(TypedAttributeSet):
    """What a stream through a machine tells of itself, beside anyio's own attributes."""

    readable: bool = typed_attribute()  # whether something waits to be read, if only the end


class Feed(ByteReceiveStream):
    """A receive stream that a transport fills by plain calls.

    The transport calls `feed`, then `end` once. `hold` is called with True when the reader is slow (more than 256 KiB
    wait) and with False when it has caught up; between the two the transport is expected to stop reading soon.

    Concurrency: one reader at a time, else BusyError.
    """

    def __init__(self, hold: Callable[[bool], None] = _ignore) -> None:
        self._high_water = HIGH_WATER_BYTES
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._hold = hold
        self._holding = False
        self._full = False  # more waits here than should
        self._asked = False  # a diverting reader wants the source held back
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def readable(self) -> bool:
        """Whether something waits for the reader, if only the end."""
        return bool(self._chunks) or self._ended

    @property
    def holding(self) -> bool:
        """Whether the source is held back because the reader is slow."""
        return self._holding

    def feed(self, data: bytes) -> None:
        """Put bytes in (transport side)."""
        if self._sink is not None:
            self._sink(data)
        elif not self._closed and data:
            self._chunks.append(data)
            self._size += len(data)
            self._judge()
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes (transport side); `error` is raised by the reader after the last byte."""
        if self._ended:
            return
        self._ended, self._error = True, error
        if self._waiter is not None:
            self._wake()
        if self._on_end is not None:
            self._on_end()
        self._let_go()

    def _let_go(self) -> None:
        """Refer no longer to who is told of bytes, and who of a slow reader: they refer to this stream too."""
        self._hold, self._on_end = _ignore, None
        if self._sink is not None:
            self._sink = _ignore

    def divert(self, sink: Callable[[bytes], None], on_end: Callable[[], None] | None = None) -> None:
        """Send all that waits and all that comes to `sink`, at once and in order, and call `on_end` after the last."""
        self._check_free()
        self._sink, self._on_end = sink, on_end
        if self._chunks:
            while self._chunks:
                sink(self._chunks.popleft())
            self._size = 0
            self._judge()
        if self._ended:
            if on_end is not None:
                on_end()
            self._let_go()

    def raise_limit(self, max_bytes: int) -> None:
        """Let up to `max_bytes` wait before the source is held back."""
        if max_bytes > self._high_water:
            self._high_water = max_bytes
            self._full = False
            self._judge()

    def set_hold(self, held: bool) -> None:  # noqa: FBT001  # its only argument
        """Hold the source back, or let it go on (for a reader that diverts)."""
        self._asked = held
        self._judge()

    def _judge(self) -> None:
        """Hold the source back, or let it go on, by what waits and by what the reader asked for."""
        self._full = self._size > (self._high_water // 2 if self._full else self._high_water)
        held = self._full or self._asked
        if held != self._holding:
            self._holding = held
            self._hold(held)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_free(self) -> None:
        if self._waiter is not None or self._sink is not None:
            raise BusyError("somebody is reading this stream already")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has arrived, at least 1 and at most `max_bytes` bytes.

        Raises:
            anyio.EndOfStream: after the last byte.
            anyio.ClosedResourceError: this end was closed.
            ConnectionLost: the link ended before the stream did.
        """
        self._check_free()
        while not self._chunks:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise self._error or anyio.EndOfStream
            await self._wait()
        return self._take(max_bytes)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self, max_bytes: int) -> bytes:
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._size -= len(chunk)
        self._judge()
        return chunk

    async def aclose(self) -> None:
        """Drop what waits and what still comes, save what is diverted."""
        self._closed = True
        self._chunks.clear()
        self._size = 0
        self._judge()
        self._wake()


class Capture:
    """Collects several streams under one limit.

    Attributes:
        exceeded: True from the moment that the limit was passed; `on_excess` has been called once.
    """

    __slots__ = ("_left", "_on_excess", "_parts", "exceeded")

    def __init__(self, streams: int, limit_bytes: int | None, on_excess: Callable[[], None]) -> None:
        self._parts: list[list[bytes]] = [[] for _ in range(streams)]
        self._left = limit_bytes
        self._on_excess = on_excess
        self.exceeded = False

    def sink(self, index: int) -> Callable[[bytes], None]:
        """Return the function that takes the bytes of stream `index`."""
        parts = self._parts[index]
        if self._left is None:
            return parts.append

        def take(data: bytes) -> None:
            left = self._left = (self._left or 0) - len(data)
            if left >= 0:
                parts.append(data)
            elif not self.exceeded:
                self.exceeded = True
                parts.append(data[: left + len(data)])
                self._on_excess()

        return take

    def let_go(self) -> None:
        """Refer no longer to `on_excess`, which may refer to this."""
        self._on_excess = _nothing

    def value(self, index: int) -> bytes:
        """Return what stream `index` brought so far."""
        parts = self._parts[index]
        if len(parts) > 1:
            parts[:] = [b"".join(parts)]
        return bytes(parts[0]) if parts else b""


class LineSplitter:
    """Cuts text out of bytes, line by line, any split of the bytes giving the same lines.

    A line ends at a newline; a carriage return just before that goes only with `strip_cr` (terminals). A line longer
    than `limit_chars` is given in pieces of that many.
    """

    __slots__ = ("_decoder", "_held", "_limit", "_rest", "_strip_cr")

    def __init__(
        self, encoding: str, errors: str, *, limit_chars: int = 16 * 1024 * 1024, strip_cr: bool = False
    ) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._limit = limit_chars
        self._rest: list[str] = []  # the pieces of a line that has not ended yet
        self._held = 0
        self._strip_cr = strip_cr

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their newlines."""
        text = self._decoder.decode(data)
        if self._held + len(text) > self._limit:
            return self._cut(text)
        lines = text.split("\n")
        if len(lines) > 1:
            lines[0] = self._take_rest() + lines[0]
        self._keep(lines.pop())
        return [line.removesuffix("\r") for line in lines] if self._strip_cr else lines

    def _keep(self, piece: str) -> None:
        if piece:
            self._rest.append(piece)
            self._held += len(piece)

    def _take_rest(self) -> str:
        rest = "".join(self._rest)
        self._rest.clear()
        self._held = 0
        return rest

    def _cut(self, text: str) -> list[str]:
        """Do the same as `feed` where some line may be too long."""
        found: list[str] = []
        *ended, last = (self._take_rest() + text).split("\n")
        for line in ended:
            *pieces, end = self._pieces(line)
            found += [*pieces, end.removesuffix("\r") if self._strip_cr else end]
        *pieces, last = self._pieces(last)
        self._keep(last)
        return found + pieces

    def _pieces(self, line: str) -> list[str]:
        return [line[start : start + self._limit] for start in range(0, len(line), self._limit)] or [""]

    def finish(self) -> list[str]:
        """Return the last line where it had no newline, in a list; else an empty list."""
        last = self._take_rest() + self._decoder.decode(b"", True)
        return self._pieces(last) if last else []


async def pump(source: ByteReceiveStream, target: ByteSendStream, *, close_target: bool = True) -> int:
    """Copy `source` to `target` until its end, one chunk at a time; returns the bytes copied."""
    total = 0
    try:
        while True:
            try:
                chunk = await source.receive(CHUNK_BYTES)
            except anyio.EndOfStream:
                return total
            await target.send(chunk)
            total += len(chunk)
    finally:
        if close_target:
            await target.aclose()
