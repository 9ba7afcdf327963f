"""A Python at the far end: found, started in any shell, and explained where it does not come up."""

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from anyio.abc import ByteSendStream
from tests.outpost.conftest import Under, after, payload, probing, pythons
from tests.pace import in_time

from aioremote import BootstrapError, PythonNotFound, PythonTooOld
from aioremote._core.deadline import Deadline
from aioremote.outpost.launch import launch
from aioremote.outpost.stages import EXIT_CUT
from aioremote.protocols import FarProcess, Transport
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

HERE = Path(__file__).parent


class _Sending(ByteSendStream):
    """An input that keeps what is sent, and may end early."""

    def __init__(self, real: ByteSendStream, most: int | None) -> None:
        self._real = real
        self._most = most
        self.sent = b""

    async def send(self, item: bytes) -> None:
        self.sent += item
        await self._real.send(item[: self._most])
        if self._most is not None:
            await self._real.aclose()

    async def aclose(self) -> None:
        await self._real.aclose()


class Recording(LocalTransport):
    """This machine; keeps the last process and what it was sent, at most `most` bytes of which arrive."""

    process: FarProcess
    stdin: _Sending

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._most = most

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        self.process = await super().start_process(spec)
        assert self.process.stdin is not None
        self.process.stdin = self.stdin = _Sending(self.process.stdin, self._most)
        return self.process


async def refused(
    transport: Transport, kind: type[BootstrapError] = BootstrapError, *, seconds: float = 10, **keywords: object
) -> BootstrapError:
    """Launch where that cannot succeed; returns the error, after less time than the deadline and 1 s."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        await launch(transport, payload(), deadline=Deadline(seconds), **keywords)  # type: ignore[arg-type]
    assert in_time(time.monotonic() - began, seconds + 1)
    assert type(caught.value) is kind
    await transport.aclose()
    return caught.value


async def in_every_python(make: Callable[[], Transport], expression: str, **keywords: object) -> dict[str, object]:
    """Ask all far Pythons at once."""

    async def ask(python: str) -> object:
        transport = make()
        try:
            async with probing(transport, python=python, **keywords) as probe:
                return await probe.ask(expression)
        finally:
            await transport.aclose()

    async with asyncio.TaskGroup() as group:
        tasks = {version: group.create_task(ask(path)) for version, path in pythons().items()}
    return {version: task.result() for version, task in tasks.items()}


# --- what comes up ----------------------------------------------------------------------------------------------------


async def test_what_is_known_of_a_far_python() -> None:
    transport = LocalTransport()
    async with probing(transport, options={"a": [1, "é\n"]}) as probe:
        launched = probe.launched
        assert launched.version >= (3, 6)
        assert await probe.ask("(os.getpid(), os.sys.executable)") == (launched.pid, launched.executable)
        assert await probe.ask("options") == {"a": [1, "é\n"]}
        assert re.fullmatch("[0-9a-f]{32}", str(await probe.ask("nonce")))
        assert await probe.ask("os.sys.argv") == ["-c"]
        assert launched.process.pid == launched.pid  # the shell that looked for it has become it
        assert (launched.noise, launched.stderr.text) == (b"", "")
    await transport.aclose()


async def test_what_prints_does_not_reach_the_stream() -> None:
    """Descriptor 0 reads nothing, 1 goes where 2 goes, and both are kept for errors."""
    transport = LocalTransport()
    launched = await launch(transport, payload(), deadline=Deadline(10))
    await launched.stdin.send(b"(os.read(0, 9), os.system('echo loud; echo louder >&2; cat'), print('python'))\n")
    assert await launched.stdout.receive() == b"(b'', 0, None)\n"
    await launched.stdin.aclose()
    await launched.process.wait()
    assert sorted(launched.stderr.text.split()) == ["loud", "louder", "python"]
    await transport.aclose()


async def test_far_tracebacks_show_the_lines_of_shipped_code() -> None:
    for told in (await in_every_python(LocalTransport, "fail()")).values():
        assert 'File "aioremote/outpost/far/probe.py", line' in str(told)
        assert "this line is looked for" in str(told)


async def test_python_writes_no_bytecode_and_can_be_isolated(tmp_path: Path) -> None:
    """PYTHONPATH may put a module in place of Python's own; only isolation stops that."""
    (tmp_path / "select.py").write_text("raise SystemExit(77)")
    (tmp_path / "mine.py").write_text("")

    def hijacked() -> Under:
        return Under("env", f"PYTHONPATH={tmp_path}")

    flags = "(os.sys.flags.dont_write_bytecode, os.sys.flags.isolated)"
    assert set((await in_every_python(hijacked, flags, isolated=True)).values()) == {(1, 1)}
    error = await refused(hijacked())
    assert "exit status 77" in str(error)
    (tmp_path / "select.py").unlink()
    async with probing(transport := hijacked()) as probe:
        assert await probe.ask("__import__('mine').__name__") == "mine"
    await transport.aclose()


