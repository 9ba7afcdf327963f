"""Bounds that promises give in seconds, on a computer that may have other work just now."""

import asyncio
import time

from aioremote.testing.checks import marked_processes

_SPIN_SECONDS = 0.05
_PATIENCE_SECONDS = 20.0


def slowness() -> float:
    """How many times longer work takes here than on a core of one's own, just now; 1 on an idle computer."""
    began, spent = time.monotonic(), time.thread_time()
    while time.thread_time() - spent < _SPIN_SECONDS:
        pass
    return max(1.0, (time.monotonic() - began) / _SPIN_SECONDS)


def in_time(took: float, within: float) -> bool:
    """Whether so many seconds keep a bound: on a busy computer, what they would have been on one of one's own."""
    return took < within or took < within * slowness()


async def gone(mark: str, *, within: float = 1.0) -> None:
    """Promise 117: no marked process is left after one second, and what looking for them costs itself."""
    began = time.monotonic()
    looks = 1
    while marked_processes(mark):
        looks += 1
        assert time.monotonic() - began < _PATIENCE_SECONDS
        await asyncio.sleep(0.01)
    took, began = time.monotonic() - began, time.monotonic()
    marked_processes(mark)
    assert in_time(took, within + looks * (time.monotonic() - began)), f"{took:.2f} s, in {within} s"
