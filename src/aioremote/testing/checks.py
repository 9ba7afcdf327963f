"""Checks for tests: that nothing is left behind, and that a coroutine may be cancelled anywhere."""

from __future__ import annotations

import asyncio
import os
import threading
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["cancel_everywhere", "marked_processes", "no_leaks", "until"]

_MOST_SUSPENSIONS = 1000


async def until(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Wait until `condition` is true, at most `seconds`; AssertionError after that. For what sends no event."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"not true within {seconds:g} s: {condition}"
        await asyncio.sleep(0.01)


def marked_processes(mark: str) -> dict[int, str]:
    """Return the near processes whose environment or command line holds `mark`: pid -> command line. Linux."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            marked = mark.encode() in line or mark.encode() in (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if marked and line:  # a zombie has none
            found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _descriptors() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if target != "/dev/null":  # libuv keeps one in reserve for each loop
                found[name] = target
        except OSError:
            continue
    return found


@asynccontextmanager
async def no_leaks(*, seconds: float = 2.0) -> AsyncGenerator[None]:
    """Check at the end of the block that no task, descriptor or thread of it is left, after at most `seconds`."""
    tasks, threads, files = set(asyncio.all_tasks()), set(threading.enumerate()), set(_descriptors())
    yield

    def left() -> list[str]:
        mine = asyncio.current_task()  # a fixture's end runs in a task of its own
        new_tasks = [repr(task) for task in asyncio.all_tasks() - tasks if not task.done() and task is not mine]
        new_threads = [
            repr(t) for t in set(threading.enumerate()) - threads if not t.name.startswith(("asyncio_", "uvloop_"))
        ]
        new_files = [f"{name} {what}" for name, what in _descriptors().items() if name not in files]
        return new_tasks + new_threads + new_files

    with suppress(AssertionError):
        await until(lambda: not left(), seconds=seconds)
    assert not left(), f"left behind: {left()}"


class _CountedAwait:
    """Awaits a coroutine and cancels its task at one of its suspension points."""

    def __init__(self, coro: Coroutine[Any, Any, object], at: int) -> None:
        self._coro = coro
        self._at = at
        self.count = 0

    @types.coroutine
    def run(self) -> Generator[Any, Any, object]:
        """Drive the coroutine step by step."""
        value: Any = None
        error: BaseException | None = None
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                waited = self._coro.throw(error) if error is not None else self._coro.send(value)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self._at:
                asyncio.get_running_loop().call_soon(task.cancel)
            value, error = None, None
            try:
                value = yield waited
            except BaseException as caught:  # noqa: BLE001  # handed to the coroutine, which decides
                error = caught


async def cancel_everywhere(
    make: Callable[[], Coroutine[Any, Any, object]],
    check: Callable[[], Awaitable[object]],
    *,
    most: int = _MOST_SUSPENSIONS,
) -> int:
    """Run ``make()`` again and again, cancelled at its first suspension point, then its second, and so on to its end.

    Args:
        make: returns a fresh coroutine each time. Where it raises anything but the cancel, that comes out here.
        check: awaited after each cancel: raises where something was left behind or no longer works.
        most: stop after so many suspension points.

    Returns:
        How many suspension points there were.
    """
    loop = asyncio.get_running_loop()
    for at in range(1, most + 1):
        counted = _CountedAwait(make(), at)

        async def drive(counted: _CountedAwait = counted) -> object:
            return await counted.run()

        task = loop.create_task(drive())
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            error.add_note(f"in the run that was cancelled at suspension point {at} of {counted.count}")
            raise error
        if counted.count < at:
            return counted.count
        await check()
    return most
