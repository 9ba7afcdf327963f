"""Big files over a plain channel beside SFTP: exact, as atomic as all others, and without that channel too."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.transports.ssh.conftest import MachineMaker

from aioremote import ConnectionLost, FileChanged, SshMachine, TransferProgress
from aioremote.testing.checks import cancel_everywhere
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.transports.ssh import sftp_reader, sftp_stream, sftp_writer

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sftp_reader, sftp_writer):
        monkeypatch.setattr(module, "STREAM_BYTES", MIB)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 3))
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The scripts that were started for it."""
    scripts: list[bytes] = []
    start = sftp_stream._started

    async def noted(ask: sftp_stream.Start, script: bytes, path: bytes, *, stdin: bool) -> object:
        scripts.append(script)
        return await start(ask, script, path, stdin=stdin)

    monkeypatch.setattr(sftp_stream, "_started", noted)
    return scripts


async def test_both_ways(make: MachineMaker, source: Path, tmp_path: Path, started: list[bytes]) -> None:
    """Also verified, durable, with a name that no shell likes; each of the two goes by its channel."""
    target = tmp_path / "it's\n$HOME"
    seen: list[TransferProgress] = []
    async with make() as machine:
        report = await machine.upload(source, str(target), verify=True, progress=seen.append)
        assert (report.engine, report.files, report.bytes) == ("sftp", 1, 5 * MIB + 3)
        assert (seen[-1].done_bytes, seen[-1].files_done) == (5 * MIB + 3, 1)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_mode & 0o777 == source.stat().st_mode & 0o777
        await machine.download(str(target), tmp_path / "back", verify=True)
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert len(started) == 2


async def test_holes(make: MachineMaker, tmp_path: Path) -> None:
    """Promise 68: what comes after a hole has its place, and the hole stays one."""
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        file.write(os.urandom(2 * MIB))
        file.seek(200 * MIB)
        file.write(os.urandom(2 * MIB + 1))
        file.truncate(300 * MIB)
    async with make() as machine:
        await machine.upload(source, str(tmp_path / "there"))
    subprocess.run(["cmp", source, tmp_path / "there"], check=True)
    assert (tmp_path / "there").stat().st_blocks * 512 < 10 * MIB


async def test_without_a_session_to_spare(make: MachineMaker, source: Path, tmp_path: Path) -> None:
    """SFTP alone does it."""
    with Sshd(max_sessions=1) as server:
        async with make(server) as machine:
            await machine.upload(source, str(tmp_path / "there"))
            await machine.download(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk(make: MachineMaker, source: Path, full_disk: Path) -> None:
    """Promise 62: ENOSPC with the target's path, which is as it was; nothing is left."""
    (full_disk / "target").write_bytes(b"old")
    async with make() as machine:
        with pytest.raises(OSError, match=r"[Nn]o space") as caught:
            await machine.upload(source, str(full_disk / "target"))
        assert (caught.value.errno, caught.value.filename) == (28, str(full_disk / "target"))
        assert os.listdir(full_disk) == ["target"]
        assert (full_disk / "target").read_bytes() == b"old"


async def test_a_source_that_changes(make: MachineMaker, source: Path, tmp_path: Path) -> None:
    """Promise 67: grown, shrunk or replaced while it is read."""
    async with make() as machine:
        for change in ("grow", "shrink", "replace"):
            source.write_bytes(os.urandom(40 * MIB))

            def disturb(progress: TransferProgress, change: str = change) -> None:
                if change == "grow":
                    with open(source, "ab") as file:
                        file.write(b"x")
                elif change == "shrink":
                    os.truncate(source, 100)
                else:
                    (source.parent / "other").write_bytes(b"other")
                    os.replace(source.parent / "other", source)

            with pytest.raises(FileChanged):
                await machine.download(str(source), tmp_path / "back", progress=disturb)
            assert sorted(os.listdir(tmp_path)) == ["source"]


async def test_cancelled_anywhere(make: MachineMaker, source: Path, tmp_path: Path) -> None:
    """Promises 58 and 60: the target is old or new, nothing is left, and the connection serves on."""
    old, new = b"old", source.read_bytes()
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(old)
    back.write_bytes(old)
    async with make() as machine:

        async def bring() -> None:
            await machine.upload(source, str(there), durable=False)
            await machine.download(str(source), back)

        async def check() -> None:
            assert there.read_bytes() in (old, new)
            assert back.read_bytes() in (old, new)
            assert sorted(os.listdir(tmp_path)) == ["back", "source", "there"]

        await cancel_everywhere(bring, check, most=40)


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.999])
@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
async def test_a_cut_link(
    over: Callable[..., SshMachine], proxy: TcpProxy, source: Path, tmp_path: Path, share: float, down: bool
) -> None:
    """Promises 58 and 60: the target is as it was; what could not be removed goes with the next connection."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "target").write_bytes(b"old")
    async with over(proxy, reconnect=True) as machine:
        await machine.path("/").stat()
        proxy.cut_after(int(source.stat().st_size * share), "received" if down else "sent")
        with pytest.raises(ConnectionLost):
            await (machine.download if down else machine.upload)(str(source), str(folder / "target"))
        assert (folder / "target").read_bytes() == b"old"
        for _ in range(50):
            await machine.path("/").stat()
            if os.listdir(folder) == ["target"]:
                break
        assert os.listdir(folder) == ["target"]
