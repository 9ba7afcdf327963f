"""One machine of each kind, for one suite: what a transport cannot do it has to say, everything else has to be the
same."""

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from tests.sudoers import sudoers

from aioremote import DaemonMachine, HostKeys, LocalMachine, Machine, RemotePath, SshMachine
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
    "daemon",
    "daemon-unix",
)
FILE_KINDS = ("local", "ssh-root", "ssh-user", "ssh-embedded")
SSH_KINDS = tuple(kind for kind in KINDS if kind.startswith("ssh"))


SUDO_LOGIN = "aioremote-sudo"


@pytest.fixture(scope="session", autouse=True)
def sudo_login() -> Iterator[None]:
    with create_user(SUDO_LOGIN), sudoers(f"{SUDO_LOGIN} ALL=(ALL:ALL) NOPASSWD: ALL"):
        yield


def ssh_to(server: Sshd, **keywords: object) -> SshMachine:
    """Return a machine on the test server."""
    defaults = {"host_keys": HostKeys.strict(server.known_hosts), "config": None, "keyfile": server.keyfile}
    return SshMachine(server.host, port=server.port, **{**defaults, **keywords})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def through_daemon(kind: str) -> AsyncIterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "daemon-unix":
            async with serve(DaemonConfig(listen=f"{folder}/s")), DaemonMachine(path=f"{folder}/s") as machine:
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
    if kind in ("daemon", "daemon-unix"):
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
