"""Commands that an outpost takes over: when it does, what stays the same, and what happens when it is lost."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker
from tests.transports.ssh.test_loss import Over

from aioremote import BootstrapError, CommandTimeout, ConnectionLost, SshMachine
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.transports.upgrading import UpgradingTransport

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

STUBBORN = "trap '' TERM HUP; (trap '' TERM; sleep 600) & echo up; sleep 600; :"


@pytest.fixture(scope="module")
def narrow() -> Iterator[Sshd]:
    """A server that allows one session on a connection."""
    with Sshd(max_sessions=1) as server:
        yield server


def transport_of(machine: SshMachine) -> UpgradingTransport:
    assert isinstance(machine.transport, UpgradingTransport)
    return machine.transport


def is_up(machine: SshMachine) -> bool:
    link = transport_of(machine)._link
    return link is not None and link.state == "up"


async def outpost_pid(machine: SshMachine) -> int:
    """Return the pid of the far Python: commands are its children."""
    return int((await machine.shell("ps -o ppid= -p $$")).stdout)


async def run_many(machine: SshMachine, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(machine.shell(f"cat; echo {n}; exit {n % 7}", input=f"{n} ", check=False))
            for n in range(count)
        ]
    got = [(call.result().stdout, call.result().returncode) for call in calls]
    assert got == [(f"{n} {n}\n", n % 7) for n in range(count)]


@pytest.mark.parametrize("outpost", ["auto", "always"])
async def test_any_number_of_commands_over_one_session(make: MachineMaker, narrow: Sshd, outpost: str) -> None:
    """Promise 57: 200 at once with MaxSessions 1, over one connection."""
    async with make(narrow, outpost=outpost) as machine:
        await run_many(machine, 200)
        assert is_up(machine)
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(machine.shell("echo $SSH_CONNECTION")) for _ in range(20)]
        assert len({call.result().stdout for call in calls}) == 1


async def test_auto_stays_on_plain_channels_while_there_are_enough(make: MachineMaker) -> None:
    async with make(outpost="auto") as machine:
        await run_many(machine, 8)
        assert not is_up(machine)
    async with make(outpost="auto", max_sessions=3) as machine:
        await run_many(machine, 8)
        assert is_up(machine)


async def test_sessions_that_are_all_taken_for_long_stop_nobody(make: MachineMaker, narrow: Sshd) -> None:
    """The outpost gets a connection of its own where none of the first one's sessions comes free."""
    async with make(narrow, outpost="auto") as machine, machine.start("sleep", "600") as process:
        began = time.monotonic()
        await run_many(machine, 20)
        assert in_time(time.monotonic() - began, 1 + 2)
        assert process.returncode is None
    await until(lambda: not narrow.session_pids())


@pytest.fixture
def without_python() -> Iterator[Sshd]:
    wrapper = 'case "$SSH_ORIGINAL_COMMAND" in *python*) exit 127;; esac; eval "$SSH_ORIGINAL_COMMAND"'
    with Sshd(max_sessions=2, extra_config=f"ForceCommand {wrapper}") as server:
        yield server


async def test_a_host_without_python_keeps_its_plain_channels(make: MachineMaker, without_python: Sshd) -> None:
    async with make(without_python, outpost="auto") as machine:
        await run_many(machine, 10)
        await run_many(machine, 10)
        assert not is_up(machine)


async def test_always_says_that_there_is_no_python(make: MachineMaker, without_python: Sshd) -> None:
    machine = make(without_python, outpost="always")
    with pytest.raises(BootstrapError):
        await machine.run("true")
    with pytest.raises(BootstrapError):
        await machine.connect()
    await machine.aclose()


async def test_a_wrong_choice_is_refused(make: MachineMaker) -> None:
    with pytest.raises(ValueError, match='give "auto", "always" or "never"'):
        make(outpost="sometimes")


async def test_trees_end_as_on_plain_channels(make: MachineMaker, narrow: Sshd, mark: str) -> None:
    """Promises 53, 117."""
    async with make(narrow, outpost="always") as machine:
        began = time.monotonic()
        with pytest.raises(CommandTimeout) as caught:
            await machine.shell(STUBBORN, env={"MARK": mark}, timeout=0.5)
        assert caught.value.result.stdout == "up\n"
        assert not marked_processes(mark)
        assert in_time(time.monotonic() - began, 0.5 + 1 + 0.4)
        async with machine.start_shell(STUBBORN, env={"MARK": mark}) as process:
            assert await process.stdout.receive() == b"up\n"
        assert not marked_processes(mark)


@pytest.mark.parametrize("outpost", ["auto", "always"])
async def test_a_cut_link_ends_everything_on_both_roads(proxy: TcpProxy, over: Over, mark: str, outpost: str) -> None:
    """Promise 73: near everybody is told, far all are gone within 2 s."""
    async with over(proxy, outpost=outpost, guard="always", max_sessions=4) as machine:
        calls = [asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark})) for _ in range(6)]
        await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 12)
        await machine.ping()
        assert is_up(machine)
        proxy.cut()
        await asyncio.wait(calls)
        assert all(isinstance(call.exception(), ConnectionLost) for call in calls)
        await until(lambda: not marked_processes(mark), seconds=2.5)
        with pytest.raises(ConnectionLost):
            await machine.run("true")
        assert machine.state == "lost"


@pytest.mark.parametrize("outpost", ["auto", "always"])
async def test_with_a_policy_the_next_command_connects_again(proxy: TcpProxy, over: Over, outpost: str) -> None:
    async with over(proxy, outpost=outpost, reconnect=True, max_sessions=2) as machine:
        await run_many(machine, 5)
        proxy.cut()
        await until(lambda: machine.state == "lost")
        await run_many(machine, 5)
        assert is_up(machine)


@pytest.mark.parametrize("outpost", ["auto", "always"])
async def test_an_outpost_that_was_killed_takes_its_commands_along_and_no_more(
    make: MachineMaker, mark: str, outpost: str
) -> None:
    """Promise 74: its groups are gone within a second, the machine goes on."""
    async with make(outpost=outpost, max_sessions=2) as machine:
        await run_many(machine, 5)
        pid = await outpost_pid(machine)
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 2)
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait({call})
        error = call.exception()
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        await until(lambda: not marked_processes(mark), seconds=1.5)
        await run_many(machine, 5)
        assert is_up(machine)
        assert await outpost_pid(machine) != pid


async def test_a_cancel_anywhere_leaves_the_machine_as_good_as_before(make: MachineMaker, mark: str) -> None:
    """Promise 13, and 117: in the middle of bringing the outpost up too."""
    async with make(outpost="auto", max_sessions=1) as machine:
        await machine.run("true")

        async def two() -> None:
            link = transport_of(machine)._link
            if link is not None:  # begin anew
                link.abort()
                await link.aclose()
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(machine.run("sh", "-c", "sleep 0.05", env={"MARK": mark}))

        async def check() -> None:
            await until(lambda: not marked_processes(mark))
            assert (await machine.run("echo", "fine")).stdout == "fine\n"

        assert await cancel_everywhere(two, check) >= 2


async def test_closing_while_the_outpost_comes_up_leaves_nothing(make: MachineMaker, narrow: Sshd) -> None:
    machine = make(narrow, outpost="always")
    call = asyncio.get_running_loop().create_task(machine.run("true"))
    await until(lambda: bool(narrow.session_pids()))
    await machine.aclose()
    await asyncio.wait({call})
    assert call.exception() is not None
    await until(lambda: not narrow.session_pids())
    await machine.aclose()
