"""The real sshd, and machines that reach it by the system's ssh."""

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest
import pytest_asyncio

from aioremote import HostKeys, OpenSshMachine
from aioremote.testing.checks import until
from aioremote.testing.sshd import Sshd, TestUser, create_user

PASSWORD = "right horse, wrong battery"  # of a test user that lives for seconds


class Maker(Protocol):
    """Makes machines that are not connected."""

    def __call__(self, server: object = None, /, *, host: str = ..., **keywords: object) -> OpenSshMachine: ...


@pytest.fixture
def make(aioremote_sshd: Sshd) -> Maker:
    def made(server: object = None, /, *, host: str = "", **keywords: object) -> OpenSshMachine:
        chosen: Sshd = server or aioremote_sshd  # type: ignore[assignment]
        defaults = {
            "port": chosen.port,
            "keyfile": chosen.keyfile,
            "host_keys": HostKeys.strict(chosen.known_hosts),
            "config": None,
            "outpost": "never",
        }
        return OpenSshMachine(host or chosen.host, **{**defaults, **keywords})  # type: ignore[arg-type]

    return made


@pytest.fixture(scope="session")
def password_user() -> Iterator[TestUser]:
    with create_user("aioremote-pass", password=PASSWORD) as user:
        yield user


@pytest.fixture(scope="session")
def password_server() -> Iterator[Sshd]:
    with Sshd(password_authentication=True) as server:
        yield server


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_left(aioremote_sshd: Sshd) -> AsyncIterator[None]:
    """After each test the server has no connection and no command of it."""
    before = aioremote_sshd.session_pids()
    yield
    await until(lambda: aioremote_sshd.session_pids() <= before)
