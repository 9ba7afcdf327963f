"""Many small files where a round trip takes long: there is one for a window, not one for a file."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from tests.conformance.test_transfers import tree

from aioremote import HostKeys, Machine, SshMachine
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd

T = TypeVar("T")
FILES, DELAY = 10_000, 0.05  # seconds each way: one round trip a file would be 1,000 s
LEAST_FILES_PER_SECOND = 250  # with all that a loaded machine does beside it


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        path = root / f"d{number % 100}" / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
    return root


@pytest_asyncio.fixture
async def machine(aioremote_sshd: Sshd) -> AsyncIterator[Machine]:
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port, delay=DELAY) as link:
        keys = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
        async with SshMachine(
            link.host, port=link.port, user="root", keyfile=aioremote_sshd.keyfile, host_keys=keys, config=None
        ) as machine:
            yield machine


async def timed(moving: Awaitable[T]) -> T:
    began = time.monotonic()
    result = await moving
    assert FILES / (time.monotonic() - began) > LEAST_FILES_PER_SECOND
    return result


@pytest.mark.parametrize("engine", ["outpost", "tar"])
async def test_up_and_down(machine: Machine, source: Path, tmp_path: Path, engine: str) -> None:
    """Promise 69."""
    moves: list[Callable[..., Awaitable[object]]] = [machine.upload, machine.download]
    for move, name in zip(moves, ("there", "back"), strict=True):
        await timed(move(str(source), str(tmp_path / name), engine=engine, durable=False))
        assert tree(tmp_path / name) == tree(source)


@pytest.mark.parametrize("engine", ["outpost", "tar"])
async def test_an_unchanged_tree_and_its_checksums(machine: Machine, source: Path, tmp_path: Path, engine: str) -> None:
    """Promise 69, for what is only compared."""
    await machine.upload(source, str(tmp_path / "there"), engine=engine, preserve=True, durable=False)
    for checksum in (False, True):
        report = await timed(machine.sync(source, str(tmp_path / "there"), engine=engine, checksum=checksum))
        assert (report.sent, report.unchanged) == ((), FILES)
