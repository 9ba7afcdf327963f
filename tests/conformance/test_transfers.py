"""Files and trees up and down, on every kind of machine that has files."""

import asyncio
import os
import stat
import subprocess
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import pytest
from tests.conformance.test_files import NASTY_NAMES, give, near

import aioremote
from aioremote import FileChanged, FileError, LocalMachine, Machine, RemotePath, TransferProgress


def tree(root: Path) -> dict[str, object]:
    """What is in a tree: content, link text or None for a directory, by path."""
    found: dict[str, object] = {}
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, root)
            if os.path.islink(path):
                found[key] = ("link", os.readlink(path))
            else:
                found[key] = None if os.path.isdir(path) else Path(path).read_bytes()
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Empty, small, big and oddly named files; directories; links that stay inside."""
    root = tmp_path / "source"
    (root / "deep" / "er" / "empty").mkdir(parents=True)
    (root / "empty").touch()
    (root / "big").write_bytes(os.urandom(3_000_001))
    for number in range(300):
        (root / "deep" / str(number)).write_bytes(os.urandom(number * 37))
    (root / "names").mkdir()
    for name in NASTY_NAMES:
        (root / "names" / name).write_bytes(name.encode(errors="surrogateescape"))
    (root / "link").symlink_to("deep/er")
    (root / "deep" / "up").symlink_to("../empty")
    return root


async def test_a_tree_there_and_back(files_machine: Machine, far: RemotePath, source: Path, tmp_path: Path) -> None:
    """Promises 68 and 132; and no temporary file is left."""
    seen: list[TransferProgress] = []
    report = await files_machine.upload(source, far / "tree", progress=seen.append)
    assert tree(near(far / "tree")) == tree(source)
    files = [content for content in tree(source).values() if isinstance(content, bytes)]
    assert (report.files, report.bytes, report.skipped) == (len(files), sum(map(len, files)), ())
    assert report.engine in ("sftp", "outpost", "local", "tar")
    assert (seen[-1].files_done, seen[-1].done_bytes) == (report.files, report.bytes)
    assert (seen[-1].files_total, seen[-1].total_bytes) == (report.files, report.bytes)
    back = await files_machine.download(far / "tree", tmp_path / "back", verify=True)
    assert tree(tmp_path / "back") == tree(source)
    assert (back.files, back.bytes) == (report.files, report.bytes)
    again = await files_machine.upload(source, far / "tree", verify=True)
    assert again.files == report.files
    assert tree(near(far / "tree")) == tree(source)


async def test_where_things_land(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """A file lands in a directory; a tree's target is its final path; a slash takes either below."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    await (far / "dir").mkdir()
    await files_machine.upload(tmp_path / "file", far / "dir")
    await files_machine.upload(tmp_path / "file", far / "other")
    await files_machine.upload(tmp_path / "tree", far / "dir")
    await files_machine.upload(tmp_path / "tree", f"{far}/new/")
    assert set(tree(near(far))) == {"dir", "dir/file", "dir/a", "other", "new", "new/tree", "new/tree/a"}
    (tmp_path / "back").mkdir()
    await files_machine.download(far / "other", tmp_path / "back")
    await files_machine.download(far / "dir", f"{tmp_path}/back/")
    assert set(tree(tmp_path / "back")) == {"other", "dir", "dir/a", "dir/file"}
    with pytest.raises(NotADirectoryError):
        await files_machine.upload(tmp_path / "tree", far / "other")
    with pytest.raises(NotADirectoryError):
        await files_machine.download(far / "dir", tmp_path / "file")
    with files_machine.cwd(str(far)):
        await files_machine.upload(tmp_path / "file", "relative")
    assert near(far / "relative").read_text() == "x"


