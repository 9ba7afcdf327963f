"""The far loop that ends process trees: its script under several shells, and what it does when the link is lost."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from tests.pace import gone, in_time
from tests.transports.ssh.conftest import MachineMaker

from aioremote import CommandTimeout, RemoteError, Result, SshMachine
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports import guard as guard_module

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Over = Callable[..., SshMachine]
STUBBORN = (
    "trap '' TERM HUP INT; (trap '' TERM HUP; sleep 600) & nohup sleep 600 >/dev/null 2>&1 & echo up; sleep 600; :"
)
SLACK_SECONDS = 0.4  # for this computer, which does other things too
TOOLS = ("sleep", "kill", "ps")
SHELLS = ("dash", "bash", "busybox", "mksh", "ksh93")


def members(session: int) -> set[int]:
    """Return the live processes of a session. proc(5): after the name come state, ppid, pgrp, session."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX" and int(its_session) == session:
                found.add(int(entry.name))
    return found


# --- the script by itself ---------------------------------------------------------------------------------------------


class Loop:
    """The guard's script, run here."""

    def __init__(self, process: asyncio.subprocess.Process, stdin: IO[bytes]) -> None:
        self._process = process
        assert process.stdout is not None
        self.stdin, self.stdout = stdin, process.stdout

    def tell(self, *lines: str) -> None:
        self.stdin.write("".join(f"{line}\n" for line in lines).encode())

    async def hears(self, line: str) -> None:
        async with asyncio.timeout(10):
            assert (await self.stdout.readline()).decode().strip() == line

    def helpers(self) -> int:
        """Return how many run in its session: two shells, the relay, the watcher and its `sleep` make five."""
        return len(members(self._process.pid))

    async def has_ended(self, *, within: float) -> None:
        async with asyncio.timeout(within):
            assert await self.stdout.read() == b""
            await self._process.wait()
        await until(lambda: not members(self._process.pid), seconds=5)


def path_of_tools(folder: Path, shell: str, *, pkill: bool) -> str:
    """Make a PATH on which `sh` is one of the shells; busybox brings its own tools."""
    folder.mkdir()
    found = shutil.which(shell)
    assert found is not None, f"{shell} is not installed"
    (folder / "sh").symlink_to(found)
    for tool in TOOLS:
        (folder / tool).symlink_to(found if shell == "busybox" else shutil.which(tool) or "/no/such")
    if pkill:
        (folder / "pkill").symlink_to(shutil.which("pkill") or "/no/such")
    return str(folder)


async def under_every_shell(
    tmp_path: Path, check: Callable[[str], Awaitable[None]], shells: Sequence[str] = SHELLS
) -> None:
    """Run a check of the script under all shells at once: it mostly waits."""

    async def one(name: str, path: str) -> None:
        try:
            await check(path)
        except BaseException as error:
            error.add_note(f"under {name}")
            raise

    async with asyncio.TaskGroup() as group:
        for shell in shells:
            group.create_task(one(shell, path_of_tools(tmp_path / shell, shell, pkill=True)))
        for shell in ("dash", "busybox"):
            name = f"{shell} without pkill"
            group.create_task(one(name, path_of_tools(tmp_path / name, shell, pkill=False)))


@contextlib.asynccontextmanager
async def guard_loop(path: str, silence: float = 30.0, *, over_socket: bool = False) -> AsyncIterator[Loop]:
    """Run the script as sshd would, in a session of its own and with pipes, and wait until it is ready."""
    script = guard_module._SCRIPT.replace("SILENCE", f"{silence:.3g}").replace("NAP", f"{silence / 6:.3g}")
    far, near = [end.detach() for end in socket.socketpair()] if over_socket else os.pipe()
    process = await asyncio.create_subprocess_exec(
        f"{path}/sh",
        "-c",
        script,
        stdin=far,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": path},
        start_new_session=True,
    )
    os.close(far)
    loop = Loop(process, os.fdopen(near, "wb", buffering=0))
    try:
        await loop.hears("ready")
        yield loop
    finally:
        while left := members(process.pid):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        await process.wait()
        loop.stdin.close()
        await process.communicate()


