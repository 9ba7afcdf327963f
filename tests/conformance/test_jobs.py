"""Detached jobs (promise 77): they outlive us, are found again by their id, and tell how they ended."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.conftest import KINDS, machine_of
from tests.conformance.test_running import NASTY
from tests.pace import in_time

from aioremote import (
    BusyError,
    ClosedError,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    FileError,
    HostKeys,
    JobStatus,
    LocalMachine,
    Machine,
    SshMachine,
    UnsupportedError,
)
from aioremote.protocols import FarProcess
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.fakes import FakeTransport
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec

SHELLS = {"dash": "dash", "bash": "bash", "busybox": "busybox", "mksh": "mksh", "ksh93": "ksh93", "zsh": "zsh"}
TOOLS = ("cat", "date", "env", "head", "kill", "ln", "mkdir", "mkfifo", "mv", "ps", "rm", "sleep", "tail", "tr", "wc")
STUBBORN = "trap '' TERM HUP; (trap '' TERM; sleep 600) & echo up; sleep 600; sleep 600"


@pytest.fixture
def records() -> Iterator[str]:
    """A directory for records, for whichever login the test has."""
    folder = Path(tempfile.mkdtemp(prefix="aioremote-jobs-"))
    folder.chmod(0o777)
    yield str(folder)
    shutil.rmtree(folder)


class Changed(FakeTransport):
    """The local machine with other words in what it is asked to run: another shell, say."""

    def __init__(self, *changes: tuple[bytes, bytes], path: str | None = None) -> None:
        super().__init__(LocalTransport())
        self._changes = changes
        self._path = path

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        argv = spec.argv
        for old, new in self._changes:
            argv = tuple(word.replace(old, new) for word in argv)
        env = dict(spec.env) if self._path is None else {"PATH": self._path.encode(), **spec.env}
        return await super().start_process(ProcessSpec(argv, spec.cwd, env, spec.terminal, spec.stdin))


def tools(folder: Path, *names: str) -> str:
    """Make a PATH on which only these programs are."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None, f"{name} is not installed"
        (folder / name).symlink_to(found)
    return str(folder)


def shell_at(folder: Path, shell: str) -> bytes:
    """Return a path at which the shell believes to be sh."""
    found = shutil.which(SHELLS[shell])
    assert found is not None, f"{shell} is not installed"
    (folder / "sh").symlink_to(found)
    return os.fsencode(folder / "sh")


@contextlib.asynccontextmanager
async def under_shell(folder: Path, shell: str) -> AsyncIterator[Machine]:
    path = shell_at(folder, shell)
    async with Machine(Changed((b"/bin/sh", path)), host=shell) as machine:
        yield machine


async def next_line(pieces: AsyncIterator[bytes]) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += await anext(pieces)
    return line


def life(records: str, job_id: str) -> list[str]:
    return Path(records, job_id, "life").read_text().split()


@contextlib.asynccontextmanager
async def road(
    kind: str, sshd: Sshd, user: TestUser
) -> AsyncIterator[Callable[[], contextlib.AbstractAsyncContextManager[Machine]]]:
    """Give what makes machines of one kind on one server; the embedded one ends whatever it started at its end."""
    if kind != "ssh-embedded":
        yield lambda: machine_of(kind, sshd, user)
        return
    async with EmbeddedServer() as server:
        keys = HostKeys.strict(server.known_hosts)
        yield lambda: SshMachine(
            server.host, port=server.port, user="root", keyfile=server.keyfile, host_keys=keys, config=None
        )


# the whole of it


async def test_a_job_from_its_start_to_its_end(machine: Machine, records: str) -> None:
    """Promise 77."""
    job = await machine.detach("sh", "-c", "read go; echo out; echo err >&2; exit 3", records=records)
    assert job.host == machine.host
    assert (await machine.job(job.id, records=records).wait()).returncode == 3  # an empty standard input
    status = await job.status()
    assert status == JobStatus(state="exited", returncode=3, signal=None, started=status.started, ended=status.ended)
    assert status.started is not None
    assert status.ended is not None
    assert abs(time.time() - status.started) < 60
    assert status.started <= status.ended
    assert await job.tail() == (b"out\n", 4)
    assert await job.tail(stream="stderr") == (b"err\n", 4)
    assert stat.S_IMODE(Path(records, job.id).stat().st_mode) == 0o700
    await job.forget()
    await job.forget()
    assert os.listdir(records) == []
    with pytest.raises(FileNotFoundError) as caught:
        await job.status()
    assert isinstance(caught.value, FileError)
    assert "no such job" in str(caught.value)


