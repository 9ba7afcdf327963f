"""One machine of each kind, for one suite: what a transport cannot do it has to say, everything else has to be the
same."""

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from tests.samba import PASSWORD, USER, PipeServer, Samba, run_samba
from tests.sudoers import sudoers

from aioremote import (
    CommandMachine,
    DaemonMachine,
    HostKeys,
    LocalMachine,
    Machine,
    OpenSshMachine,
    RemotePath,
    SmbMachine,
    SshMachine,
)
from aioremote.daemon import DaemonConfig, make_key, serve
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.fakes import FakeTransport, Fault, FaultyTransport
from aioremote.testing.sshd import Sshd, TestUser, create_user
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport

KINDS = (
    "local",
    "ssh-root",
    "ssh-user",
    "ssh-embedded",
    "ssh-sudo",
    "local-sudo",
    "fake",
    "in-pieces",
    "linked-local",
    "ssh-outpost",
    "command",
    "command-plain",
    "ssh-within",
    "openssh",
    "openssh-outpost",
    "daemon",
    "daemon-unix",
    "smb",
)
STREAM_KINDS = tuple(kind for kind in KINDS if kind != "command-plain")  # have sockets
FILE_KINDS = (
    "local",
    "ssh-root",
    "ssh-user",
    "ssh-embedded",
    "ssh-sudo",
    "local-sudo",
    "linked-local",
    "ssh-outpost",
    "command-plain",
    "ssh-within",
    "openssh",
    "openssh-outpost",
    "daemon",
)
SSH_KINDS = tuple(kind for kind in KINDS if kind.startswith("ssh"))


ENTERS = ["env", "AIOREMOTE_ENTERED=1"]  # the command of those that one leads to
SUDO_LOGIN = "aioremote-sudo"


@pytest.fixture(scope="session", autouse=True)
def sudo_login() -> Iterator[None]:
    with create_user(SUDO_LOGIN), sudoers(f"{SUDO_LOGIN} ALL=(ALL:ALL) NOPASSWD: ALL"):
        yield


SAMBA: list[Samba] = []  # the one of this run


@pytest.fixture(scope="session", autouse=True)
def samba() -> Iterator[None]:
    with run_samba() as made:
        SAMBA.append(made)
        yield
        SAMBA.clear()


def ssh_to(server: Sshd, **keywords: object) -> SshMachine:
    """Return a machine on the test server."""
    defaults = {"host_keys": HostKeys.strict(server.known_hosts), "config": None, "keyfile": server.keyfile}
    return SshMachine(server.host, port=server.port, **{**defaults, **keywords})  # type: ignore[arg-type]


def openssh_to(server: Sshd, **keywords: object) -> OpenSshMachine:
    """Return a machine on the test server, by the system's ssh."""
    defaults = {"host_keys": HostKeys.strict(server.known_hosts), "config": None, "keyfile": server.keyfile}
    return OpenSshMachine(server.host, port=server.port, **{**defaults, **keywords})  # type: ignore[arg-type]


def told_signal(machine: Machine, name: str, number: int) -> tuple[int, str]:
    """Return the returncode and signal of what was ended by a signal that nobody here has sent.

    OpenSSH's control socket does not tell which: then both say so.
    """
    plain = isinstance(machine, OpenSshMachine) and getattr(machine.transport, "_link", None) is None
    return (-99, "UNKNOWN") if plain else (-number, name)


@contextlib.asynccontextmanager
async def through_daemon(kind: str) -> AsyncIterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "daemon-unix":
            async with serve(DaemonConfig(listen=f"{folder}/s")), DaemonMachine(path=f"{folder}/s") as machine:
                yield machine
            return
        if kind == "smb":
            (samba,) = SAMBA
            async with (
                serve(DaemonConfig(listen=f"{folder}/s")),
                PipeServer(samba, f"{folder}/s"),
                SmbMachine("127.0.0.1", username=USER, password=PASSWORD, port=samba.port) as machine,
            ):
                yield machine
            return
        pin = make_key(f"{folder}/key")
        config = DaemonConfig(listen="127.0.0.1:0", key=f"{folder}/key", authorized=f"{folder}/key.crt")
        async with (
            serve(config) as daemon,
            DaemonMachine("127.0.0.1", daemon.port, keyfile=f"{folder}/key", server_fingerprint=pin) as machine,
        ):
            yield machine


