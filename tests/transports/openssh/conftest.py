"""The real sshd, and machines that reach it by the system's ssh."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from aioremote import HostKeys, OpenSshMachine
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
