"""Shells that stay."""

import asyncio
import pickle
from pathlib import Path

import pytest
from tests.conformance.conftest import told_signal
from tests.conformance.test_running import NASTY

from aioremote import (
    BusyError,
    ClosedError,
    CommandFailed,
    CommandNotFound,
    CommandTimeout,
    FileError,
    LocalMachine,
    Machine,
    OutputLimitExceeded,
    SessionEnded,
    UnsupportedError,
)
from aioremote._core.quoting import quote_posix
from aioremote.commands.sessions import Session
from aioremote.testing.checks import cancel_everywhere

SHELLS = ["sh", "bash", "dash", "busybox", "ksh93", "mksh", "zsh"]
DATA = bytes(range(256)) * 300


async def test_directory_variables_and_functions_stay(machine: Machine) -> None:
    async with machine.session() as sh:
        await sh.run("cd /usr; x='a  b'; export Y=z; f() { echo \"f $1\"; }")
        result = await sh.run("pwd; echo \"$x\"; sh -c 'echo $Y'; f 1")
        assert result.stdout == "/usr\na  b\nz\nf 1\n"
        assert (result.args[0], result.returncode, result.host) == ("/bin/sh", 0, machine.host)
        assert (await sh.run("(exit 3)", check=False)).returncode == 3
        assert (await sh.run("echo $?")).stdout == "3\n"


async def test_output_is_verbatim_and_apart(machine: Machine) -> None:
    async with machine.session() as sh:
        for line, out, err in [
            ("printf 'no newline'", b"no newline", b""),
            ("echo one", b"one\n", b""),
            ("printf 'a\\n\\n\\n'; printf 'b\\n\\n' >&2", b"a\n\n\n", b"b\n\n"),
            ("", b"", b""),
            ("# nothing", b"", b""),
            ("printf 'a\\000\\377b' >&2", b"", b"a\0\xffb"),
            ("exec 1>&-; echo lost; echo why >&2", b"", None),
            ("echo next", b"next\n", b""),
        ]:
            result = await sh.run(line, check=False)
            assert result.stdout_bytes == out, line
            assert err is None or result.stderr_bytes == err, line
        result = await sh.run("head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2")
        assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (300_000, 200_000)


async def test_words_arrive_byte_for_byte(machine: Machine) -> None:
    """Promise 45."""
    words = [word if isinstance(word, bytes) else word.encode() for word in NASTY]
    quoted = [quote_posix(word).encode(errors="surrogateescape") for word in words]
    async with machine.session() as sh:
        result = await sh.run(b"printf '%s\\0' " + b" ".join(quoted))
        assert result.stdout_bytes == b"".join(word + b"\0" for word in words)
        await sh.run(b"kept=" + quoted[-2] + quoted[-1])
        assert (await sh.run('printf %s "$kept"')).stdout_bytes == words[-2] + words[-1]


async def test_commands_read_nothing_or_what_they_are_given(machine: Machine) -> None:
    async with machine.tempdir() as folder, machine.session(env={"TMPDIR": folder}) as sh:
        assert (await sh.run('cat; read x; echo "[$x]"', check=False, timeout=10)).stdout == "[]\n"
        await sh.run("cd /; read first; rest=$(cat)", input="one\ntwo\nthree")
        assert (await sh.run('pwd; echo "$first; $rest"')).stdout == "/\none; two\nthree\n"
        assert (await sh.run("cat", input=DATA)).stdout_bytes == DATA
        assert (await sh.run("ls -A $TMPDIR; cat", input="")).stdout == ""
        await sh.run("TMPDIR=/no/such")
        with pytest.raises(FileError, match="no place for the input"):
            await sh.run("echo not run", input="x")
        assert (await sh.run("echo fine")).stdout == "fine\n"


