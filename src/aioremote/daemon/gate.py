"""Who may try to get in: places for those that have not authenticated, and pauses for sources that failed often.

Plain calls, no I/O. A new arrival takes the place of the one that has waited longest, so that idle connections keep
nobody out. Not for sessions, which are counted by the daemon.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

__all__ = ["Gate"]

FREE_FAILURES = 5  # a person with the wrong key tries a few times
FIRST_PAUSE_SECONDS = 0.5  # doubled with each further failure
MOST_PAUSE_SECONDS = 60.0
MOST_SOURCES = 1024  # remembered

T = TypeVar("T")


class Gate(Generic[T]):
    """The places before authentication.

    Args:
        most: at once in all.
        most_per_source: at once from one source.
    """

    def __init__(self, most: int, most_per_source: int) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._waiting: dict[T, str] = {}  # in the order of arrival
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def is_paused(self, source: str, now: float) -> bool:
        """Whether this source has failed too often to be heard now; `now` in seconds."""
        return now < self._failures.get(source, (0, now))[1]

    def enter(self, who: T, source: str) -> T | None:
        """Give a place; returns who has to give up his for it."""
        counts = Counter(self._waiting.values())
        crowded = None
        if counts[source] >= self._most_per_source:
            crowded = source
        elif len(self._waiting) >= self._most:
            crowded = counts.most_common(1)[0][0]
        out = next((one for one, its in self._waiting.items() if its == crowded), None)
        if out is not None:
            del self._waiting[out]
        self._waiting[who] = source
        return out

    def leave(self, who: T) -> None:
        """Free a place, if there still is one."""
        self._waiting.pop(who, None)

    def failed(self, source: str, now: float) -> None:
        """Note that a source could not authenticate."""
        count = self._failures.pop(source, (0, 0.0))[0] + 1
        over = count - FREE_FAILURES
        pause = 0.0 if over < 1 else min(FIRST_PAUSE_SECONDS * 2 ** min(over - 1, 16), MOST_PAUSE_SECONDS)
        self._failures[source] = count, now + pause
        if len(self._failures) > MOST_SOURCES:
            self._failures.popitem(last=False)

    def succeeded(self, source: str) -> None:
        """Forget the failures of a source that got in."""
        self._failures.pop(source, None)
