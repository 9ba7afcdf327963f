"""What a worker and its children write: two pipes, and those of earlier calls for as long as somebody holds them.

Not for whom it is for (`workers`).
"""

import os

from .polling import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .serve import Outpost

__all__ = ["ERR", "OUT", "Outputs"]

OUT, ERR = 1, 2
READ_BYTES = 262144
MOST_OLD = 16  # pipes of earlier calls that are still read; who writes to an older one gets SIGPIPE


class Outputs(object):
    """The outpost's ends.

    Args:
        outpost: whose loop reads.
        take: gets what was written, and to which descriptor.

    Attributes:
        theirs: the other ends, for descriptors 1 and 2; to be closed by whoever has sent them there.
    """

    def __init__(self, outpost: "Outpost", take: "Callable[[int, bytes], None]") -> "None":
        self._outpost = outpost
        self._take = take
        self._old: "list[int]" = []
        self._ours: "dict[int, int]" = {}
        self.theirs: "list[int]" = []
        self._open()

    def _open(self) -> "None":
        self._ours, self.theirs = {}, []
        for which in (OUT, ERR):
            self._ours[which], end = os.pipe()
            os.set_blocking(self._ours[which], False)
            self.theirs.append(end)
        self.watch(True)

    def watch(self, wanted: "bool") -> "None":
        """Read what is written, or let it wait."""
        for which, fd in self._ours.items():
            self._outpost.watch(fd, self._reader(which, fd), READ if wanted else 0)

    def _reader(self, which: "int", fd: "int") -> "Callable[[int], None]":
        def read(_: "int") -> "None":
            data = _read(fd)
            if data:
                self._take(which, data)
            elif data is not None:
                self._outpost.watch(fd, read, 0)

        return read

    def renew(self) -> "list[int]":
        """Begin with new pipes, and return their other ends; what still comes through the old ones is dropped."""
        for fd in self._ours.values():
            self._outpost.watch(fd, self._dropper(fd))
            self._old.append(fd)
        while len(self._old) > MOST_OLD:
            self._close(self._old.pop(0))
        self._open()
        return self.theirs

    def _dropper(self, fd: "int") -> "Callable[[int], None]":
        def drop(_: "int") -> "None":
            if _read(fd) == b"":
                self._old.remove(fd)
                self._close(fd)

        return drop

    def drain(self) -> "None":
        """Take all that has been written until now."""
        for which, fd in self._ours.items():
            while True:
                data = _read(fd)
                if not data:
                    break
                self._take(which, data)

    def close(self) -> "None":
        """Read nothing more."""
        for fd in self._old + list(self._ours.values()):
            self._close(fd)
        self._old, self._ours = [], {}

    def _close(self, fd: "int") -> "None":
        self._outpost.watch(fd, _nothing, 0)
        os.close(fd)


def _read(fd: "int") -> "bytes | None":
    """Return what there is, b"" at the end, None for nothing now."""
    try:
        return os.read(fd, READ_BYTES)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _nothing(_: "int") -> "None":
    """For a descriptor that is not watched any more."""