@contextlib.asynccontextmanager
async def machine_of(kind: str, sshd: Sshd, user: TestUser) -> AsyncIterator[Machine]:
    if kind == "ssh-embedded":
        async with EmbeddedServer() as server:
            host_keys = HostKeys.strict(server.known_hosts)
            async with SshMachine(
                server.host, port=server.port, user="root", keyfile=server.keyfile, host_keys=host_keys, config=None
            ) as machine:
                yield machine
        return
    if kind == "ssh-sudo":
        async with ssh_to(sshd, user=SUDO_LOGIN) as base, base.sudo() as machine:
            yield machine
        return
    if kind == "local-sudo":
        async with LocalMachine() as near, near.sudo(user.name) as machine:
            yield machine
        return
    if kind == "ssh-within":
        async with ssh_to(sshd, user=user.name) as base, base.within(ENTERS) as machine:
            yield machine
        return
    if kind in ("daemon", "daemon-unix", "smb"):
        async with through_daemon(kind) as machine:
            yield machine
        return
    ways: dict[str, Callable[[], Machine]] = {
        "local": LocalMachine,
        "ssh-root": lambda: ssh_to(sshd),
        "ssh-user": lambda: ssh_to(sshd, user=user.name),
        "fake": lambda: Machine(FakeTransport(LocalTransport()), host="fake"),
        "linked-local": lambda: Machine(LinkedTransport(LocalTransport()), host="linked"),
        "ssh-outpost": lambda: ssh_to(sshd, user=user.name, outpost="always"),
        "command": lambda: CommandMachine(ENTERS, outpost="always"),
        "command-plain": lambda: CommandMachine(ENTERS, outpost="never"),
        "openssh": lambda: openssh_to(sshd, user=user.name),
        "openssh-outpost": lambda: openssh_to(sshd, user=user.name, outpost="always"),
        "in-pieces": lambda: Machine(FaultyTransport(LocalTransport(), Fault(piece_bytes=7)), host="in-pieces"),
    }
    async with ways[kind]() as machine:
        yield machine


@pytest_asyncio.fixture(params=KINDS)
async def machine(
    request: pytest.FixtureRequest, aioremote_sshd: Sshd, aioremote_user: TestUser, aioremote_no_leaks: None
) -> AsyncIterator[Machine]:
    async with machine_of(request.param, aioremote_sshd, aioremote_user) as made:
        yield made


@pytest_asyncio.fixture(params=SSH_KINDS)
async def ssh_machine(
    request: pytest.FixtureRequest, aioremote_sshd: Sshd, aioremote_user: TestUser, aioremote_no_leaks: None
) -> AsyncIterator[Machine]:
    async with machine_of(request.param, aioremote_sshd, aioremote_user) as made:
        yield made


@pytest_asyncio.fixture
async def folder(machine: Machine) -> AsyncIterator[RemotePath]:
    """A far directory. It is on this computer too, and the far user's."""
    async with machine.tempdir() as made:
        yield made


@pytest.fixture
def mark() -> str:
    """A word that marks this test's far processes, which all run on this computer."""
    return f"aioremote-mark-{secrets.token_hex(6)}"


@pytest_asyncio.fixture(params=FILE_KINDS)
async def files_machine(
    request: pytest.FixtureRequest, aioremote_sshd: Sshd, aioremote_user: TestUser, aioremote_no_leaks: None
) -> AsyncIterator[Machine]:
    async with machine_of(request.param, aioremote_sshd, aioremote_user) as made:
        yield made


@pytest_asyncio.fixture
async def far(files_machine: Machine) -> AsyncIterator[RemotePath]:
    """A far directory. It is on this computer too, and the far user's."""
    async with files_machine.tempdir() as made:
        yield made
