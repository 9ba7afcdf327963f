"""What stands for `polling` on Windows: which sockets are ready, by ``select``, and what other threads hand over.

Nothing else than sockets can be waited for there: pipes and processes have threads, which `Poller.post`.
"""

import select
import socket
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Entry: "TypeAlias" = "tuple[int, Callable[[int], None]]"

__all__ = ["READ", "WRITE", "Poller"]

READ, WRITE = 1, 4
MOST_SOCKETS = 500  # Python's select takes 512 there


class Poller(object):
    """Sockets, what is waited for on each, and what is called then; as that of `polling`."""

    def __init__(self) -> "None":
        self._watched: "dict[int, _Entry]" = {}
        self._posted: "deque[Callable[[], None]]" = deque()
        self._ear, self._bell = socket.socketpair()
        for sock in (self._ear, self._bell):
            sock.setblocking(False)
        self.watch(self._ear.fileno(), self._on_bell)

    def watch(self, fd: "int", callback: "Callable[[int], None]", events: "int" = READ) -> "None":
        """Call `callback` with what `fd` is ready for; again with other `events` changes that, 0 ends it."""
        if events and fd not in self._watched and len(self._watched) >= MOST_SOCKETS:
            raise OSError("%d sockets, and no room for more" % MOST_SOCKETS)
        if events:
            self._watched[fd] = events, callback
        else:
            self._watched.pop(fd, None)

    def ready(self, seconds: "float | None") -> "list[tuple[int, _Entry, int]]":
        """Wait at most so long; returns sockets, their entries, and what they are ready for."""
        reading = [fd for fd, (events, _) in self._watched.items() if events & READ]
        writing = [fd for fd, (events, _) in self._watched.items() if events & WRITE]
        readable, writable, _ = select.select(reading, writing, [], seconds)
        found = dict.fromkeys(readable, READ)
        for fd in writable:
            found[fd] = found.get(fd, 0) | WRITE
        return [(fd, self._watched[fd], mask) for fd, mask in found.items()]

    def stands(self, fd: "int", entry: "_Entry") -> "bool":
        """Tell whether an entry is still there: what was called before it may have closed the socket."""
        return self._watched.get(fd) is entry

    def close(self) -> "None":
        """Watch nothing more."""
        self._watched.clear()

    # for other threads

    def post(self, callback: "Callable[[], None]") -> "None":
        """Have the loop call this; from any thread."""
        self._posted.append(callback)
        try:
            self._bell.send(b"!")
        except OSError:  # it rings already, or the loop is over
            pass

    def _on_bell(self, _: "int") -> "None":
        self._ear.recv(4096)
        while self._posted:
            callback = self._posted.popleft()
            try:
                callback()
            except BaseException:
                self.post(_nothing)  # for the others
                raise


def _nothing() -> "None":
    """Only to wake the loop."""
