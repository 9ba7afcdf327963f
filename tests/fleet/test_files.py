"""`Fleet.upload`, `Fleet.download` and `Fleet.call` against embedded servers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aioremote import Fleet, HostKeys, LocalMachine
from aioremote.testing.embedded import EmbeddedServer


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with EmbeddedServer(hosts=3) as server:
        ssh: dict[str, Any] = {
            "user": "root",
            "keyfile": server.keyfile,
            "host_keys": HostKeys.strict(server.known_hosts),
            "config": None,
        }
        async with Fleet([f"{host.host}:{host.port}" for host in server.hosts], **ssh) as fleet:
            yield fleet


def add(one: int, two: int) -> int:
    return one + two


async def test_a_call_runs_on_every_host(fleet: Fleet) -> None:
    report = await fleet.call(add, 1, 2, timeout=60)
    assert list(report.values()) == [3, 3, 3]


async def test_a_download_has_a_folder_a_host(fleet: Fleet, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\0data")
    report = await fleet.download(str(source), tmp_path / "got")
    report.raise_for_failures()
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == sorted(report)
    assert [(tmp_path / "got" / host / "source").read_bytes() for host in report] == [b"\0data"] * 3


async def test_an_upload_reaches_every_host_that_can_take_it(fleet: Fleet, tmp_path: Path) -> None:
    """Every host of this server has the same files: the last one wins, and each says that it has it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"\0a")
    report = await fleet.upload(tmp_path / "tree", str(tmp_path / "up"), timeout=60)
    report.raise_for_failures()
    assert [(done.files, done.bytes) for done in report.values()] == [(1, 2)] * 3
    assert (tmp_path / "up" / "a").read_bytes() == b"\0a"
    refused = await fleet.upload(tmp_path / "tree", "/dev/null/up")
    assert len(refused.failed) == 3
    async with LocalMachine() as machine, Fleet([machine]) as near:
        (await near.upload(tmp_path / "tree" / "a", str(tmp_path / "b"))).raise_for_failures()
    assert (tmp_path / "b").read_bytes() == b"\0a"


async def test_a_missing_source_is_each_hosts_outcome(fleet: Fleet, tmp_path: Path) -> None:
    report = await fleet.download(str(tmp_path / "none"), tmp_path / "got")
    assert all(isinstance(error, FileNotFoundError) for error in report.failed.values())
    assert len(report.failed) == 3


async def test_a_machines_folder_has_its_address(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"1")
    async with LocalMachine() as machine, Fleet([machine]) as fleet:
        report = await fleet.download(str(tmp_path / "source"), tmp_path / "got")
    report.raise_for_failures()
    assert (tmp_path / "got" / "local:" / "source").read_bytes() == b"1"


async def test_an_unknown_keyword_starts_nothing(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="resume"):
        await fleet.download("x", tmp_path, resume=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
