"""``verify=`` on roads that change what they carry, by every engine."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
from tests.conformance.test_transfers import tree
from tests.transports.corrupting import MARK, OTHER

from aioremote import ChecksumMismatch, CommandMachine, HostKeys, Machine, SshMachine, UnsupportedError
from aioremote.testing.checks import cancel_everywhere

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

CORRUPTING = [sys.executable, str(Path(__file__).with_name("corrupting.py"))]
SMALL, BIG = b"12345" + MARK, b"x" * 1_300_000 + MARK + b"y" * 1_000_000


class CorruptingFiles(asyncssh.SFTPServer):
    """Writes and reads files as they would be where bits fall over on the way."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        return data.replace(MARK, OTHER)

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        written = super().write(file_obj, offset, data.replace(MARK, OTHER))
        assert isinstance(written, int)
        return written


async def run_command(process: asyncssh.SSHServerProcess[bytes]) -> None:
    assert process.command is not None
    data, command = await process.stdin.read(), ["/bin/sh", "-c", process.command]
    done = await asyncio.to_thread(subprocess.run, command, input=data, capture_output=True)
    process.stdout.write(done.stdout)
    process.stderr.write(done.stderr)
    process.exit(done.returncode)


@asynccontextmanager
async def over_sftp(*, runs_commands: bool) -> AsyncIterator[Machine]:
    """A server that changes what goes through its SFTP; commands see the true files."""
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=Server,
        sftp_factory=CorruptingFiles,
        process_factory=run_command if runs_commands else None,
        encoding=None,
    )
    keys = HostKeys.pinned(key.get_fingerprint())
    machine = SshMachine(
        "127.0.0.1", port=server.get_port(), user="any", host_keys=keys, config=None, outpost="never", guard="never"
    )
    async with server, machine:
        yield machine


@asynccontextmanager
async def corrupting(engine: str) -> AsyncIterator[Machine]:
    if engine == "sftp":
        async with over_sftp(runs_commands=True) as machine:
            yield machine
    else:
        async with CommandMachine(CORRUPTING, outpost="always" if engine == "outpost" else "never") as machine:
            yield machine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True)
    for number in range(20):
        (root / "deep" / str(number)).write_bytes(os.urandom(number * 1000))
    return root


@pytest.mark.parametrize("engine", ["outpost", "tar", "sftp"])
@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
async def test_what_is_corrupted_on_the_way_never_takes_the_place(
    engine: str, content: bytes, source: Path, tmp_path: Path
) -> None:
    """Promise 61: one file, both ways. Without ``verify`` nobody sees it."""
    (source / "file").write_bytes(content)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    async with corrupting(engine) as machine:
        for move in (machine.upload, machine.download):
            with pytest.raises(ChecksumMismatch, match="target") as caught:
                await move(str(source / "file"), str(target), verify=True)
            assert caught.value.path == str(target)
            assert target.read_bytes() == b"old"
            assert sorted(os.listdir(tmp_path)) == ["source", "target"]
            report = await move(str(source / "file"), str(tmp_path / "other"))
            assert report.engine == engine
            assert (tmp_path / "other").read_bytes() == content.replace(MARK, OTHER)
            (tmp_path / "other").unlink()


@pytest.mark.parametrize("engine", ["outpost", "tar", "sftp"])
async def test_one_corrupted_file_of_a_tree(engine: str, source: Path, tmp_path: Path) -> None:
    """Promise 61: it is named, and as it was; so are, at least, all that came with it or are whole."""
    target = tmp_path / "target"
    shutil.copytree(source, target)
    (source / "deep" / "7 or\nso").write_bytes(SMALL)
    (target / "deep" / "7 or\nso").write_bytes(b"old")
    before = tree(target)
    async with corrupting(engine) as machine:
        for move in (machine.upload, machine.download):
            with pytest.raises(ChecksumMismatch) as caught:
                await move(str(source), str(target), verify=True)
            assert caught.value.path == str(target / "deep" / "7 or\nso")
            assert tree(target) == before


async def test_a_server_for_files_only_is_read_back(source: Path, tmp_path: Path) -> None:
    """Promise 61: it cannot hash; what it has written is seen."""
    (source / "deep" / "file").write_bytes(SMALL)
    async with over_sftp(runs_commands=False) as machine:
        with pytest.raises(ChecksumMismatch, match="file"):
            await machine.upload(source, str(tmp_path / "target"), verify=True)
        (source / "deep" / "file").unlink()
        await machine.upload(source, str(tmp_path / "target"), verify=True)
    assert tree(tmp_path / "target") == tree(source)


async def test_without_a_program_that_hashes_there_is_no_doubt(source: Path, tmp_path: Path) -> None:
    """Where tar is the only way, it is said before anything has its place."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in os.listdir("/usr/bin"):
        if name not in ("sha256sum", "shasum"):
            (programs / name).symlink_to(f"/usr/bin/{name}")
    async with CommandMachine(["env", f"PATH={programs}"], outpost="never") as machine:
        with pytest.raises(UnsupportedError, match="sha256sum"):
            await machine.upload(source, str(tmp_path / "target"), verify=True)
    assert sorted(os.listdir(tmp_path)) == ["programs", "source"]


async def test_cancelled_while_it_compares(source: Path, tmp_path: Path) -> None:
    """Promise 58, with a verified tree by an outpost."""
    async with CommandMachine(["env"], outpost="always") as machine:

        async def bring() -> None:
            await machine.upload(source, str(tmp_path / "target"), verify=True)

        async def check() -> None:
            await machine.ping()

        await cancel_everywhere(bring, check)
        assert tree(tmp_path / "target") == tree(source)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name.startswith(".aioremote")]
