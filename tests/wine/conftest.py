from collections.abc import AsyncIterator, Iterator

import pytest
from tests.wine.road import machine_behind
from tests.wine.windows import HERE, Windows, run_windows, shown

from aioremote import Machine

PIPE = r"\\.\pipe\aioremote-tests"


@pytest.fixture(scope="session")
def windows() -> Iterator[Windows]:
    with run_windows() as windows:
        yield windows


@pytest.fixture(scope="session")
def pipe(windows: Windows) -> str:
    """A named pipe with a daemon behind it, as the command line starts it."""
    windows.server("listening on", "-m", "aioremote", "serve", "--listen", PIPE)
    return PIPE


@pytest.fixture(scope="session")
def port(windows: Windows, pipe: str) -> int:
    """A TCP port from which there is a way to that pipe."""
    return int(windows.server("port", shown(HERE / "bridge.py"), pipe)[1])


@pytest.fixture
async def machine(port: int) -> AsyncIterator[Machine]:
    async with machine_behind(port) as machine:
        yield machine
