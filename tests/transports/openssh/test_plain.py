"""The system's ssh without a master: a process for each program."""

import os
import secrets
import signal
import socket
from pathlib import Path

import psutil
import pytest
from tests.pace import gone
from tests.transports.openssh.conftest import PASSWORD, Maker

from aioremote import HostKeys
from aioremote.commands.process import Process
from aioremote.errors import (
    AuthenticationError,
    CommandFailed,
    CommandKilled,
    CommandTimeout,
    ConnectError,
    ConnectionLost,
    HostKeyError,
    TunnelRefused,
    UnsupportedError,
)
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.openssh.plain import PlainOpenSshTransport
from aioremote.transports.sudo.process import SudoProcess

STUBBORN = "trap '' TERM HUP; (trap '' TERM; sleep 600) & echo up; sleep 600; :"

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@pytest.fixture
def mark() -> str:
    return f"aioremote-mark-{secrets.token_hex(6)}"


@pytest.fixture
def plain(make: Maker) -> Maker:
    def made(server: object = None, /, *, host: str = "", **keywords: object) -> object:
        return make(server, host=host, **{"master": False, **keywords})

    return made  # type: ignore[return-value]


async def test_commands(plain: Maker) -> None:
    """Arguments arrive byte for byte, as do input, environment and statuses."""
    async with plain() as machine:
        assert machine.address.scheme == "openssh"
        odd = 'it\'s "$HOME" \\ ü\n'
        result = await machine.run("printf", "%s", odd, env={"A": "b"})
        assert (result.stdout, result.stderr) == (odd, "")
        assert (await machine.run("cat", input=b"\0\xff")).stdout_bytes == b"\0\xff"
        with pytest.raises(CommandFailed) as caught:
            await machine.shell("echo mine >&2; exit 255")
        assert caught.value.result.returncode == 255
        assert caught.value.result.stderr == "mine\n"


async def test_a_killed_command_is_no_lost_link(plain: Maker) -> None:
    """Which signal it was ssh does not tell; that one was sent from here does not say that it was this."""
    async with plain() as machine:
        with pytest.raises(CommandKilled) as caught:
            await machine.shell("kill -9 $$")
        assert caught.value.signal == "UNKNOWN"
        async with machine.start_shell("trap 'kill -9 $$' TERM; echo up; read line") as process:
            assert await process.stdout.receive() == b"up\n"
            process.terminate()
            await process.wait()
            assert process.signal == "UNKNOWN"


async def test_files(plain: Maker) -> None:
    async with plain() as machine, machine.tempdir() as folder:
        await (folder / "file").write_text("kept")
        assert await (folder / "file").read_text() == "kept"


async def test_a_timeout_ends_the_tree(plain: Maker, aioremote_sshd: Sshd) -> None:
    async with plain() as machine:
        before = aioremote_sshd.session_pids()
        with pytest.raises(CommandTimeout):
            await machine.shell("sleep 60 & sleep 60", timeout=1.5)
        await machine.aclose()
        await until(lambda: aioremote_sshd.session_pids() <= before)


async def test_promise_133_an_outpost_carries_everything(plain: Maker) -> None:
    """Promise 133: what the plain road has not is had by an outpost, over one ssh."""
    async with plain(outpost="always") as machine:
        listener = await machine.open_listener()
        await listener.aclose()
        assert (await machine.run("tty", pty=True)).stdout.startswith("/dev/")


async def test_promise_133_what_it_has_not_is_said(plain: Maker) -> None:
    """Promise 133."""
    async with plain() as machine:
        with pytest.raises(UnsupportedError, match="listeners"):
            await machine.open_listener()
        with pytest.raises(UnsupportedError, match="terminal"):
            await machine.run("tty", pty=True)
    with pytest.raises(UnsupportedError, match="max_sessions="):
        plain(max_sessions=3)


async def test_connections_from_the_far_end(plain: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with plain() as machine:
            stream = await machine.open_connection("127.0.0.1", port)
            near, _ = server.accept()
            with near:
                await stream.send(b"there")
                assert near.recv(5) == b"there"
                near.sendall(b"back")
                assert await stream.receive() == b"back"
                await stream.aclose()
                assert near.recv(1) == b""
    async with plain() as machine:
        with pytest.raises(TunnelRefused):
            await machine.open_connection("127.0.0.1", port)


async def test_a_login_that_fails_says_why(plain: Maker, tmp_path: Path) -> None:
    failures: list[tuple[dict[str, object], type[Exception]]] = [
        ({"user": "nobody-of-this-name"}, AuthenticationError),
        ({"host_keys": HostKeys.strict(tmp_path / "none")}, HostKeyError),
        ({"host_keys": HostKeys.pinned("SHA256:" + "A" * 43)}, HostKeyError),
        ({"program": "no-such-ssh"}, UnsupportedError),
        ({"port": 1}, ConnectError),
    ]
    for keywords, kind in failures:
        machine = plain(None, **keywords)  # type: ignore[arg-type]
        with pytest.raises(kind):
            await machine.run("true")
        await machine.aclose()


async def test_a_pinned_key_and_a_password(plain: Maker, password_server: Sshd, password_user: TestUser) -> None:
    keys = HostKeys.pinned(password_server.host_key_fingerprint)
    async with plain(
        password_server, user=password_user.name, password=PASSWORD, keyfile=(), host_keys=keys
    ) as machine:
        assert (await machine.run("id", "-un")).stdout.strip() == password_user.name


async def test_an_ssh_that_dies_is_a_lost_link(plain: Maker, aioremote_sshd: Sshd) -> None:
    async with plain() as machine:
        async with machine.start("sh", "-c", "echo $PPID; exec cat") as process:
            server = int((await process.stdout.receive()).split()[0])
            os.kill(server, signal.SIGKILL)
            with pytest.raises(ConnectionLost) as caught:
                await process.wait()
            assert caught.value.outcome == "unknown"
        assert (await machine.run("echo", "again")).stdout == "again\n"


async def lose_its_ssh(process: Process, mark: str) -> None:
    """Kill what a program is reached by, and see it end."""
    assert await process.stdout.receive() == b"up\n"
    await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 2)
    inner = process._far
    assert isinstance(inner, SudoProcess)
    ssh = inner._sudo.pid
    assert ssh is not None
    psutil.Process(ssh).kill()
    await gone(mark, within=2)
    with pytest.raises(ConnectionLost) as caught:
        await process.wait()
    assert caught.value.outcome == "unknown"


async def test_promise_117_what_ran_behind_an_ssh_that_was_killed_ends(plain: Maker, mark: str) -> None:
    """Promise 117: though nobody waits for it or ends it, and there is no guard yet."""
    async with plain() as machine, machine.start_shell(STUBBORN, env={"MARK": mark}) as process:
        assert isinstance(machine.transport, PlainOpenSshTransport)
        assert machine.transport._within.guard.state == "closed"
        await lose_its_ssh(process, mark)


async def test_promise_117_the_guard_ends_it_and_nothing_else(
    plain: Maker, aioremote_user: TestUser, mark: str
) -> None:
    """Promise 117."""
    async with (
        plain(user=aioremote_user.name) as machine,
        machine.start("cat") as other,
        machine.start_shell(STUBBORN, env={"MARK": mark}) as process,
    ):
        await lose_its_ssh(process, mark)
        await other.stdin.send(b"still there")
        assert await other.stdout.receive() == b"still there"
