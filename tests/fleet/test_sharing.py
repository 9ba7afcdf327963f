"""One reading of a source for the hosts of a fleet."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aioremote import ClosedError, FileChanged, FileMissing, Fleet, HostKeys, SshMachine
from aioremote._core.lifetime import Owner
from aioremote._core.pieces import Tally
from aioremote.fleet import sharing
from aioremote.fleet.sharing import HELD_BYTES, Seat, SharedSource
from aioremote.testing.sshd import Sshd, TestUser

MIB = 1024 * 1024


def bytes_read() -> int:
    """What this process has read of files; of sockets it counts nothing, on uvloop all."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest_asyncio.fixture
async def owner() -> AsyncIterator[Owner]:
    owner = Owner("test")
    yield owner
    await owner.aclose()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 * HELD_BYTES + 5))
    return path


async def digest(seat: Seat, path: Path, *, least: int = 0, goes_on: asyncio.Event | None = None) -> str:
    """Read all, and wait after `least` pieces for what lets it go on."""
    sha256, tally = hashlib.sha256(), Tally()
    async with aclosing(seat.read_tree(os.fsencode(path), tally)) as batches:
        count = 0
        async for batch in batches:
            for piece in batch:
                sha256.update(piece.data)
            count += 1
            if goes_on is not None and count == least:
                await goes_on.wait()
    assert (tally.files_found, tally.bytes_found) == (1, path.stat().st_size)
    return sha256.hexdigest()


def true_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_all_share_one_reading(owner: Owner, big: Path) -> None:
    want, size = true_digest(big), big.stat().st_size
    async with SharedSource(big, owner) as source:
        before = bytes_read()
        with source.seat() as one, source.seat() as other, source.seat() as third:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(digest(seat, big)) for seat in (one, other, third)]
        assert {task.result() for task in tasks} == {want}
        assert bytes_read() - before < size + MIB


async def test_the_slowest_is_waited_for_within_a_bound(owner: Owner, big: Path) -> None:
    """The others have no more than the bound ahead of it, and all of it when it goes on."""
    goes_on = asyncio.Event()
    async with SharedSource(big, owner) as source:
        before = bytes_read()
        with source.seat() as quick, source.seat() as slow:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(digest(quick, big))
                second = group.create_task(digest(slow, big, least=1, goes_on=goes_on))
                while not quick.is_waiting or quick.at < HELD_BYTES // MIB:  # noqa: ASYNC110  # a test looks in
                    await asyncio.sleep(0)
                assert bytes_read() - before < HELD_BYTES + 4 * MIB
                assert not first.done()
                goes_on.set()
        assert first.result() == second.result() == true_digest(big)
        assert not slow.is_alone