@pytest.fixture
def tree(mark: str) -> Iterator[Callable[[], int]]:
    """Return what starts a stubborn tree and returns its group."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        argv, environment = ["sh", "-c", STUBBORN], {**os.environ, "MARK": mark}
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process.pid

    yield start
    for process in started:
        for pid in members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def running(group: int) -> bool:
    return bool(members(group))


async def test_groups_are_ended_on_request_and_at_the_end_of_input(tmp_path: Path, tree: Callable[[], int]) -> None:
    """Promise 117: TERM, half a second, KILL; the end of input is what a lost link comes to."""

    async def check(path: str) -> None:
        async with guard_loop(path) as loop:
            groups, kept, spared = [tree() for _ in range(3)], tree(), tree()
            loop.tell(*(f"+ {group}" for group in (*groups, kept, spared)), f"- {spared}", f"- {spared}")
            loop.tell(*(f"k {group}" for group in (*groups, groups[0])))
            async with asyncio.timeout(10):
                gone = [(await loop.stdout.readline()).decode().strip() for _ in range(4)]
            assert sorted(gone) == sorted(f"gone {group}" for group in (*groups, groups[0]))
            assert not any(map(running, groups))
            assert running(kept)
            loop.stdin.close()
            await loop.has_ended(within=3)
            assert not running(kept)
            assert running(spared)

    began = time.monotonic()
    await under_every_shell(tmp_path, check)
    assert in_time(time.monotonic() - began, 8)


async def test_input_may_come_over_a_socket(tmp_path: Path) -> None:
    """As from servers that give programs no pipes; busybox' cat would wait for 16 MiB of a socket."""

    async def check(path: str) -> None:
        async with guard_loop(path, over_socket=True) as loop:
            loop.tell("k 40000000")
            await loop.hears("gone 40000000")
            loop.stdin.close()
            await loop.has_ended(within=3)

    await under_every_shell(tmp_path, check)


async def test_a_child_ends_though_its_parent_that_led_no_group_ended_before(tmp_path: Path, mark: str) -> None:
    """Promise 117: a wrapper's child may die of the lost link before its own children are looked for."""
    inner = "sleep 600 >/dev/null & echo $$; read nothing; exit 0"  # of a shell that leads no group

    async def check(path: str) -> None:
        its_mark = f"{mark}{path}/"
        async with guard_loop(path) as loop:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", 'bash -c "$0"; exit 0', inner),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "MARK": its_mark},
                start_new_session=True,
            )
            assert process.stdout is not None
            loop.tell(f"+ {int(await process.stdout.readline())}", "k 40000000")
            await loop.hears("gone 40000000")  # so the line before has been read
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            await process.wait()  # not for the end of its output: on uvloop its child has that too
            assert list(marked_processes(its_mark).values()) == ["sleep 600"]
            loop.stdin.close()
            await loop.has_ended(within=3)
            assert not marked_processes(its_mark)

    await under_every_shell(tmp_path, check)


async def test_silence_ends_all_that_run_and_itself(tmp_path: Path, tree: Callable[[], int]) -> None:
    """Promise 117: a black hole. It stays as long as it hears something."""

    async def check(path: str) -> None:
        async with guard_loop(path, silence=0.9) as loop:
            group = tree()
            loop.tell(f"+ {group}")
            for _ in range(5):
                loop.tell(".")
                await asyncio.sleep(0.25)
            assert running(group)
            assert loop.helpers() <= 5
            await loop.has_ended(within=0.9 + 1.5)
            assert not running(group)

    await under_every_shell(tmp_path, check)


