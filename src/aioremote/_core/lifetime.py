"""Background work with an owner, and clean-up that ends.

`Owner` is for objects that can be closed from another task than the one that opened them (pytest-asyncio runs set-up,
test and teardown in three tasks): the only place in this package where a task starts outside a task group.
`bounded_cleanup` is for awaiting in ``except`` and ``finally``. Neither is for ordinary concurrency: that is
``asyncio.TaskGroup``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aioremote.errors import ClosedError

__all__ = ["Owner", "bounded_cleanup", "settle"]

T = TypeVar("T")


class Owner:
    """Owns background tasks of one object and ends them with it.

    Attributes:
        closing: set by whoever begins to close the object, before its tasks are cancelled.
        failures: what background tasks raised.

    A task's failure is kept in `failures` until somebody takes it; it never ends its siblings.
    """

    __slots__ = ("_closed", "_name", "_tasks", "closing", "failures")

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.closing: bool = False
        self.failures: list[BaseException] = []

    def spawn(self, coro: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Start `coro` in the background; `what` names it in debuggers.

        Raises:
            ClosedError: after `aclose`; `coro` is closed unstarted.
        """
        if self._closed:
            coro.close()
            raise ClosedError(f"{self._name} was closed: cannot start {what}")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}: {what}")
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has ended. May be called twice, also by a task of its own."""
        self._closed = True
        current = asyncio.current_task()
        tasks = {task for task in self._tasks if task is not current}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def settle(task: asyncio.Future[T], seconds: float) -> bool:
    """Wait for `task` at most `seconds`, through any number of cancels of the caller, then pass the last cancel on.

    Returns:
        Whether the task is done. Its result or error is left in it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left := end - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.done()


async def bounded_cleanup(coro: Coroutine[Any, Any, object], seconds: float) -> bool:
    """Run `coro` to its end, at most `seconds`, whoever cancels the caller meanwhile.

    A plain shield is not enough: a second native cancel goes straight through it. Here the clean-up is a task of its
    own, the wait remembers cancels and raises the last one when the clean-up has ended.

    Returns:
        Whether `coro` finished in time. Past `seconds` it is cancelled and given as long again to end.

    Raises:
        Exception: what `coro` raised in time, unless a cancel is being passed on.
    """
    task = asyncio.get_running_loop().create_task(coro, name="clean-up")
    task.add_done_callback(_note_error)
    try:
        finished = await settle(task, seconds)
    finally:
        if task.cancel():  # False where it is done
            await settle(task, seconds)
    if finished:
        task.result()
    return finished


def _note_error(task: asyncio.Task[object]) -> None:
    """Keep asyncio from logging an error that a cancel has displaced."""
    if not task.cancelled():
        task.exception()
