"""Limits that are learnt: sessions of a connection, logins of an endpoint, handshakes of a loop; and nothing leaks."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from aioremote._core.limits import ConnectGate, SessionLimit, Slot, connect_gate, retry_delays

T = TypeVar("T")
DEFAULT_SESSIONS = 10  # sshd_config(5), MaxSessions
SEEDS = st.integers(0, 2**32)


class Steps:
    """An event loop that is run step by step, on a clock of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.now = 0.0
        self.loop.time = lambda: self.now  # type: ignore[method-assign]

    def start(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.loop.create_task(coro)

    def run(self, turns: int = 5) -> None:
        """Run what is ready, and what that makes ready."""

        async def some() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())

    def do(self, call: Callable[[], T]) -> T:
        """Call something that wants a running loop, without letting anything else run."""

        async def once() -> T:
            return call()

        return self.loop.run_until_complete(once())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.run()

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run()
        self.loop.close()


@contextmanager
def steps() -> Iterator[Steps]:
    made = Steps()
    try:
        yield made
    finally:
        made.close()


# --- sessions: a limit that is known ----------------------------------------------------------------------------------


class KnownLimit(RuleBasedStateMachine):
    """Slots of a known number of sessions, asked for, cancelled, opened and released in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = Steps()
        self.limit = SessionLimit(3)
        self.asked: list[tuple[asyncio.Task[Slot], bool]] = []
        self.held: list[Slot] = []

    def teardown(self) -> None:
        try:
            for task, _ in self.asked:
                task.cancel()
            self.collect()
            for slot in self.held:
                self.steps.do(slot.release)
            self.steps.pass_time(1)
            assert (self.limit.in_use, self.limit.confirmed) == (0, 0)
        finally:
            self.steps.close()

    def collect(self) -> None:
        """Let everything run, and take the slots that were given out."""
        self.steps.run()
        for task, _ in self.asked:
            if task.done() and not task.cancelled():
                self.held.append(task.result())
        self.asked = [(task, reserved) for task, reserved in self.asked if not task.done()]

    @rule(kind=st.sampled_from(["", "reserved", "again"]))
    def ask(self, kind: str) -> None:
        work = self.limit.acquire(reserved=kind == "reserved", again=kind == "again")
        self.asked.append((self.steps.start(work), kind == "reserved"))

    @rule()
    def take(self) -> None:
        """Without waiting; others may stand in the queue."""
        slot = self.limit.take()
        if slot is not None:
            self.held.append(slot)

    @rule()
    def let_run(self) -> None:
        self.collect()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01]))
    def let_time_pass(self, seconds: float) -> None:
        self.steps.pass_time(seconds)
        self.collect()

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), at_once=st.booleans())
    def cancel(self, data: st.DataObject, at_once: bool) -> None:
        """A cancel is told at once, or while other things happen in the same turn of the loop."""
        data.draw(st.sampled_from(self.asked))[0].cancel()
        if at_once:
            self.collect()

    @precondition(lambda self: any(not slot.opened for slot in self.held))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self.steps_slot(data, opened=False).confirm()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, twice: bool) -> None:
        slot = data.draw(st.sampled_from(self.held))
        self.held.remove(slot)
        self.now_release(slot)
        if twice:
            self.now_release(slot)

    @rule(count=st.integers(0, 1))
    def reserve(self, count: int) -> None:
        self.limit.set_reserved(count)

    def steps_slot(self, data: st.DataObject, *, opened: bool) -> Slot:
        return data.draw(st.sampled_from([slot for slot in self.held if slot.opened == opened]))

    def now_release(self, slot: Slot) -> None:
        """Release as a transport's callback does: without letting a turn of the loop pass."""
        asyncio._set_running_loop(self.steps.loop)
        try:
            slot.release()
        finally:
            asyncio._set_running_loop(None)

    @invariant()
    def never_over_the_maximum(self) -> None:
        assert self.limit.maximum == 3
        assert len(self.held) <= self.limit.in_use <= 3
        assert self.limit.confirmed == sum(slot.opened for slot in self.held) <= self.limit.peak <= 3

    @invariant()
    def whoever_may_go_goes(self) -> None:
        self.steps.pass_time(1)
        self.collect()
        assert self.limit.in_use == len(self.held)
        free = 3 - self.limit.in_use
        waits_reserved = any(reserved for _, reserved in self.asked)
        assert not (waits_reserved and free)
        assert not (self.asked and free > self.limit.reserved)


