"""The checks that tests lean on: each must see what it is there to see."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

import pytest

import aioremote
from aioremote.testing.checks import cancel_everywhere, marked_processes, no_leaks, until

pytest_plugins = ["pytester"]
T = TypeVar("T")


# --- until ------------------------------------------------------------------------------------------------------------


async def test_until_waits_for_what_sends_no_event() -> None:
    seen: list[int] = []
    asyncio.get_running_loop().call_later(0.03, seen.append, 1)
    await until(lambda: seen)
    await until(lambda: seen, seconds=0)


async def test_until_gives_up_and_says_for_what_it_waited() -> None:
    def never() -> bool:
        return False

    with pytest.raises(AssertionError, match=r"not true within 0\.02 s.*never"):
        await until(never, seconds=0.02)


# --- marked_processes -------------------------------------------------------------------------------------------------


async def test_a_marked_process_is_found_by_environment_and_by_command_line() -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    by_environment = subprocess.Popen(["sleep", "600"], env={**os.environ, "MARK": mark})
    by_command_line = subprocess.Popen([sys.executable, "-c", f"input() # {mark}"], stdin=subprocess.PIPE)
    try:
        both = {by_environment.pid, by_command_line.pid}
        await until(
            lambda: set(marked_processes(mark)) == both
        )  # Popen returns before the kernel shows the new arguments
        assert marked_processes(mark)[by_environment.pid] == "sleep 600"
        by_environment.kill()
        os.waitid(os.P_PID, by_environment.pid, os.WEXITED | os.WNOWAIT)  # a zombie by now
        assert set(marked_processes(mark)) == {by_command_line.pid}
    finally:
        for process in (by_environment, by_command_line):
            process.kill()
            process.communicate()
    assert marked_processes(mark) == {}


def test_the_own_process_does_not_count() -> None:
    mark = Path(sys.executable).name
    assert os.getpid() not in marked_processes(mark)


# --- no_leaks ---------------------------------------------------------------------------------------------------------


async def test_a_block_that_leaves_nothing_passes() -> None:
    async with no_leaks():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        with open(os.devnull, "rb") as file:
            assert file.read() == b""
        await asyncio.to_thread(str)


async def test_what_goes_within_the_time_is_no_leak() -> None:
    async with no_leaks():
        task = asyncio.get_running_loop().create_task(asyncio.sleep(0.05))
    assert task.done()


async def leaky(leak: Callable[[], T], left: list[T]) -> None:
    async with no_leaks(seconds=0.02):
        left.append(leak())


async def test_a_task_that_is_left_is_found() -> None:
    loop = asyncio.get_running_loop()
    left: list[asyncio.Task[object]] = []
    with pytest.raises(AssertionError, match=r"left behind.*name='forgotten'"):
        await leaky(lambda: loop.create_task(asyncio.Event().wait(), name="forgotten"), left)
    left[0].cancel()


async def test_a_descriptor_that_is_left_is_found() -> None:
    left: list[socket.socket] = []
    with socket.socket():
        with pytest.raises(AssertionError, match=r"left behind.*socket:"):
            await leaky(socket.socket, left)
        left[0].close()


async def test_a_thread_that_is_left_is_found() -> None:
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait, name="forgotten")
    with pytest.raises(AssertionError, match=r"left behind.*forgotten"):
        await leaky(thread.start, [])
    may_end.set()
    thread.join()


async def test_an_error_in_the_block_is_not_hidden_by_what_it_left() -> None:
    tasks: list[asyncio.Task[object]] = []

    async def fail() -> None:
        async with no_leaks(seconds=0.02):
            tasks.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    tasks[0].cancel()


# --- cancel_everywhere ------------------------------------------------------------------------------------------------


async def nothing() -> None:
    return None


async def test_a_coroutine_is_cancelled_at_each_of_its_suspensions() -> None:
    reached: list[int] = []

    async def three() -> None:
        for number in range(3):
            await asyncio.sleep(0)
            reached.append(number)

    checked: list[list[int]] = []

    async def check() -> None:
        checked.append(reached.copy())
        reached.clear()

    assert await cancel_everywhere(three, check) == 3
    assert checked == [[], [0], [0, 1]]
    assert reached == [0, 1, 2]


async def test_a_coroutine_without_suspensions_runs_once() -> None:
    calls: list[int] = []

    async def none() -> None:
        calls.append(1)

    assert await cancel_everywhere(none, nothing) == 0
    assert calls == [1]


async def test_real_waiting_is_cancelled_too() -> None:
    loop = asyncio.get_running_loop()
    cancelled: list[bool] = []

    async def wait() -> None:
        future = loop.create_future()
        timer = loop.call_later(0.01, future.set_result, None)
        try:
            await future
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        finally:
            timer.cancel()

    assert await cancel_everywhere(wait, nothing) == 1
    assert cancelled == [True]


async def test_what_the_check_finds_comes_out() -> None:
    left: list[int] = []

    async def leaky() -> None:
        left.append(1)
        await asyncio.sleep(0)
        left.pop()

    async def check() -> None:
        assert not left, "left behind"

    with pytest.raises(AssertionError, match="left behind"):
        await cancel_everywhere(leaky, check)


@pytest.mark.parametrize("when", ["cancelled", "always"])
async def test_another_error_than_the_cancel_comes_out_with_its_place(when: str) -> None:
    async def wrong() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise LookupError("instead of the cancel") from None
        if when == "always":
            raise LookupError("anyway")

    with pytest.raises(LookupError) as caught:
        await cancel_everywhere(wrong, nothing)
    assert caught.value.__notes__ == ["in the run that was cancelled at suspension point 1 of 1"]


async def test_cleaning_up_may_suspend_too() -> None:
    cleaned: list[int] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    assert await cancel_everywhere(work, nothing) == 2
    assert len(cleaned) == 2  # not in the run whose clean-up was cancelled


async def test_it_stops_after_so_many() -> None:
    async def long() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    assert await cancel_everywhere(long, nothing, most=5) == 5


async def test_a_result_and_an_exception_pass_through_the_driver() -> None:
    """What is awaited inside gets its values and errors as if nobody drove it."""
    seen: list[object] = []

    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        if number:
            raise KeyError(number)
        return 7

    async def outer() -> None:
        seen.append(await inner(0))
        with pytest.raises(KeyError):
            await inner(1)
        async with asyncio.TaskGroup() as group:
            seen.append(await group.create_task(inner(0)))

    await cancel_everywhere(outer, nothing)
    assert seen[-2:] == [7, 7]


# --- the plugin -------------------------------------------------------------------------------------------------------

SUITE = """
import asyncio

