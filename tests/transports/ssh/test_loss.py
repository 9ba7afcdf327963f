"""A link that ends or falls silent: never a result, always what is known, and no false alarm."""

import asyncio
import contextlib
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker

from aioremote import CommandFailed, ConnectError, ConnectionLost, PartialResult, RemoteError, SshMachine
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Over = Callable[..., SshMachine]
SPEAK = "echo out; echo err >&2; touch {}; sleep 600"
SLACK_SECONDS = 0.15  # for this computer, which does other things too


@pytest.fixture(params=["root", "user"])
def login(request: pytest.FixtureRequest, aioremote_user: TestUser) -> str:
    return "root" if request.param == "root" else aioremote_user.name


@pytest.fixture
def said() -> Iterator[Path]:
    """A file that a far command makes when it has spoken; every login may make it."""
    with tempfile.TemporaryDirectory(prefix="open to all ") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder, "said")


async def has_spoken(machine: SshMachine, said: Path) -> None:
    """Wait until what a far command has said has arrived: a later command's end comes after it."""
    await until(said.exists)
    await machine.run("true")


# --- cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False], ids=["check", "no-check"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "fin"])
async def test_a_cut_link_is_no_result(
    proxy: TcpProxy, over: Over, login: str, said: Path, *, check: bool, reset: bool
) -> None:
    """Promise 52."""
    async with over(proxy, user=login) as machine, asyncio.TaskGroup() as group:
        script = SPEAK.format(f"'{said}'")
        running = group.create_task(fails(machine.shell(script, check=check)))
        await has_spoken(machine, said)
        proxy.cut(reset=reset)
    error = running.result()
    assert type(error) is ConnectionLost
    assert isinstance(error, ConnectionError)
    assert (error.outcome, error.host) == ("unknown", machine.host)
    assert error.reason == "reset"
    assert error.cmd == ["/bin/sh", "-c", script]
    assert type(error.result) is PartialResult
    assert (error.result.stdout, error.result.stderr) == ("out\n", "err\n")
    assert not hasattr(error.result, "returncode")
    assert "\n" not in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.outcome, copy.reason, copy.cmd, copy.result) == (
        str(error),
        error.outcome,
        error.reason,
        error.cmd,
        error.result,
    )


async def fails(call: "asyncio.Future[object] | object") -> BaseException:
    try:
        await call  # type: ignore[misc]
    except RemoteError as error:
        return error
    raise AssertionError("it ended as if nothing had happened")


async def test_after_a_loss_every_call_says_that_nothing_was_started(proxy: TcpProxy, over: Over) -> None:
    """Promise 52, DESIGN 13."""
    async with over(proxy) as machine:
        await machine.run("true")
        proxy.cut()
        await until(lambda: machine.state == "lost")
        accepted = proxy.accepted
        for call in (
            machine.run("true"),
            machine.shell("true"),
            machine.start("true")._start(),
            machine.ping(),
            machine.facts(),
            machine.open_connection("localhost", 1),
            machine.open_listener(),
            machine.connect(),
        ):
            error = await fails(call)
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "not_started"
        assert proxy.accepted == accepted  # nobody connects again by itself


async def test_a_command_that_could_not_be_ordered_was_not_started(proxy: TcpProxy, over: Over, mark: str) -> None:
    """Promise 52: the order itself did not get through."""
    async with over(proxy) as machine, asyncio.TaskGroup() as group:
        await machine.run("true")
        proxy.freeze()
        running = group.create_task(fails(machine.run("sleep", "600", env={"MARK": mark})))
        await asyncio.sleep(0)
        proxy.cut()
        proxy.thaw()
    error = running.result()
    assert isinstance(error, ConnectionLost)
    assert error.outcome == "not_started"
    assert not marked_processes(mark)


async def test_streams_and_processes_learn_of_a_loss(proxy: TcpProxy, over: Over) -> None:
    """Promises 52, 127."""
    async with over(proxy) as machine, machine.start_shell("echo out; cat") as process:
        assert await process.stdout.receive() == b"out\n"
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await process.stdout.receive()
        with pytest.raises(ConnectionLost) as caught:
            await process.wait()
        assert caught.value.outcome == "unknown"
        assert process.returncode is None
        assert process.signal is None
        assert process.stdin is not None
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"x")
        process.kill()  # has nothing to say any more


