"""Cancelled, timed out, left: the far tree is gone. All far processes run on this computer, so that it can be seen."""

import asyncio
import time

import pytest
from tests.pace import gone, in_time

from aioremote import ClosedError, CommandTimeout, LocalMachine, Machine
from aioremote.testing.checks import marked_processes, until

STUBBORN = (
    "trap '' TERM HUP INT; (trap '' TERM; sleep 600) & nohup sleep 600 >/dev/null 2>&1 & echo up; sleep 600; sleep 600"
)


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_a_timeout_ends_the_tree(machine: Machine, mark: str, *, pty: bool) -> None:
    """Promises 53, 117."""
    began = time.monotonic()
    with pytest.raises(CommandTimeout) as caught:
        await machine.shell(STUBBORN, env={"MARK": mark}, timeout=0.5, pty=pty)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.result is not None
    assert "up" in caught.value.result.stdout
    assert not hasattr(caught.value.result, "returncode")
    assert in_time(time.monotonic() - began, 2.5)
    await gone(mark)


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_a_cancel_ends_the_tree(machine: Machine, mark: str, *, pty: bool) -> None:
    """Promise 117."""
    task = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}, pty=pty))
    await until(lambda: len(marked_processes(mark)) >= 4)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await gone(mark)


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_leaving_the_block_ends_the_tree(machine: Machine, mark: str, *, pty: bool) -> None:
    """Promise 117."""
    async with machine.start_shell(STUBBORN, env={"MARK": mark}, pty=pty) as process:
        assert b"up" in await process.stdout.receive()
        assert process.pid > 1
    await gone(mark)
    assert (await machine.run("echo", "still here")).stdout == "still here\n"


async def test_closing_the_machine_ends_everything(machine: Machine, mark: str) -> None:
    processes = [await machine.start_shell(STUBBORN, env={"MARK": mark}) for _ in range(3)]
    assert all(process.pid > 1 for process in processes)
    await machine.aclose()
    await gone(mark)


async def test_leaving_lines_early_ends_the_tree(machine: Machine, mark: str) -> None:
    async with machine.lines("/bin/sh", "-c", STUBBORN, env={"MARK": mark}) as lines:
        async for line in lines:
            assert line.text == "up"
            break
    await gone(mark)


async def test_many_timeouts_leak_no_channel(machine: Machine, mark: str) -> None:
    """Promise 118, 30 here; the real sshd gets its 200 in tests/transports/ssh."""
    for _ in range(30):
        with pytest.raises(CommandTimeout):
            await machine.run("sleep", "600", env={"MARK": mark}, timeout=0.02)
    assert (await machine.run("echo", "fine", timeout=10)).stdout == "fine\n"
    await gone(mark)


async def test_a_process_can_be_signalled(machine: Machine) -> None:
    async with machine.start_shell("trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.05; done") as process:
        assert await process.stdout.receive() == b"up\n"
        process.send_signal("USR1")
        assert await process.wait() == 7


async def test_terminate_and_kill(machine: Machine) -> None:
    async with machine.start("sleep", "600") as process:
        process.terminate()
        assert await process.wait() == -15
        assert process.returncode == -15
        assert process.signal == "TERM"
    async with machine.start("sleep", "600") as process:
        process.kill()
        assert await process.wait() == -9


async def test_a_burst_of_timeouts_ends_every_tree(machine: Machine, mark: str) -> None:
    """Promises 117, 118: as many at once as the server has sessions leave none for the guard, unless it comes first."""

    async def one() -> None:
        with pytest.raises(CommandTimeout):
            await machine.shell(STUBBORN, env={"MARK": mark}, timeout=1.5)

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(one())
    assert (await machine.run("echo", "fine", timeout=10)).stdout == "fine\n"
    await gone(mark)


async def test_a_cancel_in_the_first_turns_of_the_loop_leaves_nothing(machine: Machine, mark: str) -> None:
    loop = asyncio.get_running_loop()
    for turns in range(14):
        task = loop.create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.done()
    assert (await machine.run("echo", "fine", timeout=10)).stdout == "fine\n"
    await gone(mark)


async def test_closing_the_machine_under_a_command_says_so(machine: Machine, mark: str) -> None:
    task = asyncio.get_running_loop().create_task(machine.run("sleep", "600", env={"MARK": mark}))
    await until(lambda: marked_processes(mark))
    await machine.aclose()
    await asyncio.wait({task}, timeout=10)
    assert isinstance(task.exception(), ClosedError)


@pytest.mark.parametrize("turns", range(12))
async def test_closing_a_local_machine_under_a_start_leaves_nothing(
    aioremote_no_leaks: None, mark: str, turns: int
) -> None:
    """Promise 79: wherever the start has come to, its program is ended, and the call says what happened."""
    machine = LocalMachine()
    task = asyncio.get_running_loop().create_task(machine.run("sleep", "600", env={"MARK": mark}))
    for _ in range(turns):
        await asyncio.sleep(0)
    await machine.aclose()
    await asyncio.wait({task}, timeout=10)
    assert isinstance(task.exception(), ClosedError)
    assert not marked_processes(mark)