async def test_a_running_job_says_so_and_is_not_forgotten(machine: Machine, records: str, mark: str) -> None:
    job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
    status = await job.status()
    assert (status.state, status.returncode, status.signal, status.ended) == ("running", None, None, None)
    assert status.started is not None
    with pytest.raises(BusyError):
        await job.forget()
    status = await job.kill()
    assert (status.state, status.returncode, status.signal) == ("exited", -15, "TERM")
    assert await job.kill() == status
    assert not marked_processes(mark)
    await job.forget()


async def test_nasty_strings_arrive_byte_for_byte(machine: Machine, records: str) -> None:
    """The nasty strings as arguments, values, directories and names of files."""
    job = await machine.detach("/usr/bin/printf", "%s\\0", *NASTY, records=records)
    values = {f"V{number}": word for number, word in enumerate(NASTY)}
    script = "for n; do eval printf '%s\\\\0' '\"$V'$n'\"'; done"
    seen = await machine.detach("sh", "-c", script, "sh", *range(len(NASTY)), env=values, records=records)
    expected = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in NASTY)
    for one in (job, seen):
        assert (await one.wait()).returncode == 0
        assert (await one.tail()).data == expected
        await one.forget()
    async with machine.tempdir() as folder:
        await machine.run("ln", "-s", "/bin/echo", folder / "a=b c")
        job = await machine.detach("./a=b c", "said", cwd=str(folder), env={"X": 1}, records=records)
        await job.wait()
        assert (await job.tail()).data == b"said\n"
        await job.forget()
        for name in ("-n\n", "it's $HOME ☃\x01"):
            await machine.run("mkdir", "--", name, cwd=str(folder))
            job = await machine.detach("pwd", cwd=str(folder / name), stdout=f"{name}\n", records=records)
            await job.wait()
            assert (await job.tail()).data == (await machine.run("cat", folder / name / f"{name}\n")).stdout_bytes
            assert (await job.tail()).data == f"{folder}/{name}\n".encode()
            await job.forget()


async def test_the_environment_is_the_scopes_and_is_in_no_command_line(
    machine: Machine, records: str, mark: str
) -> None:
    with machine.env(PATH="/nowhere", HOME="/nowhere", XDG_STATE_HOME="/nowhere", LC_ALL=mark, GONE=None):
        job = await machine.detach(
            "/bin/sh",
            "-c",
            'echo "$PATH $HOME $LC_ALL $X ${GONE-unset}"; exec /bin/sleep 600',
            env={"X": 1},
            records=records,
        )
        async with job.follow() as pieces:
            assert await next_line(pieces) == f"/nowhere /nowhere {mark} 1 unset\n".encode()
        lines = [Path("/proc", str(pid), "cmdline").read_bytes() for pid in marked_processes(mark)]
        assert lines
        assert not [line for line in lines if mark.encode() in line]
        environ = Path("/proc", life(records, job.id)[2], "environ").read_bytes().split(b"\0")
        names = {variable.partition(b"=")[0] for variable in environ}
        assert not [name for name in names if name.startswith((b"aj_", b"aioremote_env"))]
        await job.kill()
        await job.forget()


# what does not start