async def test_lines_end_with_the_loss(proxy: TcpProxy, over: Over) -> None:
    """Promise 52: a stream of lines that ends is a stream that has ended."""
    seen: list[str] = []

    async def read(machine: SshMachine) -> None:
        async with machine.lines("/bin/sh", "-c", "echo 1; echo 2; exec sleep 600") as lines:
            async for line in lines:
                seen.append(line.text)
                if len(seen) == 2:
                    proxy.cut()

    async with over(proxy) as machine:
        error = await fails(read(machine))
    assert isinstance(error, ConnectionLost)
    assert seen == ["1", "2"]
    assert error.result is not None
    assert error.result.stdout.split() == ["1", "2"]


async def test_three_ends_are_three_outcomes(proxy: TcpProxy, over: Over) -> None:
    """Promise 127: killed, exit 255 and a lost link."""
    async with over(proxy) as machine:
        killed = await machine.shell("kill -KILL $$", check=False)
        assert (killed.returncode, killed.signal) == (-9, "KILL")
        assert (await machine.shell("exit 255", check=False)).returncode == 255
        with pytest.raises(CommandFailed):
            await machine.shell("exit 255")
        running = asyncio.get_running_loop().create_task(fails(machine.run("sleep", "600")))
        await machine.run("true")
        proxy.cut()
        assert type(await running) is ConnectionLost


async def test_a_killed_server_process_is_a_loss(make: MachineMaker) -> None:
    with Sshd() as server:
        async with make(server) as machine:
            running = asyncio.get_running_loop().create_task(fails(machine.run("sleep", "600")))
            await machine.run("true")
            for pid in sorted(server.session_pids()):  # the server's first: they would tell how the command ended
                with contextlib.suppress(ProcessLookupError):  # the end of one is that of another
                    os.kill(pid, signal.SIGKILL)
            error = await running
    assert type(error) is ConnectionLost
    assert error.outcome == "unknown"


async def test_a_status_without_the_rest_of_the_output_is_no_whole_result(
    proxy: TcpProxy, over: Over, said: Path
) -> None:
    """Promise 52: the program has ended and its output has not when the link goes."""
    async with over(proxy) as machine:
        line = f"sleep 600 & touch '{said}'"
        running = asyncio.get_running_loop().create_task(machine.shell(line))
        await has_spoken(machine, said)  # the status is here, and `sleep` holds the output open
        proxy.cut()
        await asyncio.wait({running})
        error = running.exception()
        if error is None:
            assert running.result().output_truncated
        else:
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "finished"


