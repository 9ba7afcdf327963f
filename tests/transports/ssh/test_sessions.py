"""Many commands on one connection: the server's limit is learnt, every slot comes back, nothing is left running."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker

from aioremote import CommandTimeout, SshMachine, UnsupportedError
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Over = Callable[..., SshMachine]


async def echo_many(machine: SshMachine, count: int, *, timeout: float = 30) -> None:
    """Run many commands at once and check each one's answer."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.run("echo", number, timeout=timeout)) for number in range(count)]
    assert [task.result().stdout for task in tasks] == [f"{number}\n" for number in range(count)]


# --- at once ----------------------------------------------------------------------------------------------------------


async def test_24_commands_at_once_with_the_default_limit(make: MachineMaker) -> None:
    """Promise 120: MaxSessions 10, 24 x sleep 1, at most 5 s."""
    async with make() as machine:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run("sleep", "1")) for _ in range(24)]
        assert in_time(time.monotonic() - began, 5)
        assert [task.result().returncode for task in tasks] == [0] * 24


@pytest.mark.parametrize("sessions", [1, 2, 3])
async def test_commands_queue_where_the_server_allows_few_sessions(make: MachineMaker, sessions: int) -> None:
    """Promise 57, with plain sessions: all results are right."""
    with Sshd(max_sessions=sessions) as server:
        async with make(server) as machine:
            await echo_many(machine, 30)
            await echo_many(machine, 3)
            async with machine.start("cat") as process:
                assert process.stdin is not None
                await process.stdin.send(b"x")
                assert await process.stdout.receive() == b"x"
            await echo_many(machine, 3)


async def test_a_limit_that_is_told_is_not_tried_out(make: MachineMaker) -> None:
    with Sshd(max_sessions=3) as server:
        async with make(server, max_sessions=3) as machine:
            await echo_many(machine, 12)
        assert "no more sessions" not in server.log


async def test_a_server_without_sessions_says_so(make: MachineMaker) -> None:
    """MaxSessions 0: forwarding only."""
    with Sshd(max_sessions=0) as server:
        async with make(server) as machine:
            with pytest.raises(UnsupportedError, match="no session"):
                await machine.run("true")
            assert await machine.ping() >= 0


@pytest.mark.parametrize(
    "forced", ["ForceCommand echo hello", "ForceCommand internal-sftp", "ForceCommand /usr/sbin/nologin"]
)
async def test_a_server_that_runs_something_else_is_told_from_a_result(make: MachineMaker, forced: str) -> None:
    with Sshd(extra_config=forced) as server:
        async with make(server) as machine:
            with pytest.raises(UnsupportedError, match=server.host):
                await machine.run("true", timeout=5)


async def test_a_waiting_command_can_be_cancelled_and_timed_out(make: MachineMaker) -> None:
    """DESIGN 14: waiting for a free session counts; nothing had been started."""
    with Sshd(max_sessions=2) as server:
        async with make(server, max_sessions=2) as machine:
            async with machine.start("sleep", "600"):
                with pytest.raises(TimeoutError):
                    await machine.run("true", timeout=0.3)
                waiting = asyncio.get_running_loop().create_task(machine.run("true"))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait({waiting})
                assert waiting.cancelled()
            await echo_many(machine, 2)


# --- time out, cancel -------------------------------------------------------------------------------------------------


async def test_200_timeouts_in_a_row(make: MachineMaker, mark: str) -> None:
    """Promise 118: command 201 works at once, and nothing is left running."""
    async with make() as machine:
        for _ in range(200):
            with pytest.raises(CommandTimeout):
                await machine.run("sleep", "600", env={"MARK": mark}, timeout=0.02)
        began = time.monotonic()
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
        assert in_time(time.monotonic() - began, 1)
        await until(lambda: not marked_processes(mark), seconds=2)


@pytest.mark.parametrize("sessions", [1, 2])
async def test_timeouts_with_few_sessions_as_a_normal_user(
    make: MachineMaker, aioremote_user: TestUser, mark: str, sessions: int
) -> None:
    """Promise 117: with one session there is no room for the guard, and the server itself sends the signals."""
    with Sshd(max_sessions=sessions) as server:
        async with make(server, user=aioremote_user.name) as machine:
            for _ in range(3):
                with pytest.raises(CommandTimeout):
                    await machine.run("sleep", "600", env={"MARK": mark}, timeout=0.3)
                await until(lambda: not marked_processes(mark), seconds=1)
                await echo_many(machine, 2)


async def test_a_stopped_server_process_in_mid_command(make: MachineMaker, tmp_path: Path) -> None:
    """Promise 122: timeout 1, over in 2 s, though nothing answers any more."""
    with Sshd() as server:
        machine = await make(server).connect()
        try:
            said = tmp_path / "said"
            call = machine.shell(f"echo out; touch '{said}'; sleep 600", timeout=1)
            running = asyncio.get_running_loop().create_task(call)
            await until(said.exists)
            await machine.run("true")
            began = time.monotonic()
            for pid in server.session_pids():
                with contextlib.suppress(ProcessLookupError):  # the end of `true` just now
                    os.kill(pid, signal.SIGSTOP)
            with pytest.raises(CommandTimeout) as caught:
                await running
            assert in_time(time.monotonic() - began, 2)
            assert caught.value.result is not None
            assert caught.value.result.stdout == "out\n"
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await machine.run("true", timeout=0.2)
            assert in_time(time.monotonic() - began, 1.2)
        finally:
            began = time.monotonic()
            await machine.aclose()
            assert in_time(time.monotonic() - began, 5)


