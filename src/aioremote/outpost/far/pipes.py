"""The outpost's ends of a program's pipes, or of its terminal: read and written without blocking.

Not for what is made of the bytes (`processes`).
"""

import fcntl
import os
import struct
import termios

from .frames import cost
from .polling import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .serve import Outpost

__all__ = ["Input", "Output", "TerminalInput", "set_size"]

READ_BYTES = 65536
WIDE_BYTES = 1048576  # Source: the default of /proc/sys/fs/pipe-max-size
READ_WIDE_BYTES = 262144
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ; fcntl has the name from Python 3.10 on. Source: linux/fcntl.h
_COUNT = struct.Struct("i")
END_OF_INPUT = b"\x04"  # what ends the input of a program on a terminal


def set_size(fd: "int", size: "tuple[int, int]") -> "None":
    """Give a terminal its size: columns and rows."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))


def _widen(fd: "int") -> "None":
    """Let more bytes wait in a pipe that was full: fewer turns of the loop for the same bytes. Linux."""
    try:
        fcntl.fcntl(fd, SET_PIPE_SIZE, WIDE_BYTES)
    except OSError:  # no pipe, or more than this user may have
        pass


class Output(object):
    """One output of a program.

    Args:
        outpost: whose loop reads.
        fd: what to read; closed with this.
        name: what `take` is told first.
        take: gets the name and what came, b"" at the end.
    """

    __slots__ = ("_fd", "_name", "_outpost", "_size", "_take", "_watched")

    def __init__(self, outpost: "Outpost", fd: "int", name: "bytes", take: "Callable[[bytes, bytes], None]") -> "None":
        self._outpost = outpost
        self._fd = fd
        self._name = name
        self._take = take
        self._size = READ_BYTES
        self._watched = False
        self.resume()

    def pause(self) -> "None":
        """Read nothing for now."""
        if self._watched:
            self._watched = False
            self._outpost.watch(self._fd, self._read, 0)

    def resume(self) -> "None":
        """Read when there is something."""
        if not self._watched:
            self._watched = True
            self._outpost.watch(self._fd, self._read)

    def read_rest(self) -> "None":
        """Read at once what a program has left behind; twice, as after its last bytes comes the end."""
        for _ in (1, 2):
            if self._fd >= 0:
                self._read(0)

    def waiting(self) -> "int":
        """Return how many bytes can be read now."""
        if self._fd < 0:
            return 0
        try:
            return int(_COUNT.unpack(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(_COUNT.size)))[0])
        except OSError:
            return 0

    def _read(self, _: "int") -> "None":
        try:
            data = os.read(self._fd, self._size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: the last program has closed the terminal
            data = b""
        if len(data) == READ_BYTES == self._size:
            _widen(self._fd)
            self._size = READ_WIDE_BYTES
        self._take(self._name, data)

    def close(self) -> "None":
        """Read nothing more."""
        if self._fd >= 0:
            self.pause()
            os.close(self._fd)
            self._fd = -1


class Input(object):
    """The input of a program.

    Args:
        outpost: whose loop writes.
        fd: where to; closed with this.
        used: gets the credit of what was written, and whether the program takes nothing any more.
    """

    def __init__(self, outpost: "Outpost", fd: "int", used: "Callable[..., None]") -> "None":
        self._outpost = outpost
        self._fd = fd
        self._used = used
        self._pieces: "list[bytes]" = []
        self._first = memoryview(b"")  # what is left of the first
        self._ended = False
        self._watched = False

    def write(self, data: "bytes") -> "None":
        """Write bytes as the program takes them."""
        if self._fd < 0:
            self._used(cost(data))
            return
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._first = memoryview(data)
            self._flush(0)

    def end(self) -> "None":
        """End the input after what was written."""
        self._ended = True
        if not self._pieces:
            self._close_now()

    def _close_now(self) -> "None":
        self.close()

    def _flush(self, _: "int") -> "None":
        used = 0
        try:
            while self._pieces:
                self._first = self._first[os.write(self._fd, self._first) :]
                if not self._first:
                    used += cost(self._pieces.pop(0))
                    self._first = memoryview(self._pieces[0] if self._pieces else b"")
        except (BlockingIOError, InterruptedError):
            if not self._watched:
                _widen(self._fd)
        except OSError:  # nobody reads
            used += sum(map(cost, self._pieces))
            self._pieces = []
            self.close()
            self._used(used, broken=True)
            return
        self._watch(bool(self._pieces))
        if used:
            self._used(used)
        if self._ended and not self._pieces:
            self._close_now()

    def _watch(self, wanted: "bool") -> "None":
        if wanted != self._watched:
            self._watched = wanted
            self._outpost.watch(self._fd, self._flush, WRITE if wanted else 0)

    def close(self) -> "None":
        """Write nothing more."""
        if self._fd >= 0:
            self._watch(False)
            os.close(self._fd)
            self._fd = -1
            self._pieces = []


class TerminalInput(Input):
    """What is typed at a terminal: its end of file is a typed character."""

    _at_line_start = True
    _typed_end = False

    def write(self, data: "bytes") -> "None":
        if data:
            self._at_line_start = data.endswith(b"\n")
        super().write(data)

    def _close_now(self) -> "None":
        """Type the end; in the middle of a line, the first one only hands the line over."""
        if not self._typed_end and self._fd >= 0:
            self._typed_end = True
            self._ended = False
            typed = END_OF_INPUT if self._at_line_start else END_OF_INPUT * 2
            self._pieces, self._first = [typed], memoryview(typed)
            self._flush(0)
