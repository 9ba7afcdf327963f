"""One deadline through every phase of an operation: resolve, connect, authenticate, open, run, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from numbers import Real
from typing import cast

__all__ = ["Deadline", "Reminders", "check_seconds"]


def check_seconds(seconds: float | None, what: str = "timeout") -> None:
    """Raise where this is no timeout: a number that is not negative, or None.

    Raises:
        TypeError, ValueError: with what was given as `what`, and what was expected.
    """
    if seconds is None:
        return
    if not isinstance(cast(object, seconds), Real):
        raise TypeError(f"{what}={seconds!r}: give a number of seconds, or None for no limit")
    if not seconds >= 0:  # nor NaN
        raise ValueError(f"{what}={seconds!r}: give a positive number of seconds, or None for no limit")


class Deadline:
    """A moment on the running loop's clock by which an operation has to end.

    Args:
        seconds: from now; None for no limit, which needs no running loop.

    Attributes:
        seconds: what was given, None for no limit.
        at: the moment, in ``loop.time()``; None for no limit.

    Raises:
        ValueError: a negative number of seconds.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float | None = None) -> None:
        check_seconds(seconds)
        self.seconds: float | None = seconds
        self.at: float | None = None if seconds is None else asyncio.get_running_loop().time() + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, at least 0.0; None for no limit."""
        if self.at is None:
            return None
        return max(0.0, self.at - asyncio.get_running_loop().time())

    def scope(self) -> asyncio.Timeout:
        """Return an ``async with`` block that raises TimeoutError at the deadline."""
        return asyncio.timeout_at(self.at)

    def sooner(self, seconds: float | None) -> Deadline:
        """Return the earlier of this deadline and one `seconds` from now."""
        other = Deadline(seconds)
        if other.at is None or (self.at is not None and self.at <= other.at):
            return self
        return other


class Reminders:
    """Calls that are due so many seconds after they were asked for, and that mostly do not come about.

    One timer of the loop serves them all: for a short command, timers of its own cost a tenth of its CPU.

    Args:
        seconds: after which each is due.
    """

    __slots__ = ("_due", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Callable[[], None], float] = {}  # the first is due first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], None]) -> None:
        """Call it in time, unless it is removed before. Of one asked for twice, the last time counts."""
        loop = asyncio.get_running_loop()
        self._due.pop(call, None)
        self._due[call] = at = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(at, self._remind)

    def remove(self, call: Callable[[], None]) -> None:
        """Do not call it."""
        self._due.pop(call, None)

    def _remind(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        due: list[Callable[[], None]] = []
        for call, at in self._due.items():
            if at > now:
                self._timer = loop.call_at(at, self._remind)
                break
            due.append(call)
        else:
            self._timer = None
        for call in due:
            if self._due.pop(call, None) is not None:  # else removed by one of the others
                call()
