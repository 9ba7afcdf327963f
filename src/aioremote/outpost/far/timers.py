"""Calls that are due later, for a loop that asks how long it may sleep."""

import heapq
import itertools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]


class Timer(object):
    """A call that is due later."""

    __slots__ = ("callback",)

    def __init__(self, callback: "Callable[[], None]") -> "None":
        self.callback: "Callable[[], None] | None" = callback

    def cancel(self) -> "None":
        """Do not call."""
        self.callback = None


class Timers(object):
    """All that is due, by the monotonic clock."""

    def __init__(self) -> "None":
        self._heap: "list[tuple[float, int, Timer]]" = []
        self._order = itertools.count()

    def later(self, seconds: "float", callback: "Callable[[], None]") -> "Timer":
        """Plan a call in some seconds."""
        timer = Timer(callback)
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def next_due(self) -> "float | None":
        """Return when the first is due, None where none is planned."""
        return self._heap[0][0] if self._heap else None

    def due(self) -> "list[Callable[[], None]]":
        """Take out and return what is due now, in order."""
        now = time.monotonic()
        calls: "list[Callable[[], None]]" = []
        while self._heap and self._heap[0][0] <= now:
            callback = heapq.heappop(self._heap)[2].callback
            if callback is not None:
                calls.append(callback)
        return calls