async def test_many_beats_and_groups_leave_nothing_behind(tmp_path: Path, tree: Callable[[], int]) -> None:
    """The lists stay short, whatever is removed, and no `sleep` or `cat` is left of any beat."""

    async def check(path: str) -> None:
        async with guard_loop(path) as loop:
            for number in range(40):
                lines = [f"+ {10_000_000 + number}", f"- {20_000_000 + number}", f"- {10_000_000 + number}"]
                loop.tell(*lines, *([".", "."] if number % 4 == 0 else []))
            group = tree()
            loop.tell(f"+ {group}", f"k {group}")
            await loop.hears(f"gone {group}")
            await until(lambda: loop.helpers() <= 5, seconds=10)
            loop.stdin.close()
            await loop.has_ended(within=3)

    # ksh93 and mksh can lose a `sleep` between two beats that come back to back; real ones are many seconds apart.
    await under_every_shell(tmp_path, check, ("dash", "bash", "busybox"))


async def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    async def check(path: str) -> None:
        async with guard_loop(path) as loop:
            argv = ["sh", "-c", "trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.05; done"]
            process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, start_new_session=True)
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            loop.tell(f"s {process.pid} USR1")
            assert await process.stdout.read() == b"got it\n"
            assert await process.wait() == 7

    await under_every_shell(tmp_path, check)


# --- over ssh ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["root", "user"])
def login(request: pytest.FixtureRequest, aioremote_user: TestUser) -> str:
    return "root" if request.param == "root" else aioremote_user.name


async def lost(call: asyncio.Task[Result]) -> None:
    await asyncio.wait({call})
    assert isinstance(call.exception(), RemoteError)


WRAPPERS = {  # what runs our line as a child, which then leads no group
    "login shell": '/bin/bash -lc "$SSH_ORIGINAL_COMMAND"; exit $?',
    "background": 'eval "$SSH_ORIGINAL_COMMAND" & wait $!; exit $?',
}


@pytest.mark.parametrize(("how", "sessions"), [("login shell", 10), ("background", 10), ("login shell", 1)])
async def test_behind_a_forced_command_the_tree_is_gone_too(
    make: MachineMaker, login: str, mark: str, how: str, sessions: int
) -> None:
    """Promises 53, 117: by timeout and by cancel, though the announced process leads no group."""
    with Sshd(extra_config=f"ForceCommand {WRAPPERS[how]}", max_sessions=sessions) as server:
        async with make(server, user=login) as machine:
            with pytest.raises(CommandTimeout):
                await machine.shell(STUBBORN, env={"MARK": mark}, timeout=0.5)
            await gone(mark, within=1.5)
            call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
            await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 3)
            call.cancel()
            await asyncio.wait({call})
            await gone(mark, within=1.5)
            result = await machine.shell("echo out; exit 3", check=False)
            assert (result.returncode, result.stdout) == (3, "out\n")
        await until(lambda: not server.session_pids(), seconds=2)


async def test_behind_a_forced_command_a_signal_and_a_lost_link_reach_the_tree(
    make: MachineMaker, login: str, mark: str
) -> None:
    """Promise 117: the far loop finds the group when it has to."""
    with Sshd(extra_config=f"ForceCommand {WRAPPERS['login shell']}") as server:
        async with make(server, user=login, guard="always") as machine:
            async with machine.start_shell("trap 'echo got it; exit 7' USR1; echo up; sleep 600 & wait") as process:
                assert await process.stdout.receive() == b"up\n"
                process.send_signal("USR1")
                assert await process.stdout.receive() == b"got it\n"
            call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
            await until(lambda: list(marked_processes(mark).values()).count("sleep 600") == 3)  # beside the wrappers
            await told(machine, 1)
            machine.abort()
            await lost(call)
            await gone(mark, within=1.5)


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_a_tree_is_gone_a_second_after_its_timeout(make: MachineMaker, mark: str, *, pty: bool) -> None:
    """Promises 53, 117: TERM, half a second, KILL; counted from the moment that its time was over."""
    async with make() as machine:
        began = time.monotonic()
        with pytest.raises(CommandTimeout):
            await machine.shell(STUBBORN, env={"MARK": mark}, timeout=0.5, pty=pty)
        await gone(mark)
        assert in_time(time.monotonic() - began, 0.5 + 1 + SLACK_SECONDS)
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