async def test_what_cannot_start_says_so_and_leaves_nothing(machine: Machine, records: str) -> None:
    """Promise 77: a job exists once its program has begun."""
    with pytest.raises(CommandNotFound) as missing:
        await machine.detach("no-such-program", "x", records=records)
    assert (missing.value.program, missing.value.cmd) == ("no-such-program", ["no-such-program", "x"])
    assert "/usr/bin" in missing.value.path
    with pytest.raises(CommandNotFound):
        await machine.detach("/no/such/program", records=records)
    with pytest.raises(PermissionError):
        await machine.detach("/etc/passwd", records=records)
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        await machine.detach("true", cwd="/no/such/folder", records=records)
    with pytest.raises(FileNotFoundError, match="/no/such/log"):
        await machine.detach("true", stdout="/no/such/log", records=records)
    with pytest.raises(IsADirectoryError):
        await machine.detach("true", stderr=machine.path("/usr"), records=records)
    with pytest.raises(FileError, match="records="):
        await machine.detach("true", records="/etc/passwd/jobs")
    assert os.listdir(records) == []


async def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    machine = LocalMachine()
    await machine.aclose()  # so that sending anything would be a ClosedError
    for bad in ("", ".", "..", "a/b", "../x", "-x", "a b", "a\n", "a\0", "$(id)", "x" * 65, "é"):
        with pytest.raises(ValueError, match="job id"):
            machine.job(bad)
    with pytest.raises(ValueError, match="absolute"):
        machine.job("abc", records="relative")
    for keywords in ({"stdout": ""}, {"env": {"A=B": "1"}}, {"cwd": "a\0b"}, {"timeout": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(keywords))}|environment"):
            await machine.detach("true", **keywords)
    with pytest.raises(ValueError, match="program"):
        await machine.detach("-true")
    with pytest.raises(TypeError, match="RemotePath"):
        await machine.detach("true", stdout=Path("log"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another machine"):
        await machine.detach("true", stdout=Machine(LocalTransport(), host="web2").path("log"))
    job = machine.job("abc")
    with pytest.raises(ValueError, match="signal"):
        await job.kill("TERM; id")
    with pytest.raises(ValueError, match="stream"):
        await job.tail(stream="stdin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="offset"):
        job.follow(-1)


async def test_a_login_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    async with LocalMachine() as machine:
        with pytest.raises(FileError, match=r"HOME.*records="):
            await machine.detach("true")
        monkeypatch.setenv("HOME", "/proc/self")
        with pytest.raises(FileError, match=r"/proc/self/.local/state/aioremote/jobs.*records="):
            await machine.detach("true")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        job = await machine.detach("true")
        await job.wait()
        assert os.listdir(tmp_path / "aioremote" / "jobs") == [job.id]
        assert stat.S_IMODE((tmp_path / "aioremote" / "jobs").stat().st_mode) == 0o700


async def test_a_job_is_found_at_home_under_any_scope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    async with LocalMachine() as machine:
        with machine.env(HOME="/nowhere"), machine.cwd("/"):
            job = await machine.detach("true")
        assert (await machine.job(job.id).wait()).returncode == 0
        assert os.listdir(tmp_path / ".local/state/aioremote/jobs") == [job.id]


# output


async def test_output_goes_to_far_files(machine: Machine, records: str) -> None:
    async with machine.tempdir() as folder:
        script = "echo 1; echo 2 >&2; echo 3"
        log = folder / "log"
        await machine.run("sh", "-c", 'echo old >"$0"', log)
        job = await machine.detach("sh", "-c", script, stdout=log, stderr=log, records=records)
        await job.wait()
        assert (await machine.run("cat", log)).stdout == "1\n2\n3\n"
        assert await job.tail(2) == (b"2\n3\n", 6)
        await job.forget()
        assert await log.exists()
        job = await machine.detach("sh", "-c", script, cwd=str(folder), stdout="new", records=records)
        await job.wait()
        assert (await machine.run("cat", folder / "new")).stdout == "1\n3\n"
        assert (await job.tail(stream="stderr")).data == b"2\n"
        await (folder / "new").unlink()
        with pytest.raises(FileNotFoundError):
            await job.tail()
        await job.forget()


async def test_tail_takes_offsets_and_bounds(machine: Machine, records: str) -> None:
    job = await machine.detach("printf", "\\000\\377\\r\\n%s", "0123456789", records=records)
    await job.wait()
    assert await job.tail(max_bytes=5) == (b"\0\xff\r\n0", 5)
    assert await job.tail(5) == (b"123456789", 14)
    assert await job.tail(14) == (b"", 14)
    assert await job.tail(-3) == (b"789", 14)
    assert await job.tail(-300, max_bytes=2) == (b"\0\xff", 2)
    await job.forget()


async def test_follow_gives_output_as_it_comes_to_the_very_end(machine: Machine, records: str) -> None:
    async with machine.tempdir() as folder:
        script = 'echo one; while ! [ -e "$0" ]; do sleep 0.02; done; head -c 300000 /dev/zero; printf end'
        job = await machine.detach("sh", "-c", script, folder / "go", records=records)
        following = job.follow()
        assert await next_line(following) == b"one\n"
        await machine.run("touch", folder / "go")
        rest = b"".join([piece async for piece in following])
        assert rest == bytes(300_000) + b"end"
        assert following.offset == 300_007
        assert [piece async for piece in job.follow(300_004)] == [b"end"]
        await job.forget()


async def test_leaving_follow_early_ends_the_reading_alone(machine: Machine, records: str, mark: str) -> None:
    job = await machine.detach("sh", "-c", "echo up; sleep 600", records=records, env={"MARK": mark})
    async with job.follow() as pieces:
        async for piece in pieces:
            assert b"up\n".startswith(piece)
            break
    assert (await job.status()).state == "running"
    assert marked_processes(mark)
    reading = f"{records}/{job.id}/stdout"
    await until(lambda: not [line for line in marked_processes(reading).values() if line.startswith("tail ")])
    await job.kill()
    await job.forget()


# waiting


async def test_waiting_neither_holds_nor_hurts_the_job(machine: Machine, records: str, mark: str) -> None:
    job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
    with pytest.raises(CommandTimeout, match="still running after"):
        await job.wait(timeout=0.3)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(job.wait()) for _ in range(3)]
        given_up = group.create_task(job.wait())
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await job.status()).state == "running"
        await machine.run("kill", "-9", life(records, job.id)[2])
    assert [task.result().signal for task in waiting] == ["KILL"] * 3
    await job.forget()


@pytest.mark.parametrize("kind", ["local", "ssh-root"])
async def test_cancelled_anywhere_a_detach_leaves_nothing(
    kind: str, aioremote_sshd: Sshd, aioremote_user: TestUser, records: str, mark: str
) -> None:
    """Promise 77, and 117: nobody got the id."""

    async with machine_of(kind, aioremote_sshd, aioremote_user) as machine:

        async def detach() -> None:
            job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
            await job.kill()
            await job.forget()

        async def nothing_is_left() -> None:
            for job_id in os.listdir(records):  # of a kill or forget that was cancelled
                job = machine.job(job_id, records=records)
                await job.kill()
                await job.forget()
            await until(lambda: not marked_processes(mark) and not os.listdir(records))

        await cancel_everywhere(detach, nothing_is_left, most=15)


@pytest.mark.parametrize("seen", ["*", "*/alive", "*/life"])
async def test_cancelled_in_mid_start_a_detach_leaves_nothing(
    machine: Machine, records: str, mark: str, seen: str
) -> None:
    """Promises 77, 117: what had left the command's group and session is found all the same."""
    detaching = machine.detach("sleep", "600", env={"MARK": mark}, records=records)
    task = asyncio.get_running_loop().create_task(detaching)
    await until(lambda: list(Path(records).glob(seen)))
    if task.cancel():
        await asyncio.wait({task}, timeout=10)
    if not task.cancelled():  # it was quicker
        await task.result().kill()
        await task.result().forget()
    await until(lambda: not marked_processes(mark) and not os.listdir(records))


# ending


async def test_kill_ends_a_tree_that_ignores_term(machine: Machine, records: str, mark: str) -> None:
    job = await machine.detach("sh", "-c", STUBBORN, env={"MARK": mark}, records=records)
    async with job.follow() as pieces:
        assert await next_line(pieces) == b"up\n"
    began = time.monotonic()
    status = await job.kill()
    took = time.monotonic() - began
    assert took >= 0.4
    assert in_time(took, 5)
    assert (status.returncode, status.signal) == (-9, "KILL")
    assert not marked_processes(mark)
    await job.forget()


async def test_one_signal_alone(machine: Machine, records: str) -> None:
    job = await machine.detach(
        "sh", "-c", "trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.05; done", records=records
    )
    async with job.follow() as pieces:
        assert await next_line(pieces) == b"up\n"
        await job.kill("USR1", grace=None)
        assert await next_line(pieces) == b"got it\n"
    assert (await job.wait()).returncode == 7
    await job.forget()


async def test_a_job_is_deaf_to_no_signal(machine: Machine, records: str) -> None:
    """What a shell starts in its background ignores INT and QUIT."""
    job = await machine.detach("grep", "^Sig[BI]", "/proc/self/status", records=records)
    await job.wait()
    _, blocked, _, ignored = (await job.tail()).data.decode().split()
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ((1 << 3) - 1) == 0  # HUP, INT, QUIT
    await job.forget()
    job = await machine.detach("sleep", "600", records=records)
    status = await job.kill(signal.SIGINT, grace=5)
    assert (status.returncode, status.signal) == (-2, "INT")
    await job.forget()


# outliving


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_outlives_its_connection(
    kind: str, aioremote_sshd: Sshd, aioremote_user: TestUser, records: str, mark: str
) -> None:
    """Promise 77: closed, aborted, with the guard open."""
    ids: list[str] = []

    def sleeps() -> list[int]:
        return [pid for pid, line in marked_processes(mark).items() if line == "sleep 600"]

    async with road(kind, aioremote_sshd, aioremote_user) as connect:
        for graceful in (True, False):
            async with connect() as machine:
                async with asyncio.TaskGroup() as group:  # with a second concurrent command comes a guard
                    group.create_task(machine.run("true"))
                    script = "sleep 600; echo ended; exit 5"
                    task = group.create_task(machine.detach("sh", "-c", script, env={"MARK": mark}, records=records))
                ids.append(task.result().id)
                if not graceful:
                    machine.abort()
        await until(lambda: len(sleeps()) == 2)
        async with connect() as machine:
            jobs = [machine.job(job_id, records=records) for job_id in ids]
            assert [(await job.status()).state for job in jobs] == ["running"] * 2
            for pid in sleeps():
                os.kill(pid, signal.SIGTERM)
            for job in jobs:
                assert (await job.wait()).returncode == 5
                assert (await job.tail()).data == b"ended\n"
                await job.forget()
    assert os.listdir(records) == []


DETACH = """
import asyncio, os, signal, sys
from aioremote import LocalMachine

async def main():
    machine = await LocalMachine().connect()
    records, go = sys.argv[1:]
    job = await machine.detach("sh", "-c", 'until [ -e "$0" ]; do sleep 0.02; done', go, records=records)
    print(job.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_started_by_one_process_and_finished_by_another(records: str, tmp_path: Path) -> None:
    """Promise 77: ours was killed."""
    go = tmp_path / "go"
    done = subprocess.run(
        [sys.executable, "-c", DETACH, records, str(go)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    async with LocalMachine() as machine:
        job = machine.job(done.stdout.strip(), records=records)
        assert (await job.status()).state == "running"
        go.touch()
        assert (await job.wait(timeout=20)).returncode == 0
        await job.forget()


@pytest.mark.parametrize("kind", ["ssh-root", "ssh-user", "ssh-embedded"])
async def test_a_link_lost_in_mid_start_leaves_a_whole_job_or_none(
    kind: str, aioremote_sshd: Sshd, aioremote_user: TestUser, records: str, mark: str
) -> None:
    """Promise 77."""

    def whole_or_none() -> bool:
        ids = os.listdir(records)
        running = bool(marked_processes(mark))
        return not running if not ids else all(Path(records, one, "life").exists() for one in ids) and running

    async with road(kind, aioremote_sshd, aioremote_user) as connect:
        for seen in ("*", "*/alive", "*/life"):
            async with connect() as machine:
                detaching = machine.detach("sleep", "600", env={"MARK": mark}, records=records)
                task = asyncio.get_running_loop().create_task(detaching)
                await until(lambda seen=seen: list(Path(records).glob(seen)))  # type: ignore[misc]
                machine.abort()
                await asyncio.wait({task}, timeout=10)
                if task.exception() is not None:
                    assert isinstance(task.exception(), (ClosedError, ConnectionLost))
            await until(whole_or_none)
            async with connect() as machine:
                for job_id in os.listdir(records):
                    job = machine.job(job_id, records=records)
                    assert (await job.kill()).state == "exited"
                    await job.forget()
            assert os.listdir(records) == []
            assert not marked_processes(mark)


@pytest.mark.parametrize("kind", ["local", "ssh-root"])
async def test_50_jobs_at_once(
    kind: str, aioremote_sshd: Sshd, aioremote_user: TestUser, records: str, mark: str
) -> None:
    async with machine_of(kind, aioremote_sshd, aioremote_user) as machine:

        async def one(number: int) -> bytes:
            job = await machine.detach("sh", "-c", "echo $0; exit $0", number, env={"MARK": mark}, records=records)
            assert (await job.wait()).returncode == number
            said = (await job.tail()).data
            await job.forget()
            return said

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(50)]
        assert [task.result() for task in tasks] == [b"%d\n" % number for number in range(50)]
    assert os.listdir(records) == []
    assert not marked_processes(mark)


# lost


async def test_a_killed_watcher_leaves_a_lost_job_that_can_be_ended(records: str, mark: str) -> None:
    async with LocalMachine() as machine:
        job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(job.wait())
            await until(lambda: marked_processes("wait"))
            os.kill(int(life(records, job.id)[0]), signal.SIGKILL)
        status = waiting.result()
        assert (status.state, status.returncode, status.signal, status.ended) == ("lost", None, None, None)
        assert status.started is not None
        assert marked_processes(mark)
        assert (await job.kill()).state == "lost"
        await until(lambda: not marked_processes(mark))
        await job.forget()
    assert os.listdir(records) == []


async def test_a_recycled_number_is_never_taken_for_the_job(records: str, mark: str) -> None:
    """After a reboot, or long enough after the job's end, its numbers belong to somebody else."""
    async with LocalMachine() as machine:
        job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
        words = life(records, job.id)
        boot, _, ticks = words[3].partition(":")
        assert len(boot) == 36
        assert ticks.isdigit()
        for birth in (f"{boot}:{int(ticks) + 100_000}", f"{'0' * 36}:{ticks}"):
            Path(records, job.id, "life").write_text(" ".join([words[0], birth, words[2], birth, words[4]]) + "\n")
            assert (await job.status()).state == "lost"
            assert (await job.wait(timeout=10)).state == "lost"
            assert (await job.kill()).state == "lost"
            assert marked_processes(mark)
        Path(records, job.id, "life").write_text(" ".join(words) + "\n")
        assert (await job.kill()).signal == "TERM"


# other systems


@pytest.mark.parametrize("shell", SHELLS)
async def test_exit_statuses_and_signals_are_told_apart(shell: str, tmp_path: Path, records: str) -> None:
    """What a shell's `wait` says of both is the same number."""
    ends = {"exit 137": (137, None), "kill -9 $$": (-9, "KILL"), "exit 143": (143, None), "kill -15 $$": (-15, "TERM")}
    ends |= {"kill -2 $$": (-2, "INT"), "exit 147": (147, None), "exit 255": (255, None), "kill -6 $$": (-6, "ABRT")}
    if shell in ("mksh", "zsh"):  # it tells nothing of TERM, so a status that may be TERM's is
        ends |= {"exit 143": (-15, "TERM")}
    if shell == "zsh":
        ends |= {"exit 137": (-9, "KILL")}
    async with under_shell(tmp_path, shell) as machine:

        async def check(script: str, expected: tuple[int, str | None]) -> None:
            job = await machine.detach("dash", "-c", f"ulimit -c 0; {script}", records=records)
            status = await job.wait()
            assert (status.returncode, status.signal) == expected, script

        async with asyncio.TaskGroup() as group:
            for script, expected in ends.items():
                group.create_task(check(script, expected))


@pytest.mark.parametrize("shell", SHELLS)
async def test_one_process_stays_beside_the_program(shell: str, tmp_path: Path, records: str, mark: str) -> None:
    async with under_shell(tmp_path, shell) as machine:
        job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
        await until(lambda: len(marked_processes(mark)) == 2)
        await job.kill()
        assert not marked_processes(mark)
        await job.forget()


@pytest.mark.parametrize("shell", SHELLS)
async def test_the_script_runs_under_every_shell(shell: str, tmp_path: Path, records: str, mark: str) -> None:
    async with under_shell(tmp_path, shell) as machine:
        await test_a_job_from_its_start_to_its_end(machine, records)
        async with asyncio.TaskGroup() as group:
            group.create_task(test_nasty_strings_arrive_byte_for_byte(machine, records))
            group.create_task(test_kill_ends_a_tree_that_ignores_term(machine, records, mark))
            group.create_task(test_a_job_is_deaf_to_no_signal(machine, records))
        with pytest.raises(CommandNotFound):
            await machine.detach("no-such-program", records=records)
        with pytest.raises(FileNotFoundError):
            await machine.detach("true", stdout="/no/such/log", records=records)
        assert os.listdir(records) == []


async def test_busybox_brings_everything_itself(tmp_path: Path, records: str, mark: str) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is not installed"
    (tmp_path / "bin").mkdir()
    for name in (*TOOLS, "sh", "setsid", "grep", "printf", "pwd", "mktemp"):
        (tmp_path / "bin" / name).symlink_to(busybox)
    change = (b"/bin/sh", os.fsencode(tmp_path / "bin" / "sh"))
    async with Machine(Changed(change, path=str(tmp_path / "bin")), host="busybox") as machine:
        job = await machine.detach("sh", "-c", STUBBORN, env={"MARK": mark}, records=records)
        async with job.follow() as pieces:
            assert await next_line(pieces) == b"up\n"
        assert (await job.kill()).signal == "KILL"
        assert await job.tail(-2) == (b"p\n", 3)
        await until(lambda: not marked_processes(mark))
        await job.forget()


async def test_without_setsid_a_shell_with_job_control_will_do(tmp_path: Path, records: str, mark: str) -> None:
    path = tools(tmp_path / "bin", *TOOLS)
    (tmp_path / "sh").mkdir()
    change = (b"/bin/sh", shell_at(tmp_path / "sh", "bash"))
    async with Machine(Changed(change, path=path), host="bash") as machine:
        job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
        watcher, pid = life(records, job.id)[0], life(records, job.id)[2]
        assert os.getpgid(int(pid)) == int(pid) != os.getpgid(int(watcher))
        assert (await job.kill()).signal == "TERM"
        await job.forget()
    async with Machine(Changed(path=path), host="dash") as machine:
        with pytest.raises(UnsupportedError, match="setsid"):
            await machine.detach("sleep", "600", records=records)
    assert os.listdir(records) == []


async def test_without_proc_ps_tells_who_is_who(records: str, mark: str) -> None:
    async with Machine(Changed((b"/proc/", b"/no/proc/")), host="no-proc") as machine:
        job = await machine.detach("sleep", "600", env={"MARK": mark}, records=records)
        words = life(records, job.id)
        assert len(words) == 5
        assert (await job.status()).state == "running"
        Path(records, job.id, "life").write_text(" ".join([words[0], "then", words[2], "then", words[4]]) + "\n")
        assert (await job.status()).state == "lost"
        assert (await job.kill()).state == "lost"
        assert marked_processes(mark)
        Path(records, job.id, "life").write_text(" ".join(words) + "\n")
        assert (await job.kill()).signal == "TERM"
        await job.forget()


async def test_where_there_are_no_fifos_the_far_end_looks_now_and_then(tmp_path: Path, records: str) -> None:
    path = tools(tmp_path / "bin", *[name for name in TOOLS if name != "mkfifo"], "setsid", "sh")
    async with Machine(Changed(path=path), host="no-fifo") as machine:
        job = await machine.detach("sleep", "0.2", records=records)
        assert not Path(records, job.id, "alive").exists()
        assert (await job.wait(timeout=20)).returncode == 0
        await job.forget()
