"""Limits that are learnt from the servers: sessions of a connection, logins of an endpoint, handshakes of a loop.

Decisions are plain functions; only waiting awaits.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

__all__ = ["ConnectGate", "SessionLimit", "Slot", "connect_gate", "refusal_pauses", "retry_delays"]


# sshd frees a session one turn of its loop after it has read our confirmation of the close: an open that comes in the
# same packet is refused.
_COOLING_SECONDS = 0.002


def refusal_pauses() -> Iterator[float]:
    """Yield the waits after refused opens: a server frees a session a little after it has confirmed its close."""
    for number in range(40):
        yield min(0.25, 0.002 * 2 ** min(number, 10))


class Slot:
    """One session of a connection, from before it is opened until the server has confirmed its close."""

    __slots__ = ("_limit", "opened", "released")

    def __init__(self, limit: SessionLimit) -> None:
        self._limit = limit
        self.opened: bool = False
        self.released: bool = False

    def confirm(self) -> None:
        """Note that the server has opened the session."""
        self.opened = True
        self._limit.confirmed += 1
        self._limit.peak = max(self._limit.peak, self._limit.confirmed)

    def release(self) -> None:
        """Give the slot back: the server has confirmed the close, or never opened it."""
        if not self.released:
            self.released = True
            self._limit.give_back(self)


class SessionLimit:
    """Counts the sessions of one connection and learns how many its server allows.

    There is no limit until the first refusal, which costs one round trip and starts nothing: then the most sessions
    that were ever open at once are the limit. (Not those open at that moment: a server counts a session for a little
    longer than until it has confirmed the close.) The guard that ends far processes keeps one of them for itself.

    Attributes:
        maximum: how many sessions may be open at once; None while unknown.
        in_use: slots given out.
        confirmed: of these, how many the server has opened.
        peak: the most that were ever confirmed at once.
        reserved: slots kept free for `acquire(reserved=True)`, where the maximum is at least 2.
        on_shortage: called when somebody has to wait for a slot; for who holds one without need.
    """

    __slots__ = ("_waiting", "confirmed", "in_use", "maximum", "on_shortage", "peak", "reserved")

    def __init__(self, maximum: int | None = None) -> None:
        self.maximum = maximum
        self.in_use: int = 0
        self.confirmed: int = 0
        self.peak: int = 0
        self.reserved: int = 0
        self.on_shortage: Callable[[], None] | None = None
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}  # by `reserved`

    @property
    def is_short(self) -> bool:
        """Whether somebody waits for a slot."""
        return any(not place.done() for waiting in self._waiting.values() for place in waiting)

    def _free(self, *, reserved: bool) -> bool:
        if self.maximum is None:
            return True
        kept = 0 if reserved or self.maximum < 2 else self.reserved
        return self.in_use < self.maximum - kept

    async def acquire(self, *, reserved: bool = False, again: bool = False) -> Slot:
        """Wait for a slot.

        Args:
            reserved: for the guard: may take the last slot, and goes before all others.
            again: after a refusal: stands at the head of the queue.
        """
        waiting = self._waiting[reserved]
        if not self._free(reserved=reserved) or (waiting and not again):
            await self._queue(waiting, ahead=again)
        else:
            self.in_use += 1
        return Slot(self)

    def take(self, *, reserved: bool = True) -> Slot | None:
        """Return a slot at once, the reserved one too unless told otherwise; None where all are out or waited for."""
        if not self._free(reserved=reserved) or (not reserved and self._waiting[False]):
            return None
        self.in_use += 1
        return Slot(self)

    async def _queue(self, waiting: deque[asyncio.Future[None]], *, ahead: bool) -> None:
        place = asyncio.get_running_loop().create_future()
        waiting.appendleft(place) if ahead else waiting.append(place)
        if self.on_shortage is not None:
            self.on_shortage()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the slot came together with the cancel
                self.in_use -= 1
                self._admit()
            else:
                with suppress(ValueError):  # already passed over
                    waiting.remove(place)
            raise

    def _admit(self) -> None:
        for reserved in (True, False):
            waiting = self._waiting[reserved]
            while waiting and self._free(reserved=reserved):
                place = waiting.popleft()
                if not place.done():
                    self.in_use += 1
                    place.set_result(None)

    def give_back(self, slot: Slot) -> None:
        """Take a slot back and let the next one in, a moment later where the server counts."""
        self.confirmed -= slot.opened
        if self.maximum is not None and slot.opened:
            asyncio.get_running_loop().call_later(_COOLING_SECONDS, self._free_one)
        else:
            self._free_one()

    def _free_one(self) -> None:
        self.in_use -= 1
        self._admit()

    def refused(self, slot: Slot) -> bool:
        """Learn from a refused open; the slot is given back.

        Returns:
            Whether to try again: False when no session was ever opened and none is being opened, so that it is no
            matter of their number.
        """
        if self.confirmed == self.peak > 0:
            self.maximum = self.peak if self.maximum is None else min(self.maximum, self.peak)
        slot.release()
        return self.peak > 0 or self.in_use > 0

    def set_reserved(self, count: int) -> None:
        """Change how many slots are kept for the guard."""
        self.reserved = count
        self._admit()


_FIRST_WINDOW = 50  # handshakes at once on one loop: fewer leave it idle in between, which costs more CPU (FACTS 14)
_LARGEST_WINDOW = 256
_LAG_SECONDS = 0.02  # of the loop, above which the window shrinks
_PER_ENDPOINT = 8  # logins at once: sshd's default MaxStartups 10:30:100 starts to drop at 10


class _Places:
    """So many places, given out in the order in which they were asked for.

    Attributes:
        window: how many there are.
        in_flight: how many are taken.
    """

    __slots__ = ("_waiting", "in_flight", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        self.in_flight: int = 0
        self._waiting: deque[asyncio.Future[None]] | None = None  # most endpoints never see a queue

    def _try_to_enter(self) -> bool:
        free = self.in_flight < int(self.window) and not self._waiting
        self.in_flight += free
        return free

    async def _queue(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting = self._waiting or deque()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            else:
                with suppress(ValueError):  # already passed over
                    self._waiting.remove(place)
            raise

    def _leave(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < int(self.window):
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)


class ConnectGate(_Places):
    """Bounds the handshakes of one loop, and of each endpoint in it.

    The loop's window grows with each handshake that leaves the loop responsive, and shrinks when it lags.
    """

    __slots__ = ("_endpoints", "_left")

    def __init__(self) -> None:
        super().__init__(_FIRST_WINDOW)
        self._endpoints: dict[tuple[str, int], _Places] = {}
        self._left = 0  # handshakes that have ended in this turn of the loop

    def passing(self, host: str, port: int) -> _Pass:
        """Hold a place for one login at `host`:`port` while an ``async with`` block runs."""
        return _Pass(self, (host, port))

    async def enter(self, endpoint: tuple[str, int]) -> None:
        """Wait for a place at the endpoint, then for one in the loop."""
        places = self._endpoints.get(endpoint)
        if places is None:
            places = self._endpoints[endpoint] = _Places(_PER_ENDPOINT)
        try:
            if not places._try_to_enter():
                await places._queue()
        except BaseException:
            self._forget_idle(endpoint)
            raise
        try:
            if not self._try_to_enter():
                await self._queue()
        except BaseException:
            self._leave_endpoint(endpoint)
            raise

    def leave(self, endpoint: tuple[str, int]) -> None:
        """Give both places back."""
        if not self._left:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._judge, loop.time())
        self._left += 1
        self._leave()
        self._leave_endpoint(endpoint)

    def _leave_endpoint(self, endpoint: tuple[str, int]) -> None:
        self._endpoints[endpoint]._leave()
        self._forget_idle(endpoint)

    def _forget_idle(self, endpoint: tuple[str, int]) -> None:
        places = self._endpoints.get(endpoint)  # None where a cancelled waiter hears of it last
        if places is not None and not places.in_flight:  # then nobody waits either
            del self._endpoints[endpoint]

    def _judge(self, since: float) -> None:
        """Compare how long one turn of the loop took with what it may take."""
        left, self._left = self._left, 0
        if asyncio.get_running_loop().time() - since > _LAG_SECONDS:
            self.window = max(_PER_ENDPOINT, self.window * 0.8)
        else:
            self.window = min(_LARGEST_WINDOW, self.window + 4 * left / self.window)


class _Pass:
    """One login's way through the gate."""

    __slots__ = ("_endpoint", "_gate")

    def __init__(self, gate: ConnectGate, endpoint: tuple[str, int]) -> None:
        self._gate = gate
        self._endpoint = endpoint

    async def __aenter__(self) -> None:
        await self._gate.enter(self._endpoint)

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave(self._endpoint)


_gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectGate] = weakref.WeakKeyDictionary()


def connect_gate() -> ConnectGate:
    """Return the running loop's gate."""
    loop = asyncio.get_running_loop()
    gate = _gates.get(loop)
    if gate is None:
        gate = _gates[loop] = ConnectGate()
    return gate


def retry_delays(first: float = 0.05, largest: float = 2.0, *, tries: int = 8) -> Iterator[float]:
    """Yield the seconds to wait before each next try: doubling, each with full jitter above a quarter."""
    for number in range(tries):
        delay = min(largest, first * 2**number)
        yield delay * (0.25 + 0.75 * random.random())  # noqa: S311  # spreads retries, protects nothing
