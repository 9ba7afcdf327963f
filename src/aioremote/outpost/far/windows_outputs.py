"""What stands for `outputs` on Windows: what a worker and its children write, two pipes with a thread each.

A thread only waits until there is something; the loop reads it, and so can take all there is at any time.
"""

import os
import threading

from .windows_kernel import wait_readable, waiting_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .windows_outpost import WindowsOutpost

__all__ = ["ERR", "OUT", "Outputs"]

OUT, ERR = 1, 2
READ_BYTES = 262144


class Outputs(object):
    """The outpost's ends; as that of `outputs`, but what earlier calls have left behind writes to the same pipes.

    Args:
        outpost: whose loop reads.
        take: gets what was written, and to which descriptor.

    Attributes:
        theirs: the other ends, for descriptors 1 and 2; to be closed by whoever has started the worker.
    """

    def __init__(self, outpost: "WindowsOutpost", take: "Callable[[int, bytes], None]") -> "None":
        self.theirs: "list[int]" = []
        self._pipes: "list[_Pipe]" = []
        for which in (OUT, ERR):
            ours, end = os.pipe()
            self.theirs.append(end)
            self._pipes.append(_Pipe(outpost, ours, which, take))

    def watch(self, wanted: "bool") -> "None":
        """Read what is written, or let it wait."""
        for pipe in self._pipes:
            pipe.watch(wanted)

    def renew(self) -> "list[int]":
        """Return nothing new: a process that runs cannot be given other pipes."""
        return []

    def drain(self) -> "None":
        """Take all that has been written until now."""
        for pipe in self._pipes:
            pipe.drain()

    def close(self) -> "None":
        """Read nothing more."""
        for pipe in self._pipes:
            pipe.close()


class _Pipe(object):
    """One pipe, which its thread closes when nobody can write to it any more."""

    def __init__(
        self, outpost: "WindowsOutpost", fd: "int", which: "int", take: "Callable[[int, bytes], None]"
    ) -> "None":
        self._outpost = outpost
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115  # closed by `_on_end`
        self._which = which
        self._take = take
        self._wanted = True
        self._told = self._closed = self._ended = False
        self._go = threading.Semaphore(1)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> "None":
        while True:
            self._go.acquire()
            if self._closed or not wait_readable(self._file.fileno()):
                break
            self._outpost.post(self._on_readable)
        self._outpost.post(self._on_end)

    def _on_readable(self) -> "None":
        self._told = True
        if self._wanted:
            self.drain()
            self._told = False
            self._go.release()

    def _on_end(self) -> "None":
        if not self._ended:
            self.drain()
            self._ended = True
            self._file.close()

    def watch(self, wanted: "bool") -> "None":
        self._wanted = wanted
        if wanted and self._told:
            self._on_readable()

    def drain(self) -> "None":
        while not self._ended and not self._closed:
            count = min(READ_BYTES, waiting_bytes(self._file.fileno()))
            if not count:
                break
            self._take(self._which, self._file.read(count))

    def close(self) -> "None":
        self._closed = True
        self._go.release()
