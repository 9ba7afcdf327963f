"""Output line by line, while the command runs.

The transport's callbacks split whole chunks; each `Line` is made when the caller takes it, so that no more than one
needs to live: the garbage collector, which counts tuples but not strings, is never woken. That, and a bound on what
waits, is what makes millions of lines cheap without stalling the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from aioremote._core.deadline import Deadline, check_seconds
from aioremote._core.streams import LineSplitter
from aioremote.commands.lookup import explain_not_found, forget_programs
from aioremote.commands.running import CANCEL_SECONDS, TIMEOUT_SECONDS, end_process, finished, judge, too_late
from aioremote.errors import CommandTimeout, ConnectionLost, RemoteError
from aioremote.types import Line, PartialResult

if TYPE_CHECKING:
    from aioremote.commands.orders import Order
    from aioremote.protocols import FarProcess, Starter

__all__ = ["Batch", "LineQueue", "LineStream"]

_Source = Literal["stdout", "stderr"]

_HIGH_WATER = 256 * 1024  # bytes in lines that wait for the caller, above which the far program is held back
# Line(*texts) without running Python for each line
_new: Any = cast(Any, tuple).__new__  # Any: not to be described in a way that both checkers take
_make_line: Callable[[tuple[str, str, str]], Line] = partial(_new, Line)


class Batch(Iterable[Line]):
    """Lines of one stream that have arrived together, at least one."""

    __slots__ = ("_host", "_source", "_texts")

    def __init__(self, source: _Source, texts: list[str], host: str) -> None:
        self._source = source
        self._texts = texts
        self._host = host

    def __iter__(self) -> Iterator[Line]:
        return map(_make_line, zip(repeat(self._source), self._texts, repeat(self._host), strict=False))

    def last(self, count: int) -> Iterator[tuple[str, str]]:
        """Return source and text of the last `count` lines, or of all where there are fewer."""
        return zip(repeat(self._source), self._texts[-count:] if count else (), strict=False)


class LineQueue:
    """The lines of a process's two streams, in the order of their arrival."""

    def __init__(self, far: FarProcess, order: Order, host: str) -> None:
        self._far = far
        self._host = host
        self._batches: deque[tuple[int, Batch]] = deque()
        self._waiting_bytes = 0
        self._held = False
        self._arrived: asyncio.Future[None] | None = None
        self._open = 1 if far.stderr is None else 2
        terminal = order.spec.terminal is not None
        for stream, source in ((far.stdout, "stdout"), (far.stderr, "stderr")):
            if stream is not None:
                splitter = LineSplitter(order.encoding, order.errors, strip_cr=terminal)
                sink, end = self._sink(splitter, "stdout" if source == "stdout" else "stderr")
                stream.divert(sink, end)

    def _sink(self, splitter: LineSplitter, source: _Source) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        def put(size: int, texts: list[str]) -> None:
            if texts:
                self._put(size, Batch(source, texts, self._host))

        def take(data: bytes) -> None:
            put(len(data), splitter.feed(data))

        def end() -> None:
            put(0, splitter.finish())
            self._open -= 1
            self._wake()

        return take, end

    def _put(self, size: int, batch: Batch) -> None:
        self._batches.append((size, batch))
        self._waiting_bytes += size
        if self._waiting_bytes > _HIGH_WATER:
            self._hold(True)
        self._wake()

    def _hold(self, held: bool) -> None:  # noqa: FBT001  # a Feed's callback
        if held != self._held:
            self._held = held
            self._far.stdout.set_hold(held)
            if self._far.stderr is not None:
                self._far.stderr.set_hold(held)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def next_batch(self, at: float | None) -> Batch | None:
        """Return the next lines; None after the last.

        Raises:
            TimeoutError: none came by the loop time `at`.
        """
        if self._batches:
            await asyncio.sleep(0)  # a full queue must not starve the loop
        while not self._batches:
            if not self._open:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            async with asyncio.timeout_at(at):
                await self._arrived
        size, batch = self._batches.popleft()
        self._waiting_bytes -= size
        if self._waiting_bytes <= _HIGH_WATER // 2:
            self._hold(False)
        return batch