async def test_statuses_are_judged_and_the_session_goes_on(machine: Machine) -> None:
    async with machine.session() as sh:
        with pytest.raises(CommandFailed) as caught:
            await sh.run("echo out; echo why >&2; (exit 7)")
        assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (7, "out\n", "why\n")
        assert caught.value.cmd == ["/bin/sh", "-c", "echo out; echo why >&2; (exit 7)"]
        assert (await sh.run("(exit 7)", ok_codes=(0, 7))).ok
        assert (await sh.run("no-such-program", check=False)).returncode == 127
        assert (await sh.run("sh -c 'kill -9 $$'", check=False)).returncode == 137


async def test_a_syntax_error_neither_ends_nor_confuses_a_session(machine: Machine) -> None:
    lines = [
        "if",
        "echo 'x",
        'echo "x',
        "echo $(",
        ")",
        "}; echo x {",
        "cat <<EOF\nx",
        "case",
        "`",
        "&&",
        "a\\",
        "x=${",
    ]
    async with machine.session() as sh:
        for number, line in enumerate(lines):
            await sh.run(f"x={number}")
            await sh.run(line, check=False, timeout=10)
            assert (await sh.run("echo $x")).stdout == f"{number}\n", line


MEDDLING = [
    "printf() { echo no; }; echo() { :; }; read() { :; }; test() { :; }; cd() { :; }",
    "trap 'echo trapped' INT USR1 EXIT",
    "exec 3>/dev/null 8>&- 9>&-",
    "exec 1>&- 2>&-",
    "exec >/dev/null 2>&1 </etc/passwd",
    "alias command=false eval=false echo=false exit=false",
    "set -x; set -u; set -f; set -C; IFS=e",
    "set -v",
    "PATH=/nowhere",
    "s=1; mark=2; readonly s mark; set -- a b",
    "f() { return 3; }; f",
    "cd /; umask 777; ulimit -c 0",
]


async def test_what_a_line_does_to_its_shell_does_not_confuse_it(machine: Machine) -> None:
    async with machine.session() as sh:
        for line in MEDDLING:
            await sh.run(line, check=False, timeout=10)
            result = await sh.run("\\command printf '%s\\n' one two", timeout=10)
            assert result.stdout == "one\ntwo\n", line


ENDINGS = [
    ("echo last; exit 3", 3, None),
    ("echo last; exit", 0, None),
    ("exec sh -c 'echo last; exit 5'", 5, None),
    ("echo last; set -e; false; echo not", 1, None),
    ("echo last; kill -9 $$", -9, "KILL"),
    ("echo last; kill $$", -15, "TERM"),
]


async def test_the_end_of_the_shell_is_a_typed_error(machine: Machine) -> None:
    """Promise 127."""
    for line, returncode, signal in ENDINGS:
        told = (returncode, None) if signal is None else told_signal(machine, signal, -returncode)
        async with machine.session() as sh:
            with pytest.raises(SessionEnded) as caught:
                await sh.run(line, timeout=10, check=False)
            error = caught.value
            assert (error.returncode, error.signal) == told, line
            assert error.result is not None
            assert error.result.stdout == "last\n"
            assert pickle.loads(pickle.dumps(error)).returncode == told[0]
            with pytest.raises(ClosedError, match="has ended"):
                await sh.run("echo more")


async def test_a_shell_that_was_killed_while_idle_is_told(machine: Machine) -> None:
    async with machine.session() as sh:
        await machine.run("kill", "-KILL", sh.pid)
        with pytest.raises(SessionEnded) as caught:
            await sh.run("echo more", timeout=10)
        assert caught.value.signal == told_signal(machine, "KILL", 9)[1]


async def test_one_line_at_a_time(machine: Machine) -> None:
    async with machine.session() as sh, asyncio.TaskGroup() as group:
        task = group.create_task(sh.run("read x", input="x\n"))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await sh.run("echo too early")
        await task
        assert (await sh.run("echo now")).stdout == "now\n"


