"""A Python at the far end of ssh, whatever the login shell is and its files do."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest
from tests.outpost.conftest import payload, probing, pythons
from tests.pace import in_time

from aioremote import BootstrapError, HostKeys, PythonNotFound, SshMachine
from aioremote._core.deadline import Deadline
from aioremote.outpost.launch import launch
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

SHELLS = {
    "bash": "bash",
    "bash -l": "bash -l",
    "busybox": "busybox sh",
    "csh": "csh",
    "dash": "dash",
    "fish": "fish",
    "ksh93": "ksh93",
    "mksh": "mksh",
    "tcsh": "tcsh",
    "yash": "yash",
    "zsh": "zsh",
}


class Logins:
    """Logins to root's account on one server, each in a shell of its own: the keys' forced commands choose it.

    Another user could not be given the interpreters, which stand in root's home.
    """

    def __init__(self, server: Sshd, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._made = 0

    @contextlib.asynccontextmanager
    async def by(self, shell: str, before: str = ":") -> AsyncIterator[SshMachine]:
        """Log in as with this login shell, which runs sshd's command line as it came, after a piece of its files."""
        self._made += 1
        key = asyncssh.generate_private_key("ssh-ed25519")
        keyfile = self._folder / f"key{self._made}"
        key.write_private_key(keyfile)
        program = shell.partition(" ")[0]
        forced = f'{before}; SHELL=/usr/bin/{program} exec {shell} -c \\"$SSH_ORIGINAL_COMMAND\\"'
        self._server.authorize(f'command="{forced}" {key.export_public_key().decode()}')
        server = self._server
        host_keys = HostKeys.strict(server.known_hosts)
        async with SshMachine(
            server.host, port=server.port, keyfile=keyfile, host_keys=host_keys, config=None
        ) as machine:
            yield machine


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    with Sshd() as server:
        yield Logins(server, tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("shell", SHELLS)
async def test_every_python_comes_up_in_every_login_shell(logins: Logins, shell: str) -> None:
    """Promise 1: 11 shells x 8 Pythons, the first call is right."""

    async def ask(machine: SshMachine, python: str) -> object:
        async with probing(machine.transport, python=python) as probe:
            assert await probe.ask("(os.getpid(), os.sys.executable)") == (probe.launched.pid, python)
            return await probe.ask("'%d.%d' % os.sys.version_info[:2]")

    async with logins.by(SHELLS[shell]) as machine, asyncio.TaskGroup() as group:
        tasks = {version: group.create_task(ask(machine, path)) for version, path in pythons().items()}
    assert {version: task.result() for version, task in tasks.items()} == {version: version for version in pythons()}


async def test_python_is_found_and_may_be_absent(logins: Logins) -> None:
    """Promise 4, over ssh: within 1 s."""
    async with logins.by("bash") as machine:
        async with probing(machine.transport) as probe:
            assert probe.launched.process.pid == probe.launched.pid
        began = time.monotonic()
        with pytest.raises(PythonNotFound, match="no-such-python"):
            await launch(machine.transport, payload(), deadline=Deadline(5), python="no-such-python")
        assert in_time(time.monotonic() - began, 1)


@pytest.mark.parametrize("size", [0, 64 * 1024])
async def test_noise_of_login_files_is_kept(logins: Logins, size: int) -> None:
    """Promise 2."""
    async with (
        logins.by("bash", f"head -c {size} /dev/zero | tr '[:cntrl:]' n") as machine,
        probing(machine.transport) as probe,
    ):
        assert probe.launched.noise == b"n" * size


async def test_more_noise_than_is_kept_harms_nobody_over_ssh(logins: Logins) -> None:
    """The ssh transport drops it itself, as for plain commands."""
    async with (
        logins.by("bash", "head -c 1000000 /dev/zero | tr '[:cntrl:]' n") as machine,
        probing(machine.transport) as probe,
    ):
        assert len(probe.launched.noise) == 64 * 1024


async def test_a_login_file_that_reads_with_a_timeout_gets_nothing(logins: Logins) -> None:
    """Promise 3: what is shipped is sent after READY."""
    async with logins.by("bash", "timeout 0.3 head -c 1 | od -c") as machine, probing(machine.transport) as probe:
        assert probe.launched.noise == b"0000000\n"


async def test_a_login_file_that_waits_for_input_is_told(logins: Logins) -> None:
    """Promise 3: BootstrapError at the deadline; the connection still serves."""
    async with logins.by("bash", "case $SSH_ORIGINAL_COMMAND in *aioremote_ask*) read x;; esac") as machine:
        began = time.monotonic()
        with pytest.raises(BootstrapError, match=r"no READY came .* within 0\.5 s"):
            await launch(machine.transport, payload(), deadline=Deadline(0.5))
        assert in_time(time.monotonic() - began, 3)
        assert (await machine.run("echo", "still there")).stdout == "still there\n"


async def test_a_login_that_runs_something_else_is_told(logins: Logins) -> None:
    async with logins.by("bash", "echo no shell for you; exit 3") as machine:
        with pytest.raises(BootstrapError, match="no shell for you"):
            await launch(machine.transport, payload(), deadline=Deadline(5))


async def test_a_cancel_anywhere_leaves_nothing(logins: Logins, mark: str, tmp_path: Path) -> None:
    """Promise 13, over ssh: the same connection still serves, and no far process is left."""
    (tmp_path / mark).symlink_to(pythons()["3.11"])
    async with logins.by("dash") as machine:

        async def attempt() -> None:
            launched = await launch(machine.transport, payload(), deadline=Deadline(10), python=str(tmp_path / mark))
            await launched.process.aclose()

        async def check() -> None:
            await until(lambda: not marked_processes(mark), seconds=2)

        assert await cancel_everywhere(attempt, check) > 3
        assert (await machine.run("echo", "still there")).stdout == "still there\n"
