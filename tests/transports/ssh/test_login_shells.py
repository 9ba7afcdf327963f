"""Login shells of every kind, also such as call themselves something else: what they could not run is ordered again."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conformance.test_running import NASTY
from tests.transports.ssh.conftest import MachineMaker

from aioremote import ClosedError, CommandFailed, Machine, SshMachine
from aioremote._core.quoting import quote_posix
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.sshd import Sshd, create_user
from aioremote.transports.linked import LinkedTransport

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

# By login shell: the file that it reads for every command, and a line of it that sets SHELL.
LIES = {
    "fish": (".config/fish/config.fish", "set -gx SHELL /bin/bash"),
    "tcsh": (".cshrc", "setenv SHELL /bin/bash"),
}


def write_for_all(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")


SHELLS = ["dash", "bash", "zsh", "fish", "tcsh"]


@pytest.mark.parametrize("shell", SHELLS)
async def test_scopes_and_sessions_are_exact_under_every_login_shell(make: MachineMaker, shell: str) -> None:
    """Promises 45, 46 and 55."""
    path = shutil.which(shell)
    assert path is not None
    words = [word if isinstance(word, bytes) else word.encode() for word in NASTY]
    exact = b"".join(word + b"\0" for word in words)
    line = b"printf '%s\\0' " + b" ".join(quote_posix(word).encode(errors="surrogateescape") for word in words)
    async with create_user(f"aioremote-in-{shell}", path) as user, make(user=user.name) as machine:
        with machine.env({f"V{number}": word for number, word in enumerate(words)}):
            machine.env.path.insert(0, "/opt/it's a $HOME")
            found = await machine.env.all()
            assert [found[f"V{number}"].encode(errors="surrogateescape") for number in range(len(words))] == words
            assert (await machine.run("/usr/bin/printf", "%s\\0", *words)).stdout_bytes == exact
            assert str((await machine.env.path.get())[0]) == "/opt/it's a $HOME"
            async with machine.session() as sh:
                assert (await sh.run(line)).stdout_bytes == exact
                assert (await sh.run("cat", input=exact)).stdout_bytes == exact
        async with machine.tempdir() as folder:
            for name in (word for word in words if word not in (b"", b".")):
                await machine.run("mkdir", "--", name, cwd=folder)
                with machine.cwd(folder / name.decode(errors="surrogateescape")):
                    assert (await machine.run("pwd")).stdout_bytes == bytes(folder) + b"/" + name + b"\n"


@pytest.mark.parametrize("shell", SHELLS)
async def test_programs_of_an_outpost_are_exact_under_every_login_shell(make: MachineMaker, shell: str) -> None:
    """Promises 45, 55: none of them sees the words; the environment is the one that the login shell makes."""
    path = shutil.which(shell)
    assert path is not None
    words = [word if isinstance(word, bytes) else word.encode() for word in NASTY]
    exact = b"".join(word + b"\0" for word in words)
    async with (
        create_user(f"aioremote-post-{shell}", path) as user,
        make(user=user.name) as plain,
        Machine(LinkedTransport(make(user=user.name).transport), host="linked") as machine,
    ):
        assert (await machine.run("/usr/bin/printf", "%s\\0", *words)).stdout_bytes == exact
        env = {f"V{number}": word for number, word in enumerate(words)}
        found = (await machine.run("env", "-0", env=env)).stdout_bytes.split(b"\0")
        assert {b"V%d=%s" % pair for pair in enumerate(words)} <= set(found)
        both = [(await one.run("env", "-0")).stdout_bytes.split(b"\0") for one in (machine, plain)]
        found, wanted = ({word for word in words if not word.startswith(VARYING)} for words in both)
        assert found == wanted
        assert (await machine.shell("pwd")).stdout == (await plain.shell("pwd")).stdout


VARYING = (b"_=", b"SSH_", b"XDG_SESSION_ID=", b"SHLVL=")


@pytest_asyncio.fixture(params=LIES)
async def liar(request: pytest.FixtureRequest, make: MachineMaker) -> AsyncIterator[SshMachine]:
    """A machine, not connected, whose login shell says that it is bash, and has said so to one command."""
    shell = shutil.which(request.param)
    assert shell is not None
    name, line = LIES[request.param]
    async with create_user(f"lies-{request.param}-{os.getpid()}", shell) as user:  # no other process has that home
        write_for_all(user.home / name, line)
        async with make(user=user.name) as machine:
            assert (await machine.run("printenv", "SHELL")).stdout == "/bin/bash\n"
            yield machine


async def test_run_is_ordered_again(liar: SshMachine) -> None:
    """Promise 45: the arguments arrive; what the login shell said about the first line does not."""
    result = await liar.shell("echo run >>~/times; printf %s 'a  b' >&2; exit 3", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "", "a  b")
    assert (await liar.shell("cat ~/times")).stdout == "run\n"
    assert liar.transport._link.universal_lines  # type: ignore[attr-defined]
    assert (await liar.run("echo", "it's", "!")).stdout == "it's !\n"


@pytest.mark.parametrize("pty", [False, True], ids=["plain", "pty"])
async def test_many_at_once_are(liar: SshMachine, *, pty: bool) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(liar.run("echo", number, pty=pty)) for number in range(20)]
    assert [task.result().stdout.strip() for task in tasks] == [str(number) for number in range(20)]


async def test_input_is_not_risked(liar: SshMachine) -> None:
    assert (await liar.run("cat", input="all of it")).stdout == "all of it"
    async with liar.start("cat") as process:
        assert process.stdin is not None
        await process.stdin.send(b"x")
        assert await process.stdout.receive() == b"x"
    assert [line.text async for line in liar.lines("printf", r"a\nb\n")] == ["a", "b"]


async def test_a_status_of_the_program_is_its_own(liar: SshMachine) -> None:
    with pytest.raises(CommandFailed) as caught:
        await liar.shell("exit 127")
    assert caught.value.returncode == 127


async def test_cancelled_anywhere_in_it_the_connection_serves_on(liar: SshMachine, mark: str) -> None:
    """STYLE 41."""
    link = liar.transport._link  # type: ignore[attr-defined]

    async def run() -> None:
        link.universal_lines = False
        await liar.run("sleep", "0.05", env={"MARK": mark})

    async def serves() -> None:
        assert (await liar.run("echo", "fine")).stdout == "fine\n"
        await until(lambda: not marked_processes(mark), seconds=2)

    assert await cancel_everywhere(run, serves) >= 2
    assert link.universal_lines


async def test_a_machine_closed_under_it_says_so(liar: SshMachine) -> None:
    link = liar.transport._link  # type: ignore[attr-defined]
    call = asyncio.get_running_loop().create_task(liar.run("sleep", "600"))
    await until(lambda: link.universal_lines)
    await liar.aclose()
    await asyncio.wait({call})
    assert isinstance(call.exception(), ClosedError)


async def test_a_server_with_one_session_does_it_too(make: MachineMaker) -> None:
    """The second start waits for its turn like every other."""
    async with Sshd(max_sessions=1) as server, create_user("aioremote-lies-one", shutil.which("fish") or "") as user:
        name, line = LIES["fish"]
        write_for_all(user.home / name, line)
        async with make(server, user=user.name) as machine:
            for number in range(4):
                assert (await machine.run("echo", number)).stdout == f"{number}\n"
