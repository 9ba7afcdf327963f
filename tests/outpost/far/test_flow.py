"""How much goes at once: two wires over a road of numbers, in a time of their own, so that every figure is exact."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from aioremote.outpost.far import frames
from aioremote.outpost.far.flow import ALIVE, LOST, MIN_IN_FLIGHT, PROBE, BulkCap, Chatter, Keepalive
from aioremote.outpost.far.frames import Event, Limits
from aioremote.outpost.far.wire import Wire

MIB = 2**20
MB = 10**6


@dataclass
class Direction:
    """One way of the road: a buffer, then a rate, then a delay."""

    rate: float
    delay: float
    buffer: int
    free_at: float = 0.0
    under_way: deque[tuple[float, int]] = field(default_factory=deque)  # when it has left the buffer, bytes


class World:
    """Both ends, the road between them and the clock."""

    def __init__(self, rate: float, delay: float, buffer: int = MIB, window: int = 16 * MIB) -> None:
        self.now = 0.0
        self.ends = {side: Wire(Limits(window=window), near=side == "near") for side in ("near", "far")}
        self.roads = {side: Direction(rate, delay, buffer) for side in self.ends}
        self.on_event: Callable[[str, Event], None] = lambda side, event: None
        self._calendar: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.pump()
        self.run(5 * delay + 0.01)
        for wire in self.ends.values():
            wire.ping(self.now)
        self.pump()
        self.run(5 * delay + 0.01)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._calendar, (when, next(self._order), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._calendar and self._calendar[0][0] <= end:
            self.now, _, action = heapq.heappop(self._calendar)
            action()
            self.pump()
        self.now = end

    def pump(self) -> None:
        """Let both ends write as far as the road's buffer takes it."""
        for side, wire in self.ends.items():
            road = self.roads[side]
            while self._held(road) < road.buffer and (parts := wire.take(self.now)):
                self._carry(side, road, b"".join(parts))

    def _held(self, road: Direction) -> int:
        while road.under_way and road.under_way[0][0] <= self.now:
            road.under_way.popleft()
        return sum(size for _, size in road.under_way)

    def _carry(self, side: str, road: Direction, data: bytes) -> None:
        other = "far" if side == "near" else "near"
        for start in range(0, len(data), 8192):
            piece = data[start : start + 8192]
            road.free_at = max(self.now, road.free_at) + len(piece) / road.rate
            road.under_way.append((road.free_at, len(piece)))
            self.at(road.free_at + road.delay, partial(self._arrive, other, piece))

    def _arrive(self, side: str, piece: bytes) -> None:
        for event in self.ends[side].receive(piece, self.now):
            assert event.kind != frames.CLOSED, event.text
            self.on_event(side, event)


class Traffic:
    """Bulk from the far end, and calls from the near end that the far end answers."""

    def __init__(self, world: World, bulk_channels: int) -> None:
        self.world = world
        self.near, self.far = world.ends["near"], world.ends["far"]
        self.call = self.near.open("echo")
        self.got: dict[int, int] = {self.near.open("source"): 0 for _ in range(bulk_channels)}
        self.took: list[float] = []
        world.on_event = self.on_event
        world.pump()
        world.run(1.0 if world.roads["near"].delay < 0.1 else 10.0)

    def on_event(self, side: str, event: Event) -> None:
        if event.kind == frames.OPEN and event.text == "source":
            self.fill(event.channel)
        elif event.kind == frames.MSG and side == "far":
            self.far.send_message(event.channel, event.data)
        elif event.kind == frames.MSG:
            self.took.append(self.world.now - self.asked)
        elif event.kind == frames.DATA:
            self.got[event.channel] += len(event.data)
            self.near.grant(event.channel, frames.cost(event.data))
            self.fill(event.channel)

    def fill(self, number: int) -> None:
        while self.far.queued(number) < MIB and self.far.send(number, bytes(256 * 1024)):
            pass

    def ask(self) -> float:
        """Make one call; returns the seconds."""
        before = len(self.took)
        self.asked = self.world.now
        self.near.send_message(self.call, bytes(64))
        self.near.grant(self.call, 76)
        self.world.pump()
        while len(self.took) == before:
            self.world.run(0.001)
        return self.took[-1]


@pytest.mark.parametrize(
    ("rate", "delay", "allowed"),
    [
        (10 * MB, 0.005, 0.05),
        (10 * MB, 0.02, 0.05),
        (100 * MB, 0.0005, 0.05),
        (100 * MB, 0.02, 0.05),
        (10 * MB, 0.1, 0.1),
    ],
)
def test_calls_stay_quick_beside_bulk_which_fills_the_link(rate: float, delay: float, allowed: float) -> None:
    """Promise 21: p99 < idle + 50 ms and bulk >= 90 %, with a buffer of 1 MiB; on a road to the antipodes + 100 ms."""
    world = World(rate, delay)
    traffic = Traffic(world, 1)
    began, before = world.now, sum(traffic.got.values())
    took = sorted(traffic.ask() for _ in range(100))
    assert took[98] < 2 * delay + allowed
    assert (sum(traffic.got.values()) - before) / (world.now - began) > 0.9 * rate