@pytest.mark.parametrize(
    ("script", "within"), [("sleep 600 & sleep 600", 0.45), (STUBBORN, 0.95)], ids=["meek", "stubborn"]
)
async def test_closing_opens_the_loop_for_a_command_that_has_none_yet(
    make: MachineMaker, login: str, mark: str, script: str, within: float
) -> None:
    """Promises 79, 117: without it OpenSSH lets nobody signal what root runs, and a close waits for nothing twice."""
    machine = make(user=login)
    call = asyncio.get_running_loop().create_task(machine.shell(script, env={"MARK": mark}))
    await until(lambda: len(marked_processes(mark)) >= 2)
    began = time.monotonic()
    await machine.aclose()
    took = time.monotonic() - began
    await lost(call)
    assert in_time(took, within), f"{took:.2f} s"
    await gone(mark)


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_a_cut_link_ends_the_tree(proxy: TcpProxy, over: Over, login: str, mark: str, *, pty: bool) -> None:
    """Promise 117, DESIGN 4: the far loop does it, nobody near can."""
    async with over(proxy, user=login, guard="always") as machine:
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}, pty=pty))
        await until(lambda: len(marked_processes(mark)) >= 4)
        await told(machine, 1)
        proxy.cut()
        await lost(call)
        await gone(mark, within=1.5)


async def told(machine: SshMachine, groups: int) -> None:
    """Wait until the guard is open, knows so many groups, and has been told of them."""
    watcher = machine.transport._link.guard  # type: ignore[attr-defined]
    await until(lambda: watcher.state == "open" and len(watcher._known) >= groups)
    await machine.ping()


@pytest.mark.parametrize("first", ["loop", "command"])
async def test_once_the_loop_is_open_a_young_command_is_known_to_it(
    proxy: TcpProxy, over: Over, mark: str, first: str
) -> None:
    """Promise 117: a link that is lost long before the time after which a command opens the loop."""
    async with over(proxy) as machine:
        link = machine.transport._link  # type: ignore[attr-defined]
        link.guard_after = 600.0
        if first == "loop":
            link.guard.want()
            await told(machine, 0)
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        await until(lambda: len(marked_processes(mark)) >= 4)
        link.guard.want()
        await told(machine, 1)
        proxy.cut()
        await lost(call)
        await gone(mark, within=1.5)


async def test_a_silent_link_ends_the_tree(proxy: TcpProxy, over: Over, mark: str) -> None:
    """Promises 73, 117: a black hole; the far loop waits twice as long as the near side for a word."""
    async with over(proxy, guard="always", keepalive=0.25, keepalive_count=2) as machine:
        call = asyncio.get_running_loop().create_task(machine.shell(STUBBORN, env={"MARK": mark}))
        await until(lambda: len(marked_processes(mark)) >= 4)
        await told(machine, 1)
        proxy.freeze()
        await lost(call)
        assert marked_processes(mark)
        await gone(mark, within=2 * 0.5 + 1.5)
        proxy.cut()
        proxy.thaw()


async def test_a_killed_client_ends_the_tree(make: MachineMaker, aioremote_sshd: Sshd, mark: str) -> None:
    """Promise 73, for plain ssh."""
    server = aioremote_sshd
    program = f"""
        import asyncio
        from aioremote import HostKeys, SshMachine
        async def main():
            known = HostKeys.strict({str(server.known_hosts)!r})
            machine = SshMachine({server.host!r}, port={server.port}, keyfile={str(server.keyfile)!r}, host_keys=known,
                                 config=None, guard="always", outpost="never")
            async with machine, machine.start_shell({STUBBORN!r}, env={{"MARK": {mark!r}}}) as process:
                await process.stdout.receive()
                while not machine.transport._link.guard._known or machine.transport._link.guard.state != "open":
                    await asyncio.sleep(0.01)
                await machine.ping()
                print("up", flush=True)
                await asyncio.sleep(600)
        asyncio.run(main())
    """
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.kill()
    await process.wait()
    await gone(mark, within=1.5)


