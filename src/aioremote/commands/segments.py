"""The far processes of a pipeline, one a machine in a row, and the bytes between them: one `FarProcess` to the outside.

What is asked of which machine is decided in `commands.plumbing`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio

from aioremote._core.lifetime import Owner
from aioremote._core.streams import Feed
from aioremote.commands.readout import Readout, Told
from aioremote.commands.script import Kind, Script
from aioremote.errors import ClosedError, ConnectionLost, UnsupportedError, file_error
from aioremote.protocols import FarProcess, OutputStream

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote.commands.nearfiles import NearWriter
    from aioremote.protocols import Starter
    from aioremote.types import ExitStatus, ProcessSpec

__all__ = ["Ends", "Part", "Plumbed", "Segment"]

_PIECE_BYTES = 256 * 1024
_PIPE_SECONDS = 0.5  # for a program to end by SIGPIPE
_LINGER_SECONDS = 2.0  # for standard errors that something holds open after the last stage has ended


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring stages on one machine.

    Attributes:
        starter: what starts it, the machine's transport.
        host: the machine's name.
        spec: the far process.
        script: what it is, None for a plain program.
        numbers: of its stages, in the pipeline.
    """

    starter: Starter
    host: str
    spec: ProcessSpec
    script: Script | None
    numbers: tuple[int, ...]

    def error_of(self, refused: tuple[int, str]) -> Exception:
        """Return the error for what the script could not use."""
        number, name = refused
        if self.script is None or number < 0:
            return UnsupportedError(
                f"{self.host}: pipelines need the programs od and tr there, and one is not on PATH", host=self.host
            )
        return file_error(getattr(errno, name, errno.EIO), os.fsdecode(self.script.paths[number]), host=self.host)


class Part:
    """A segment that runs.

    Attributes:
        far: its far process.
        statuses: how its stages ended, by their numbers in the pipeline.
        output_held: whether something held the output open after the end.
    """

    def __init__(self, segment: Segment, far: FarProcess) -> None:
        self.far = far
        self.segment = segment
        self.statuses: dict[int, ExitStatus] = {}
        self._held_by: set[object] = set()
        self._sink: Callable[[int, bytes], None]
        self._news = asyncio.Event()  # it began, or it will not
        self._told = Told()
        self._readout = Readout(segment.script, self._take, self._told) if segment.script is not None else None
        self._seen_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.output_held: bool = False

    def listen(self, sink: Callable[[int, bytes], None], on_end: Callable[[], None]) -> None:
        """Pass standard errors to `sink`, with the number of the stage, -1 where it is not known."""
        self._sink = sink

        def end() -> None:
            if self._readout is not None:
                self._readout.finish()
            self._news.set()
            on_end()

        assert self.far.stderr is not None
        self.far.stderr.divert(self._read, end)

    def _read(self, data: bytes) -> None:
        readout = self._readout
        if readout is None:
            self._take(0, data)
            return
        self._seen_bytes += len(data)
        readout.feed(data)
        if self._begun() or self._told.refused:
            self._news.set()
        if len(self._told.statuses) == len(self.segment.numbers) and self._timer is None:
            self._linger(-1)

    def _begun(self) -> bool:
        return len(self._told.begun) == len(self.segment.numbers)

    def _take(self, number: int, data: bytes) -> None:
        self._sink(self.segment.numbers[number] if number >= 0 else -1, data)

    def _linger(self, seen_bytes: int) -> None:
        """Let go where all stages have ended and a background program of theirs keeps a standard error open."""
        if self.far.status is not None:
            return
        if self._seen_bytes == seen_bytes and not self._held_by:
            self.output_held = True
            self.far.end()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LINGER_SECONDS, self._linger, self._seen_bytes)

    def hold(self, who: object, held: bool) -> None:  # noqa: FBT001  # a callback
        """Hold standard error back while anybody who takes it is slow."""
        (self._held_by.add if held else self._held_by.discard)(who)
        if self.far.stderr is not None:
            self.far.stderr.set_hold(bool(self._held_by))

    async def started(self) -> None:
        """Wait until its programs begin. FileError, CommandNotFound, ConnectionLost where they do not."""
        await self.far.started()
        if self._readout is not None:
            await self._news.wait()
            if not self._begun():
                await self.wait()

    async def wait(self) -> None:
        """Wait for its end, and fill `statuses`.

        Raises:
            FileError: a directory or file cannot be used; nothing of it ran.
            ConnectionLost: the link ended first, or the far shell ended without telling of a stage.
        """
        try:
            status = await self.far.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        told, segment = self._told, self.segment
        self.output_held = self.output_held or self.far.output_held
        if told.refused is not None:
            raise segment.error_of(told.refused)
        for index, number in enumerate(segment.numbers):
            if (alone := segment.script is None or segment.script.kind is Kind.ALONE) or status.signal:
                self.statuses[number] = status if alone else told.statuses.get(index, status)
            elif index in told.statuses:
                self.statuses[number] = told.statuses[index]
            else:
                raise ConnectionLost(f"{segment.host}: the far shell ended before its programs", host=segment.host)


@dataclass(slots=True)
class Ends:
    """Where the ends of a pipeline lead.

    Attributes:
        feed: what writes its standard input; None for whoever has the process.
        stdout: writes its standard output to a near file; None for whoever has the process.
        stderrs: near files for standard errors, by the number of the stage.
        release: closes the near files.
        keep_bytes: how much of standard errors is kept for each stage.
    """

    feed: Callable[[ByteSendStream], Coroutine[Any, Any, None]] | None  # Any: as in typing.Coroutine's own use
    stdout: NearWriter | None
    stderrs: Mapping[int, NearWriter]
    release: Callable[[], None]
    keep_bytes: int


