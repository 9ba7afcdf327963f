"""Transfers to a real sshd as another user, where the far system is strict, small or read-only; by every engine."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conformance.test_transfers import tree

from aioremote import FileError, HostKeys, SshMachine
from aioremote.testing.sshd import Sshd, create_user

USER = f"strict-{os.getpid()}"  # of this process alone: its shell is
ENGINES = ["sftp", "outpost", "tar"]


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """Its user's umask is 077, for whatever a shell starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shell = Path(folder) / "sh"
        shell.write_text('#!/bin/sh\numask 077\nexec /bin/sh "$@"\n')
        shell.chmod(0o755)
        with create_user(USER, str(shell)), Sshd() as server:
            yield server


def to(server: Sshd) -> SshMachine:
    keys = HostKeys.pinned(server.host_key_fingerprint)
    return SshMachine(server.host, port=server.port, user=USER, keyfile=server.keyfile, host_keys=keys, config=None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True, mode=0o755)
    for number in range(30):
        (root / "deep" / str(number)).write_bytes(os.urandom(number * 2000))
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o755)
    return root


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0777,{options}", "none", made], check=True)
        try:
            yield Path(made)
        finally:
            subprocess.run(["umount", made], check=True)


@pytest.mark.parametrize("engine", ["outpost", "tar"])
async def test_a_strict_umask(server: Sshd, source: Path, engine: str) -> None:
    """Promises 66 and 132: what is new is the user's alone, and still runs. SFTP's umask is the server's own."""
    async with to(server) as machine, machine.tempdir() as far:
        await machine.upload(source, far / "tree", engine=engine, verify=True)
        await machine.upload(source / "run", far / "file", engine=engine, verify=True)
        there = Path(str(far))
        modes = {
            name: (there / name).stat().st_mode & 0o777 for name in ("tree/deep", "tree/deep/7", "tree/run", "file")
        }
        owner = (there / "file").stat().st_uid
        assert tree(there / "tree") == tree(source)
    assert list(modes.values()) == [0o700, 0o600, 0o700, 0o700]
    assert owner == pwd.getpwnam(USER).pw_uid


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_full_disk(server: Sshd, source: Path, engine: str) -> None:
    """Promise 62: ENOSPC in the middle of a tree: whole files or none, no temporary one, the old one as it was."""
    with mounted("size=300k") as disk:
        async with to(server) as machine:
            (disk / "tree" / "deep").mkdir(parents=True)
            (disk / "tree" / "deep" / "29").write_bytes(b"old")
            subprocess.run(["chown", "-R", USER, disk / "tree"], check=True)
            with pytest.raises(OSError, match=r"[Nn]o space") as caught:
                await machine.upload(source, str(disk / "tree"), engine=engine)
            assert isinstance(caught.value, FileError)
            assert caught.value.errno == 28
            assert str(caught.value.filename).startswith(str(disk / "tree"))
            for path, content in tree(disk / "tree").items():
                assert content is None or content in ((source / path).read_bytes(), b"old"), path
            assert not [name for _, _, names in os.walk(disk) for name in names if name.startswith(".aioremote")]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_read_only_mount_and_a_long_name(server: Sshd, source: Path, engine: str) -> None:
    """Promise 62: EROFS and ENAMETOOLONG, with the path, for a file and for a tree; a sync too."""
    with mounted("size=1m") as disk:
        (disk / "tree" / "deep").mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        async with to(server) as machine:
            for path in (source, source / "run"):
                with pytest.raises(OSError, match=r"[Rr]ead-only") as caught:
                    await machine.upload(
                        path, str(disk / "tree" / ("deep" if path.is_dir() else "file")), engine=engine
                    )
                assert (caught.value.errno, isinstance(caught.value, FileError)) == (30, True)
                with pytest.raises(OSError, match="name too long") as long:
                    await machine.upload(path, "n" * 256, engine=engine)
                assert (long.value.errno, long.value.filename is not None) == (36, True)
            with pytest.raises(OSError, match=r"[Rr]ead-only"):
                await machine.sync(source, str(disk / "tree"), engine=engine)
        assert tree(disk) == {"tree": None, "tree/deep": None}