@pytest.mark.parametrize("guard", ["auto", "always", "never"])
async def test_cancelled_anywhere_in_a_command_the_connection_serves_on(
    make: MachineMaker, aioremote_user: TestUser, mark: str, guard: str
) -> None:
    """STYLE 41: a command with input and output, cancelled at each of its suspension points."""
    async with make(user=aioremote_user.name, guard=guard) as machine:

        async def command() -> None:
            result = await machine.shell("cat; sleep 0.05; echo done", input=b"x" * 300_000, env={"MARK": mark})
            assert len(result.stdout_bytes) == 300_005

        async def serves() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            await until(lambda: not marked_processes(mark), seconds=2)

        assert await cancel_everywhere(command, serves) >= 2
        assert machine.transport._link.sessions.in_use <= 2  # type: ignore[attr-defined]
        await echo_many(machine, 20)


async def test_cancelled_anywhere_in_a_started_process_the_connection_serves_on(make: MachineMaker, mark: str) -> None:
    """STYLE 41."""
    async with make() as machine:

        async def use_process() -> None:
            async with machine.start("sh", "-c", "cat; sleep 600", env={"MARK": mark}) as process:
                assert process.stdin is not None
                await process.stdin.send(b"x")
                assert await process.stdout.receive() == b"x"

        async def serves() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            await until(lambda: not marked_processes(mark), seconds=2)

        assert await cancel_everywhere(use_process, serves) >= 2
        await echo_many(machine, 20)


async def test_cancelled_anywhere_in_lines_the_connection_serves_on(make: MachineMaker, mark: str) -> None:
    """STYLE 41."""
    async with make() as machine:

        async def read() -> None:
            async with machine.lines("sh", "-c", "echo 1; echo 2; sleep 600", env={"MARK": mark}) as lines:
                async for line in lines:
                    if line.text == "2":
                        return

        async def serves() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            await until(lambda: not marked_processes(mark), seconds=2)

        assert await cancel_everywhere(read, serves) >= 2
        await echo_many(machine, 20)


async def test_cancelled_anywhere_in_a_streams_connection_the_connection_serves_on(make: MachineMaker) -> None:
    """STYLE 41: connections and listeners of the far side."""
    async with make() as machine:

        async def use_streams() -> None:
            async with await machine.open_listener() as listener:
                from anyio.abc import SocketAttribute

                async with await machine.open_connection(
                    "localhost", listener.extra(SocketAttribute.local_port)
                ) as stream:
                    await stream.send(b"x")

        async def serves() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"

        assert await cancel_everywhere(use_streams, serves) >= 2


async def test_a_cancelled_command_lets_go_even_when_nothing_answers(proxy: TcpProxy, over: Over) -> None:
    """DESIGN 11: at the latest after 2 s, with a note on the exception."""
    machine = await over(proxy).connect()
    running = asyncio.get_running_loop().create_task(machine.run("sleep", "600"))
    await machine.run("true")
    proxy.freeze()
    began = time.monotonic()
    running.cancel()
    await asyncio.wait({running})
    assert in_time(time.monotonic() - began, 2.5)
    assert running.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        running.result()
    assert "has not confirmed it" in "".join(caught.value.__notes__)
    proxy.cut()
    proxy.thaw()
    await machine.aclose()


# --- siblings ---------------------------------------------------------------------------------------------------------


async def test_bytes_that_are_no_text_concern_one_command_only(make: MachineMaker) -> None:
    """Promise 121."""
    async with make() as machine, machine.start("cat") as process:
        async with asyncio.TaskGroup() as group:
            odd = group.create_task(machine.run("printf", r"a\377\000b"))
            even = group.create_task(machine.run("echo", "fine"))
        assert odd.result().stdout_bytes == b"a\xff\0b"
        assert odd.result().stdout == "a\ufffd\0b"
        assert even.result().stdout == "fine\n"
        escaped = await machine.run("printf", r"a\377", errors="backslashreplace")
        assert escaped.stdout == "a\\xff"
        assert process.stdin is not None
        await process.stdin.send(b"\xff\xfe")
        assert await process.stdout.receive() == b"\xff\xfe"


async def test_what_nobody_reads_is_held_back_and_hurts_no_sibling(make: MachineMaker) -> None:
    """Promise 128: 3 MB that nobody reads yet."""
    async with make() as machine, machine.start("head", "-c", "30000000", "/dev/zero") as process:
        for number in range(5):
            assert (await machine.run("echo", number)).stdout == f"{number}\n"
        assert process.returncode is None
        assert await process.wait() == 0
        total = 0
        while total < 30_000_000:
            total += len(await process.stdout.receive())
        assert total == 30_000_000


async def test_a_slow_sibling_takes_nobody_elses_bytes(make: MachineMaker) -> None:
    async with make() as machine:
        async with asyncio.TaskGroup() as group:
            big = group.create_task(machine.run("head", "-c", "20000000", "/dev/zero"))
            up = group.create_task(machine.run("wc", "-c", input=b"x" * 10_000_000))
            small = [group.create_task(machine.run("echo", number)) for number in range(20)]
        assert len(big.result().stdout_bytes) == 20_000_000
        assert up.result().stdout == "10000000\n"
        assert [task.result().stdout for task in small] == [f"{number}\n" for number in range(20)]
