"""Interpreters on this computer, directly and over ssh."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.outpost.links import python_path

from aioremote import HostKeys, LocalMachine, Machine, SshMachine
from aioremote.python.interpreter import Interpreter
from aioremote.testing.sshd import Sshd


@pytest_asyncio.fixture
async def machine() -> AsyncIterator[Machine]:
    async with LocalMachine() as machine:
        yield machine


@pytest_asyncio.fixture
async def python(machine: Machine) -> Interpreter:
    """The same Python as this one."""
    return machine.python


@pytest_asyncio.fixture(params=["3.6", "3.13", "ssh"])
async def any_python(request: pytest.FixtureRequest, aioremote_sshd: Sshd) -> AsyncIterator[Interpreter]:
    """The oldest and the newest Python, and one behind a real sshd."""
    if request.param == "ssh":
        host_keys = HostKeys.strict(aioremote_sshd.known_hosts)
        async with SshMachine(
            aioremote_sshd.host,
            port=aioremote_sshd.port,
            keyfile=aioremote_sshd.keyfile,
            host_keys=host_keys,
            config=None,
        ) as machine:
            yield machine.python
    else:
        async with LocalMachine() as machine:
            yield machine.python(executable=python_path(request.param))
