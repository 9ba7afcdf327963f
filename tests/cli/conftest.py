"""A real sshd with four addresses, and the command line to use it with."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cli.harness import HOSTS, Cli

from aioremote.testing.sshd import Sshd


@pytest.fixture(scope="session")
def server() -> Iterator[Sshd]:
    with Sshd(listen=HOSTS, max_startups="100:30:200") as server:
        yield server


@pytest.fixture
def make_cli(tmp_path: Path) -> Iterator[Callable[[Sshd], Cli]]:
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:
        yield lambda server: Cli(server, home, stack)


@pytest.fixture
def cli(server: Sshd, make_cli: Callable[[Sshd], Cli]) -> Cli:
    return make_cli(server)
