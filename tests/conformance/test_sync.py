"""A directory brought up to date with another, on every kind of machine that has files."""

import os
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from tests.conformance.test_files import near
from tests.conformance.test_transfers import tree

from aioremote import FileStat, LocalMachine, Machine, RemotePath, UnsafePathError
from aioremote._core.pieces import Listed, Piece
from aioremote.protocols import Unless
from aioremote.transports.local_files import LocalFiles


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "empty").touch()
    (root / "big").write_bytes(os.urandom(1_500_001))
    for number in range(40):
        (root / "deep" / f"file\n{number}").write_bytes(os.urandom(number * 37))
    (root / "link").symlink_to("deep/er")
    return root


async def test_only_what_differs_travels(files_machine: Machine, far: RemotePath, source: Path, tmp_path: Path) -> None:
    """There and back; names are exact (promise 132)."""
    first = await files_machine.sync(source, far / "tree")
    assert tree(near(far / "tree")) == tree(source)
    assert (len(first.sent), first.deleted, first.unchanged) == (43, (), 0)
    again = await files_machine.sync(source, far / "tree", delete=True)
    assert (again.sent, again.deleted, again.unchanged, again.bytes) == ((), (), 43, 0)
    (source / "deep" / "file\n3").write_bytes(b"another")
    (source / "link").unlink()
    (source / "link").symlink_to("deep")
    (source / "new").mkdir()
    (source / "new" / "one").write_bytes(b"1")
    changed = await files_machine.sync(source, far / "tree")
    assert changed.sent == ("deep/file\n3", "link", "new/one")
    assert (changed.unchanged, changed.bytes) == (41, 8)
    assert tree(near(far / "tree")) == tree(source)
    back = await files_machine.sync(far / "tree", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    assert len(back.sent) == 44
    assert (await files_machine.sync(far / "tree", tmp_path / "back", checksum=True)).sent == ()
    assert [path for path in os.listdir(near(far)) if path.startswith(".aioremote")] == []


async def test_deleting(files_machine: Machine, far: RemotePath, source: Path, tmp_path: Path) -> None:
    """Only below the target, never through links, only when asked; excluded things stay; a dry run does nothing."""
    outside = near(far) / "outside"
    await files_machine.upload(source, far / "outside")
    await files_machine.sync(source, far / "tree")
    target = far / "tree"
    await (target / "old" / "er").mkdir(parents=True)
    await (target / "old" / "er" / "file").write_text("x")
    await (target / "old link").symlink_to(str(far / "outside"))
    await (target / "deep" / "keep.log").write_text("x")
    await (target / "logs").mkdir()
    await (target / "logs" / "a.log").write_text("x")
    await (target / "logs" / "a.txt").write_text("x")
    await (target / "empty").unlink()
    await (target / "empty").mkdir()  # a directory where a file belongs
    await (target / "empty" / "x").write_text("x")
    before = tree(near(target))
    gone = ("empty", "logs/a.txt", "old", "old link")
    dry = await files_machine.sync(source, target, delete=True, dry_run=True, exclude=["*.log"])
    assert (dry.deleted, dry.sent, dry.dry_run) == (gone, ("empty",), True)
    assert tree(near(target)) == before
    report = await files_machine.sync(source, target, delete=True, exclude=["*.log"])
    assert (report.deleted, report.sent) == (gone, ("empty",))
    logs = {"deep/keep.log": b"x", "logs": None, "logs/a.log": b"x"}
    assert tree(near(target)) == {**tree(source), **logs}
    assert tree(outside) == tree(source)
    assert "deep/keep.log" in (await files_machine.sync(target, tmp_path / "back")).sent
    (tmp_path / "back" / "stray").touch()
    there = await files_machine.sync(target, tmp_path / "back", delete=True, exclude=["/logs/", "!x"])
    assert there.deleted == ("stray",)
    assert (tmp_path / "back" / "logs" / "a.log").exists()


async def test_content_by_checksum(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """Equal size and time hide a change, unless contents are compared."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("one")
    await files_machine.sync(tmp_path / "tree", far / "tree")
    stat = (tmp_path / "tree" / "file").stat()
    (tmp_path / "tree" / "file").write_text("two")
    os.utime(tmp_path / "tree" / "file", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (await files_machine.sync(tmp_path / "tree", far / "tree")).sent == ()
    assert (await files_machine.sync(tmp_path / "tree", far / "tree", checksum=True)).sent == ("file",)
    assert near(far / "tree" / "file").read_text() == "two"


async def test_bad_input(files_machine: Machine, far: RemotePath, source: Path, tmp_path: Path) -> None:
    """Said before anything is sent, with the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file"):
        await files_machine.sync(tmp_path / "file", far / "tree")
    with pytest.raises(FileNotFoundError, match="missing"):
        await files_machine.sync(tmp_path / "missing", far / "tree")
    with pytest.raises(FileNotFoundError, match="missing"):
        await files_machine.sync(far / "missing", tmp_path / "back", delete=True)
    with pytest.raises(NotADirectoryError, match="file"):
        await files_machine.sync(far, tmp_path / "file")
    with pytest.raises(TypeError, match="sequence"):
        await files_machine.sync(source, far / "tree", exclude="*.log")
    with pytest.raises(ValueError, match="pigeon"):
        await files_machine.sync(source, far / "tree", engine="pigeon")
    async with LocalMachine() as other:
        with pytest.raises(ValueError, match="machine"):
            await files_machine.sync(other.path(str(source)), tmp_path / "back")
    assert not near(far / "tree").exists()


class Lying(LocalFiles):
    """Lists one more name than there is."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name

    async def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        async for batch in super().list_tree(root, unless=unless):
            yield batch
        yield [Listed(self.name, FileStat(st_mode=0o100644, st_size=1))]


@pytest.mark.parametrize("name", [b"..", b"../outside", b"/etc/passwd", b"a/b", b"", b"file"])
async def test_a_lying_far_side_reaches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: bytes) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("x")
    shutil.copytree(tmp_path / "far", tmp_path / "near")
    (tmp_path / "near" / "stray").touch()
    (tmp_path / "outside").write_text("outside")
    async with LocalMachine() as machine:

        async def open_files(engine: str = "auto") -> LocalFiles:
            return Lying(name)

        monkeypatch.setattr(machine.transport, "open_files", open_files)
        with pytest.raises(UnsafePathError):
            await machine.sync(machine.path(str(tmp_path / "far")), tmp_path / "near", delete=True)
        with pytest.raises(UnsafePathError):
            await machine.sync(tmp_path / "near", str(tmp_path / "far"), delete=True)
    assert (tmp_path / "outside").read_text() == "outside"
    assert (tmp_path / "near" / "stray").exists()


class Giving(LocalFiles):
    """Sends what was not asked for, and not what was."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name

    async def read_files(
        self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]
    ) -> AsyncGenerator[Sequence[Piece]]:
        for _, stat in chosen:
            yield [Piece(self.name, stat, b"x" * stat.st_size)] if self.name else []


@pytest.mark.parametrize("name", [b"kept.log", b"../outside", b""])
async def test_a_far_side_that_sends_what_was_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: bytes
) -> None:
    """Not even in a directory that takes files: what is excluded stays as it is (promise 63)."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("new")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "kept.log").write_text("mine")
    (tmp_path / "outside").write_text("outside")
    async with LocalMachine() as machine:

        async def open_files(engine: str = "auto") -> LocalFiles:
            return Giving(name)

        monkeypatch.setattr(machine.transport, "open_files", open_files)
        with pytest.raises(UnsafePathError, match=r"not what was asked for|not among"):
            await machine.sync(machine.path(str(tmp_path / "far")), tmp_path / "near", exclude=["*.log"])
    assert tree(tmp_path / "near") == {"kept.log": b"mine"}
    assert (tmp_path / "outside").read_text() == "outside"


async def test_many_files_come_in_one_go(files_machine: Machine, far: RemotePath, tmp_path: Path) -> None:
    """More than a short listing, which comes without being asked for."""
    source = tmp_path / "many"
    for number in range(700):
        path = source / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    await files_machine.sync(source, far / "tree")
    report = await files_machine.sync(far / "tree", tmp_path / "back")
    assert len(report.sent) == 700
    assert tree(tmp_path / "back") == tree(source)
    (source / "d3" / "f3").write_bytes(b"changed")
    assert (await files_machine.sync(source, far / "tree")).sent == ("d3/f3",)
    assert (await files_machine.sync(far / "tree", tmp_path / "back")).sent == ("d3/f3",)


async def test_a_link_out_of_a_far_tree_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to("/etc/passwd")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").write_text("mine")
    async with LocalMachine() as machine:
        report = await machine.sync(machine.path(str(tmp_path / "far")), tmp_path / "near", delete=True)
    assert report.skipped == (("link", "a link that leads out of the tree"),)
    assert (tmp_path / "near" / "link").read_text() == "mine"


async def test_the_same_tree_told_by_a_digest(files_machine: Machine, far: RemotePath, source: Path) -> None:
    """What is excluded, and what is no file, counts as it does where all is listed."""
    (source / "deep" / "a.log").write_text("x")
    (source / "logs").mkdir()
    (source / "logs" / "a.txt").write_text("x")
    await files_machine.sync(source, far / "tree")
    os.mkfifo(source / "pipe")
    os.mkfifo(near(far / "tree" / "pipe"))
    exclude = ["*.log", "/logs/"]
    for checksum in (False, True):
        same = await files_machine.sync(source, far / "tree", exclude=exclude, checksum=checksum, delete=True)
        assert (same.sent, same.deleted, same.unchanged) == ((), (), 43)
        assert same.skipped == (("pipe", "a pipe"),)
    back = await files_machine.sync(far / "tree", source, exclude=exclude)
    assert (back.sent, back.unchanged, back.skipped) == ((), 43, (("pipe", "a pipe"),))
    assert (near(far / "tree" / "logs" / "a.txt")).exists()