async def test_existing_files(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Replaced with their own permissions, or refused; a directory in the way is an error."""
    (tmp_path / "file").write_text("new")
    await (far / "file").write_text("old")
    await (far / "file").chmod(0o600)
    with pytest.raises(FileExistsError):
        await files_machine.upload(tmp_path / "file", far / "file", overwrite=False)
    assert near(far / "file").read_text() == "old"
    await files_machine.upload(tmp_path / "file", far / "file")
    assert near(far / "file").read_text() == "new"
    assert near(far / "file").stat().st_mode & 0o777 == 0o600
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    (tmp_path / "tree" / "more").write_text("x")
    with pytest.raises(FileExistsError):
        await files_machine.upload(tmp_path / "tree", far, overwrite=False)
    with pytest.raises(FileExistsError):
        await files_machine.download(far, tmp_path / "tree", overwrite=False)
    assert near(far / "file").read_text() == "new"
    await (far / "file").unlink()
    await (far / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        await files_machine.upload(tmp_path / "tree", far)
    assert not [name for name in tree(near(far)) if "aioremote" in name]


async def test_bad_input_is_refused_before_anything_is_done(
    files_machine: Machine, far: RemotePath, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        await files_machine.upload(missing, far / "x")
    assert isinstance(caught.value, FileError)
    assert (caught.value.filename, caught.value.host) == (str(missing), "localhost")
    with pytest.raises(FileNotFoundError) as caught:
        await files_machine.download(far / "missing", tmp_path / "x")
    assert isinstance(caught.value, FileError)
    assert (caught.value.filename, caught.value.host) == (str(far / "missing"), caught.value.host)
    assert caught.value.host in (files_machine.host, "localhost")
    async with LocalMachine() as other:
        with pytest.raises(ValueError, match="another machine"):
            await files_machine.upload("/etc/hostname", other.path("/x"))
    with pytest.raises(TypeError, match="far path"):
        await files_machine.upload(far, far / "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        await files_machine.upload("", far)
    with pytest.raises(FileNotFoundError):
        await files_machine.upload("/etc/hostname", far / "no" / "such")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="a pipe"):
        await files_machine.upload(tmp_path / "fifo", far / "x")
    assert os.listdir(near(far)) == []
    assert os.listdir(tmp_path) == ["fifo"]


async def test_special_files_are_skipped_and_listed(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 65."""
    for root in (tmp_path / "tree", near(far / "tree")):
        root.mkdir()
        os.mkfifo(root / "fifo")
        os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (root / "file").touch()
    give(far)
    expected = {("fifo", "a pipe"), ("null", "a device")}
    assert set((await files_machine.upload(tmp_path / "tree", far / "up")).skipped) == expected
    assert set((await files_machine.download(far / "tree", tmp_path / "down")).skipped) == expected
    assert set(tree(near(far / "up"))) == set(tree(tmp_path / "down")) == {"file"}


async def test_permissions(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 66: set-id bits and write permission for all are stripped, the umask is respected."""
    modes = {"plain": 0o644, "run": 0o755, "suid": 0o6755, "all": 0o777, "private": 0o600, "read": 0o444}
    umask = 0o022
    for root in (tmp_path / "tree", near(far / "tree")):
        root.mkdir()
        (root / "locked").mkdir()
        (root / "locked" / "file").touch()
        for name in modes:
            (root / name).touch()
        give(far)
        for name, mode in modes.items():
            (root / name).chmod(mode)
        (root / "locked").chmod(0o555)
    old = os.umask(umask)
    try:
        await files_machine.upload(tmp_path / "tree", far / "up")
        await files_machine.upload(tmp_path / "tree", far / "kept", preserve=True)
        await files_machine.upload(tmp_path / "tree" / "suid", far / "special", preserve=True, preserve_special=True)
        await files_machine.download(far / "tree", tmp_path / "down")
        await files_machine.download(far / "tree", tmp_path / "down-kept", preserve=True)
    finally:
        os.umask(old)
    for root in (near(far / "up"), tmp_path / "down"):
        found = {name: (root / name).stat().st_mode & 0o7777 for name in modes}
        assert found == {name: mode & 0o777 & ~umask for name, mode in modes.items()}
        assert (root / "locked").stat().st_mode & 0o777 == 0o555
    for root, origin in ((near(far / "kept"), tmp_path / "tree"), (tmp_path / "down-kept", near(far / "tree"))):
        assert {name: (root / name).stat().st_mode & 0o7777 for name in modes} == {
            name: mode & 0o775 for name, mode in modes.items()
        }
        assert int((root / "plain").stat().st_mtime) == int((origin / "plain").stat().st_mtime)
    for root in (near(far / "up"), near(far / "kept"), near(far / "tree")):
        (root / "locked").chmod(0o755)
    assert near(far / "special").stat().st_mode & 0o7777 == 0o6755


async def test_sparse_files_stay_sparse(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 68."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
        file.seek(0, os.SEEK_END)
    await files_machine.upload(tmp_path / "sparse", far / "sparse")
    await files_machine.download(far / "sparse", tmp_path / "back")
    for path in (near(far / "sparse"), tmp_path / "back"):
        assert subprocess.run(["cmp", tmp_path / "sparse", path]).returncode == 0
        assert path.stat().st_blocks * 512 < 4 << 20


async def test_links_of_a_far_tree_stay_in_it(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 63: links that lead out, also in two steps, are left out and listed."""
    root = near(far / "tree")
    (root / "sub").mkdir(parents=True)
    for name, target in (
        ("absolute", "/etc/passwd"), ("up", "../x"), ("sub/far", "../../x"), ("sub/ok", "../sub"), ("ok", "sub/ok"),
        ("sub/self", "."), ("sub/two", "self/../.."),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    give(far)
    report = await files_machine.download(far / "tree", tmp_path / "back")
    assert {path for path, _ in report.skipped} == {"absolute", "up", "sub/far", "sub/two"}
    assert set(tree(tmp_path / "back")) == {"sub", "sub/ok", "ok", "sub/self"}
    up = await files_machine.upload(root, far / "up")
    assert up.skipped == ()
    assert tree(near(far / "up")) == tree(root)


async def test_links_in_a_near_target_are_not_followed(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 64."""
    (near(far) / "sub").mkdir()
    (near(far) / "sub" / "file").write_text("far")
    (near(far) / "top").write_text("far")
    give(far)
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    (outside / "file").write_text("mine")
    target.mkdir()
    (target / "sub").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        await files_machine.download(far, target)
    assert tree(outside) == {"file": b"mine"}
    (target / "sub").unlink()
    (target / "top").unlink(missing_ok=True)  # it may have come first
    (target / "top").symlink_to(outside / "file")
    await files_machine.download(far, target)
    assert tree(outside) == {"file": b"mine"}
    assert tree(target) == {"sub": None, "sub/file": b"far", "top": b"far"}


async def test_a_cancel_leaves_old_content_and_no_debris(
    files_machine: Machine, far: RemotePath, tmp_path: Path
) -> None:
    """Promises 58 and 60, for a cancel after each of the first pieces."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(6 << 20))
    (tmp_path / "old").write_text("old")
    await (far / "old").write_text("old")
    await files_machine.upload(big, far / "big")
    up = partial(files_machine.upload, big, far / "old")
    down = partial(files_machine.download, far / "big", tmp_path / "old")
    for move in (up, down):
        for step in range(1, 5):
            await cancelled_at(move, step)
            assert near(far / "old").read_text() == (tmp_path / "old").read_text() == "old"
            assert sorted(os.listdir(near(far))) == ["big", "old"]
            assert sorted(os.listdir(tmp_path)) == ["big", "old"]
    assert await (far / "old").read_text() == "old"


async def cancelled_at(move: Callable[..., Coroutine[object, object, object]], step: int) -> None:
    """Run a transfer and cancel it when it tells its progress for the n-th time."""
    seen: list[TransferProgress] = []

    def stop(progress: TransferProgress) -> None:
        seen.append(progress)
        if len(seen) == step:
            task.cancel()

    task = asyncio.get_running_loop().create_task(move(progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_file_that_changes_is_told(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 67."""
    for down in (False, True):
        source = near(far / "big") if down else tmp_path / "big"
        source.write_bytes(os.urandom(24 << 20))
        give(far)

        def change(_: TransferProgress, source: Path = source) -> None:
            with source.open("ab") as file:
                file.write(b"more")

        target = tmp_path / "target" if down else near(far / "target")
        up = partial(files_machine.upload, source, far / "target", progress=change)
        move = partial(files_machine.download, far / "big", target, progress=change) if down else up
        with pytest.raises(FileChanged) as caught:
            await move()
        assert caught.value.path == str(source)
        assert not target.exists()
        assert not [name for name in os.listdir(target.parent) if "aioremote" in name]


async def test_from_machine_to_machine(files_machine: Machine, far: RemotePath, source: Path, tmp_path: Path) -> None:
    """A tree streams from one machine to another, either way, and near to near."""
    async with LocalMachine() as other:
        await aioremote.copy(source, far / "a")
        await aioremote.copy(far / "a", other.path(str(tmp_path / "b")))
        await aioremote.copy(other.path(str(tmp_path / "b")), far / "c")
        report = await aioremote.copy(far / "c", tmp_path / "d")
        await aioremote.copy(tmp_path / "d", tmp_path / "e")
    assert tree(tmp_path / "e") == tree(tmp_path / "d") == tree(tmp_path / "b") == tree(near(far / "c")) == tree(source)
    assert report.engine in ("sftp", "outpost", "local", "tar")


async def test_getfile_and_putfile(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """The contract of Pushy: one file, by the road's own means."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    await files_machine.transport.putfile(tmp_path / "file", str(far / "a"))
    await files_machine.transport.getfile(str(far / "a"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "file").read_bytes()
    with pytest.raises(IsADirectoryError):
        await files_machine.transport.getfile(str(far), tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        await files_machine.transport.putfile(tmp_path / "missing", str(far / "c"))


async def test_a_failing_progress_ends_the_transfer(files_machine: Machine, far: RemotePath, source: Path) -> None:
    def fail(_: TransferProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await files_machine.upload(source, far / "tree", progress=fail)
    assert not [name for name in tree(near(far)) if "aioremote" in name]
    assert await files_machine.upload(source / "big", far / "big")


async def test_a_cut_transfer_goes_on_where_it_was(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 59: both ways, only the rest is sent, and the whole is compared; until then the target is old."""
    data = os.urandom(5 * 2**20 + 17)
    (tmp_path / "source").write_bytes(data)
    await (far / "source").write_bytes(data)
    await (far / "up").write_bytes(b"old")
    (tmp_path / "down").write_bytes(b"old")

    def give_up(progress: TransferProgress) -> None:
        if progress.done_bytes > 2 * 2**20:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await files_machine.upload(tmp_path / "source", far / "up", resume=True, progress=give_up)
    with pytest.raises(ZeroDivisionError):
        await files_machine.download(far / "source", tmp_path / "down", resume=True, progress=give_up)
    assert await (far / "up").read_bytes() == (tmp_path / "down").read_bytes() == b"old"
    up = await files_machine.upload(tmp_path / "source", far / "up", resume=True)
    down = await files_machine.download(far / "source", tmp_path / "down", resume=True)
    assert (up.files, down.files) == (1, 1)
    assert up.bytes == down.bytes == len(data) - 3 * 2**20
    assert await (far / "up").read_bytes() == (tmp_path / "down").read_bytes() == data
    assert sorted([path.name async for path in far.iterdir()]) == ["source", "up"]
    assert sorted(os.listdir(tmp_path)) == ["down", "source"]


async def test_a_changed_source_is_sent_from_its_start(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Promise 59: never a mix of two; and a tree cannot be resumed."""
    (tmp_path / "source").write_bytes(os.urandom(3 * 2**20))

    def give_up(progress: TransferProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await files_machine.upload(tmp_path / "source", far / "up", resume=True, progress=give_up)
    data = os.urandom(2 * 2**20)
    (tmp_path / "source").write_bytes(data)
    report = await files_machine.upload(tmp_path / "source", far / "up", resume=True)
    assert report.bytes == len(data)
    assert await (far / "up").read_bytes() == data
    (tmp_path / "empty").touch()
    assert (await files_machine.upload(tmp_path / "empty", far / "empty", resume=True)).files == 1
    with pytest.raises(ValueError, match="sync"):
        await files_machine.upload(tmp_path, far / "tree", resume=True)
