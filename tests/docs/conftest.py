"""The hosts of the examples. Whatever an example does is undone before the next."""

import fcntl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests import servers
from tests.docs.stage import (
    ADDRESSES,
    FORCE,
    PASSWORD,
    USER,
    Stage,
    dress_far_homes,
    make_locked_key,
    write_program,
    write_ssh_folder,
)
from tests.sudoers import sudoers

from aioremote.testing.sshd import Sshd, TestUser, create_user


@pytest.fixture(scope="session")
def server() -> Iterator[Sshd]:
    forced = "".join(FORCE.format(name=name, address=address) for name, address in ADDRESSES.items())
    with Sshd(listen=list(ADDRESSES.values()), extra_config=forced, password_authentication=True) as sshd:
        make_locked_key(sshd)
        yield sshd


@pytest.fixture(scope="session")
def user() -> Iterator[TestUser]:
    rules = (f"Defaults:{USER} timestamp_timeout=0", f"{USER} ALL=(ALL:ALL) ALL", f"{USER} ALL=(nobody) NOPASSWD: ALL")
    with create_user(USER, password=PASSWORD) as made, sudoers(*rules):
        yield made


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    with servers.postgres() as port:
        yield port


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    with servers.redis() as port:
        yield port


@pytest.fixture(scope="session")
def web_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    run = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"]
    run.append(str(tmp_path_factory.mktemp("web")))
    with ExitStack() as stack:
        yield servers.on_a_free_port(stack, lambda port: servers.served([*run, str(port)], "Serving HTTP"))


@pytest.fixture
def the_only_one() -> Iterator[None]:
    """Wait until no other process of the suite plays an example: they share the login and its home."""
    with open(Path(tempfile.gettempdir(), "aioremote-examples.lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def stage(the_only_one: None, server: Sshd, user: TestUser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Set the stage anew; the environment of the test's own process is that of the examples."""
    dress_far_homes(user)
    home = tmp_path / "home"
    home.mkdir()
    write_ssh_folder(home / ".ssh", server)
    write_program(home / "bin")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("aioremote.addresses._added", {})  # what examples register stays theirs
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(home)
    return Stage(server, user, home)
