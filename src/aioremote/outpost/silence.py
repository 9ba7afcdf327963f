"""Watching a link for silence on the running loop. How silence is judged is in `far.flow`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioremote.outpost.far.flow import LOST, PROBE, Keepalive

__all__ = ["Watch"]


class Watch:
    """Calls `on_probe` where a link should be asked for a sign of life, and `on_lost` where none has come for too long.

    Args:
        interval: seconds of silence after which to ask; 0 watches nothing.
        count: silent intervals that make a lost link.
        on_probe: asks.
        on_lost: is told the seconds, once.
    """

    def __init__(
        self, interval: float, count: int, on_probe: Callable[[], None], on_lost: Callable[[float], None]
    ) -> None:
        if interval < 0 or count < 1:
            raise ValueError("keepalive is seconds, 0 for never, and keepalive_count at least 1")
        self._loop = asyncio.get_running_loop()
        self._keepalive = Keepalive(interval, count, self._loop.time())
        self._on_probe = on_probe
        self._on_lost = on_lost
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self.heard()
        self._look()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def heard(self) -> None:
        """Take note that bytes have come."""
        self._keepalive.heard(self._loop.time())

    def _look(self) -> None:
        keepalive, now = self._keepalive, self._loop.time()
        if not keepalive.interval:
            return
        verdict = keepalive.check(now)
        if verdict == LOST:
            self._on_lost(keepalive.interval * keepalive.count)
            return
        if verdict == PROBE:
            self._on_probe()
        self._timer = self._loop.call_at(keepalive.due, self._look)
