"""Turns of the event loop for those who send much, so that others have the loop between them.

Where fifty give the loop back after a piece each, and are ready in the same turn, they hold it up for the sum.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

__all__ = ["next_turn"]

_AT_ONCE = 4  # in one turn of the loop, be they of one sender: each turn costs as much as sending 20 KiB


async def next_turn() -> None:
    """Return in a turn of the loop in which few have passed here, first come, first served: at once, or in a later one.

    Cancellation: gives the place to nobody else; the next ones go on a turn later.
    """
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = _Turns()
    await turns.next()


class _Turns:
    """Those of one loop, to which it holds no reference: it is known for as long as its loop."""

    def __init__(self) -> None:
        self._taken = 0  # places of this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        if self._taken < _AT_ONCE:  # then nobody waits
            self._take()
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        await place

    def _take(self) -> None:
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._begin)
        self._taken += 1

    def _begin(self) -> None:
        """Give the places of a new turn to those who wait."""
        self._taken = 0
        while self._waiting and self._taken < _AT_ONCE:
            place = self._waiting.popleft()
            if not place.done():
                self._take()
                place.set_result(None)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()
