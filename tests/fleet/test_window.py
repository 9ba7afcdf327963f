"""The window alone, and the stream of items: bounds, order, and who is ended by whom."""

import asyncio
import gc
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from aioremote._core.lifetime import Owner
from aioremote.errors import BusyError, ClosedError, RemoteError
from aioremote.fleet.hosts import Target
from aioremote.fleet.report import Outcome
from aioremote.fleet.window import ItemStream, Window, files_for_hosts

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Put = Callable[[Sequence[int]], Awaitable[None]]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Hosts:
    """Hosts that are visited: each waits until it is told how to end."""

    def __init__(self, count: int, **keywords: Any) -> None:
        self.read: list[str] = []
        self.visited: list[str] = []
        self.most = self.now = 0
        self.outcomes: list[Outcome[str]] = []
        self.ends: dict[str, asyncio.Future[str]] = {}
        self.taking = asyncio.Semaphore(1_000_000)
        self.window: Window[str] = Window(self._targets(count), self._visit, self._take, **keywords)

    def _targets(self, count: int) -> Iterator[Target[Any]]:
        for index in range(count):
            self.read.append(f"web{index}")
            yield Target(index, f"web{index}")

    def end(self, host: str) -> asyncio.Future[str]:
        return self.ends.setdefault(host, asyncio.get_running_loop().create_future())

    async def _visit(self, window: Window[str], target: Target[Any]) -> Outcome[str]:
        self.visited.append(target.key)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            with window.endable():
                value = await self.end(target.key)
        except asyncio.CancelledError as error:
            return window.ended(target, error, connected=target.index % 2 == 0)
        except LookupError as error:
            return Outcome.of_error(target.key, target.index, error=error)
        finally:
            self.now -= 1
        return Outcome.of_value(target.key, target.index, value=value)

    async def _take(self, outcome: Outcome[str]) -> None:
        await self.taking.acquire()
        self.outcomes.append(outcome)

    def states(self) -> dict[str, str]:
        return {outcome.host: outcome.state for outcome in self.outcomes}


# --- the window -------------------------------------------------------------------------------------------------------


async def test_so_many_at_once_and_hosts_are_read_when_it_is_their_turn() -> None:
    hosts = Hosts(10)
    async with asyncio.TaskGroup() as group:
        group.create_task(hosts.window.run(3))
        for number in range(10):
            await turns()
            assert len(hosts.read) == min(10, 3 + number)
            assert hosts.visited == hosts.read
            hosts.end(f"web{number}").set_result("done")
    assert hosts.most == 3
    assert hosts.states() == {f"web{number}": "ok" for number in range(10)}


@pytest.mark.parametrize("size", [1, 10, 1000])
async def test_a_window_needs_no_more_tasks_than_hosts(size: int) -> None:
    hosts = Hosts(10)
    before = len(asyncio.all_tasks())
    async with asyncio.TaskGroup() as group:
        group.create_task(hosts.window.run(size))
        await turns()
        assert len(asyncio.all_tasks()) == before + 1 + min(size, 10)
        for number in range(10):
            hosts.end(f"web{number}").set_result("done")
    assert len(hosts.outcomes) == 10


async def test_while_an_outcome_waits_to_be_taken_no_further_host_is_begun() -> None:
    hosts = Hosts(6)
    hosts.taking = asyncio.Semaphore(0)
    for number in range(6):
        hosts.end(f"web{number}").set_result("done")
    async with asyncio.TaskGroup() as group:
        group.create_task(hosts.window.run(2))
        await turns()
        assert hosts.visited == ["web0", "web1"]
        hosts.taking.release()
        await turns()
        assert hosts.visited == ["web0", "web1", "web2"]
        for _ in range(6):
            hosts.taking.release()
    assert len(hosts.outcomes) == 6