def test_slots_of_a_known_limit() -> None:
    run_state_machine_as_test(KnownLimit)


class RacingLimit(KnownLimit):
    """The same without settling after each step, so that steps meet in one turn of the loop."""

    @invariant()
    def whoever_may_go_goes(self) -> None:
        assert self.limit.in_use >= len(self.held)


def test_slots_of_a_known_limit_in_a_race() -> None:
    run_state_machine_as_test(RacingLimit)


def test_a_waiter_that_is_cancelled_while_a_slot_comes_free_hands_it_on() -> None:
    with steps() as loop:
        limit = SessionLimit(1)
        first = loop.start(limit.acquire())
        loop.run()
        waiters = [loop.start(limit.acquire()) for _ in range(3)]
        loop.run()

        def meet() -> None:
            waiters[0].cancel()
            first.result().release()
            waiters[1].cancel()

        loop.do(meet)
        loop.run()
        assert [waiter.cancelled() for waiter in waiters[:2]] == [True, True]
        assert waiters[2].done()
        assert limit.in_use == 1


# --- sessions: a limit that is learnt ---------------------------------------------------------------------------------


class Server:
    """Opens at most `maximum` sessions; opening and closing take some turns."""

    def __init__(self, maximum: int, turns: Callable[[], int]) -> None:
        self.maximum, self.turns = maximum, turns
        self.open_now = self.most = self.refusals = 0

    async def pause(self) -> None:
        for _ in range(self.turns()):
            await asyncio.sleep(0)

    async def open(self) -> bool:
        await self.pause()
        if self.open_now >= self.maximum:
            self.refusals += 1
            return False
        self.open_now += 1
        self.most = max(self.most, self.open_now)
        return True


async def command(limit: SessionLimit, server: Server) -> None:
    """Do as a link does: a slot, a session, again after a refusal; give the slot back when the close is confirmed."""
    again = False
    while True:
        slot = await limit.acquire(again=again)
        try:
            opened = await server.open()
        except asyncio.CancelledError:
            slot.release()
            raise
        if opened:
            break
        assert limit.refused(slot)
        again = True
    slot.confirm()
    try:
        await server.pause()
    finally:
        server.open_now -= 1
        slot.release()


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 3), SEEDS)
def test_promise_120_the_limit_is_learnt_and_everybody_is_served(
    maximum: int, commands: int, cancels: int, seed: int
) -> None:
    randomness = random.Random(seed)
    with steps() as loop:
        limit = SessionLimit()
        server = Server(maximum, lambda: randomness.randrange(1, 6))
        first = loop.start(command(limit, server))  # the first session shows that there are some
        loop.run(20)
        assert first.done()
        tasks = [loop.start(command(limit, server)) for _ in range(commands)]
        chosen = set(randomness.sample(tasks, min(cancels, commands)))
        for task in chosen:
            loop.run(randomness.randrange(4))
            task.cancel()
        for _ in range(200):
            loop.pass_time(0.01)
        assert all(task.done() for task in tasks)
        assert [task for task in tasks if task not in chosen and (task.cancelled() or task.exception())] == []
        assert server.most <= maximum
        assert (limit.in_use, limit.confirmed, server.open_now) == (0, 0, 0)
        assert limit.peak == max(1, server.most)
        assert limit.maximum is None or limit.maximum <= maximum


async def opened_slots(limit: SessionLimit, count: int) -> list[Slot]:
    slots = [await limit.acquire() for _ in range(count)]
    for slot in slots:
        slot.confirm()
    return slots


async def test_nothing_is_assumed_before_a_refusal() -> None:
    limit = SessionLimit()
    await opened_slots(limit, 100)
    assert (limit.maximum, limit.in_use, limit.confirmed, limit.peak) == (None, 100, 100, 100)


async def test_a_refusal_at_the_peak_teaches_the_maximum() -> None:
    limit = SessionLimit()
    await opened_slots(limit, DEFAULT_SESSIONS)
    assert limit.refused(await limit.acquire()) is True
    assert limit.maximum == DEFAULT_SESSIONS
    assert limit.in_use == DEFAULT_SESSIONS


async def test_a_refusal_below_the_peak_teaches_nothing() -> None:
    """The server still counts a session that it has reported as closed."""
    limit = SessionLimit()
    slots = await opened_slots(limit, 5)
    slots[0].release()
    assert limit.refused(await limit.acquire()) is True
    assert limit.maximum is None


