"""Programs through an outpost: what is particular to that road. What holds for every road is in tests/conformance."""

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.outpost.links import FLOOR, python_path, resident_bytes
from tests.pace import gone, in_time

from aioremote import (
    ClosedError,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    DaemonMachine,
    HostKeys,
    Machine,
    RemoteError,
    SshMachine,
    UnsupportedError,
)
from aioremote.commands.process import Process
from aioremote.outpost.far import frames
from aioremote.protocols import FarProcess, Transport
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport
from aioremote.types import Capability, Endpoint, ProcessSpec

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

MIB = 1024 * 1024
STUBBORN = (
    "trap '' TERM HUP INT; "
    "(trap '' TERM; (trap '' TERM; (trap '' TERM; sleep 600; :); :) & nohup sleep 600 >/dev/null 2>&1 & wait) & "
    "echo up; sleep 600; sleep 600"
)


class Watched(LocalTransport):
    """This machine, which keeps what it has started."""

    def __init__(self, *prefix: str) -> None:
        super().__init__()
        self.prefix = tuple(os.fsencode(word) for word in prefix)
        self.started: list[FarProcess] = []

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        argv = self.prefix + spec.argv
        process = await super().start_process(
            ProcessSpec(argv, spec.cwd, spec.env, spec.terminal, spec.stdin, spec.guarded)
        )
        self.started.append(process)
        return process

    @property
    def outpost(self) -> int:
        """Its process id."""
        assert self.started[-1].pid is not None
        return self.started[-1].pid

    @property
    def supervisor(self) -> int:
        """The process id of the outpost's supervisor, 0 while there is none: a child that has not become a program."""
        mine = Path(f"/proc/{self.outpost}/cmdline").read_bytes()
        same = (pid for pid in children(self.outpost) if Path(f"/proc/{pid}/cmdline").read_bytes() == mine)
        return next(same, 0)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def here(*prefix: str, **keywords: object) -> AsyncIterator[tuple[Machine, Watched]]:
    """This machine through an outpost."""
    base = Watched(*prefix)
    async with Machine(LinkedTransport(base, **keywords), host="there") as machine:  # type: ignore[arg-type]
        yield machine, base


def over(server: Sshd, **keywords: object) -> SshMachine:
    defaults = {
        "port": server.port,
        "keyfile": server.keyfile,
        "config": None,
        "host_keys": HostKeys.pinned(server.host_key_fingerprint),
    }
    return SshMachine(str(keywords.pop("host", server.host)), **{**defaults, **keywords})  # type: ignore[arg-type]


@pytest.fixture
def mark() -> str:
    return f"aioremote-mark-{secrets.token_hex(6)}"


@pytest.mark.parametrize("version", FLOOR)
async def test_every_far_python_runs_programs(version: str, mark: str) -> None:
    """Promises 45, 50, 56: the same on 3.6 to 3.13."""
    async with here(python=python_path(version)) as (machine, _):
        words: list[str | bytes] = ["", " ", "it's", "$HOME", "*", "a\nb", "-n", b"\xff\x01"]
        exact = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in words)
        assert (await machine.run("/usr/bin/printf", "%s\\0", *words)).stdout_bytes == exact
        assert (await machine.run("cat", input=exact * 100_000)).stdout_bytes == exact * 100_000
        assert (await machine.shell("pwd; echo $X; exit 7", cwd="/usr", env={"X": "é"}, check=False)).returncode == 7
        assert (await machine.shell("kill -9 $$", check=False)).signal == "KILL"
        with pytest.raises(CommandNotFound):
            await machine.run("no-such-program")
        with pytest.raises(NotADirectoryError):
            await machine.run("true", cwd="/etc/passwd")
        with pytest.raises(PermissionError):
            await machine.run("/etc/passwd")
        assert "40 132" in (await machine.shell("stty cols 132 rows 40; stty size", pty=True)).stdout
        assert (await machine.shell("ps -o tpgid= -p $$; echo $$", pty=True)).stdout.split()[0] != "-1"
        async with machine.start_shell(STUBBORN, env={"MARK": mark}) as process:
            assert await process.stdout.receive() == b"up\n"
        await gone(mark)