async def test_the_loop_is_opened_late_and_leaves_nothing(make: MachineMaker, mark: str) -> None:
    """DESIGN 4: a one-shot command does not pay for it; a long one, a second one or a kill does."""
    with Sshd() as server:

        def sessions() -> int:
            return server.log.count("Starting session: command")

        async with make(server) as machine:
            for _ in range(3):
                await machine.run("true")
            assert sessions() == 3
            await machine.run("sleep", "1.3")
            assert sessions() == 5
        await until(lambda: not server.session_pids(), seconds=1.5)
        async with make(server) as machine:
            with pytest.raises(CommandTimeout):
                await machine.run("sleep", "600", timeout=0.1)
            assert sessions() == 7
        await until(lambda: not server.session_pids(), seconds=1.5)
        async with make(server, guard="never") as machine:
            await machine.run("sleep", "1.1")
            assert sessions() == 8


async def test_without_a_guard_the_server_signals_a_normal_user(
    make: MachineMaker, aioremote_user: TestUser, mark: str
) -> None:
    """guard="never", documented at SshMachine: killing is left to the server."""
    async with make(user=aioremote_user.name, guard="never") as machine:
        with pytest.raises(CommandTimeout):
            await machine.shell("sleep 600 & sleep 600", env={"MARK": mark}, timeout=0.3)
        await gone(mark)


async def test_without_a_guard_root_is_let_go_and_told(make: MachineMaker, mark: str) -> None:
    """guard="never", documented at SshMachine: OpenSSH refuses signals to root; the call says what may live on."""
    async with make(guard="never") as machine:
        began = time.monotonic()
        with pytest.raises(CommandTimeout) as caught:
            await machine.run("sleep", "2.2", env={"MARK": mark}, timeout=0.3)
        assert in_time(time.monotonic() - began, 2)
        assert marked_processes(mark)
        notes = [*getattr(caught.value, "__notes__", ()), *getattr(caught.value.__cause__, "__notes__", ())]
        notes += getattr(caught.value.__context__, "__notes__", ())
        assert "has not confirmed it" in "".join(notes)
    await until(lambda: not marked_processes(mark), seconds=5)


async def test_without_a_guard_a_terminal_hangs_up(make: MachineMaker, login: str, mark: str) -> None:
    """With a pty the closed channel is a HUP, for root too."""
    async with make(user=login, guard="never") as machine:
        with pytest.raises(CommandTimeout):
            await machine.run("sleep", "600", env={"MARK": mark}, timeout=0.3, pty=True)
        await gone(mark, within=1.5)


async def test_a_loop_that_opens_late_has_its_orders_waiting(
    make: MachineMaker, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 117 on a slow link: nobody waits for the loop any more, and the tree still ends."""
    monkeypatch.setattr(guard_module, "_OPENING_SECONDS", 0.0)
    async with make() as machine:
        machine.transport._link.dial_again = None  # type: ignore[attr-defined]
        with pytest.raises(CommandTimeout):
            await machine.shell(STUBBORN, env={"MARK": mark}, timeout=0.3)
        await gone(mark, within=1.5)


async def test_the_loop_outlives_hundreds_of_commands(make: MachineMaker, mark: str) -> None:
    """It is told of each long one; here with a guard from the start, so of every one."""
    async with make(guard="always") as machine:
        for _ in range(15):
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(machine.run("echo", number))
        began = time.monotonic()
        with pytest.raises(CommandTimeout):
            await machine.run("sleep", "600", env={"MARK": mark}, timeout=0.1)
        assert in_time(time.monotonic() - began, 1)
        await gone(mark)