async def test_a_maximum_never_grows() -> None:
    limit = SessionLimit(2)
    await opened_slots(limit, 2)
    for _ in range(3):
        Slot(limit).confirm()  # as if the server had opened more
    limit.in_use += 1
    assert limit.refused(Slot(limit)) is True
    assert limit.maximum == 2


async def test_a_refusal_of_the_very_first_session_is_no_matter_of_their_number() -> None:
    limit = SessionLimit()
    assert limit.refused(await limit.acquire()) is False
    assert (limit.maximum, limit.in_use) == (None, 0)


@pytest.mark.parametrize(("maximum", "for_all"), [(1, 1), (2, 1), (10, 9)])
async def test_one_slot_is_kept_for_the_guard_where_there_are_two(maximum: int, for_all: int) -> None:
    limit = SessionLimit(maximum)
    limit.set_reserved(1)
    slots = [await limit.acquire() for _ in range(for_all)]
    waiting = asyncio.get_running_loop().create_task(limit.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    if maximum > 1:
        slots.append(await limit.acquire(reserved=True))
        limit.set_reserved(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    slots[0].release()
    slots[0].release()
    assert await waiting
    assert limit.in_use == maximum


async def test_the_guard_stands_before_all_others() -> None:
    limit = SessionLimit(1)
    (slot,) = await opened_slots(limit, 1)
    loop = asyncio.get_running_loop()
    order: list[str] = []

    async def want(name: str, **how: bool) -> None:
        mine = await limit.acquire(**how)
        order.append(name)
        mine.release()

    waiting = [loop.create_task(want(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    waiting.append(loop.create_task(want("guard", reserved=True)))
    await asyncio.sleep(0)
    slot.release()
    await asyncio.wait(waiting)
    assert order == ["guard", "first", "second"]


async def test_the_guard_gets_its_slot_whoever_stands_before_it() -> None:
    """A retry that came later stands ahead of it and may not have the reserved slot: the guard may."""
    limit = SessionLimit(2)
    limit.set_reserved(1)
    slots = [await limit.acquire(), await limit.acquire(reserved=True)]
    loop = asyncio.get_running_loop()
    guard = loop.create_task(limit.acquire(reserved=True))
    await asyncio.sleep(0)
    again = loop.create_task(limit.acquire(again=True))
    await asyncio.sleep(0)
    slots[1].release()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert guard.done()
    assert not again.done()
    slots[0].release()
    guard.result().release()
    await again


async def test_those_who_wait_are_served_in_order() -> None:
    limit = SessionLimit(1)
    slot = await limit.acquire()
    order: list[int] = []

    async def want(number: int) -> None:
        mine = await limit.acquire()
        order.append(number)
        mine.release()

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(want(number))
        await asyncio.sleep(0)
        slot.release()
    assert order == list(range(10))
    assert limit.in_use == 0


# --- the gate ---------------------------------------------------------------------------------------------------------


class Logins:
    """Counts what is inside a gate."""

    def __init__(self, gate: ConnectGate) -> None:
        self.gate = gate
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.most_in_all = 0
        self.done = 0
        self.may_leave = asyncio.Semaphore(0)

    async def login(self, host: str) -> None:
        async with self.gate.passing(host, 22):
            self.inside[host] = self.inside.get(host, 0) + 1
            self.most[host] = max(self.most.get(host, 0), self.inside[host])
            self.most_in_all = max(self.most_in_all, sum(self.inside.values()))
            try:
                await self.may_leave.acquire()
            finally:
                self.inside[host] -= 1
        self.done += 1


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_promise_119_one_endpoint_gets_eight_logins_at_once() -> None:
    """sshd's default MaxStartups 10:30:100 begins to drop at 10."""
    logins = Logins(ConnectGate())
    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(logins.login("web1"))
        await turns()
        assert logins.inside == {"web1": 8}
        for _ in range(60):
            logins.may_leave.release()
    assert logins.most == {"web1": 8}
    assert logins.done == 60


async def test_a_busy_endpoint_does_not_hold_the_others_back() -> None:
    logins = Logins(ConnectGate())
    async with asyncio.TaskGroup() as group:
        for host in ["busy"] * 20 + ["web1", "web2"]:
            group.create_task(logins.login(host))
        await turns()
        assert logins.inside == {"busy": 8, "web1": 1, "web2": 1}
        for _ in range(22):
            logins.may_leave.release()


async def test_a_loop_has_a_window_of_handshakes() -> None:
    gate = ConnectGate()
    logins = Logins(gate)
    window = int(gate.window)
    async with asyncio.TaskGroup() as group:
        for number in range(window * 3):
            group.create_task(logins.login(f"web{number}"))
        await turns()
        assert sum(logins.inside.values()) == gate.in_flight == window
        for _ in range(window * 3):
            logins.may_leave.release()
    assert gate.in_flight == 0
    assert logins.done == window * 3


@pytest.mark.parametrize(("lag", "grows"), [(0.0, True), (0.019, True), (0.021, False), (5.0, False)])
def test_the_window_grows_while_the_loop_answers_and_shrinks_when_it_lags(lag: float, grows: bool) -> None:
    with steps() as loop:

        async def pass_one(gate: ConnectGate) -> None:
            async with gate.passing("web1", 22):
                pass
            loop.now += lag  # the turn in which it left took so long

        async def make() -> ConnectGate:
            return ConnectGate()

        gate = loop.loop.run_until_complete(make())
        assert 8 < gate.window < 256
        gate.window = 250.0 if grows else 10.0
        for _ in range(1000):
            loop.loop.run_until_complete(pass_one(gate))
            loop.run(1)
        assert gate.window == (256 if grows else 8)


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 10), SEEDS)
def test_a_gate_loses_no_place_whoever_is_cancelled_when(count: int, cancels: int, window: int, seed: int) -> None:
    randomness = random.Random(seed)
    with steps() as loop:

        async def make() -> Logins:
            gate = ConnectGate()
            gate.window = float(window)
            return Logins(gate)

        logins = loop.loop.run_until_complete(make())
        tasks = [loop.start(logins.login(f"web{randomness.randrange(3)}")) for _ in range(count)]
        chosen = set(randomness.sample(tasks, min(cancels, count)))
        for task in chosen:
            loop.run(randomness.randrange(4))

            def meet(task: asyncio.Task[None] = task) -> None:
                steps_at_once: list[Callable[[], object]] = [task.cancel, logins.may_leave.release]
                randomness.shuffle(steps_at_once)
                for step in steps_at_once:
                    step()

            loop.do(meet)
        for _ in range(count):
            logins.may_leave.release()
            loop.run()
        loop.run(50)
        assert all(task.done() for task in tasks)
        assert [task for task in tasks if not task.cancelled() and task.exception()] == []
        assert [task for task in tasks if task.cancelled() and task not in chosen] == []
        assert logins.gate.in_flight == 0
        assert max(logins.most.values(), default=0) <= 8


def test_a_waiter_at_the_gate_that_is_cancelled_while_a_place_comes_free() -> None:
    with steps() as loop:

        async def make() -> Logins:
            gate = ConnectGate()
            gate.window = 1.0
            return Logins(gate)

        logins = loop.loop.run_until_complete(make())
        tasks = [loop.start(logins.login(f"web{number}")) for number in range(4)]
        loop.run()

        def meet() -> None:
            tasks[1].cancel()
            logins.gate._leave()
            tasks[2].cancel()

        loop.do(meet)
        loop.run()
        assert tasks[1].cancelled()
        assert tasks[2].cancelled()
        assert logins.inside["web3"] == 1
        for task in tasks:
            task.cancel()
        loop.run()


def test_each_loop_has_its_gate() -> None:
    async def twice() -> tuple[ConnectGate, ConnectGate]:
        return connect_gate(), connect_gate()

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert first is not other


# --- retries ----------------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 1), st.floats(0.001, 10), st.integers(0, 12))
def test_retries_wait_longer_each_time_with_jitter_up_to_a_largest(first: float, largest: float, tries: int) -> None:
    delays = list(retry_delays(first, largest, tries=tries))
    assert len(delays) == tries
    for number, delay in enumerate(delays):
        whole = min(largest, first * 2**number)
        assert whole / 4 <= delay <= whole


def test_retries_of_many_do_not_come_together() -> None:
    assert len({next(retry_delays()) for _ in range(50)}) == 50


def test_the_usual_retries_take_some_seconds_in_all() -> None:
    assert 1.5 < sum(retry_delays()) < 8
