"""pytest fixtures for code that uses aioremote. Registered as a plugin: nothing is to be imported.

``aioremote_sshd``: a real OpenSSH server for the session (openssh-server has to be installed). ``aioremote_user``: a
second, normal user with a home of its own (root is needed). ``aioremote_embedded``: a server in this process, with
nothing installed. ``aioremote_machine``: a connected machine on the real server. ``aioremote_no_leaks``: a check that
the test leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from aioremote import SshMachine
    from aioremote.testing.embedded import EmbeddedServer
    from aioremote.testing.sshd import Sshd, TestUser

__all__ = ["aioremote_embedded", "aioremote_machine", "aioremote_no_leaks", "aioremote_sshd", "aioremote_user"]


@pytest.fixture(scope="session")
def aioremote_sshd() -> Generator[Sshd]:
    """A real sshd on a loopback port, for the whole session."""
    from aioremote.testing.sshd import Sshd

    with Sshd() as server:
        yield server


@pytest.fixture(scope="session")
def aioremote_user() -> Generator[TestUser]:
    """A normal user, for logins that are not root's."""
    from aioremote.testing.sshd import create_user

    with create_user("aioremote-user") as user:
        yield user


@pytest_asyncio.fixture
async def aioremote_embedded() -> AsyncGenerator[EmbeddedServer]:
    """A server in this process that runs real commands."""
    from aioremote.testing.embedded import EmbeddedServer

    async with EmbeddedServer() as server:
        yield server


@pytest_asyncio.fixture
async def aioremote_machine(aioremote_sshd: Sshd) -> AsyncGenerator[SshMachine]:
    """A connected machine on the real sshd, as the user who runs the tests."""
    from aioremote import HostKeys, SshMachine

    server = aioremote_sshd
    host_keys = HostKeys.strict(server.known_hosts)
    async with SshMachine(
        server.host, port=server.port, keyfile=server.keyfile, host_keys=host_keys, config=None
    ) as machine:
        yield machine


@pytest_asyncio.fixture
async def aioremote_no_leaks() -> AsyncGenerator[None]:
    """Check after the test that no task, descriptor or thread of it is left."""
    from aioremote.testing.checks import no_leaks

    async with no_leaks():
        yield
