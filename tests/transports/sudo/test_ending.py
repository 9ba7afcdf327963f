"""Another user's processes are ended like one's own: cancelled, timed out, closed, or with the link lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.pace import gone
from tests.transports.sudo.conftest import PASSWORD, Login

from aioremote import CommandKilled, CommandTimeout, ConnectionLost, HostKeys
from aioremote.commands.process import Process
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

STUBBORN = (
    "trap '' TERM HUP INT; (trap '' TERM; sleep 600) & nohup sleep 600 >/dev/null 2>&1 & echo up; sleep 600; sleep 600"
)
TARGETS = ("root", "nobody")


@pytest_asyncio.fixture
async def link(aioremote_sshd: Sshd) -> AsyncIterator[TcpProxy]:
    """A link to the session's server that can be cut."""
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as made:
        yield made


@pytest.fixture
def pinned(aioremote_sshd: Sshd) -> HostKeys:
    return HostKeys.pinned(aioremote_sshd.host_key_fingerprint)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_leaving_the_block_ends_the_tree_and_sudo(
    login: Login, logged: TestUser, mark: str, target: str, *, pty: bool
) -> None:
    """Promise 117, with I/O logging. The mark is in sudo's own arguments too."""
    async with login(logged) as m:
        other = m.sudo(target, password=PASSWORD)
        async with other.start("/bin/sh", "-c", STUBBORN, mark, pty=pty) as process:
            assert b"up" in await process.stdout.receive()
        await gone(mark)
        assert (await other.run("id", "-un")).stdout == f"{target}\n"


@pytest.mark.parametrize(("target", "pty"), [("root", True), ("nobody", False)], ids=["root-pty", "nobody-plain"])
async def test_a_lost_link_ends_the_tree(
    login: Login, logged: TestUser, link: TcpProxy, pinned: HostKeys, mark: str, target: str, *, pty: bool
) -> None:
    """Promise 117 for a link that is cut: of a login whose sudo logs, and asks for a password each time."""
    async with login(logged, host=link.host, port=link.port, host_keys=pinned) as m:
        other = m.sudo(target, password=PASSWORD)
        running = [await other.start("/bin/sh", "-c", STUBBORN, mark, pty=pty) for _ in range(2)]
        await until(lambda: all(guarded(process) for process in running))
        await other.run("true")  # what was written before has arrived
        link.cut()
        for process in running:
            with pytest.raises(ConnectionLost):
                await process.wait()
        await gone(mark)


def guarded(process: Process) -> bool:
    far = process._far
    return bool(far._guarded and far._owner.guard.state == "open")  # type: ignore[attr-defined]


async def test_after_a_loss_the_guard_of_the_next_connection_does_the_work(
    login: Login, free: TestUser, link: TcpProxy, pinned: HostKeys, mark: str
) -> None:
    async with login(free, host=link.host, port=link.port, host_keys=pinned) as m:
        root = m.sudo()
        async with root.start("sleep", "600") as process:
            await until(lambda: guarded(process))
            link.cut()
            with pytest.raises(ConnectionLost):
                await process.wait()
        await m.transport.reconnect()
        with pytest.raises(CommandTimeout):
            await root.run("/bin/sh", "-c", STUBBORN, mark, timeout=0.5)
        await gone(mark)


async def test_root_that_becomes_somebody_loses_its_link(
    login: Login, link: TcpProxy, pinned: HostKeys, mark: str, free: TestUser
) -> None:
    """The login's own guard may signal sudo here, and is not to keep the other one from its work."""
    async with login(free, login="root", host=link.host, port=link.port, host_keys=pinned) as m:
        other = m.sudo("nobody")
        running = [await other.start("/bin/sh", "-c", STUBBORN, mark, pty=pty) for pty in (False, True)]
        await until(lambda: all(guarded(process) for process in running))
        await other.run("true")
        link.cut()
        await gone(mark)


async def test_a_cancel_while_the_password_is_asked_ends_sudo(login: Login, asked: TestUser, mark: str) -> None:
    waiting = asyncio.Event()

    async def provider(_: object) -> str:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with login(asked) as m:
        task = asyncio.get_running_loop().create_task(m.sudo(password=provider).run("echo", mark))
        await waiting.wait()
        assert marked_processes(mark)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await gone(mark)


@pytest.mark.parametrize(
    ("logging", "target"), [(False, "root"), (True, "nobody")], ids=["plain-root", "logged-nobody"]
)
async def test_signals_arrive_once_and_statuses_are_true(
    login: Login, free: TestUser, logged: TestUser, target: str, *, logging: bool
) -> None:
    """Promises 50, 127."""
    script = "import signal, sys; got = []; signal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n"
    script += "signal.signal(signal.SIGALRM, lambda *_: sys.exit(10 + len(got))); print('up', flush=True)\n"
    script += "while True: signal.pause(); signal.setitimer(signal.ITIMER_REAL, 0.3)"
    async with login(logged if logging else free) as m:
        other = m.sudo(target, password=PASSWORD)
        async with other.start("python3", "-c", script) as process:
            assert await process.stdout.receive() == b"up\n"
            process.send_signal("USR1")
            assert await process.wait() == 11
        for name, number in (("TERM", 15), ("KILL", 9)):
            with pytest.raises(CommandKilled) as caught:
                await other.shell(f"kill -{name} $$; sleep 20")
            assert (caught.value.signal, caught.value.returncode) == (name, -number)
        assert (await other.shell("exit 255", check=False)).returncode == 255


@pytest.mark.parametrize("max_sessions", [1, 2])
async def test_a_server_with_few_sessions(
    login: Login, free: TestUser, monkeypatch: pytest.MonkeyPatch, max_sessions: int
) -> None:
    """The guard never keeps the last session from commands."""
    monkeypatch.setattr("aioremote.transports.sudo.transport.GUARD_OPENING_SECONDS", 0.3)
    monkeypatch.setattr("aioremote.transports.sudo.transport.STARVING_SECONDS", 0.6)
    with Sshd(max_sessions=max_sessions) as server:
        async with login(free, server) as m:
            root = m.sudo()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(root.run("echo", n, timeout=20)) for n in range(6)]
            assert [task.result().stdout for task in tasks] == [f"{n}\n" for n in range(6)]
            assert (await root.run("echo", "fine", timeout=20)).stdout == "fine\n"


async def test_what_cannot_be_ended_is_said(login: Login, free: TestUser, mark: str) -> None:
    """A server with one session: another user's process outlives its timeout, and the error says so."""
    with Sshd(max_sessions=1) as server:
        async with login(free, server) as m:
            with pytest.raises(CommandTimeout) as caught:
                await m.sudo().run("/bin/sh", "-c", "sleep 3", mark, timeout=0.3)
            assert any("has not confirmed" in note for note in caught.value.__notes__)
        await until(lambda: not marked_processes(mark))
