"""The real sshd, machines on it, and a word that marks a test's processes."""

import contextlib
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from aioremote import HostKeys, SshMachine
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser, create_user

PASSWORD = "right horse, wrong battery"  # of a test user that lives for seconds


class Server(Protocol):
    """What a machine needs of a server."""

    host: str
    port: int
    keyfile: Path
    known_hosts: Path


class MachineMaker(Protocol):
    """Makes machines that are not connected; every keyword of SshMachine may be given."""

    def __call__(self, server: object = None, /, *, host: str = ..., **keywords: object) -> SshMachine: ...


@pytest.fixture
def make(aioremote_sshd: Sshd) -> MachineMaker:
    """Return what makes a machine on a server: the session's unless another is given."""

    def made(server: object = None, /, *, host: str = "", **keywords: object) -> SshMachine:
        chosen: Sshd = server or aioremote_sshd  # type: ignore[assignment]
        defaults = {
            "port": chosen.port,
            "keyfile": chosen.keyfile,
            "host_keys": HostKeys.strict(chosen.known_hosts),
            "config": None,
            "outpost": "never",  # tests of outposts say so
        }
        return SshMachine(host or chosen.host, **{**defaults, **keywords})  # type: ignore[arg-type]

    return made


@pytest_asyncio.fixture
async def proxy(aioremote_sshd: Sshd) -> AsyncIterator[TcpProxy]:
    """A link to the session's server that can be frozen and cut."""
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as link:
        yield link


@pytest.fixture
def over(make: MachineMaker, aioremote_sshd: Sshd) -> Callable[..., SshMachine]:
    """Return what makes a machine whose connection goes through a proxy."""

    def made(link: TcpProxy, **keywords: object) -> SshMachine:
        pinned = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
        return make(host=link.host, **{"port": link.port, "host_keys": pinned, **keywords})

    return made


@pytest.fixture(scope="session")
def password_user() -> Iterator[TestUser]:
    with create_user("aioremote-pass", password=PASSWORD) as user:
        yield user


@pytest.fixture(scope="session")
def password_server() -> Iterator[Sshd]:
    """A server that takes passwords, with OpenSSH's own MaxAuthTries."""
    with Sshd(password_authentication=True) as server:
        yield server


@pytest.fixture
def mark() -> str:
    """A word that marks this test's far processes, which all run on this computer."""
    return f"aioremote-mark-{secrets.token_hex(6)}"


@pytest.fixture
def ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent without keys, in the environment; returns its socket."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it listens when it has told its socket
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield path
    finally:
        process.terminate()
        process.wait()
        with contextlib.suppress(OSError):
            assert process.stdout is not None
            process.stdout.close()
