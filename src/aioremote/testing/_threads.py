"""Blocking steps of the test servers, run beside the event loop, and what such a server has in common.

Not for parallel work: one thread a step, joined before the step's result is handed over.
"""

from __future__ import annotations

import abc
import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["Service", "run_in_thread"]

T = TypeVar("T")


class Service(abc.ABC):
    """Something started and stopped by blocking calls, as ``with`` or ``async with`` block.

    No loop is tied to it: a fixture of any scope may hold it.
    """

    @abc.abstractmethod
    def start(self) -> None:
        """Start it. Blocks; after a failure `stop` is still due."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stop it and release everything. Blocks; does nothing the second time."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await run_in_thread(self.start)
        except BaseException:
            await run_in_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await run_in_thread(self.stop)


async def run_in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own and wait for its end.

    Cancellation: the thread cannot be stopped, so the wait goes on through any number of cancels; when the function has
        ended the last cancel is raised and the function's result is dropped.
    """
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failures.append(error)
        finally:
            loop.call_soon_threadsafe(finished.set_result, None)

    thread = threading.Thread(target=work, name="aioremote-testing")
    thread.start()
    cancelled: asyncio.CancelledError | None = None
    while not finished.done():
        try:
            await asyncio.wait({finished})
        except asyncio.CancelledError as error:
            cancelled = error
    thread.join()
    if cancelled is not None:
        raise cancelled
    if failures:
        raise failures[0]
    return results[0]