async def test_cut_at_any_byte_there_is_an_error_or_the_whole_truth(proxy: TcpProxy, over: Over) -> None:
    """Promise 52: connect and one command, the answers cut after so many bytes."""
    before = proxy.bytes_received
    await read_zeros(over(proxy, guard="never"))
    everything = proxy.bytes_received - before
    ends: set[type] = set()
    counts = [1, *range(everything // 8, everything, everything // 8), *range(everything - 300, everything + 100, 25)]
    for count in counts:
        proxy.cut_after(count, "received")
        try:
            await read_zeros(over(proxy, guard="never"))
            ends.add(bytes)
        except (ConnectError, ConnectionLost) as error:
            ends.add(type(error))
        finally:
            proxy.cut_after(1 << 40, "received")
    assert {bytes, ConnectionLost} <= ends


async def read_zeros(machine: SshMachine) -> None:
    """Connect and read 3,000 bytes; what comes back is all of them, or an error."""
    try:
        await machine.connect()
        result = await machine.run("head", "-c", "3000", "/dev/zero")
        assert result.stdout_bytes == bytes(3000)
    finally:
        await machine.aclose()


# --- silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.0, 0.15, 0.4], ids="{} s later".format)
async def test_a_black_hole_is_found_in_time(proxy: TcpProxy, over: Over, said: Path, moment: float) -> None:
    """Promise 81: interval x count (+10 %), whatever the moment; all who wait are told, with the output so far."""
    async with over(proxy, keepalive=0.5, keepalive_count=2) as machine, asyncio.TaskGroup() as group:
        process = await machine.start("cat")
        script = SPEAK.format(f"'{said}'")
        calls = [group.create_task(fails(machine.shell(script))) for _ in range(3)]
        await has_spoken(machine, said)
        await asyncio.sleep(moment)
        calls += [group.create_task(fails(call)) for call in (process.wait(), process.stdout.receive())]
        await machine.ping()
        proxy.freeze()
        frozen = time.monotonic()
        await asyncio.wait(calls)
        took = time.monotonic() - frozen
        assert machine.state == "lost"
        proxy.thaw()
    assert took <= 0.5 * 2 * 1.1 + SLACK_SECONDS
    errors = [call.result() for call in calls]
    assert [type(error) for error in errors] == [ConnectionLost] * 5
    assert {(error.reason, error.outcome) for error in errors if isinstance(error, ConnectionLost)} == {
        ("keepalive", "unknown")
    }
    for error in errors[:3]:
        assert isinstance(error, ConnectionLost)
        assert error.result is not None
        assert (error.result.stdout, error.result.stderr) == ("out\n", "err\n")


async def test_a_call_into_a_black_hole_is_told_too(proxy: TcpProxy, over: Over) -> None:
    """Promise 81: a command whose order goes nowhere."""
    async with over(proxy, keepalive=0.1, keepalive_count=3) as machine:
        proxy.freeze()
        error = await fails(machine.run("true"))
        proxy.thaw()
    assert isinstance(error, ConnectionLost)
    assert (error.reason, error.outcome) == ("keepalive", "not_started")


async def test_closing_into_a_black_hole_does_not_hang(proxy: TcpProxy, over: Over) -> None:
    """Promise 79: with a command that cannot be ended any more."""
    machine = await over(proxy).connect()
    running = asyncio.get_running_loop().create_task(fails(machine.run("sleep", "600")))
    await machine.run("true")
    proxy.freeze()
    began = time.monotonic()
    await machine.aclose()
    assert in_time(time.monotonic() - began, 5)
    assert isinstance(await running, RemoteError)
    proxy.thaw()


async def test_a_quiet_link_is_not_lost(make: MachineMaker) -> None:
    """Promise 81: ten intervals without a word of ours."""
    async with make(keepalive=0.1, keepalive_count=3) as machine:
        running = asyncio.get_running_loop().create_task(machine.run("sleep", "1"))
        assert (await running).returncode == 0
        assert machine.state == "connected"


@pytest.mark.parametrize("guard", ["auto", "never"])
async def test_a_loop_that_stands_still_loses_nothing(make: MachineMaker, guard: str) -> None:
    """Promise 83: blocked for longer than interval x count, with a command under way."""
    async with make(keepalive=0.2, keepalive_count=3, guard=guard) as machine:
        async with machine.start("cat") as process:
            running = asyncio.get_running_loop().create_task(machine.shell("sleep 0.5; echo done"))
            await machine.run("true")
            time.sleep(0.9)  # the whole loop: this is the fault
            await machine.ping()
            await asyncio.sleep(0.5)
            assert (await running).stdout == "done\n"
            assert process.stdin is not None
            await process.stdin.send(b"still here")
            assert await process.stdout.receive() == b"still here"
            await process.stdin.aclose()
            assert await process.wait() == 0
        assert machine.state == "connected"


async def test_a_link_that_stands_still_for_a_moment_is_not_lost(proxy: TcpProxy, over: Over) -> None:
    """Promise 83: half of the time that would count as lost."""
    async with over(proxy, keepalive=0.3, keepalive_count=3) as machine:
        running = asyncio.get_running_loop().create_task(machine.shell("sleep 1; echo done"))
        await machine.run("true")
        proxy.freeze()
        await asyncio.sleep(0.45)
        proxy.thaw()
        assert (await running).stdout == "done\n"


async def test_a_busy_reader_keeps_the_link(proxy: TcpProxy, over: Over) -> None:
    """A far side that only sends, and a reader that takes its time, are no silence."""
    async with over(proxy, keepalive=0.1, keepalive_count=3) as machine, machine.start("yes") as process:
        for _ in range(20):
            assert await process.stdout.receive()
            await asyncio.sleep(0.05)
        assert machine.state == "connected"
