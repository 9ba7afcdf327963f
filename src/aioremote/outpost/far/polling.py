"""Which descriptors are ready: epoll where there is one, else poll.

Not `selectors`: to import it takes 4 ms of every bootstrap, and a turn of its loop twice as long.
"""

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Entry: "TypeAlias" = "tuple[int, Callable[[int], None]]"

__all__ = ["READ", "WRITE", "Poller"]

READ: "int" = getattr(select, "POLLIN", 1)  # the same numbers as epoll's. Source: linux/eventpoll.h
WRITE: "int" = getattr(select, "POLLOUT", 4)
EITHER = READ | WRITE


class Poller(object):
    """Descriptors, what is waited for on each, and what is called then."""

    def __init__(self) -> "None":
        self._watched: "dict[int, _Entry]" = {}
        self._epoll: "select.epoll | None" = select.epoll() if hasattr(select, "epoll") else None
        self._poll = select.poll()

    def watch(self, fd: "int", callback: "Callable[[int], None]", events: "int" = READ) -> "None":
        """Call `callback` with what `fd` is ready for; again with other `events` changes that, 0 ends it."""
        known = self._watched.get(fd)
        poll = self._epoll or self._poll
        if not events:
            if known is not None:
                del self._watched[fd]
                try:
                    poll.unregister(fd)
                except OSError:  # it was closed before
                    pass
            return
        self._watched[fd] = events, callback
        if known is None:
            self._register(fd, events)
        elif known[0] != events:
            poll.modify(fd, events)

    def _register(self, fd: "int", events: "int") -> "None":
        if self._epoll is not None:
            try:
                self._epoll.register(fd, events)
                return
            except PermissionError:  # it takes no regular file
                self._epoll.close()
                self._epoll = None
                for other, (wanted, _) in self._watched.items():
                    self._poll.register(other, wanted)
        self._poll.register(fd, events)

    def ready(self, seconds: "float | None") -> "list[tuple[int, _Entry, int]]":
        """Wait at most so long; returns descriptors, their entries, and what they are ready for."""
        if self._epoll is not None:
            found = self._epoll.poll(-1 if seconds is None else seconds)
        else:
            found = self._poll.poll(None if seconds is None else int(seconds * 1000) + 1)
        ready: "list[tuple[int, _Entry, int]]" = []
        for fd, events in found:
            entry = self._watched.get(fd)
            if entry is not None:
                # After an error or a hang-up reading or writing will tell.
                ready.append((fd, entry, entry[0] & (EITHER if events & ~EITHER else events)))
        return ready

    def stands(self, fd: "int", entry: "_Entry") -> "bool":
        """Tell whether an entry is still there: what was called before it may have closed the descriptor."""
        return self._watched.get(fd) is entry

    def close(self) -> "None":
        """Watch nothing more."""
        self._watched.clear()
        if self._epoll is not None:
            self._epoll.close()