async def test_who_holds_the_others_up_reads_by_itself(
    owner: Owner, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end without it, and it has the same bytes in the end."""
    monkeypatch.setattr(sharing, "PATIENCE_SECONDS", 0.1)
    goes_on = asyncio.Event()
    async with SharedSource(big, owner) as source:
        with source.seat() as quick, source.seat() as slow:
            async with asyncio.TaskGroup() as group:
                second = group.create_task(digest(slow, big, least=2, goes_on=goes_on))
                assert await digest(quick, big) == true_digest(big)
                assert slow.is_alone
                goes_on.set()
        assert second.result() == true_digest(big)


@pytest.mark.parametrize("size", [3 * HELD_BYTES + 5, MIB + 1, 0])
async def test_a_source_that_changes_for_one_left_behind(
    owner: Owner, big: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Promise 67: an error, never a mix."""
    monkeypatch.setattr(sharing, "PATIENCE_SECONDS", 0.1)
    goes_on = asyncio.Event()
    async with SharedSource(big, owner) as source:
        with source.seat() as quick, source.seat() as slow:
            async with asyncio.TaskGroup() as group:
                second = group.create_task(_error(digest(slow, big, least=2, goes_on=goes_on)))
                await digest(quick, big)
                big.write_bytes(os.urandom(size))
                goes_on.set()
        assert isinstance(second.result(), FileChanged)


async def _error(coro: Any) -> BaseException | None:
    try:
        await coro
    except (FileChanged, FileMissing) as error:
        return error
    return None


async def test_a_fleet_that_is_closed_meanwhile(owner: Owner, big: Path) -> None:
    """What was read only in part is not taken for the whole."""
    async with SharedSource(big, owner) as source:
        with source.seat() as seat:
            async with aclosing(seat.read_tree(os.fsencode(big), Tally())) as batches:
                await anext(batches)
                await owner.aclose()
                with pytest.raises(ClosedError):
                    async for _ in batches:
                        pass


async def test_one_that_leaves_is_not_waited_for(owner: Owner, big: Path) -> None:
    """Before it is ready, and in the middle."""
    async with SharedSource(big, owner) as source:
        with source.seat() as quick:
            with source.seat():
                pass  # it never comes
            with source.seat() as failing:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(digest(quick, big))
                    async with aclosing(failing.read_tree(os.fsencode(big), Tally())) as batches:
                        await anext(batches)
                    failing.__exit__(None, None, None)
            assert task.result() == true_digest(big)


async def test_one_that_never_comes_is_waited_for_a_while(
    owner: Owner, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it shares the next reading."""
    monkeypatch.setattr(sharing, "GATHER_SECONDS", 0.05)
    async with SharedSource(big, owner) as source:
        with source.seat() as late, source.seat() as quick:
            assert await digest(quick, big) == true_digest(big)
            assert await digest(late, big) == true_digest(big)


async def test_an_error_is_each_hosts_own(owner: Owner, tmp_path: Path) -> None:
    async with SharedSource(tmp_path / "none", owner) as source:
        with source.seat() as one, source.seat() as other:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_error(digest(seat, tmp_path / "none"))) for seat in (one, other)]
    errors = [task.result() for task in tasks]
    assert [type(error) for error in errors] == [FileMissing] * 2
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("tree", [False, True])
async def test_a_fleet_reads_once(tmp_path: Path, tree: bool) -> None:
    """Twelve hosts, the source read once, by SFTP and by an outpost."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(os.urandom(8 * MIB))
    (source / "two").write_bytes(b"x")
    addresses = [f"127.0.0.{number}" for number in range(2, 14)]
    async with Sshd(listen=addresses) as server:
        ssh: dict[str, Any] = {"user": "root", "keyfile": server.keyfile, "config": None}
        ssh["host_keys"] = HostKeys.pinned(server.host_key_fingerprint)
        async with Fleet([f"{address}:{server.port}" for address in addresses], **ssh) as fleet:
            (await fleet.run("true")).raise_for_failures()
            before = bytes_read()
            report = await fleet.upload(source if tree else source / "one", str(tmp_path / "target"), engine="sftp")
            report.raise_for_failures()
            assert bytes_read() - before < 10 * MIB
            assert [done.files for done in report.values()] == [1 + tree] * 12
            report = await fleet.upload(source, str(tmp_path / "verified"), engine="sftp", verify=True)
            report.raise_for_failures()
    there = tmp_path / "target" / "one" if tree else tmp_path / "target"
    assert there.read_bytes() == (source / "one").read_bytes()


async def test_a_failing_host_stops_no_other(
    aioremote_sshd: Sshd, aioremote_user: TestUser, tmp_path: Path, big: Path
) -> None:
    """One may not write, one is not there: the third has it, and the source was read once."""
    sshd = aioremote_sshd
    ssh: dict[str, Any] = {"keyfile": sshd.keyfile, "host_keys": HostKeys.strict(sshd.known_hosts), "config": None}
    users = "root", aioremote_user.name
    machines = [SshMachine(sshd.host, user=user, port=sshd.port, **ssh) for user in users]
    (tmp_path / "folder").mkdir(mode=0o700)
    before = bytes_read()
    async with machines[0], machines[1], Fleet([*machines, f"root@{sshd.host}:1"], **ssh) as fleet:
        report = await fleet.upload(big, f"{tmp_path}/folder/target", timeout=60)
    assert bytes_read() - before < big.stat().st_size + 4 * MIB
    assert [outcome.ok for outcome in report.outcomes] == [True, False, False]
    assert isinstance(report.outcomes[1].error, PermissionError)
    assert (tmp_path / "folder" / "target").read_bytes() == big.read_bytes()