# --- where it starts --------------------------------------------------------------------------------------------------

PLACES = {
    "no HOME": lambda: Under("env", "-u", "HOME"),
    "HOME that does not exist": lambda: Under("env", "HOME=/no/such/home"),
    "deleted directory": lambda: after('d=$(mktemp -d); cd "$d"; rmdir "$d"'),
    "/tmp read-only and noexec": lambda: Under(
        "unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro,noexec none /tmp && exec "$@"', "sh"
    ),
    "LANG=C": lambda: Under("env", "LANG=C", "LC_ALL=C"),
    "umask 077": lambda: after("umask 077"),
    "64 descriptors": lambda: after("ulimit -n 64"),
    "empty environment": lambda: Under("env", "-i"),
    "empty PATH": lambda: Under("env", "PATH="),
    "no standard error": lambda: after("exec 2>&-"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_it_starts_in_bad_places(place: str) -> None:
    """Promise 10, in every Python."""
    assert await in_every_python(PLACES[place], "6 * 7") == dict.fromkeys(pythons(), 42)


async def test_without_a_path_python_is_found_where_systems_have_it() -> None:
    async with probing(transport := Under("env", "PATH=")) as probe:
        assert str(await probe.ask("os.sys.executable")).startswith("/")
    await transport.aclose()


async def test_input_and_output_may_be_one_socket_that_does_not_block() -> None:
    """Promise 7."""

    def one_socket() -> Under:
        return Under("python3", str(HERE / "one_socket.py"))

    assert await in_every_python(one_socket, "(was_blocking, 6 * 7)") == dict.fromkeys(pythons(), (False, 42))


async def test_modules_in_the_directory_are_not_imported(tmp_path: Path) -> None:
    """Promise 8: neither of stage 0's imports nor of later ones."""
    for name in ("select", "zlib", "json", "hashlib", "_hashlib", "importlib", "linecache", "tokenize", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)")
    asked = "(__import__('json').loads('[1]'), __import__('select').__name__, '' in os.sys.path)"
    answers = await in_every_python(lambda: after(f"cd {tmp_path}; HOME=$PWD"), asked)
    assert answers == dict.fromkeys(pythons(), ([1], "select", False))


async def test_nothing_is_written_at_the_far_end(tmp_path: Path) -> None:
    """Promise 9: a fresh standard library without byte code, HOME and TMPDIR are as before."""
    (python,) = pythons(("3.6",)).values()
    root = Path(python).parent.parent
    no_byte_code = shutil.ignore_patterns("__pycache__", "test", "site-packages", "idlelib", "ensurepip", "config-*")
    shutil.copytree(root / "lib/python3.6", tmp_path / "lib/python3.6", ignore=no_byte_code)
    for folder in ("home", "tmp"):
        (tmp_path / folder).mkdir()

    def snapshot() -> dict[str, object]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = snapshot()
    assert not [name for name in before if name.endswith(".pyc")]
    transport = Under("env", f"PYTHONHOME={tmp_path}", f"HOME={tmp_path}/home", f"TMPDIR={tmp_path}/tmp")
    async with probing(transport, python=python) as probe:
        assert str(tmp_path) in str(await probe.ask("__import__('json').__file__ + fail()[:0]"))
    await transport.aclose()
    assert snapshot() == before


# --- what login files do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * 1024])
async def test_noise_before_ready_is_kept(size: int) -> None:
    """Promise 2: up to 64 KiB are ignored."""
    async with probing(transport := after(f"head -c {size} /dev/zero | tr '[:cntrl:]' n")) as probe:
        assert probe.launched.noise == b"n" * size
    await transport.aclose()


@pytest.mark.parametrize("size", [64 * 1024 + 1, 300_000, 50_000_000])
async def test_too_much_noise_is_an_error_with_its_end(size: int) -> None:
    """Promise 2: more is refused, with the last 4 KiB."""
    error = await refused(after(f"head -c {size} /dev/zero | tr '[:cntrl:]' n"))
    assert "more than 64 KiB" in str(error)
    assert len(error.noise) == 4096


async def test_a_shell_that_echoes_its_line_is_noise() -> None:
    async with probing(transport := after('echo "$@"; set -x')) as probe:
        assert b"python3" in probe.launched.noise
    await transport.aclose()


async def test_a_login_file_that_reads_with_a_timeout_gets_nothing() -> None:
    """Promise 3: what is shipped is sent after READY."""
    async with probing(transport := Under("bash", "-c", 'read -t 0.2 x; echo "got <$x>"; exec "$@"', "bash")) as probe:
        assert probe.launched.noise == b"got <>\n"
    await transport.aclose()


async def test_a_login_file_that_waits_for_input_is_told() -> None:
    """Promise 3: no READY came within the time."""
    error = await refused(after("read x"), seconds=0.5)
    assert "no READY came (a login file may wait for input" in str(error)
    assert "within 0.5 s" in str(error)


# --- which Python -----------------------------------------------------------------------------------------------------


async def refused_unsent(kind: type[BootstrapError], python: str) -> BootstrapError:
    transport = Recording()
    error = await refused(transport, kind, seconds=1, python=python)
    assert transport.stdin.sent == b""
    return error


async def test_no_python_is_told_with_all_names() -> None:
    """Promise 4: within 1 s, and nothing was sent."""
    error = await refused_unsent(PythonNotFound, "/no/such/python")
    assert "/no/such/python" in str(error)
    assert "python=" in str(error)
    assert error.tried[0].startswith("/no/such/python: ")


async def test_an_old_python_is_told_with_its_version(fake_python: Callable[..., str]) -> None:
    """Promise 4: 2.7 and 3.5, within 1 s, and nothing was sent."""
    (real,) = pythons(("2.7",)).values()
    for python, version in ((real, "Python 2.7."), (fake_python("", "Python 3.5.10"), "Python 3.5.10")):
        error = await refused_unsent(PythonTooOld, python)
        assert version in str(error)
        assert f"{python}: {version}" in error.tried[0]


async def test_the_search_passes_over_what_cannot_be_used(tmp_path: Path, fake_python: Callable[..., str]) -> None:
    """An old python3 and a shim that refuses to run come before the right one."""
    (tmp_path / "python3").symlink_to(fake_python("", "Python 3.5.10"))
    shim = tmp_path / "python3.14"
    shim.write_text("#!/bin/sh\ncat; echo 'no version set' >&2; exit 127\n")
    shim.chmod(0o755)
    (tmp_path / "python3.6").symlink_to(pythons()["3.6"])
    async with probing(transport := after(f"PATH={tmp_path}")) as probe:
        assert probe.launched.version[:2] == (3, 6)
    await transport.aclose()


# --- a far end that is not what it should be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "then",
    [
        'echo "$ready"; echo "$ready"; cat',
        'echo "$ready"; read x; echo "$ready"; cat',
        'echo "$ready"; read x; echo 0123456789abcdef0123456789abcdef 3.11.7 1 2f; cat',
        'echo "$ready"; head -c 100000 /dev/urandom; cat',
    ],
)
async def test_a_wrong_answer_is_refused_at_once(fake_python: Callable[[str], str], then: str) -> None:
    """Promise 12: READY twice, or a wrong nonce."""
    error = await refused(LocalTransport(), seconds=5, python=fake_python(then))
    assert "instead of the outpost's answer" in str(error)


async def test_an_answer_that_does_not_come_is_told(fake_python: Callable[[str], str]) -> None:
    """Promise 12: no hang."""
    error = await refused(LocalTransport(), seconds=0.5, python=fake_python('echo "$ready"; exec cat >/dev/null'))
    assert "Python was ready, but the outpost did not answer within 0.5 s" in str(error)


async def test_a_python_that_ends_is_told_with_its_standard_error(fake_python: Callable[[str], str]) -> None:
    for then, told in (
        ("echo sorry >&2; exit 3", "no READY came.*exit status 3\n.*sorry"),
        ('echo "$ready"; echo sorry >&2; exit 3', "did not answer: exit status 3\n.*sorry"),
        ("kill -9 $$", "no READY came.*SIGKILL"),
    ):
        error = await refused(LocalTransport(), python=fake_python(then))
        assert re.search(told, str(error), re.DOTALL), str(error)


async def test_a_far_module_that_fails_is_told_with_its_traceback() -> None:
    broken = payload(broken="import os\n\nos.no_such_name\n")
    with pytest.raises(BootstrapError, match="exit status 1") as caught:
        await launch(transport := LocalTransport(), broken, deadline=Deadline(10))
    assert 'File "aioremote/outpost/far/broken.py", line 3' in caught.value.stderr
    await transport.aclose()


@pytest.mark.parametrize("most", [0, 1, 300, 800, -1])
async def test_input_that_is_cut_is_told(most: int) -> None:
    """Promise 5: exit 9 within 1 s and BootstrapError; `test_stages` has every byte."""
    transport = Recording(most)
    error = await refused(transport, seconds=5)
    assert "its input ended early" in str(error)
    status = transport.process.status
    assert status is not None
    assert status.returncode == EXIT_CUT


async def test_a_cancel_anywhere_leaves_nothing(mark: str) -> None:
    """Promise 13."""
    transport = Under("env", f"MARK={mark}")

    async def attempt() -> None:
        launched = await launch(transport, payload(), deadline=Deadline(10))
        await launched.process.aclose()

    async def check() -> None:
        await until(lambda: not marked_processes(mark), seconds=2)

    assert await cancel_everywhere(attempt, check) > 3
    await transport.aclose()