class Plumbed(FarProcess):
    """Several far processes, each one's standard output the next one's standard input."""

    def __init__(
        self,
        parts: Sequence[Part],
        ends: Ends,
        conclude: Callable[[dict[int, ExitStatus]], Coroutine[Any, Any, ExitStatus]],
    ) -> None:
        first, last = parts[0].far, parts[-1].far
        self.pid: int | None = first.pid
        self.stdin: ByteSendStream | None = None if ends.feed is not None else first.stdin
        self._stderr = Feed(self._hold)
        self.stdout: OutputStream = last.stdout if ends.stdout is None else _nothing()
        self.stderr: OutputStream | None = self._stderr
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.noise = b""
        self.statuses: dict[int, ExitStatus] = {}
        self.kept: dict[int, list[bytes]] = {}
        self._parts = parts
        self._ends = ends
        self._left_bytes = ends.keep_bytes
        self._open_stderrs = len(parts)
        self._conclude = conclude
        self._closing = False
        self._owner = Owner("pipeline")
        for part in parts:
            for number in ends.stderrs.keys() & set(part.segment.numbers):
                ends.stderrs[number].hold = partial(part.hold, number)
            part.listen(self._take, self._stderr_ended)
        self._end = self._owner.spawn(self._run(), "end")

    # standard errors

    def _take(self, number: int, data: bytes) -> None:
        writer = self._ends.stderrs.get(number)
        if writer is not None:
            writer.put(data)
            return
        if self._left_bytes > 0:
            self._left_bytes -= len(data)
            self.kept.setdefault(number, []).append(data)
        self._stderr.feed(data)

    def _stderr_ended(self) -> None:
        self._open_stderrs -= 1
        if not self._open_stderrs:
            self._stderr.end()
            for writer in self._ends.stderrs.values():
                writer.end()

    def _hold(self, held: bool) -> None:  # noqa: FBT001  # a Feed's callback
        for part in self._parts:
            part.hold(self, held)

    # its run

    async def _run(self) -> None:
        """Move the bytes, and wait for all ends."""
        spawn, parts, ends = self._owner.spawn, self._parts, self._ends
        tasks = [spawn(part.wait(), f"wait on {part.segment.host}") for part in parts]
        moving = [spawn(_move(*pair), "pipe") for pair in pairwise(parts)]
        if ends.feed is not None and parts[0].far.stdin is not None:
            moving.append(spawn(ends.feed(parts[0].far.stdin), "standard input"))
        if ends.stdout is not None:
            ends.stdout.hold = parts[-1].far.stdout.set_hold
            parts[-1].far.stdout.divert(ends.stdout.put, ends.stdout.end)
        writers = [*ends.stderrs.values(), *([ends.stdout] if ends.stdout is not None else [])]
        tasks += [spawn(writer.write(), "near file") for writer in writers]
        try:
            await _all([*tasks, *moving])
        finally:
            ends.release()
        for part in parts:
            self.statuses |= part.statuses
            self.output_held = self.output_held or part.output_held
        self.status = await self._conclude(self.statuses)

    async def started(self) -> None:
        for part in self._parts:
            await part.started()

    async def wait(self) -> ExitStatus:
        await asyncio.wait({self._end})
        if self._end.cancelled():
            raise ClosedError("the pipeline was closed before it ended")
        self._end.result()
        assert self.status is not None
        return self.status

    def send_signal(self, name: str) -> None:
        for part in self._parts:
            part.far.send_signal(name)

    def end(self) -> None:
        for part in self._parts:
            part.far.end()

    def resize(self, columns: int, rows: int) -> None:
        """Do nothing: a pipeline has no terminal."""

    async def aclose(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.end()
        try:
            closing = [self._owner.spawn(part.far.aclose(), "close") for part in self._parts]
            await asyncio.wait(closing)
            await asyncio.wait({self._end}, timeout=_PIPE_SECONDS)
        finally:
            await self._owner.aclose()
            self._ends.release()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all of them, or raise the first failure."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task.done():
            task.result()


def _nothing() -> Feed:
    feed = Feed()
    feed.end()
    return feed


async def _move(source: Part, target: Part) -> None:
    """Pass the bytes of one process to the next, and the end of them."""
    stdout, stdin = source.far.stdout, target.far.stdin
    assert stdin is not None
    late = False
    try:
        while True:
            chunk = await stdout.receive(_PIECE_BYTES)
            late = target.far.status is not None
            await stdin.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        await _dry_up(source.far, late=late)
    except anyio.EndOfStream:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stdin.aclose()
    except ConnectionLost:  # told by the part's own wait; the next one must not take it for the end
        return


async def _dry_up(far: FarProcess, *, late: bool) -> None:
    """Do to a process whose reader has gone what its next write to a closed pipe would: SIGPIPE."""
    with suppress(anyio.EndOfStream, ConnectionLost):
        if not late:
            await far.stdout.receive(_PIECE_BYTES)
        far.send_signal("PIPE")
        with suppress(TimeoutError):
            async with asyncio.timeout(_PIPE_SECONDS):
                while True:
                    await far.stdout.receive(_PIECE_BYTES)
        far.end()
        while True:
            await far.stdout.receive(_PIECE_BYTES)