def test_100_bulk_channels_share_a_narrow_link_fairly() -> None:
    """Promise 22: within 20 % of the fair share; a call's p99 < 50 ms."""
    world = World(10 * MB, 0.005)
    traffic = Traffic(world, 100)
    before = dict(traffic.got)
    took = sorted(traffic.ask() for _ in range(200))
    world.run(10.0)
    got = [traffic.got[number] - before[number] for number in traffic.got]
    share = sum(got) / len(got)
    assert max(got) < 1.2 * share
    assert min(got) > 0.8 * share
    assert took[int(0.99 * 199)] < 0.05


def test_bulk_keeps_a_tenth_beside_calls_without_end() -> None:
    world = World(10 * MB, 0.005)
    traffic = Traffic(world, 1)
    talk = world.ends["far"].open("talk", window=MIB)
    said = 0

    def on_event(side: str, event: Event) -> None:
        nonlocal said
        if event.kind == frames.MSG:
            said += len(event.data)
            world.ends["near"].grant(event.channel, frames.cost(event.data))
            chatter()
        elif side == "near" or event.kind != frames.OPEN:
            traffic.on_event(side, event)

    def chatter() -> None:
        while world.ends["far"].queued(talk) < 256 * 1024:
            world.ends["far"].send_message(talk, bytes(1000))

    world.on_event = on_event
    chatter()
    world.run(1.0)
    before = sum(traffic.got.values())
    said = 0
    world.run(5.0)
    bulk = sum(traffic.got.values()) - before
    assert 0.07 < bulk / (bulk + said) < 0.2
    assert bulk + said > 0.9 * 50 * MB


def test_a_slow_start_is_not_taken_for_a_short_road() -> None:
    """When a road becomes longer for good, the cap recovers."""
    cap = BulkCap(16 * MIB)
    now, number = 0.0, 0

    def trips(count: int, seconds: float) -> None:
        nonlocal now, number
        for _ in range(count):
            number += 1
            cap.pinged(number, now)
            cap.sent += max(0, cap.room())
            cap.room()
            now += seconds
            assert cap.ponged(number, now) == pytest.approx(seconds)
            cap.arrived = cap.sent

    trips(10, 0.01)
    assert cap.cap == 16 * MIB
    trips(45, 0.3)
    assert cap.cap == MIN_IN_FLIGHT
    trips(50, 0.3)
    assert cap.cap > MIB


def test_an_answer_to_nothing_is_told() -> None:
    cap = BulkCap(MIB)
    assert cap.ponged(1, 0.0) is None
    cap.pinged(1, 0.0)
    assert cap.ponged(2, 0.0) is None
    assert cap.ponged(1, 1.5) == 1.5


def test_chatter_is_earned_back_by_time_and_by_bytes() -> None:
    budget = Chatter(10)
    assert [budget.spend(0.0) for _ in range(11)] == [True] * 10 + [False]
    budget = Chatter(10)
    for _ in range(10):
        budget.spend(0.0)
    budget.moved(5 * 1024)
    assert [budget.spend(0.01) for _ in range(7)] == [True] * 6 + [False]


def test_silence_is_asked_about_each_interval_and_then_judged() -> None:
    """Promise 81."""
    keepalive = Keepalive(10.0, 3, 0.0)
    assert keepalive.check(5.0) == ALIVE
    assert keepalive.check(10.0) == PROBE
    assert keepalive.check(12.0) == ALIVE
    assert keepalive.check(20.0) == PROBE
    assert keepalive.due == 30.0
    assert keepalive.check(30.0) == LOST


def test_whoever_is_heard_is_alive() -> None:
    keepalive = Keepalive(10.0, 3, 0.0)
    keepalive.check(10.0)
    keepalive.heard(11.0)
    assert keepalive.check(20.0) == ALIVE
    assert keepalive.check(21.0) == PROBE
    keepalive.heard(21.1)
    assert keepalive.check(30.0) == ALIVE
    assert keepalive.due == pytest.approx(31.1)


def test_whoever_looks_late_was_stopped_itself_and_begins_anew() -> None:
    """Promise 83."""
    keepalive = Keepalive(10.0, 3, 0.0)
    assert keepalive.check(60.0) == PROBE
    assert keepalive.check(70.0) == PROBE
    assert keepalive.check(80.0) == PROBE
    assert keepalive.check(90.0) == LOST


def test_no_interval_never_asks() -> None:
    keepalive = Keepalive(0.0, 3, 0.0)
    assert keepalive.check(1e9) == ALIVE