class LineStream(AsyncIterator[Line]):
    """The lines of a command: ``async with m.lines(...) as lines: async for line in lines: ...``.

    ``async for`` without the block is fine when it runs to the end; leaving the block ends the far process tree.

    Raises from the iteration:
        CommandFailed: after the last line, for a status that is not wanted; its result holds the last `keep_last`
            lines.
        CommandTimeout: no end within `timeout`, or no line within `line_timeout` seconds.
        ConnectionLost: the link ended first.
    """

    def __init__(
        self, transport: Starter, order: Order, host: str, *, line_timeout: float | None, keep_last: int
    ) -> None:
        check_seconds(line_timeout, "line_timeout")
        if not isinstance(cast(object, keep_last), int):
            raise TypeError(f"keep_last={keep_last!r}: give a number of lines")
        if keep_last < 0:
            raise ValueError(f"keep_last={keep_last!r}: give a number of lines, 0 for none")
        self._transport = transport
        self._order = order
        self._host = host
        self._line_timeout = line_timeout
        self._far: FarProcess | None = None
        self._iterator: AsyncGenerator[Line, None] | None = None
        self._kept: deque[tuple[str, str]] = deque(maxlen=keep_last)
        self._queue: LineQueue | None = None
        self._deadline: Deadline
        self._began = 0.0

    def __aiter__(self) -> AsyncIterator[Line]:
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def __anext__(self) -> Line:
        return await anext(aiter(self))

    async def __aenter__(self) -> LineStream:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await end_process(self._far, exc_val or asyncio.CancelledError(), CANCEL_SECONDS)
        if self._iterator is not None:
            await self._iterator.aclose()

    async def _iterate(self) -> AsyncGenerator[Line, None]:
        try:
            while (batch := await self._next_batch()) is not None:
                for line in batch:
                    yield line
        except BaseException as error:
            await self._stop(error)
            raise

    async def batches(self) -> AsyncGenerator[list[Line], None]:
        """Iterate over the same lines in the lists in which they arrive, at least one line each."""
        try:
            while (batch := await self._next_batch()) is not None:
                yield list(batch)
        except BaseException as error:
            await self._stop(error)
            raise

    async def _next_batch(self) -> Batch | None:
        if self._queue is None:
            self._began = asyncio.get_running_loop().time()
            self._deadline = Deadline(self._order.timeout)
            self._queue = await self._open(self._deadline)
        batch = await self._next(self._queue, self._deadline)
        if batch is None:
            await self._finish(self._deadline)
        else:
            self._kept.extend(batch.last(self._kept.maxlen or 0))
        return batch

    async def _stop(self, error: BaseException) -> None:
        forget_programs(self._transport, error)
        await end_process(self._far, error, TIMEOUT_SECONDS if isinstance(error, CommandTimeout) else CANCEL_SECONDS)
        if isinstance(error, ConnectionLost):
            error.cmd, error.result = list(self._order.args), self._partial()

    async def _open(self, deadline: Deadline) -> LineQueue:
        connected = False
        try:
            async with deadline.scope():
                await self._transport.connect()
                connected = True
                self._far = await self._transport.start_process(self._order.spec)
        except TimeoutError as error:
            if isinstance(error, RemoteError):
                raise
            raise too_late(self._order, self._host, connected=connected) from error
        return LineQueue(self._far, self._order, self._host)

    async def _next(self, queue: LineQueue, deadline: Deadline) -> Batch | None:
        next_line = Deadline(self._line_timeout)
        first = (
            deadline if next_line.at is None or (deadline.at is not None and deadline.at < next_line.at) else next_line
        )
        try:
            return await queue.next_batch(first.at)
        except TimeoutError as error:
            raise self._too_late("not finished" if first is deadline else "no line") from error

    async def _finish(self, deadline: Deadline) -> None:
        assert self._far is not None
        try:
            async with deadline.scope():
                status = await self._far.wait()
                if status.returncode in (126, 127) and not self._order.wants(status.returncode):
                    await explain_not_found(self._transport, self._order, self._host)
        except TimeoutError as error:
            raise self._too_late("not finished") from error
        held = self._far.output_held
        judge(finished(self._partial(), status, self._order, output_truncated=held), self._order)

    def _too_late(self, what: str) -> CommandTimeout:
        seconds = (self._line_timeout if what == "no line" else self._order.timeout) or 0.0
        partial = self._partial()
        text = f"{self._host}: {partial.command_line}: {what} after {seconds:g} s"
        return CommandTimeout(text, host=self._host, cmd=self._order.args, timeout=seconds, result=partial)

    def _kept_bytes(self, source: str) -> bytes:
        texts = [text + "\n" for kept, text in self._kept if kept == source]
        return "".join(texts).encode(
            self._order.encoding, "surrogateescape" if self._order.errors == "surrogateescape" else "replace"
        )

    def _partial(self) -> PartialResult:
        return PartialResult(
            args=self._order.args,
            host=self._host,
            elapsed=asyncio.get_running_loop().time() - self._began,
            stdout_bytes=self._kept_bytes("stdout"),
            stderr_bytes=self._kept_bytes("stderr"),
            encoding=self._order.encoding,
            errors=self._order.errors,
        )
