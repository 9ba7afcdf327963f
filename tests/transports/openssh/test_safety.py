"""What is promised of ssh machines, of those that go by the system's ssh: deaths, forks, closes, the ssh_config."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from tests.forked import in_a_child, refused_in_a_fork
from tests.transports.openssh.conftest import Maker

from aioremote import ConnectionLost, HostKeys, OpenSshMachine
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@pytest_asyncio.fixture
async def mark() -> AsyncIterator[str]:
    mark = f"aioremote-mark-{os.getpid()}-openssh"
    yield mark
    await until(lambda: not marked_processes(mark))


async def test_a_killed_outpost_takes_its_commands_along(make: Maker, mark: str) -> None:
    """Promise 74: its groups are gone within a second, who waits gets ConnectionLost, and the machine goes on."""
    async with make(outpost="always") as machine:
        async with machine.start("sh", "-c", "sleep 600 & sleep 600", env={"MARK": mark}) as process:
            await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 2)
            outpost = psutil.Process(process.pid).parent()
            assert outpost is not None
            outpost.send_signal(signal.SIGKILL)
            with pytest.raises(ConnectionLost):
                await process.wait()
            await until(lambda: not marked_processes(mark), seconds=1.5)
        assert (await machine.run("echo", "again")).stdout == "again\n"


@pytest.mark.parametrize("outpost", ["never", "always"])
async def test_a_forked_child_may_not_use_the_connection(make: Maker, outpost: str) -> None:
    """Promise 78: the parent's stream goes on."""
    async with make(outpost=outpost) as machine, machine.start("cat") as process:
        await process.stdin.send(b"before")
        assert await process.stdout.receive() == b"before"
        await in_a_child(lambda: refused_in_a_fork(machine))
        await process.stdin.send(b"after")
        assert await process.stdout.receive() == b"after"


async def test_a_close_while_it_connects_leaves_nothing(make: Maker) -> None:
    """Promise 79: and closing twice, and an error in the block."""
    machine = make()
    connecting = asyncio.create_task(machine.connect())  # noqa: TID251  # is closed from here
    await until(lambda: machine.state == "connecting")
    await machine.aclose()
    await machine.aclose()
    await asyncio.wait({connecting})
    assert connecting.cancelled() or connecting.exception() is not None
    with pytest.raises(ZeroDivisionError):
        async with make():
            raise ZeroDivisionError


async def test_an_agent_is_not_forwarded_though_the_config_says_so(
    aioremote_sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 96: nor are the config's forwards made; its programs run, as documented at `config=`."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    witness = tmp_path / "witness"
    config = tmp_path / "config"
    config.write_text(
        f'Match exec "touch {witness}"\n  Port {aioremote_sshd.port}\n'
        f"Host *\n  IdentityFile {aioremote_sshd.keyfile}\n  ForwardAgent yes\n"
        f"  LocalForward {tmp_path}/forward 127.0.0.1:9\n"
    )
    known = HostKeys.strict(aioremote_sshd.known_hosts)
    async with OpenSshMachine(aioremote_sshd.host, config=config, host_keys=known, outpost="never") as machine:
        assert (await machine.shell("echo ${SSH_AUTH_SOCK-none}")).stdout == "none\n"
        assert not (tmp_path / "forward").exists()
    assert witness.exists()


async def test_without_config_no_program_of_one_runs(make: Maker, tmp_path: Path) -> None:
    """Promise 96: no file is read, that of the user neither."""
    async with make(config=None) as machine:
        await machine.run("true")
        link = await machine.transport._connected()  # type: ignore[attr-defined]
        words = psutil.Process(link._master_pid).cmdline()
        assert words[words.index("-F") + 1] == "none"
