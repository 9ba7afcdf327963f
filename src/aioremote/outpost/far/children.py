"""Tells of the end of child processes, by one signal for all of them and without a thread."""

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .serve import Outpost

__all__ = ["Children"]


class Children(object):
    """The outpost's children. Nobody else may wait for them.

    Args:
        outpost: whose they are.
    """

    def __init__(self, outpost: "Outpost") -> "None":
        self._outpost = outpost
        self._known: "dict[int, Callable[[int], None]]" = {}
        self._woken = -1

    def start(self) -> "None":
        """Begin to listen, unless that has begun; in the main thread."""
        if self._woken < 0:
            self._woken, wake = os.pipe()
            os.set_blocking(self._woken, False)
            os.set_blocking(wake, False)
            signal.signal(signal.SIGCHLD, _nothing)
            signal.set_wakeup_fd(wake)
            self._outpost.watch(self._woken, self._on_signal)
            self._outpost.later(0.0, self._reap)  # who has ended before

    def add(self, pid: "int", callback: "Callable[[int], None]") -> "None":
        """Call `callback` with the wait status of a child once it has ended; in the turn that has made the child."""
        self._known[pid] = callback
        self.start()

    def _on_signal(self, _: "int") -> "None":
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            pass
        self._reap()

    def _reap(self) -> "None":
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            callback = self._known.pop(pid, None)
            if callback is not None:
                callback(status)


def _nothing(number: "int", frame: "object") -> "None":
    """The descriptor that is written to wakes the loop."""
