"""What happens with a master: it is attached to, it dies, this process dies."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.transports.openssh.conftest import Maker

from aioremote import CommandKilled, ConnectionLost, OpenSshMachine, TunnelRefused
from aioremote.testing.checks import until
from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def master_pid(machine: OpenSshMachine) -> int:
    """Return the process id that the master tells."""
    link = await machine.transport._connected()  # type: ignore[attr-defined]
    return link._master_pid  # type: ignore[no-any-return]


async def test_a_master_that_dies_is_a_lost_link(make: Maker, aioremote_sshd: Sshd) -> None:
    """No command connects by itself then; a lost link is told from a killed command, and ends it."""
    async with make(guard="always") as machine:
        script = "trap 'echo told' USR1; echo up; while :; do sleep 0.1; done"
        async with machine.start("sh", "-c", script) as process:
            assert await process.stdout.receive() == b"up\n"
            process.send_signal("USR1")
            assert await process.stdout.receive() == b"told\n"  # the guard knows of it
            os.kill(await master_pid(machine), signal.SIGKILL)
            with pytest.raises(ConnectionLost) as caught:
                await process.wait()
            assert caught.value.outcome == "unknown"
        assert machine.state == "lost"
        await until(lambda: not aioremote_sshd.session_pids())  # the guard has ended what ran
        with pytest.raises(ConnectionLost) as caught:
            await machine.run("true")
        assert caught.value.outcome == "not_started"
        assert not aioremote_sshd.session_pids()
        with pytest.raises(ConnectionLost):
            await machine.open_connection("127.0.0.1", 22)


async def test_a_killed_command_is_no_lost_link(make: Maker) -> None:
    async with make() as machine:
        with pytest.raises(CommandKilled) as caught:
            await machine.shell("kill -9 $$")
        assert caught.value.signal == "UNKNOWN"
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
        assert machine.state == "connected"


async def test_of_two_signals_nobody_says_which_it_was(make: Maker) -> None:
    """A result is never a guess: TERM was ignored here, and KILL did it."""
    async with make() as machine:
        async with machine.start_shell("trap '' TERM; echo up; while :; do sleep 0.1; done") as process:
            assert await process.stdout.receive() == b"up\n"
        assert (process.returncode, process.signal) == (-99, "UNKNOWN")
        async with machine.start_shell("trap 'kill -9 $$' TERM; echo up; while :; do sleep 0.1; done") as process:
            assert await process.stdout.receive() == b"up\n"
            process.terminate()
            process.kill()
            assert await process.wait() == -99


async def test_a_lost_master_is_replaced_where_that_is_asked_for(make: Maker) -> None:
    async with make(reconnect=True) as machine:
        await machine.run("true")
        os.kill(await master_pid(machine), signal.SIGKILL)
        await machine.transport.wait_lost()
        assert (await machine.run("echo", "again")).stdout == "again\n"


async def test_a_cancelled_open_leaves_the_master_alive(make: Maker) -> None:
    """A master dies of a client that goes before the server has answered."""
    async with make() as machine:
        await machine.run("true")
        pid = await master_pid(machine)
        for turns in range(12):
            task = asyncio.get_running_loop().create_task(machine.run("sleep", "60"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        assert await master_pid(machine) == pid
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_a_server_with_few_sessions(make: Maker) -> None:
    with Sshd(max_sessions=3) as server:
        async with make(server) as machine, asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(machine.run("sh", "-c", f"sleep 0.02; echo {number}"))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A place for a socket; ssh makes it longer by 17 characters, and 107 are all."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder, "m")


async def test_attached_to_a_master_of_the_users_own(aioremote_sshd: Sshd, short_path: Path) -> None:
    path = short_path
    server = aioremote_sshd
    options = ["-o", f"UserKnownHostsFile={server.known_hosts}", "-i", str(server.keyfile), "-p", str(server.port)]
    subprocess.run(["ssh", "-F", "none", "-M", "-N", "-f", "-S", str(path), *options, server.host], check=True)
    try:
        async with OpenSshMachine.attach(path) as machine:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            assert await machine.python.eval("6 * 7") == 42
            with pytest.raises(TunnelRefused):
                await machine.open_connection("127.0.0.1", 1)
        check = subprocess.run(["ssh", "-S", str(path), "-O", "check", server.host], capture_output=True)
        assert check.returncode == 0
    finally:
        subprocess.run(["ssh", "-S", str(path), "-O", "exit", server.host], capture_output=True)


LEFT_ALONE = """
import asyncio, os, sys
from aioremote import HostKeys, OpenSshMachine

async def main():
    host, port, keyfile, known = sys.argv[1:]
    machine = OpenSshMachine(host, port=int(port), keyfile=keyfile, host_keys=HostKeys.strict(known), config=None)
    await machine.connect()
    link = await machine.transport.base._connected()
    print(link._master_pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_master_ends_with_the_process_that_started_it(
    aioremote_sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 73: also where that is killed."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    server = aioremote_sshd
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEFT_ALONE, server.host, str(server.port), str(server.keyfile), str(server.known_hosts),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    watched = os.pidfd_open(pid)
    try:
        process.kill()
        await process.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(watched, ended.set)
        async with asyncio.timeout(2):
            await ended.wait()
        asyncio.get_running_loop().remove_reader(watched)
    finally:
        os.close(watched)