async def test_signals_and_statuses() -> None:
    """Promise 50: 0 to 255, and every signal that ends a program."""
    async with here() as (machine, _), asyncio.TaskGroup() as group:
        statuses = [group.create_task(machine.shell(f"exit {number}", check=False)) for number in range(256)]
        signals = {
            name: group.create_task(machine.run("python3", "-c", KILL_SELF, name, check=False))
            for name in ("HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "TERM", "XFSZ", "RTMIN")
        }
    assert [task.result().returncode for task in statuses] == list(range(256))
    for name, task in signals.items():
        assert (task.result().signal, task.result().returncode) == (name, -getattr(signal, f"SIG{name}"))


KILL_SELF = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
number = getattr(signal, "SIG" + sys.argv[1])
if number != signal.SIGKILL:
    signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
"""


async def test_a_fast_writer_waits_for_a_slow_reader() -> None:
    """Promise 19: 256 MiB that nobody reads stay at the far end, and arrive whole."""
    script = "import sys\nfor n in range(4096): sys.stdout.buffer.write(bytes([n % 251]) * 65536)"
    expected = hashlib.sha256()
    for number in range(4096):
        expected.update(bytes([number % 251]) * 65536)
    async with here() as (machine, base), machine.start("python3", "-c", script) as process:
        before = resident_bytes(os.getpid()), resident_bytes(base.outpost)
        await until(lambda: "pipe" in Path(f"/proc/{process.pid}/wchan").read_text())
        await asyncio.sleep(0.5)  # and it stays so
        assert "pipe" in Path(f"/proc/{process.pid}/wchan").read_text()
        after = resident_bytes(os.getpid()), resident_bytes(base.outpost)
        assert after[0] - before[0] < 3 * MIB
        assert after[1] - before[1] < 3 * MIB
        found = hashlib.sha256()
        async for data in process.stdout:
            found.update(data)
        assert found.digest() == expected.digest()
        assert await process.wait() == 0
        assert resident_bytes(base.outpost) - before[1] < 4 * MIB


async def test_input_waits_for_a_program_that_does_not_read() -> None:
    """Promise 20."""
    async with here() as (machine, base), machine.start_shell("read line; sha256sum") as process:
        assert process.stdin is not None
        await process.stdin.send(b"begin\n")
        await machine.run("true")
        before, sent = resident_bytes(base.outpost), 0
        data = os.urandom(MIB)
        while True:
            try:
                async with asyncio.timeout(0.5):
                    await process.stdin.send(data)
                    sent += 1
            except TimeoutError:
                sent += 1  # was queued whole
                break
            if sent == 64:  # sha256sum has taken it all
                break
        assert resident_bytes(base.outpost) - before < 3 * MIB
        process.kill()


async def test_input_for_a_program_that_ends_without_reading() -> None:
    """Promise 54: a result, and the note that input was left."""
    async with here() as (machine, base):
        await machine.run("true")  # brings in what the outpost needs for commands
        before = resident_bytes(base.outpost)
        result = await machine.run("true", input=bytes(256 * MIB))
        assert (result.returncode, result.input_unread) == (0, True)
        result = await machine.shell("exec <&-; sleep 0.2; echo fine", input=bytes(64 * MIB))
        assert (result.stdout, result.input_unread) == ("fine\n", True)
        assert resident_bytes(base.outpost) - before < 3 * MIB


async def test_errors_go_on_after_the_end_of_output() -> None:
    """Promise 48."""
    async with here() as (machine, _):
        result = await machine.shell(
            "echo out; exec >&-; head -c 3000000 /dev/zero >&2; echo end >&2; exit 3", check=False
        )
        assert (result.stdout, len(result.stderr_bytes), result.returncode) == ("out\n", 3_000_004, 3)


async def test_a_line_of_100_mib() -> None:
    """Promise 47."""
    async with here() as (machine, _):
        result = await machine.shell("head -c 104857600 /dev/zero | tr '\\0' '\\377'", max_output_bytes=None)
        assert result.stdout_bytes == b"\xff" * 104857600


async def test_an_order_that_is_longer_than_a_header() -> None:
    """Promise 45: it travels as a message; what no program can be given is refused with the system's own reason."""
    async with here() as (machine, _):
        words = [f"{number:5}" + "x" * 1000 for number in range(400)]
        assert (await machine.run("printf", "%s", *words, input=b"x")).stdout == "".join(words)
        with pytest.raises(OSError, match="too long"):
            await machine.run("true", "x" * 8_000_000)
        with pytest.raises(OSError, match="too long"):
            await machine.run("true", *(["x" * 100_000] * 200))
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_the_environment_is_the_login_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 55: also under LANG=C, where Python adds to its own."""
    for name in ("COLUMNS", "LINES"):  # readline sets them behind Python's back
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_CTYPE", raising=False)
    async with Machine(LocalTransport(), host="plain") as plain, here() as (machine, _):
        for keywords in ({}, {"env": {"LD_PRELOAD": "", "A": "b\nc", "LANG": None}}):
            wanted = (await plain.run("env", "-0", **keywords)).stdout_bytes  # type: ignore[arg-type]
            found = (await machine.run("env", "-0", **keywords)).stdout_bytes  # type: ignore[arg-type]
            assert sorted(found.split(b"\0")) == sorted(wanted.split(b"\0"))


async def test_nothing_of_the_outpost_reaches_a_program() -> None:
    """Descriptors, ignored signals, the signal mask."""
    script = "ls -l /proc/self/fd; grep -E 'Sig(Ign|Blk)' /proc/self/status"
    async with Machine(LocalTransport(), host="plain") as plain, here() as (machine, _):
        result = await machine.shell(script)
        fds = [line.split()[8] for line in result.stdout.splitlines() if "->" in line]
        assert fds in (["0", "1", "2", "3"], ["0", "1", "2"])  # 3 is the folder that is listed
        wanted = (await plain.shell(script)).stdout
        for found, expected in zip(masks(result.stdout), masks(wanted), strict=True):
            assert found & ~OF_THREADS == expected & ~OF_THREADS


OF_THREADS = 0b11 << 31  # glibc's own; nobody can send them


def masks(text: str) -> list[int]:
    return [int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Sig")]


async def test_programs_wait_for_descriptors() -> None:
    """Promise 10, 57: an outpost that may open few files runs many commands all the same, and says so of none."""
    async with here("/bin/sh", "-c", 'ulimit -n 32; exec "$@"', "sh") as (machine, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run("cat", input=str(number))) for number in range(100)]
        assert [task.result().stdout for task in tasks] == [str(number) for number in range(100)]


async def test_no_program_stays_when_it_waits_to_be_started(mark: str) -> None:
    async with here("/bin/sh", "-c", 'ulimit -n 24; exec "$@"', "sh") as (machine, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run("sleep", "600", env={"MARK": mark})) for _ in range(30)]
            await until(lambda: len(marked_processes(mark)) > 2)
            for task in reversed(tasks):
                task.cancel()
        assert not marked_processes(mark)
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_a_signal_for_a_program_that_waits_to_be_started() -> None:
    async with here("/bin/sh", "-c", 'ulimit -n 24; exec "$@"', "sh") as (machine, _):
        transport = machine.transport
        await transport.connect()
        spec = ProcessSpec((b"/bin/sleep", b"600"))
        processes = [await transport.start_process(spec) for _ in range(8)]
        for process in processes:
            process.send_signal("TERM")
        assert [(await process.wait()).signal for process in processes] == ["TERM"] * 8


async def test_200_commands_at_once_on_a_server_with_one_session(aioremote_user: TestUser) -> None:
    """Promise 57: at once, not one after the other."""
    async with (
        Sshd(max_sessions=1) as server,
        Machine(LinkedTransport(over(server, user=aioremote_user.name).transport), host="one") as machine,
    ):
        async with asyncio.TaskGroup() as group:
            running = [await machine.start("cat") for _ in range(50)]
            tasks = [group.create_task(machine.run("echo", number)) for number in range(200)]
        assert [task.result().stdout for task in tasks] == [f"{number}\n" for number in range(200)]
        for process in running:
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await process.wait() == 0


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_the_outpost_is_killed(mark: str) -> None:
    """Promises 52, 74, 76: its trees are gone within a second, and every call has lost its connection."""
    async with here() as (machine, base), asyncio.TaskGroup() as group:
        tasks = [group.create_task(fails(machine.shell(STUBBORN, env={"MARK": mark}))) for _ in range(6)]
        await until(lambda: len(marked_processes(mark)) >= 6 * 6)
        supervisor = base.supervisor
        os.kill(base.outpost, signal.SIGKILL)
        await gone(mark, within=2)
        await asyncio.wait(tasks)
        error = tasks[0].result()
        assert isinstance(error, ConnectionLost)
        assert (error.outcome, error.result and error.result.stdout) == ("unknown", "up\n")
        assert machine.state == "lost"
        assert isinstance(await fails(machine.run("true")), ConnectionLost)
        await until(lambda: not Path(f"/proc/{supervisor}").exists())
        await machine.transport.reconnect()
        assert (await machine.run("echo", "again")).stdout == "again\n"


async def fails(call: object) -> BaseException:
    try:
        await call  # type: ignore[misc]
    except RemoteError as error:
        return error
    raise AssertionError("it ended as if nothing had happened")


async def test_the_supervisor_is_killed(mark: str) -> None:
    """Promise 75: another one takes over, with the groups that there were."""
    async with here() as (machine, base), machine.start_shell(STUBBORN, env={"MARK": mark}) as process:
        assert await process.stdout.receive() == b"up\n"
        for _ in range(3):
            before = base.supervisor
            os.kill(before, signal.SIGKILL)
            await until(lambda before=before: base.supervisor not in (0, before))  # type: ignore[misc]
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
        os.kill(base.outpost, signal.SIGKILL)
        await gone(mark, within=2)


async def test_other_groups_of_a_session_end_with_it(mark: str) -> None:
    """Promise 76: job control makes groups of its own."""
    script = "set -m; sleep 600 & (trap '' TERM; sleep 600; sleep 600) & echo up; wait"
    async with here() as (machine, base):
        async with machine.start("bash", "-c", script, env={"MARK": mark}) as process:
            assert await process.stdout.receive() == b"up\n"
            groups = {os.getpgid(pid) for pid in marked_processes(mark)}
            assert len(groups) == 3
        await gone(mark)
        async with machine.start("bash", "-c", script, env={"MARK": mark}) as process:
            assert await process.stdout.receive() == b"up\n"
            os.kill(base.outpost, signal.SIGKILL)
            await gone(mark, within=2)


# Prints its escapee's process id. The escapee is a daemon's grandchild that ignores TERM and has one of its own.
ESCAPING = (
    'setsid sh -c \'(trap "" TERM; setsid sh -c "trap : TERM; sleep 600; sleep 600" & echo $$; sleep 600; sleep 600)\''
    " & wait"
)


async def escaped(process: Process, mark: str) -> None:
    """Wait until the three trees are up: two of them have left the session."""
    assert (await process.stdout.receive()).strip().isdigit()
    await until(lambda: len({os.getsid(pid) for pid in marked_processes(mark)}) == 3)


async def test_who_leaves_the_session_lives_on(mark: str) -> None:
    """Promise 76: unless asked for, the end of a tree is the end of its session; who lives on is told."""
    async with here() as (machine, _):
        async with machine.start_shell(ESCAPING, env={"MARK": mark}) as process:
            await escaped(process, mark)
            assert process.escaped == ()
        left = sorted(marked_processes(mark))
        assert left
        assert process.escaped == tuple(left)
        with pytest.raises(CommandTimeout) as caught:
            await machine.shell(ESCAPING, env={"MARK": f"{mark}-too"}, timeout=0.5)
        new = sorted(set(marked_processes(mark)) - set(left))
        assert new
        assert caught.value.__notes__[-1].endswith(f"lives on: {', '.join(map(str, new))}")
        for pid in left + new:
            os.kill(pid, signal.SIGKILL)
    await gone(mark)


async def test_who_stays_in_the_session_is_not_reported(mark: str) -> None:
    """Promise 76: four deep, with groups of their own and deaf to TERM and HUP, all are gone and none is told of."""
    script = "set -m; sleep 600 & (trap '' TERM; nohup sh -c 'sleep 600; sleep 600'; sleep 600) & echo up; wait"
    async with here() as (machine, _):
        async with machine.start("bash", "-c", script, env={"MARK": mark}) as process:
            assert await process.stdout.receive() == b"up\n"
            await until(lambda: len(marked_processes(mark)) >= 5)
        await gone(mark)
        assert process.escaped == ()


async def test_who_leaves_the_session_is_killed_with_kill_escapees(mark: str) -> None:
    """Promise 76: with the tree, and with no other program's."""
    another = mark.replace("mark", "other")
    async with here(kill_escapees=True) as (machine, _):
        async with machine.start_shell(ESCAPING, env={"MARK": another}) as other:
            await escaped(other, another)
            async with machine.start_shell(ESCAPING, env={"MARK": mark}) as process:
                await escaped(process, mark)
            await gone(mark)
            assert process.escaped == ()
            assert len({os.getsid(pid) for pid in marked_processes(another)}) == 3
        await gone(another)


async def test_the_supervisor_finds_escapees_too(mark: str) -> None:
    """Promises 74, 76: nothing is left when the outpost is killed."""
    async with (
        here(kill_escapees=True) as (machine, base),
        machine.start_shell(ESCAPING, env={"MARK": mark}) as process,
    ):
        await escaped(process, mark)
        os.kill(base.outpost, signal.SIGKILL)
        await gone(mark, within=2)


async def test_what_a_program_leaves_behind_at_its_own_end_lives_on(mark: str) -> None:
    """Promise 76: kill_escapees is for trees that are ended, not for daemons that were started on purpose."""
    async with here(kill_escapees=True) as (machine, _):
        await machine.shell("setsid sleep 600 >/dev/null 2>&1 &", env={"MARK": mark})
        await until(lambda: len(marked_processes(mark)) == 1)
    (daemon,) = marked_processes(mark)
    os.kill(daemon, signal.SIGKILL)
    await gone(mark)


CLIENT = """
import asyncio, sys
from aioremote import Machine
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport
async def main():
    async with Machine(LinkedTransport(LocalTransport()), host="there") as machine:
        process = await machine.start_shell(sys.argv[1], env={"MARK": sys.argv[2]})
        print((await process.stdout.receive()).decode(), flush=True)
        await process.wait()
asyncio.run(main())
"""


async def test_the_client_is_killed(mark: str) -> None:
    """Promise 73: outpost, supervisor and commands are gone within two seconds."""
    argv = [sys.executable, "-c", CLIENT, STUBBORN, mark]
    environment = {**os.environ, "CLIENT": f"{mark}-client"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"up\n"
            await until(lambda: len(marked_processes(mark)) >= 6)
        finally:
            client.kill()
        client.wait()
        await gone(mark, within=3)


async def test_a_road_that_falls_silent(aioremote_sshd: Sshd, aioremote_user: TestUser, mark: str) -> None:
    """Promises 73, 81: both ends notice by themselves."""
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as road:
        login = over(aioremote_sshd, host=road.host, port=road.port, user=aioremote_user.name)
        linked = LinkedTransport(login.transport, keepalive=0.3, keepalive_count=3)
        async with Machine(linked, host="there") as machine:
            task = asyncio.get_running_loop().create_task(fails(machine.shell(STUBBORN, env={"MARK": mark})))
            await until(lambda: len(marked_processes(mark)) >= 6)
            road.freeze()
            began = time.monotonic()
            error = await task
            assert isinstance(error, ConnectionLost)
            assert error.reason == "keepalive"
            assert in_time(time.monotonic() - began, 0.9 + 0.3 + 0.5)
            await gone(mark, within=3.9 - (time.monotonic() - began))
            road.cut()


async def test_a_stopped_outpost_is_a_lost_link(mark: str) -> None:
    """Promise 84: and it is ended, with all that it ran."""
    async with here(keepalive=0.2, keepalive_count=3) as (machine, base):
        task = asyncio.get_running_loop().create_task(fails(machine.shell(STUBBORN, env={"MARK": mark})))
        await until(lambda: len(marked_processes(mark)) >= 6)
        os.kill(base.outpost, signal.SIGSTOP)
        error = await task
        assert isinstance(error, ConnectionLost)
        assert error.reason == "keepalive"
        await gone(mark, within=3)


async def test_closing_leaves_nothing(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 79: neither commands, nor outpost, nor supervisor; what was running says that it was closed."""
    monkeypatch.setenv("MARK", mark)
    async with here() as (machine, _):
        tasks = [asyncio.get_running_loop().create_task(fails(machine.shell(STUBBORN))) for _ in range(5)]
        await until(lambda: len(marked_processes(mark)) >= 5 * 6)
        await machine.aclose()
        await gone(mark, within=2)  # the supervisor goes when it has seen that the outpost is gone
        await machine.aclose()
        await asyncio.wait(tasks)
        assert [type(task.result()) for task in tasks] == [ClosedError] * 5
        assert await machine.transport.wait_lost() is None
        with pytest.raises(ClosedError):
            await machine.run("true")


async def test_what_a_command_leaves_behind_lives_on(mark: str) -> None:
    """As on every road: only a tree that is ended ends whole."""
    async with here() as (machine, base):
        result = await machine.shell("sleep 600 & echo $!", env={"MARK": mark})
        assert result.output_truncated
        await machine.aclose()
        assert list(marked_processes(mark)) == [int(result.stdout)]
        os.kill(int(result.stdout), signal.SIGKILL)
        await gone(mark, within=2)
        assert base.started


async def test_cancelled_anywhere_it_serves_on(mark: str) -> None:
    """STYLE 41."""
    async with here() as (machine, _):

        async def run() -> None:
            await machine.run("cat", input=b"x" * 3_000_000, env={"MARK": mark})

        async def check() -> None:
            assert not marked_processes(mark)
            assert (await machine.run("echo", "fine")).stdout == "fine\n"

        assert await cancel_everywhere(run, check) >= 3


async def test_connecting_cancelled_anywhere_leaves_nothing(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 13."""
    monkeypatch.setenv("MARK", mark)

    async def connect() -> None:
        async with here() as (machine, _):
            await machine.run("true")

    async def check() -> None:
        await gone(mark, within=2)  # the supervisor goes when it has seen that the outpost is gone

    assert await cancel_everywhere(connect, check) >= 3


async def test_tasks_share_one_outpost_and_survive_each_other_s_cancel() -> None:
    base = Watched()
    transport: Transport = LinkedTransport(base)
    try:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(transport.connect()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert len(base.started) == 1
        assert 0 < await transport.ping() < 5
        assert transport.capabilities >= {Capability.COMMANDS, Capability.TERMINAL, Capability.TREE_KILL}
    finally:
        await transport.aclose()


async def test_what_the_far_end_says_it_does_not_serve_is_not_asked_for(tmp_path: Path) -> None:
    """Rule 11 of the house: a missing ability is UnsupportedError, from what is declared; nothing of it is sent."""
    heard = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b"aioremote-daemon-1 3.13.0 1 \n")
        writer.write(frames.hello(frames.Limits(missing=("process", "files", "connect", "listen"))))
        while data := await reader.read(65536):
            heard += data
        writer.close()

    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(serve, path), DaemonMachine(path=path) as machine:
        assert machine.capabilities == frozenset()
        with pytest.raises(UnsupportedError, match="no service 'process'"):
            await machine.run("SECRET")
        with pytest.raises(UnsupportedError, match="no service 'files'"):
            await machine.path("/SECRET").read_text()
        with pytest.raises(UnsupportedError, match="no service 'connect'"):
            await machine.open_connection("SECRET", 1)
        with pytest.raises(UnsupportedError, match="no service 'listen'"):
            await machine.transport.open_listener(Endpoint("127.0.0.1", 0))
        machine.abort()
    assert b"SECRET" not in heard
    kinds = {frames.HELLO, frames.PING}
    while heard:
        length, kind = int.from_bytes(heard[:4]), heard[4]
        assert kind in kinds
        heard = heard[12 + length :]
