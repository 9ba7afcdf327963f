"""One near source for the hosts of a fleet: those at work together share one reading of it.

What has been read waits for the slowest, within a bound; who holds the others up for too long goes on with a reading of
its own. Not for how a host writes: that is the engines', as in `Machine.upload`.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict

from aioremote._core.pieces import Tally, TreeOptions
from aioremote._core.turns import next_turn
from aioremote.errors import ClosedError, FileChanged
from aioremote.files.transfer import End, far_end, near_end, transfer
from aioremote.files.verifying import with_digests
from aioremote.transports.local_files import LocalFiles

if TYPE_CHECKING:
    from typing import Unpack

    from aioremote._core.lifetime import Owner
    from aioremote._core.pieces import Piece
    from aioremote.machine import Machine
    from aioremote.types import TransferReport

__all__ = ["HELD_BYTES", "OptionKeywords", "Seat", "SharedSource"]

HELD_BYTES = 16 * 1024 * 1024  # read, and waiting for the slowest
GATHER_SECONDS = 5.0  # without one more host that is ready: then the others begin
PATIENCE_SECONDS = 10.0  # that most hosts may be held up, and half of the time


class OptionKeywords(TypedDict, total=False):
    """What `TreeOptions` takes."""

    overwrite: bool
    preserve: bool
    preserve_special: bool
    durable: bool
    verify: bool
    ahead_bytes: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """What was read together.

    Attributes:
        number: counts from 0.
        mark: the same for two readings that have yielded the same so far.
        pieces: as the engine read them.
        files_found, bytes_found, skipped: what the reader has met since the batch before.
    """

    number: int
    mark: int
    pieces: Sequence[Piece]
    files_found: int
    bytes_found: int
    skipped: Sequence[tuple[str, str]]

    def size(self) -> int:
        return sum(len(piece.data) + 512 for piece in self.pieces)

    def tell(self, tally: Tally) -> None:
        tally.files_found += self.files_found
        tally.bytes_found += self.bytes_found
        tally.skipped += self.skipped


async def _read(source: End, *, verify: bool) -> AsyncGenerator[_Batch]:
    tally, mark, number = Tally(), 0, 0

    def batch(pieces: Sequence[Piece]) -> _Batch:
        made = _Batch(number, mark, pieces, tally.files_found, tally.bytes_found, tally.skipped)
        tally.files_found, tally.bytes_found, tally.skipped = 0, 0, []
        return made

    read = LocalFiles().read_tree(source.path, tally)
    async with aclosing(with_digests(source, read) if verify else read) as batches:
        async for pieces in batches:
            mark = hash((mark, *((p.path, p.offset, p.stat.st_size, p.stat.st_mtime_ns) for p in pieces)))
            yield batch(pieces)
            number += 1
    yield batch(())


class Seat(LocalFiles):
    """A host's part: this machine's files, whose source is read for several hosts. Leave its block in any case.

    Attributes:
        end: the source, for `transfer`.
        at: the batch that it takes next.
        is_waiting: for the reading.
        is_alone: whether it goes on with a reading of its own.
        reading: the one that it takes part in.
    """

    def __init__(self, source: End, reading: _Reading) -> None:
        super().__init__()
        self.end: End = End(self, source.path, source.host)
        self.at: int = 0
        self.is_waiting: bool = False
        self.is_alone: bool = False
        self.reading: _Reading = reading
        self._mark = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reading.leave(self)

    async def bring(
        self, machine: Machine, *, dst: str, engine: str = "auto", **options: Unpack[OptionKeywords]
    ) -> TransferReport:
        """Write the source to a machine, as `Machine.upload` does; `options` are those of `TreeOptions`."""
        far = await far_end(machine, dst, engine)
        return await transfer(self.end, far, options=TreeOptions(**options), has_digests=True)

    async def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        while (batch := await self.reading.next(self)) is not None:
            self.at, self._mark = batch.number + 1, batch.mark
            batch.tell(tally)
            yield batch.pieces
        if self.is_alone:
            async with aclosing(self._rest()) as batches:
                async for batch in batches:
                    batch.tell(tally)
                    yield batch.pieces

    async def _rest(self) -> AsyncGenerator[_Batch]:
        """Read the source anew, and yield what this host has not had."""
        mark, had = 0, self.at
        async with aclosing(self.reading.shared.read()) as batches:
            async for batch in batches:
                if batch.number < had:
                    mark = batch.mark
                    continue
                if mark != self._mark:
                    break
                yield batch
        if mark != self._mark:
            raise _changed(self.end)


class _Reading:
    """One reading, and the seats that take part in it.

    Args:
        shared: whose it is.
        before: the reading before this one, of which hosts may still be at work.

    Attributes:
        shared: as given.
        task: reads, once it has begun.
        seats: whom it waits for.
        after: the next reading.
    """

    def __init__(self, shared: SharedSource, before: _Reading | None) -> None:
        self.task: asyncio.Task[None] | None = None
        self.shared: SharedSource = shared
        self.seats: set[Seat] = set()
        self.after: _Reading | None = None
        self._before = before
        if before is not None:
            before.after = self
        self._ready: set[Seat] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._held: deque[_Batch] = deque()
        self._held_bytes = 0
        self._next = 0  # the number of the batch that will be read next
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()  # for seats: set and replaced
        self._room = asyncio.Event()  # for the reading, likewise
        self._starved = 0.0

    # seats

    def leave(self, seat: Seat) -> None:
        """Wait for this one no longer."""
        self.seats.discard(seat)
        self._ready.discard(seat)
        if not self.seats:
            if self.after is not None:
                self.after.judge()
            if self.task is not None:
                self.task.cancel()
            if self._timer is not None:
                self._timer.cancel()
        self.judge()
        self._trim()

    async def next(self, seat: Seat) -> _Batch | None:
        """Return the next batch; None after the last, and for one that has to go on by itself."""
        if self.task is None and seat not in self._ready:
            self._ready.add(seat)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._begin)
            self.judge()
        self._trim()
        while not seat.is_alone and seat.at == self._next and not self._ended:
            seat.is_waiting = True
            self._room.set()
            await self._news.wait()
        seat.is_waiting = False
        await next_turn()  # all who waited were woken at once
        if seat.is_alone:
            return None
        if seat.at < self._next:
            return self._held[seat.at - self._held[0].number]
        if self._error is not None:
            raise copy.copy(self._error) from self._error
        return None

    # the reading

    def judge(self) -> None:
        """Begin where all are there that may come."""
        if self.seats and self._ready == self.seats and (self._before is None or not self._before.seats):
            self._begin()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.task is None and self._ready:
            self.seats, late = set(self._ready), self.seats - self._ready
            self.task = self.shared.start(self._run())
            for seat in late:
                self.shared.place(seat)

    async def _run(self) -> None:
        self._began = asyncio.get_running_loop().time()
        try:
            async with aclosing(self.shared.read()) as batches:
                async for batch in batches:
                    self._held.append(batch)
                    self._held_bytes += batch.size()
                    self._next += 1
                    self._tell()
                    await self._wait_for_room()
        except Exception as error:  # noqa: BLE001  # every host's outcome
            self._error = error
        except asyncio.CancelledError:
            self._error = ClosedError("this fleet was closed")
            raise
        finally:
            self._ended = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _trim(self) -> None:
        """Let go of what nobody will ask for."""
        least = min((seat.at for seat in self.seats), default=self._next)
        while self._held and self._held[0].number < least:
            self._held_bytes -= self._held.popleft().size()
        self._room.set()

    async def _wait_for_room(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._held_bytes >= HELD_BYTES:
            self._room.clear()
            began = clock()
            starving = 2 * sum(seat.is_waiting for seat in self.seats) >= len(self.seats)
            left = PATIENCE_SECONDS + (began - self._began) / 2 - self._starved
            if starving and left <= 0:
                self._let_go()
                continue
            try:
                async with asyncio.timeout(max(0.1, 2 * left) if starving else None):
                    await self._room.wait()
            except TimeoutError:
                pass
            self._starved += clock() - began if starving else 0.0

    def _let_go(self) -> None:
        """Wait no longer for those who are behind: they read by themselves."""
        middle = self._held[len(self._held) // 2].number
        for seat in [seat for seat in self.seats if seat.at <= middle and not seat.is_waiting]:
            seat.is_alone = True
            self.seats.discard(seat)
        self._trim()


class SharedSource:
    """A near file or tree that is read for many hosts.

    A reading begins when every host that has a seat by then is ready for it; hosts of a window that come later share
    the next one.

    Args:
        path: near path.
        owner: its tasks read.
        verify: whether the files are hashed too.

    Attributes:
        source: the path as an end of transfers.

    Raises:
        TypeError, ValueError: no near path.
    """

    def __init__(self, path: str | os.PathLike[str], owner: Owner, *, verify: bool = False) -> None:
        self._verify = verify
        self.source: End = near_end(path)
        self._owner = owner
        self._last = _Reading(self, None)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def seat(self) -> Seat:
        """Return a seat for a host: take it before connecting, and leave its block in any case."""
        seat = Seat(self.source, self._last)
        self.place(seat)
        return seat

    def read(self) -> AsyncGenerator[_Batch]:
        """Yield the source from its beginning."""
        return _read(self.source, verify=self._verify)

    def place(self, seat: Seat) -> None:
        """Give a seat its place in the reading that begins next."""
        if self._last.task is not None:
            self._last = _Reading(self, self._last)
        seat.reading = self._last
        self._last.seats.add(seat)

    def start(self, reading: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Begin a reading."""
        task = self._owner.spawn(reading, "read for several hosts")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _changed(source: End) -> FileChanged:
    shown = os.fsdecode(source.path)
    text = f"{source.host}: {shown!r} changed while it was read; send it again"
    return FileChanged(text, host=source.host, path=shown)
