"""What is left of a machine by the system's ssh, however it ends; and what its configuration may start."""

import asyncio
import gc
import os
import secrets
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.transports.openssh.conftest import Maker

from aioremote import CommandMachine, HostKeys, Machine
from aioremote.errors import ClosedError, ConnectionLost
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.transports.guard import Guard
from aioremote.transports.openssh.plain import PlainOpenSshTransport
from aioremote.transports.openssh.transport import OpenSshTransport

STUBBORN = "trap '' TERM HUP; (trap '' TERM; sleep 600) & echo up; sleep 600; :"


@pytest.fixture
def mark() -> str:
    return f"aioremote-mark-{secrets.token_hex(6)}"


async def known_to_the_guard(machine: Machine) -> None:
    """Wait until the far loop has been told of one command: orders are kept in their order."""
    transport = machine.transport
    if isinstance(transport, PlainOpenSshTransport):
        guard: Guard | None = transport._within.guard
    else:
        assert isinstance(transport, OpenSshTransport)
        guard = (await transport._connected()).guard
    await until(lambda: guard is not None and guard.state == "open" and bool(guard._known))
    await machine.ping()


CLIENT = """
    import asyncio, sys
    from aioremote import CommandMachine, HostKeys, OpenSshMachine
    async def main():
        kind, line, mark, host, port, keyfile, known = sys.argv[1:]
        if kind == "command":
            machine = CommandMachine(["env", "LANG=C"])
        else:
            how = {"guard": "always"} if kind == "openssh" else {"master": False}
            machine = OpenSshMachine(host, port=int(port), keyfile=keyfile, host_keys=HostKeys.strict(known),
                                     config=None, outpost="never", **how)
        async with machine, machine.start_shell(line, env={"MARK": mark}) as process:
            await process.stdout.receive()
            home = getattr(machine.transport, "_link" if kind == "openssh" else "_within")
            while kind != "command" and not (home.guard._known and home.guard.state == "open"):
                await asyncio.sleep(0.01)
            await machine.ping()
            print("up", flush=True)
            await asyncio.sleep(600)
    asyncio.run(main())
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sockets and pipes are made in this test; its path is short enough."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
            monkeypatch.setenv(name, folder)
        yield Path(folder)


@pytest.mark.parametrize("kind", ["openssh", "without a master", "command"])
async def test_promise_73_a_killed_client_leaves_nothing(
    kind: str, aioremote_sshd: Sshd, mark: str, runtime: Path
) -> None:
    """Promise 73."""
    server = aioremote_sshd
    words = [kind, STUBBORN, mark, server.host, str(server.port), str(server.keyfile), str(server.known_hosts)]
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(CLIENT), *words, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    assert await client.stdout.readline() == b"up\n"
    assert marked_processes(mark)
    client.kill()
    await client.wait()
    await until(lambda: not marked_processes(mark), seconds=2.5)
    await until(lambda: not os.listdir(runtime))


@pytest.mark.parametrize("kind", [{"guard": "always"}, {"master": False}], ids=["master", "no master"])
async def test_promise_73_a_black_hole_ends_the_tree(
    make: Maker, aioremote_sshd: Sshd, mark: str, kind: dict[str, object]
) -> None:
    """Promise 73: near after the silence, far two seconds later at the latest."""
    keys = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as proxy,
        make(port=proxy.port, host_keys=keys, keepalive=1, keepalive_count=1, **kind) as machine,
    ):
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 2)
        await known_to_the_guard(machine)
        proxy.freeze()
        await asyncio.wait({call})
        assert isinstance(call.exception(), ConnectionLost)
        await until(lambda: not marked_processes(mark), seconds=3.5)
        proxy.cut()
        proxy.thaw()


async def test_promise_74_an_outpost_that_was_killed_takes_its_commands_along(make: Maker, mark: str) -> None:
    """Promise 74."""
    async with make(outpost="always") as machine:
        pid = int((await machine.shell("ps -o ppid= -p $$")).stdout)
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 2)
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait({call})
        assert isinstance(call.exception(), ConnectionLost)
        await until(lambda: not marked_processes(mark), seconds=1.5)
        assert (await machine.run("echo", "again")).stdout == "again\n"


async def test_promise_79_closed_twice_and_in_the_middle_of_a_connect(make: Maker, aioremote_sshd: Sshd) -> None:
    """Promise 79."""
    keys = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as proxy:
        proxy.freeze()
        machine = make(port=proxy.port, host_keys=keys)
        calls = [asyncio.get_running_loop().create_task(machine.run("true")) for _ in range(3)]
        await until(lambda: proxy.accepted)
        await machine.aclose()
        await machine.aclose()
        await asyncio.wait(calls)
        assert [type(call.exception()) for call in calls] == [ClosedError] * 3


@pytest.mark.parametrize("kind", ["openssh", "plain", "command"])
async def test_promise_79_a_body_that_raises_leaves_nothing(kind: str, make: Maker, mark: str) -> None:
    """Promise 79."""
    machine = CommandMachine(["env", "LANG=C"]) if kind == "command" else make(master=kind == "openssh")

    async def fail() -> None:
        async with machine:
            process = await machine.start_shell(STUBBORN, env={"MARK": mark})
            await process.stdout.receive()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    await until(lambda: not marked_processes(mark), seconds=2.5)
    with pytest.raises(ClosedError):
        await machine.run("true")


async def test_promise_79_a_machine_that_is_dropped_unclosed_warns_and_ends(
    make: Maker, aioremote_sshd: Sshd, runtime: Path
) -> None:
    """Promise 79."""
    kept = [make()]
    await kept[0].run("true")
    assert aioremote_sshd.session_pids()

    def drop() -> None:
        kept.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        drop()
    await until(lambda: not aioremote_sshd.session_pids())
    assert not os.listdir(runtime)


@pytest.mark.parametrize("master", [True, False])
async def test_promise_96_config_none_starts_nothing(
    make: Maker, master: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aioremote_sshd: Sshd
) -> None:
    """Promise 96: what is in the user's ssh_config runs where that is read, and there only; agents are not lent."""
    witness, config = tmp_path / "witness", tmp_path / "config"
    config.write_text(f'Match exec "touch {witness}"\n    ForwardAgent yes\n')
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    async with make(config=None, master=master) as machine:
        await machine.run("true")
    assert not witness.exists()
    async with make(config=config, master=master) as machine:
        assert (await machine.shell("echo ${SSH_AUTH_SOCK-none}")).stdout == "none\n"
    assert witness.exists()