async def test_sessions_run_side_by_side(machine: Machine) -> None:
    async with machine.session() as one, machine.session() as two:
        async with asyncio.TaskGroup() as group:
            group.create_task(one.run("cd /usr; x=1"))
            group.create_task(two.run("cd /etc; x=2"))
        assert (await one.run("echo $x $PWD")).stdout == "1 /usr\n"
        assert (await two.run("echo $x $PWD")).stdout == "2 /etc\n"


async def test_a_timeout_ends_the_session_with_its_tree(machine: Machine, mark: str) -> None:
    """Promise 53."""
    async with machine.session() as sh:
        with pytest.raises(CommandTimeout) as caught:
            await sh.run(f"echo begun; sh -c 'sleep 60; :' {mark}", timeout=0.5)
        assert caught.value.result is not None
        assert caught.value.result.stdout == "begun\n"
        assert await machine.pgrep(mark) == []
        with pytest.raises(ClosedError, match="over"):
            await sh.run("echo more")


async def test_a_cancel_ends_the_session_with_its_tree(machine: Machine, mark: str) -> None:
    """Promise 117."""
    async with machine.session() as sh:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sh.run(f"sh -c 'sleep 60; :' {mark}")
        assert await machine.pgrep(mark) == []
        with pytest.raises(ClosedError, match="over"):
            await sh.run("echo more")


async def test_closing_ends_a_line_that_runs(machine: Machine, mark: str) -> None:
    async with asyncio.TaskGroup() as group, machine.session() as sh:
        task = group.create_task(_closed(sh, f"sh -c 'sleep 60; :' {mark}"))
        while await machine.pgrep(mark) == []:
            pass
        await sh.aclose()
        assert "was closed" in str(await task)
    assert await machine.pgrep(mark) == []


async def _closed(sh: Session, line: str) -> ClosedError:
    with pytest.raises(ClosedError) as caught:
        await sh.run(line)
    return caught.value


async def test_what_goes_on_in_the_background_is_in_a_later_output(machine: Machine) -> None:
    async with machine.tempdir() as folder, machine.session(cwd=str(folder)) as sh:
        await sh.run("mkfifo go; { read x <go; echo late; echo done >go; } &")
        assert (await sh.run("echo >go; read x <go; cat", input="given\n", timeout=20)).stdout == "late\ngiven\n"


async def test_a_cancel_anywhere_leaves_nothing(machine: Machine, mark: str) -> None:
    async with machine.tempdir() as folder:

        async def work() -> None:
            async with machine.session(env={"TMPDIR": str(folder)}) as sh:
                await sh.run(f"cat; sh -c : {mark}", input="x")

        async def serves() -> None:
            assert await machine.pgrep(mark) == []
            assert (await machine.run("ls", "-A", folder)).stdout == ""

        assert await cancel_everywhere(work, serves) >= 5


@pytest.mark.parametrize("line", ["yes", "head -c 480000 /dev/zero"], ids=["endless", "at rest in the buffers"])
async def test_too_much_output_ends_the_session(machine: Machine, line: str) -> None:
    async with machine.session() as sh:
        assert len((await sh.run("head -c 1000 /dev/zero", max_output_bytes=1000)).stdout_bytes) == 1000
        with pytest.raises(OutputLimitExceeded) as caught:
            await sh.run(line, max_output_bytes=100_000, timeout=20)
        assert caught.value.result is not None
        assert len(caught.value.result.stdout_bytes) == 100_000
        with pytest.raises(ClosedError):
            await sh.run("echo more")


async def test_leaving_ends_what_runs_and_runs_the_exit_trap(machine: Machine, mark: str) -> None:
    async with machine.tempdir() as folder:
        await machine.run("chmod", "755", folder)
        async with machine.session(cwd=str(folder)) as sh:
            await sh.run(f"trap 'echo bye >said' EXIT; sh -c 'sleep 60; :' {mark} &")
            assert await machine.pgrep(mark) != []
        assert await machine.pgrep(mark) == []
        assert (await machine.run("cat", "said", cwd=str(folder))).stdout == "bye\n"
        with pytest.raises(ClosedError):
            await sh.run("echo more")
        await sh.aclose()


