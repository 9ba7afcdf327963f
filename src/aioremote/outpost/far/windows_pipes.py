"""What stands for `pipes` on Windows: the outpost's ends of a program's pipes, with a thread each.

The thread of an output only waits until there is something; the loop reads it, and so can take all there is at any
time. That of an input writes. There are no terminals.
"""

import errno
import threading
from functools import partial
from queue import Queue

from .frames import cost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .windows_kernel import ReadEnd
    from .windows_outpost import WindowsOutpost

__all__ = ["Input", "Output", "TerminalInput", "set_size"]

READ_BYTES = 262144


class Output(object):
    """One output of a program.

    Args:
        outpost: whose loop reads.
        end: what to read; closed with this.
        name: what `take` is told first.
        take: gets the name and what came, b"" at the end.
    """

    def __init__(
        self, outpost: "WindowsOutpost", end: "ReadEnd", name: "bytes", take: "Callable[[bytes, bytes], None]"
    ) -> "None":
        self._outpost = outpost
        self._end = end
        self._name = name
        self._take = take
        self._go = threading.Semaphore(0)
        self._wanted = True
        self._waits = False  # to be read, and its thread with it
        self._at_end = False  # but for what there is
        self._over = False
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> "None":
        while not self._over:
            more = self._end.wait()
            self._outpost.post(partial(self._on_readable, more))
            self._go.acquire()
        self._outpost.post(self._end.close)

    def _on_readable(self, more: "bool") -> "None":
        self._waits, self._at_end = True, not more
        if self._wanted:
            self._go_on()

    def _go_on(self) -> "None":
        self._waits = False
        if not self._read() and self._at_end:
            self._tell_end()
        self._go.release()

    def _read(self) -> "bool":
        """Read what there is, and return whether that was something."""
        count = 0 if self._over else self._end.count()
        if count > 0:
            self._take(self._name, self._end.read(min(READ_BYTES, count)))
        elif count < 0:
            self._tell_end()
        return count > 0

    def _tell_end(self) -> "None":
        if not self._over:
            self._over = True
            self._take(self._name, b"")

    def pause(self) -> "None":
        """Read nothing for now."""
        self._wanted = False

    def resume(self) -> "None":
        """Read when there is something."""
        self._wanted = True
        if self._waits:
            self._go_on()

    def read_rest(self) -> "None":
        """Read at once all that has been written until now."""
        while self._read():
            pass

    def waiting(self) -> "int":
        """Return how many bytes can be read now."""
        return 0 if self._over else max(0, self._end.count())

    def close(self) -> "None":
        """Read nothing more."""
        self._over = True
        self._end.cancel()
        self._go.release()


class Input(object):
    """The input of a program.

    Args:
        outpost: whose loop is told.
        fd: where to; closed with this.
        used: gets the credit of what was written, and whether the program takes nothing any more.
    """

    def __init__(self, outpost: "WindowsOutpost", fd: "int", used: "Callable[..., None]") -> "None":
        self._outpost = outpost
        self._file = open(fd, "wb", buffering=0)  # noqa: SIM115  # closed by its thread
        self._used = used
        self._pieces: "Queue[bytes | None]" = Queue()  # None at the end; no more than there is credit for
        self._broken = False
        threading.Thread(target=self._write, daemon=True).start()

    def write(self, data: "bytes") -> "None":
        """Write bytes as the program takes them."""
        self._pieces.put(data)

    def end(self) -> "None":
        """End the input after what was written."""
        self._pieces.put(None)

    def close(self) -> "None":
        """Write nothing more."""
        self._broken = True
        self._pieces.put(None)

    def _write(self) -> "None":
        while True:
            data = self._pieces.get()
            if data is None:
                break
            left = memoryview(data)
            try:
                while left and not self._broken:
                    left = left[self._file.write(left) :]
            except OSError:  # nobody reads
                self._broken = True
                self._outpost.post(lambda: self._used(0, broken=True))
            self._tell(cost(data))
        self._file.close()

    def _tell(self, used: "int") -> "None":
        self._outpost.post(lambda: self._used(used))


TerminalInput = Input


def set_size(fd: "int", size: "tuple[int, int]") -> "None":
    """Raise OSError: there are no terminals."""
    raise OSError(errno.ENOTTY, "no terminal")
