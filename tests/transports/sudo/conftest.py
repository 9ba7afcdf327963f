"""Logins for which sudo behaves differently, on the session's sshd."""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.sudoers import sudoers

from aioremote import HostKeys, SshMachine
from aioremote.testing.sshd import Sshd, TestUser, create_user

PASSWORD = "staple 'of $horses \\"  # of test users that live for seconds
ALL = "ALL=(ALL:ALL)"

Login = Callable[..., SshMachine]


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sudo logs what the test logins of this process do; no other process has their names."""
    return tmp_path_factory.mktemp("sudo")


@pytest.fixture(scope="session")
def free() -> Iterator[TestUser]:
    """A login that sudo asks for nothing, and gives no terminal of its own."""
    with (
        create_user("aioremote-free") as user,
        sudoers(f"Defaults:{user.name} !use_pty", f"{user.name} {ALL} NOPASSWD: ALL"),
    ):
        yield user


@pytest.fixture(scope="session")
def logged(logs: Path) -> Iterator[TestUser]:
    """A login whose input and output sudo logs, asked for a password each time, with a lecture."""
    with create_user(f"logged-{os.getpid()}", password=PASSWORD) as user:
        rules = f"use_pty,log_output,log_input,iolog_dir={logs}/io,timestamp_timeout=0,lecture=always"
        with sudoers(f"Defaults:{user.name} {rules}", f"{user.name} {ALL} ALL"):
            yield user


@pytest.fixture(scope="session")
def asked(logs: Path) -> Iterator[TestUser]:
    """A login that sudo asks for its password each time."""
    with create_user(f"asked-{os.getpid()}", password=PASSWORD) as user:
        rules = f"timestamp_timeout=0,logfile={logs}/asked,log_year"
        with sudoers(f"Defaults:{user.name} {rules}", f"{user.name} {ALL} ALL"):
            yield user


@pytest.fixture
def login(aioremote_sshd: Sshd) -> Login:
    """Return what makes a machine, not connected, for a login on the session's server or another."""

    def made(user: TestUser, server: Sshd = aioremote_sshd, **keywords: object) -> SshMachine:
        defaults: dict[str, object] = {"port": server.port, "host_keys": HostKeys.strict(server.known_hosts)}
        defaults |= {"user": keywords.pop("login", user.name), "keyfile": server.keyfile, "config": None}
        return SshMachine(str(keywords.pop("host", server.host)), **{**defaults, **keywords})  # type: ignore[arg-type]

    return made


@pytest.fixture
def mark() -> str:
    """A word that marks this test's far processes, which all run on this computer."""
    return f"aioremote-mark-{secrets.token_hex(6)}"