async def test_a_session_begins_in_the_scope_of_its_task(machine: Machine) -> None:
    with machine.cwd("/usr"), machine.env(SCOPE="a b"):
        opening = machine.session(cwd="bin", env={"MORE": 1})
    async with opening as sh:
        assert (await sh.run('echo "$SCOPE $MORE"; pwd')).stdout == "a b 1\n/usr/bin\n"
    with pytest.raises(FileNotFoundError, match="/no/such"):
        async with machine.session(cwd="/no/such"):
            pass


async def test_a_session_on_a_terminal_has_one_stream(machine: Machine) -> None:
    async with machine.session(pty=True) as sh:
        assert (await sh.run("cd /usr; x=1; echo out; echo err >&2; test -t 1")).stdout == "out\r\nerr\r\n"
        word = "y" * 9000 + "\x03\x04'\"\\"
        result = await sh.run(f'pwd; echo $x; z={quote_posix(word)}; printf %s "$z" | wc -c; printf end', timeout=20)
        assert result.stdout == "/usr\r\n1\r\n9005\r\nend"
        assert (await sh.run("(exit 4)", check=False)).returncode == 4
        assert (await sh.run("echo $?; cat", input="a\nb\n")).stdout == "0\r\na\r\nb\r\n"


async def test_a_line_too_long_for_a_ksh93_on_a_terminal_is_refused() -> None:
    async with LocalMachine() as machine, machine.session("ksh93", pty=True) as sh:
        with pytest.raises(UnsupportedError, match="at most"):
            await sh.run("echo " + "x" * 1000)
        assert (await sh.run("echo fine")).stdout == "fine\r\n"


@pytest.mark.parametrize("pty", [False, True], ids=["pipes", "terminal"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_every_posix_shell_will_do(shell: str, pty: bool) -> None:
    async with LocalMachine() as machine, machine.session(shell, pty=pty, timeout=20) as sh:
        await sh.run("cd /usr; x='a  b'; f() { echo \"f $1\"; }; exec >/dev/null; echo lost", timeout=20)
        result = await sh.run('pwd; echo "$x"; f 1; cat', input="given\n", timeout=20)
        assert result.stdout.split() == ["/usr", "a", "b", "f", "1", "given"]
        assert (await sh.run("(exit 3)", check=False, timeout=20)).returncode == 3
        assert (await sh.run("printf %s $?; cat", timeout=20)).stdout == "3"
        if shell != "mksh":  # which ends at a syntax error
            await sh.run("if", check=False, timeout=20)
            await sh.run("echo 'x", check=False, timeout=20)
        assert (await sh.run("printf %s $PWD", timeout=20)).stdout == "/usr"
        with pytest.raises(SessionEnded):
            await sh.run("exit 3", timeout=20)


async def test_other_shells_are_refused_before_anything_is_sent(machine: Machine) -> None:
    for shell in ("fish", "/usr/bin/tcsh", "csh", "python3", "", "-sh"):
        with pytest.raises(UnsupportedError, match="POSIX shell"):
            machine.session(shell)


async def test_a_missing_shell_is_named(machine: Machine) -> None:
    with pytest.raises(CommandNotFound) as caught:
        async with machine.session("/opt/no/such/bash"):
            pass
    assert caught.value.program == "/opt/no/such/bash"


async def test_wrong_arguments_are_refused_and_nothing_is_sent(machine: Machine, tmp_path: Path) -> None:
    async with machine.session() as sh:
        with pytest.raises(ValueError, match="NUL"):
            await sh.run("echo \0")
        with pytest.raises(ValueError, match="timeout"):
            await sh.run("echo", timeout=-1)
        assert (await sh.run("echo fine")).stdout == "fine\n"
    with pytest.raises(ClosedError, match="not open"):
        await machine.session().run("echo")