async def test_promise_89_a_failure_ends_those_that_run_and_skips_the_rest() -> None:
    hosts = Hosts(8, fail_fast=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(hosts.window.run(4))
        await turns()
        hosts.end("web0").set_result("done")
        await turns()
        hosts.end("web3").set_exception(LookupError("broken"))
    assert hosts.states() == {
        "web0": "ok",
        "web1": "skipped",  # was not connected yet
        "web2": "failed",
        "web3": "failed",
        "web4": "failed",
        "web5": "skipped",
        "web6": "skipped",
        "web7": "skipped",
    }
    said = {outcome.host: str(outcome.error) for outcome in hosts.outcomes}
    assert said["web1"] == "web1: not started: web3 failed"
    assert said["web2"] == "web2: ended because web3 failed"
    assert said["web7"] == "web7: not started: web3 failed"


async def test_of_two_failures_the_first_ends_the_rest() -> None:
    hosts = Hosts(4, fail_fast=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(hosts.window.run(4))
        await turns()
        hosts.end("web1").set_exception(LookupError("first"))
        hosts.end("web2").set_exception(LookupError("second"))
    errors = {outcome.host: str(outcome.error) for outcome in hosts.outcomes}
    assert errors["web1"] == "first"
    assert errors["web0"] == "web0: ended because web1 failed"
    assert set(errors) == {"web0", "web1", "web2", "web3"}


async def test_what_is_said_on_the_cancel_stays_on_the_outcome() -> None:
    """A far process that has not confirmed its end is told of by a note."""
    loop = asyncio.get_running_loop()
    outcomes: list[Outcome[str]] = []

    async def visit(window: Window[str], target: Target[Any]) -> Outcome[str]:
        try:
            with window.endable():
                await (loop.create_future() if target.index else asyncio.sleep(0))
        except asyncio.CancelledError as error:
            error.add_note("may live on")
            return window.ended(target, error, connected=True)
        return Outcome.of_error(target.key, target.index, error=LookupError("x"))

    async def take(outcome: Outcome[str]) -> None:
        outcomes.append(outcome)

    targets = (Target(index, f"web{index}") for index in range(2))
    await Window(targets, visit, take, fail_fast=True).run(2)
    assert outcomes[1].error is not None
    assert outcomes[1].error.__notes__ == ["may live on"]


async def test_a_cancel_of_the_whole_is_no_outcome() -> None:
    hosts = Hosts(4)
    running = asyncio.get_running_loop().create_task(hosts.window.run(2))
    await turns()
    hosts.end("web0").set_result("done")
    await turns()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert hosts.states() == {"web0": "ok"}


async def test_a_cancel_of_the_whole_while_one_ends_the_rest_is_still_a_cancel() -> None:
    hosts = Hosts(4, fail_fast=True)
    running = asyncio.get_running_loop().create_task(hosts.window.run(4))
    await turns()
    hosts.end("web0").set_exception(LookupError("broken"))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


async def test_a_visit_that_is_cancelled_from_within_is_its_hosts_trouble() -> None:
    hosts = Hosts(2)
    hosts.end("web0").cancel()
    hosts.end("web1").set_result("done")
    await hosts.window.run(1)
    assert hosts.states() == {"web0": "failed", "web1": "ok"}
    assert isinstance(hosts.outcomes[0].error, RemoteError)
    assert str(hosts.outcomes[0].error) == "web0: its work was cancelled from within"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_what_the_iterator_raises_comes_out_as_it_is_and_ends_the_rest(size: int) -> None:
    begun: list[str] = []

    def targets() -> Iterator[Target[Any]]:
        for index in range(3):
            yield Target(index, f"web{index}")
        raise KeyError("no more names")

    async def visit(_: Window[str], target: Target[Any]) -> Outcome[str]:
        begun.append(target.key)
        if target.index:
            await asyncio.sleep(0 if size < 3 else 600)
        return Outcome.of_value(target.key, target.index, value="")

    async def take(outcome: Outcome[str]) -> None:
        return None

    with pytest.raises(KeyError, match="no more names") as caught:
        await Window(targets(), visit, take).run(size)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert len(begun) <= 3


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_promise_92_the_limit_of_descriptors_bounds_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((1024, range(700, 1000)), (50, range(1, 2)), (resource.RLIM_INFINITY, range(10**6, 10**7))):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert files_for_hosts() in expected


# --- the stream -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def owner() -> AsyncIterator[Owner]:
    owner = Owner("test")
    yield owner
    await owner.aclose()
    assert owner.failures == []


def counting(owner: Owner, count: int, *, batch: int = 1, room: int = 16) -> tuple[ItemStream[int], list[int]]:
    """Return a stream of numbers and the list of those that were put."""
    put_so_far: list[int] = []

    async def work(put: Put) -> None:
        for start in range(0, count, batch):
            items = list(range(start, min(count, start + batch)))
            await put(items)
            put_so_far.extend(items)

    return ItemStream(owner, work, room=room), put_so_far


@pytest.mark.parametrize("batch", [1, 3, 100])
async def test_items_come_in_order_and_end(owner: Owner, batch: int) -> None:
    stream, _ = counting(owner, 50, batch=batch)
    assert [item async for item in stream] == list(range(50))
    assert [item async for item in stream] == []


async def test_promise_90_a_slow_consumer_holds_the_work_back(owner: Owner) -> None:
    stream, put = counting(owner, 100, room=4)
    async with stream:
        assert await anext(stream) == 0
        await turns(50)
        assert len(put) == 1 + 4
        assert [await anext(stream) for _ in range(3)] == [1, 2, 3]
        await turns(50)
        assert len(put) == 4 + 4


async def test_a_batch_waits_until_there_is_room_for_an_item(owner: Owner) -> None:
    stream, put = counting(owner, 100, batch=10, room=25)
    async with stream:
        await anext(stream)
        await turns(50)
        assert len(put) == 40  # one batch is with the reader, and three wait: before the third, 20 did


async def test_many_that_put_are_all_served(owner: Owner) -> None:
    async def work(put: Put) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(put((number,)))  # type: ignore[arg-type]

    stream: ItemStream[int] = ItemStream(owner, work, room=2)
    assert sorted([item async for item in stream]) == list(range(50))


async def test_the_error_of_the_work_comes_after_the_last_item(owner: Owner) -> None:
    async def work(put: Put) -> None:
        await put((1, 2))
        raise LookupError("broken")

    stream: ItemStream[int] = ItemStream(owner, work)
    seen: list[int] = []

    async def consume() -> None:
        async for item in stream:
            seen.append(item)  # noqa: PERF401  # what comes before the error counts

    with pytest.raises(LookupError, match="broken"):
        await consume()
    assert seen == [1, 2]


async def test_leaving_the_block_ends_the_work(owner: Owner) -> None:
    ended: list[bool] = []

    async def work(put: Put) -> None:
        try:
            await put((1,))
            await asyncio.Event().wait()
        finally:
            await turns()
            ended.append(True)

    stream: ItemStream[int] = ItemStream(owner, work)
    async with stream:
        assert await anext(stream) == 1
    assert ended == [True]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_leaving_the_block_before_the_first_item_starts_nothing(owner: Owner) -> None:
    stream, put = counting(owner, 5)
    async with stream:
        pass
    with pytest.raises(ClosedError, match="this stream was closed"):
        await anext(stream)
    assert put == []


async def test_a_consumer_in_another_task_is_told_that_the_block_was_left(owner: Owner) -> None:
    async def work(put: Put) -> None:
        await asyncio.Event().wait()

    stream: ItemStream[int] = ItemStream(owner, work)
    async with stream:
        consumer = asyncio.get_running_loop().create_task(anext(stream))  # type: ignore[arg-type]
        await turns()
    with pytest.raises(ClosedError):
        await consumer


async def test_two_that_iterate_are_one_too_many(owner: Owner) -> None:
    async def work(put: Put) -> None:
        await asyncio.Event().wait()

    stream: ItemStream[int] = ItemStream(owner, work)
    async with stream:
        consumer = asyncio.get_running_loop().create_task(anext(stream))  # type: ignore[arg-type]
        await turns()
        with pytest.raises(BusyError):
            await anext(stream)
        consumer.cancel()
        await asyncio.wait({consumer})


async def test_a_cancelled_consumer_ends_the_work(owner: Owner) -> None:
    ended: list[bool] = []

    async def work(put: Put) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def consume() -> None:
        async for _ in ItemStream(owner, work):
            pass

    consumer = asyncio.get_running_loop().create_task(consume())
    await turns()
    consumer.cancel()
    await asyncio.wait({consumer})
    assert consumer.cancelled()
    assert ended == [True]


async def test_a_loop_that_is_left_without_a_block_ends_with_the_owner(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner("fleet")
    stream, put = counting(owner, 1000)
    async for _ in stream:
        break
    del stream
    gc.collect()
    await owner.aclose()
    gc.collect()
    assert len(put) < 1000
    assert caplog.text == ""


async def test_a_stream_of_a_closed_owner_says_so() -> None:
    owner = Owner("fleet")
    stream, _ = counting(owner, 3)
    await owner.aclose()
    with pytest.raises(ClosedError, match="fleet was closed"):
        await anext(stream)