import pytest


async def test_embedded(aioremote_embedded):
    assert aioremote_embedded.port > 0


async def test_machine(aioremote_machine, aioremote_sshd):
    assert (await aioremote_machine.run("echo", "hi")).stdout == "hi\\n"
    assert aioremote_machine.host == aioremote_sshd.host


async def test_user(aioremote_sshd, aioremote_user, aioremote_no_leaks):
    from aioremote import HostKeys, SshMachine

    host_keys = HostKeys.strict(aioremote_sshd.known_hosts)
    async with SshMachine(aioremote_sshd.host, port=aioremote_sshd.port, user=aioremote_user.name,
                          keyfile=aioremote_sshd.keyfile, host_keys=host_keys, config=None) as machine:
        facts = await machine.facts()
    assert (facts.user, facts.home) == (aioremote_user.name, str(aioremote_user.home))


async def test_leaky(aioremote_no_leaks):
    test_leaky.task = asyncio.get_running_loop().create_task(asyncio.sleep(600))
"""


def test_the_fixtures_work_in_a_project_of_their_own(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(aioremote.__file__).parent.parent))
    pytester.makepyfile(test_suite=SUITE)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    plugin = [] if installed() else ["-p", "aioremote.testing.plugin"]
    result = pytester.runpytest_subprocess(*plugin, "-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: left behind: *"])


def installed() -> bool:
    return any(point.name == "aioremote" for point in entry_points(group="pytest11"))
