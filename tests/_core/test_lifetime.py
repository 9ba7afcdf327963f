"""Background tasks with an owner, and clean-up that ends, whoever cancels."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from aioremote._core.lifetime import Owner, bounded_cleanup, settle
from aioremote.errors import ClosedError

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def for_ever() -> None:
    await asyncio.Event().wait()


async def turns(count: int = 5) -> None:
    """Let everything run that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_while(
    work: Awaitable[object], *, times: int = 1, done: Callable[[], None] = lambda: None
) -> object:
    """Await `work` in a task that is cancelled `times` times, then call `done`; return or raise what comes of it."""

    async def run() -> object:
        return await work

    task = asyncio.get_running_loop().create_task(run())
    await turns()
    for _ in range(times):
        task.cancel()
        await turns()
    assert not task.done()
    done()
    await asyncio.wait({task})
    return task.result()


# --- Owner ------------------------------------------------------------------------------------------------------------


async def test_an_owner_ends_its_tasks_and_waits_for_their_end() -> None:
    ends = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            await turns()
            ends.append(asyncio.current_task())

    owner = Owner("test")
    tasks = [owner.spawn(work(), f"work {number}") for number in range(3)]
    await turns()
    await owner.aclose()
    assert all(task.cancelled() for task in tasks)
    assert set(ends) == set(tasks)


async def test_a_task_gives_its_result_and_has_a_name() -> None:
    async def work() -> int:
        return 7

    owner = Owner("ssh to web1")
    task = owner.spawn(work(), "reading")
    assert task.get_name() == "ssh to web1: reading"
    assert await task == 7
    assert owner.failures == []
    await owner.aclose()


async def test_a_failure_is_kept_and_ends_nobody_else() -> None:
    async def fail() -> None:
        raise LookupError("gone")

    owner = Owner("test")
    other = owner.spawn(for_ever(), "other")
    owner.spawn(fail(), "failing")
    await turns()
    assert [str(error) for error in owner.failures] == ["gone"]
    assert not other.done()
    await owner.aclose()
    assert len(owner.failures) == 1


async def test_after_its_close_an_owner_starts_nothing() -> None:
    owner = Owner("test")
    await owner.aclose()
    await owner.aclose()
    coro = for_ever()
    with pytest.raises(ClosedError, match="test was closed: cannot start more"):
        owner.spawn(coro, "more")
    assert coro.cr_frame is None  # closed, or Python would warn that it was never awaited


async def test_a_task_may_close_its_owner() -> None:
    owner = Owner("test")
    other = owner.spawn(for_ever(), "other")
    await owner.spawn(owner.aclose(), "closer")
    assert other.cancelled()


async def test_an_owner_can_be_closed_by_another_task_than_the_one_that_spawned() -> None:
    owner = Owner("test")
    task = owner.spawn(for_ever(), "work")
    await asyncio.get_running_loop().create_task(owner.aclose())
    assert task.cancelled()


async def test_a_cancelled_close_has_still_told_everybody() -> None:
    owner, may_end = Owner("test"), asyncio.Event()

    async def slow() -> None:
        try:
            await for_ever()
        finally:
            await may_end.wait()

    task = owner.spawn(slow(), "slow")
    await turns()
    closing = asyncio.get_running_loop().create_task(owner.aclose())
    await turns()
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    may_end.set()
    await asyncio.wait({task})
    assert task.cancelled()


# --- settle -----------------------------------------------------------------------------------------------------------


async def test_settle_waits_for_the_task_and_leaves_its_result_in_it() -> None:
    async def work() -> int:
        await turns()
        raise LookupError("left in the task")

    task = asyncio.get_running_loop().create_task(work())
    assert await settle(task, 5) is True
    assert isinstance(task.exception(), LookupError)
    assert await settle(task, 0) is True


async def test_settle_gives_up_after_its_time_and_leaves_the_task_alone() -> None:
    task = asyncio.get_running_loop().create_task(for_ever())
    assert await settle(task, 0.01) is False
    assert await settle(task, 0) is False
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_settle_goes_on_through_cancels_and_passes_the_last_one_on(times: int) -> None:
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(asyncio.CancelledError):
        await cancelled_while(settle(future, 30), times=times, done=lambda: future.set_result(None))
    assert future.result() is None


# --- bounded_cleanup --------------------------------------------------------------------------------------------------


async def test_a_cleanup_runs_to_its_end() -> None:
    steps = []

    async def clean() -> None:
        await turns()
        steps.append("clean")

    assert await bounded_cleanup(clean(), 5) is True
    assert steps == ["clean"]


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cleanup_runs_to_its_end_through_any_number_of_cancels(times: int) -> None:
    may_end, steps = asyncio.Event(), []

    async def clean() -> None:
        await may_end.wait()
        steps.append("clean")

    with pytest.raises(asyncio.CancelledError):
        await cancelled_while(bounded_cleanup(clean(), 30), times=times, done=may_end.set)
    assert steps == ["clean"]


async def test_a_cleanup_outlives_a_nested_timeout() -> None:
    """A raw shield would let the inner timeout through: it cancels the task a second time."""
    may_end, steps = asyncio.Event(), []

    async def clean() -> None:
        await may_end.wait()
        steps.append("clean")

    async def work() -> None:
        async with asyncio.timeout(0.01):
            try:
                async with asyncio.timeout(0.005):
                    await for_ever()
            finally:
                await bounded_cleanup(clean(), 30)

    asyncio.get_running_loop().call_later(0.05, may_end.set)
    with pytest.raises(TimeoutError):
        await work()
    assert steps == ["clean"]


async def test_what_the_cleanup_raises_comes_out() -> None:
    async def clean() -> None:
        raise LookupError("cannot clean")

    with pytest.raises(LookupError, match="cannot clean"):
        await bounded_cleanup(clean(), 5)


async def test_a_cancel_displaces_what_the_cleanup_raises_without_a_word_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_end = asyncio.Event()

    async def clean() -> None:
        await may_end.wait()
        raise LookupError("cannot clean")

    with pytest.raises(asyncio.CancelledError):
        await cancelled_while(bounded_cleanup(clean(), 30), done=may_end.set)
    gc.collect()
    assert caplog.text == ""


async def test_a_cleanup_that_never_ends_is_cancelled_in_time() -> None:
    loop = asyncio.get_running_loop()
    ends = []

    async def clean() -> None:
        try:
            await for_ever()
        finally:
            ends.append("told")

    began = loop.time()
    assert await bounded_cleanup(clean(), 0.05) is False
    assert ends == ["told"]
    assert loop.time() - began < 2


async def test_a_cleanup_that_never_ends_does_not_hold_a_cancelled_caller() -> None:
    with pytest.raises(asyncio.CancelledError):
        await cancelled_while(bounded_cleanup(for_ever(), 0.1))


async def test_a_cleanup_that_ignores_its_cancel_is_left_after_twice_its_time() -> None:
    may_end, told = asyncio.Event(), []

    async def stubborn() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                told.append("cancel")

    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await bounded_cleanup(stubborn(), 0.05) is False
    assert loop.time() - began < 2
    assert told == ["cancel"]
    may_end.set()


async def test_a_cleanup_runs_in_the_callers_context_but_in_a_task_of_its_own() -> None:
    outer = asyncio.current_task()
    seen: list[asyncio.Task[object] | None] = []

    async def clean() -> None:
        seen.append(asyncio.current_task())

    await bounded_cleanup(clean(), 5)
    assert seen[0] is not None
    assert seen[0] is not outer
    assert seen[0].get_name() == "clean-up"
