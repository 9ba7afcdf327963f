"""Writing to standard output and error without stopping the loop.

A pipe's reader may be slow, or a pager that nobody scrolls: a write to it blocks, and with it would block every
connection and Ctrl-C. So a thread of its own does the writing, and what it has not written yet is bounded by holding
the hosts back.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Outlet"]

_HIGH_WATER_BYTES = 256 * 1024
_WRITE_BYTES = 1024 * 1024
_IDLE_SECONDS = 1.0  # after which the thread goes; the next output starts another


class Outlet:
    """One descriptor, written to in order by a daemon thread: a process that has to end at once need not wait for it.

    Args:
        descriptor: 1 or 2.
        on_failure: called once, in the loop, when a write fails; everything after that is dropped.
    """

    def __init__(self, descriptor: int, on_failure: Callable[[OSError], None]) -> None:
        self._descriptor = descriptor
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._pending_bytes = 0  # waiting or being written
        self._failed = False
        self._thread: threading.Thread | None = None
        self._room: list[Callable[[], None]] = []
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def full(self) -> bool:
        """Whether the writer should be held back."""
        return self._pending_bytes > _HIGH_WATER_BYTES

    def put(self, data: bytes) -> None:
        """Queue bytes; they are taken whatever `full` says."""
        if self._failed or not data:
            return
        self._empty.clear()
        self._pending_bytes += len(data)
        with self._changed:
            self._waiting += data
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name=f"output {self._descriptor}", daemon=True)
                self._thread.start()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once when it is no longer full, at once where it is not."""
        if self.full:
            self._room.append(callback)
        else:
            callback()

    async def drain(self, seconds: float | None = None) -> None:
        """Wait until everything is written or has failed, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    # in the thread

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if not self._changed.wait(_IDLE_SECONDS) and not self._waiting:
                        self._thread = None
                        return
                data = bytes(self._waiting[:_WRITE_BYTES])
                del self._waiting[:_WRITE_BYTES]
            try:
                self._write(data)
            except OSError as error:
                self._tell(self._fail, error)
                return
            self._tell(self._written, len(data))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody who shares the descriptor has made it non-blocking
                select.select([], [self._descriptor], [])

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)

    # in the loop

    def _written(self, count: int) -> None:
        self._pending_bytes -= count
        if not self._pending_bytes:
            self._empty.set()
        if not self.full:
            self._call_back()

    def _fail(self, error: OSError) -> None:
        self._failed = True
        self._pending_bytes = 0
        self._empty.set()
        self._call_back()
        self._on_failure(error)

    def _call_back(self) -> None:
        waiting, self._room = self._room, []
        for callback in waiting:
            callback()
