"""Ending early and in order: Ctrl-C and its kin, and an output that nobody reads any more.

The first signal cancels the work, which ends the far trees and says how far it has come; the second ends the process at
once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine

from aioremote.escape import one_line

__all__ = ["Interrupt", "run_interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else ()  # elsewhere Ctrl-C cancels
_SIGNAL_STATUS = 128  # a shell's status for a program that a signal ended, plus the signal's number


class Interrupt:
    """What ends the running task before its work is done.

    Attributes:
        status: the exit status that it asked for, None while nothing did.
        message: what is said about it in the end, "" for nothing.
        by_signal: whether it was one.
        on_abort: called before the process ends at once.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.message: str = ""
        self.by_signal: bool = False
        self.on_abort: list[Callable[[], None]] = []
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def stop(self, status: int, message: str = "") -> None:
        """Cancel the task; only the first call counts."""
        if self.status is None:
            self.status, self.message = status, message
            self._task.cancel()

    def on_signal(self, number: int) -> None:
        """Stop at the first signal, end the process at the second."""
        if self.status is None:
            self.by_signal = True
            self.stop(_SIGNAL_STATUS + number)
            return
        for callback in self.on_abort:
            callback()
        os._exit(_SIGNAL_STATUS + number)


def run_interruptible(work: Callable[[Interrupt], Coroutine[object, object, int]]) -> int:
    """Run the work in an event loop of its own and return its exit status, or that of what interrupted it.

    After an interruption the process ends right here: a thread that still asks a name server, say, would hold it for
    seconds.
    """
    runner = asyncio.Runner()
    try:
        status, interrupted = runner.run(_guarded(work))
        if interrupted:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status
    finally:
        runner.close()


async def _guarded(work: Callable[[Interrupt], Coroutine[object, object, int]]) -> tuple[int, bool]:
    loop = asyncio.get_running_loop()
    interrupt = Interrupt()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup, and a shell's background jobs, set it
            loop.add_signal_handler(number, interrupt.on_signal, number)
    try:
        status = await work(interrupt)
    except asyncio.CancelledError:
        if interrupt.status is None:
            raise
        status = interrupt.status
    if interrupt.message:
        sys.stderr.write(f"aioremote: {one_line(interrupt.message)}\n")
    return status, interrupt.status is not None
