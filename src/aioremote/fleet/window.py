"""The window of a fan-out: so many hosts at once, each with a task only while it is its turn; and a stream of items."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import AsyncGeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from aioremote.errors import BusyError, ClosedError, RemoteError
from aioremote.fleet.report import Outcome

if TYPE_CHECKING:
    from aioremote._core.lifetime import Owner
    from aioremote.fleet.hosts import Target
    from aioremote.machine import Machine

__all__ = ["ItemStream", "Window", "files_for_hosts"]

T = TypeVar("T")
Item = TypeVar("Item")
_SPARE_FILES = 40  # descriptors that the rest of the program may need while a fan-out runs


def files_for_hosts() -> int:
    """Return how many connections this process can hold besides what it has open, by its limit of descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1_000_000
    try:
        in_use = len(os.listdir("/dev/fd"))
    except OSError:
        in_use = 64
    return max(1, limit - in_use - _SPARE_FILES)


class Window(Generic[T]):
    """Runs one coroutine a host, some at a time, and hands each outcome on.

    Hosts are taken from the iterator when it is their turn: a pending one costs nothing.

    Args:
        targets: the hosts, in the order given.
        visit: does the work of this window on one host; what it raises ends the whole.
        take: gets each outcome; while it waits, no further host is begun in its place.
        fail_fast: whether the first outcome that is not ok ends the rest.
    """

    def __init__(
        self,
        targets: Iterator[Target[Machine]],
        visit: Callable[[Window[T], Target[Machine]], Awaitable[Outcome[T]]],
        take: Callable[[Outcome[T]], Awaitable[None]],
        *,
        fail_fast: bool = False,
    ) -> None:
        self._targets = targets
        self._visit = visit
        self._take = take
        self._fail_fast = fail_fast
        self._culprit = ""
        self._working: set[asyncio.Task[Any]] = set()

    async def run(self, size: int) -> None:
        """Work through all hosts, `size` at once. What the iterator of hosts raises ends the whole."""
        try:
            async with asyncio.TaskGroup() as group:
                for target in islice(self._targets, size):
                    group.create_task(self._work(target), name="fleet worker")
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        for target in self._targets:  # there are some where one has ended the rest
            await self._take(self._skipped(target))

    async def _work(self, target: Target[Machine] | None) -> None:
        while target is not None:
            outcome = self._skipped(target) if self._culprit else await self._visit(self, target)
            if self._fail_fast and not outcome.ok and not self._culprit:
                self._stop(outcome.host)
            await self._take(outcome)
            target = None if self._culprit else next(self._targets, None)

    def _stop(self, culprit: str) -> None:
        self._culprit = culprit
        for task in self._working:
            task.cancel()

    def _skipped(self, target: Target[Machine]) -> Outcome[T]:
        return Outcome[T].of_skipped(target.key, target.index, reason=f"{self._culprit} failed")

    @contextmanager
    def endable(self) -> Generator[None]:
        """Let another host's trouble cancel the calling visit while the block runs."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)

    def ended(self, target: Target[Machine], cancel: asyncio.CancelledError, *, connected: bool) -> Outcome[T]:
        """Return the outcome of a visit that another host's trouble has ended.

        Args:
            target: the host.
            cancel: what came out of the visit.
            connected: whether something may have run there.

        Raises:
            CancelledError: `cancel`, where somebody else cancels the whole.
        """
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling() > bool(self._culprit):
            raise cancel
        if self._culprit and not connected:
            outcome = self._skipped(target)
        else:
            why = f"ended because {self._culprit} failed" if self._culprit else "its work was cancelled from within"
            error = RemoteError(f"{target.key}: {why}", host=target.key)
            outcome = Outcome[T].of_error(target.key, target.index, error=error, connected=connected)
        for note in getattr(cancel, "__notes__", ()):
            cast("Exception", outcome.error).add_note(note)
        task.uncancel()
        return outcome


class ItemStream(AsyncIterator[Item], Generic[Item]):
    """Items as they come from work in the background: ``async with`` it where the loop may be left early.

    A slow consumer holds the work back: about `room` items wait, and what one `put` brings.

    Args:
        owner: the work is one of its tasks, and ends with it.
        work: gets `put`, which takes some items and waits for room.
        room: how many items may wait.

    Raises from the iteration:
        BusyError: somebody is iterating already.
        ClosedError: the block was left, or the owner closed, before the end.
        Exception: what the work raised, after the last item.
    """

    def __init__(
        self,
        owner: Owner,
        work: Callable[[Callable[[Sequence[Item]], Awaitable[None]]], Coroutine[Any, Any, None]],
        *,
        room: int = 16,
    ) -> None:
        self._owner = owner
        self._work = work
        self._room = room
        self._batches: deque[Sequence[Item]] = deque()
        self._waiting = 0  # items in the batches
        self._changed = asyncio.Event()  # something came, or the work ended
        self._taken = asyncio.Event()  # there may be room again
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._closed = False
        self._iterator: AsyncGeneratorType[Item, None] | None = None

    async def _put(self, items: Sequence[Item]) -> None:
        while self._waiting >= self._room:
            self._taken.clear()
            await self._taken.wait()
        self._batches.append(items)
        self._waiting += len(items)
        self._changed.set()

    async def _run(self) -> None:
        try:
            await self._work(self._put)
        except asyncio.CancelledError:
            self._error = _closed_error()
            raise
        except Exception as error:  # noqa: BLE001  # whoever iterates gets it
            self._error = error
        finally:
            self._ended = True
            self._changed.set()

    def __aiter__(self) -> AsyncIterator[Item]:
        if self._iterator is None:
            self._iterator = cast("AsyncGeneratorType[Item, None]", self._iterate())
        elif self._iterator.ag_running:
            raise BusyError("somebody is iterating over this stream already")
        return self._iterator

    async def __anext__(self) -> Item:
        return await anext(aiter(self))

    async def _iterate(self) -> AsyncGenerator[Item, None]:
        if self._closed:
            raise _closed_error()
        self._task = self._owner.spawn(self._run(), "stream")
        try:
            while self._batches or not self._ended:
                while self._batches:
                    batch = self._batches.popleft()
                    self._waiting -= len(batch)
                    self._taken.set()
                    for item in batch:
                        yield item
                if not self._ended:
                    self._changed.clear()
                    await self._changed.wait()
            if self._error is not None:
                raise self._error
        finally:
            await self._end_work()

    async def _end_work(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._closed = True
        await self._end_work()
        if self._iterator is not None and not self._iterator.ag_running:
            await self._iterator.aclose()


def _closed_error() -> ClosedError:
    return ClosedError("this stream was closed")
