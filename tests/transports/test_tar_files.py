"""Files by way of plain programs: of GNU, of busybox, and of a far side that lies."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conformance.test_transfers import cancelled_at, tree

from aioremote._core.pieces import Piece, Tally, TreeOptions, carry
from aioremote.errors import FileChanged, TransferError, UnsafePathError, UnsupportedError
from aioremote.protocols import FarProcess, Starter
from aioremote.testing.checks import cancel_everywhere
from aioremote.transports.local import LocalTransport
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.tar_files import TarFiles
from aioremote.types import FileStat, ProcessSpec, TransferProgress

APPLETS = subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()


class Tools(Starter):
    """This computer with other programs: those of one directory, its sh in place of /bin/sh."""

    def __init__(self, inner: LocalTransport, folder: Path) -> None:
        self._inner = inner
        self._folder = folder

    async def connect(self) -> None:
        await self._inner.connect()

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        argv = (os.fsencode(self._folder / "sh"), *spec.argv[1:])
        return await self._inner.start_process(replace(spec, argv=argv, env={"PATH": os.fsencode(self._folder)}))


def tools_of(kind: str, folder: Path) -> Path:
    """Fill a directory with programs."""
    folder.mkdir()
    names = APPLETS if kind.startswith("busybox") else [*os.listdir("/bin"), "busybox"]
    for name in names:
        program = shutil.which("busybox" if kind.startswith("busybox") else name)
        if program and not (folder / name).exists() and not (kind.endswith("without stat") and name == "stat"):
            (folder / name).symlink_to(program)
    return folder


@pytest.fixture
async def local(aioremote_no_leaks: None) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport()
    try:
        yield transport
    finally:
        await transport.aclose()


@pytest.fixture(params=["gnu", "busybox"])
def far(request: pytest.FixtureRequest, local: LocalTransport, tmp_path: Path) -> TarFiles:
    return TarFiles(Tools(local, tools_of(request.param, tmp_path / "tools")), "web1")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub" / "deep" / "empty").mkdir(parents=True)
    for number in range(50):
        (root / "sub" / f"file {number}\n'").write_bytes(os.urandom(number * 100))
    (root / "sub" / ("n" * 255)).write_bytes(b"long")
    (root / "big").write_bytes(os.urandom(5_000_000))
    (root / ".hidden").write_bytes(b"")
    (root / "run").write_bytes(b"x")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("sub/deep")
    return root


async def up(far: TarFiles, near: Path, place: Path, **options: bool) -> Tally:
    tally = Tally()
    await carry(LocalFiles(), os.fsencode(near), far, os.fsencode(place), tally=tally, options=TreeOptions(**options),
                host="localhost", trusted=True)  # fmt: skip
    return tally


async def down(
    far: TarFiles, place: Path, near: Path, progress: Callable[[TransferProgress], None] | None = None
) -> Tally:
    tally = Tally(progress)
    await carry(far, os.fsencode(place), LocalFiles(), os.fsencode(near), tally=tally, options=TreeOptions(),
                host="web1", trusted=False)  # fmt: skip
    return tally


async def test_trees_there_and_back(far: TarFiles, source: Path, tmp_path: Path) -> None:
    """Promises 68 and 132, also over a tree that is there."""
    for _ in range(2):
        tally = await up(far, source, tmp_path / "there", durable=False)
        assert tree(tmp_path / "there") == tree(source)
        assert (tally.files_done, tally.bytes_done) == (tally.files_found, tally.bytes_found)
    await down(far, tmp_path / "there", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    assert (tmp_path / "there" / "run").stat().st_mode & 0o777 == 0o755
    await up(far, source / "big", tmp_path / "alone")
    await down(far, tmp_path / "alone", tmp_path / "alone-back")
    assert (tmp_path / "alone-back").read_bytes() == (source / "big").read_bytes()
    assert not [name for name in os.listdir(tmp_path) if "aioremote" in name]


async def test_files_that_are_there_keep_their_permissions(far: TarFiles, source: Path, tmp_path: Path) -> None:
    await up(far, source, tmp_path / "there")
    modes = {"run": 0o600, ".hidden": 0o711, "big": 0o640, "sub/deep": 0o710}
    for name, mode in modes.items():
        (tmp_path / "there" / name).chmod(mode)
    (tmp_path / "there" / "mine").write_text("stays")
    await up(far, source, tmp_path / "there")
    assert {name: (tmp_path / "there" / name).stat().st_mode & 0o777 for name in modes} == modes
    assert (tmp_path / "there" / "mine").read_text() == "stays"
    os.utime(source / "run", (10, 1_000_000))
    os.utime(source / "big", (10, 1_000_000))
    os.utime(source / "sub", (10, 1_000_000))
    await up(far, source, tmp_path / "there", preserve=True)
    for name in ("run", "big", "sub"):
        assert (tmp_path / "there" / name).stat().st_mtime == 1_000_000
    assert (tmp_path / "there" / "run").stat().st_mode & 0o777 == 0o755


async def test_nothing_is_replaced_unless_allowed(far: TarFiles, source: Path, tmp_path: Path) -> None:
    (tmp_path / "there" / "sub").mkdir(parents=True)
    (tmp_path / "there" / "sub" / ("n" * 255)).write_text("old")
    with pytest.raises(FileExistsError):
        await up(far, source, tmp_path / "there", overwrite=False)
    assert (tmp_path / "there" / "sub" / ("n" * 255)).read_text() == "old"
    await up(far, source, tmp_path / "new", overwrite=False)
    assert tree(tmp_path / "new") == tree(source)


async def test_links_in_a_far_target_are_not_followed(far: TarFiles, source: Path, tmp_path: Path) -> None:
    """Promise 64, at the far side."""
    outside, there = tmp_path / "outside", tmp_path / "there"
    outside.mkdir()
    there.mkdir()
    (there / "sub").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        await up(far, source, there)
    assert os.listdir(outside) == []
    (there / "sub").unlink()
    (there / "run").unlink(missing_ok=True)
    (there / "run").symlink_to(outside)
    await up(far, source, there)
    assert os.listdir(outside) == []
    assert tree(there) == tree(source)
    (tmp_path / "way").symlink_to(there)
    await up(far, source, tmp_path / "way")  # the root itself may be one
    assert tree(there) == tree(source)


async def test_further_names_of_a_file_are_files(far: TarFiles, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_bytes(b"x" * 3_000_000)
    os.link(tmp_path / "there" / "a", tmp_path / "there" / "b")
    tally = await down(far, tmp_path / "there", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(tmp_path / "there")
    assert tally.files_done == tally.files_found == 2


async def test_a_far_file_that_changes_is_told(far: TarFiles, tmp_path: Path) -> None:
    """Promise 67."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(24 << 20))

    def change(_: TransferProgress) -> None:
        with big.open("ab") as file:
            file.write(b"more")

    with pytest.raises(FileChanged) as caught:
        await down(far, big, tmp_path / "target", progress=change)
    assert caught.value.path == str(big)
    assert not (tmp_path / "target").exists()


async def test_unreadable_files_are_told(far: TarFiles, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        await down(far, tmp_path / "there" / "missing", tmp_path / "back")
    assert caught.value.filename == str(tmp_path / "there" / "missing")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a pipe"):
        await down(far, tmp_path / "fifo", tmp_path / "back")


async def test_single_operations(far: TarFiles, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "file\n-")
    file = await far.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    await file.write(5, b"hello")
    await file.write(70_001, b"end")
    await file.truncate(70_010)
    expected = bytes(5) + b"hello" + bytes(69_991) + b"end" + bytes(6)
    assert (tmp_path / "file\n-").read_bytes() == expected
    for offset, count in ((0, 10), (3, 4), (69_999, 100_000), (65_536, 65_536), (80_000, 5)):
        assert await file.read(offset, count) == expected[offset : offset + count]
    near = os.lstat(path)
    found = await far.stat(path, follow=False)
    assert (found.st_mode, found.st_size, found.st_ino) == (near.st_mode, near.st_size, near.st_ino)
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime_ns // 10**9 == near.st_mtime_ns // 10**9
    await far.utime(path, (5 * 10**9, 7 * 10**9))
    assert ((await far.stat(path)).st_atime, (await far.stat(path)).st_mtime) == (5, 7)
    await far.symlink(b"-to\n", path + b"2")
    assert await far.readlink(path + b"2") == b"-to\n"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        await far.rename(path, os.fsencode(tmp_path / "folder"))
    with pytest.raises(NotADirectoryError):
        await far.rename(os.fsencode(tmp_path / "folder"), path)
    await far.rename(path, path + b"2")
    assert not (tmp_path / "file\n-2").is_symlink()


async def test_a_far_side_without_stat_tells_less(local: LocalTransport, source: Path, tmp_path: Path) -> None:
    far = TarFiles(Tools(local, tools_of("busybox without stat", tmp_path / "tools")), "web1")
    found = {entry.name: entry.stat async for batch in far.scan(os.fsencode(source / "sub")) for entry in batch}
    for name, told in found.items():
        near = os.lstat(os.fsencode(source / "sub") + b"/" + name)
        assert (told.st_mode, told.st_size, told.st_uid) == (near.st_mode, near.st_size, near.st_uid)
    assert set(found) == set(os.listdir(os.fsencode(source / "sub")))
    assert (await far.stat(os.fsencode(source / "link"))).is_dir()
    assert (await far.stat(os.fsencode(source / "link"), follow=False)).is_symlink()
    with pytest.raises(UnsupportedError):
        await up(far, source, tmp_path / "there")
    assert not (tmp_path / "there").exists()


async def test_a_killed_tar_leaves_old_content(far: TarFiles, source: Path, tmp_path: Path) -> None:
    """Promise 58."""
    await up(far, source / "run", tmp_path / "there")
    marker = os.fsencode(tmp_path)

    def kill(progress: TransferProgress) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-x" in words and any(word.startswith(marker) for word in words) and b"-C" in words:
                os.kill(int(pid), 9)

    tally = Tally(kill)
    (tmp_path / "huge").write_bytes(os.urandom(20 << 20))
    with pytest.raises((TransferError, OSError)):
        await carry(LocalFiles(), os.fsencode(tmp_path / "huge"), far, os.fsencode(tmp_path / "there"), tally=tally,
                    options=TreeOptions(), host="localhost", trusted=True)  # fmt: skip
    assert (tmp_path / "there").read_bytes() == b"x"
    assert not [name for name in os.listdir(tmp_path) if "aioremote" in name]


async def test_pieces_of_several_files_may_alternate(far: TarFiles, tmp_path: Path) -> None:
    """As SFTP reads them; with holes at the begin, between and at the end."""
    found = FileStat(st_mode=stat.S_IFREG | 0o640, st_size=10_000_000, st_mtime_ns=10**18)
    folder = FileStat(st_mode=stat.S_IFDIR | 0o755, st_size=0)

    async def pieces() -> AsyncIterator[list[Piece]]:
        yield [Piece(b"", folder), Piece(b"a'", found, b"one", 0, last=False)]
        yield [Piece(b"b", found, b"x" * 1000, 5_000_001, last=False), Piece(b"a'", found, b"two", 3, last=False)]
        yield [Piece(b"a'", found, b"three", 7_000_000, last=False), Piece(b"b", found, b"", 10_000_000)]
        yield [Piece(b"a'", found, b"end", 9_999_997), Piece(b"c", found, b"all", 0)]

    await far.write_tree(os.fsencode(tmp_path / "there"), pieces(), Tally(), TreeOptions(preserve=True))
    expected = {
        "a'": b"onetwo" + bytes(6_999_994) + b"three" + bytes(2_999_992) + b"end",
        "b": bytes(5_000_001) + b"x" * 1000 + bytes(4_998_999),
        "c": b"all" + bytes(9_999_997),
    }
    assert tree(tmp_path / "there") == expected
    for name in expected:
        near = (tmp_path / "there" / name).stat()
        assert (near.st_mode & 0o777, near.st_mtime_ns) == (0o640, 10**18)
        assert near.st_blocks * 512 < 1 << 20


# a far side that lies


def lying(local: LocalTransport, tmp_path: Path, archive: bytes) -> TarFiles:
    """Return files of a far side whose tar sends what it likes."""
    folder = tools_of("gnu", tmp_path / "tools")
    (tmp_path / "archive").write_bytes(archive)
    (folder / "tar").unlink()
    (folder / "tar").write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "tar (GNU tar) 1.34"; else cat "{tmp_path}/archive"; fi\n'
    )
    (folder / "tar").chmod(0o755)
    (tmp_path / "there").mkdir()
    return TarFiles(Tools(local, folder), "web1")


def archive_of(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, target in (("./", tarfile.DIRTYPE, ""), *members):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"evil") if info.size else None)
    return out.getvalue()


F, D, L = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../x", F, "")],
        [("./../x", F, "")],
        [("/tmp/aioremote-evil", F, "")],
        [("./a", D, ""), ("./a/../../x", F, "")],
        [("./a//b", F, "")],
        [("./a/./b", F, "")],
        [("./..", D, "")],
        [("./a", F, ""), ("./a", F, "")],
        [("./a", L, "../outside"), ("./a/x", F, "")],
        [("./a", L, "."), ("./a", D, ""), ("./a/x", F, "")],
        [("./b/x", F, "")],
        [("./", D, "")],
    ],
)
async def test_names_that_lead_out_end_a_download(
    local: LocalTransport, tmp_path: Path, members: list[tuple[str, bytes, str]]
) -> None:
    """Promise 63."""
    far = lying(local, tmp_path, archive_of(*members))
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(UnsafePathError):
        await down(far, tmp_path / "there", tmp_path / "target" / "in")
    assert os.listdir(tmp_path / "outside") == []
    assert set(os.listdir(tmp_path / "target")) <= {"in"}
    assert not Path("/tmp/aioremote-evil").exists()


async def test_links_that_lead_out_are_left_out(local: LocalTransport, tmp_path: Path) -> None:
    """Promise 63."""
    far = lying(local, tmp_path, archive_of(("./a", L, "/etc/passwd"), ("./b", L, "../x"), ("./c", F, "")))
    tally = await down(far, tmp_path / "there", tmp_path / "target")
    assert tree(tmp_path / "target") == {"c": b"evil"}
    assert {path for path, _ in tally.skipped} == {"a", "b"}


@pytest.mark.parametrize("archive", [b"", b"x" * 5000, archive_of(("./a", F, ""))[:1025], archive_of()[:100]])
async def test_what_is_no_archive_is_told(local: LocalTransport, tmp_path: Path, archive: bytes) -> None:
    far = lying(local, tmp_path, archive)
    with pytest.raises(TransferError):
        await down(far, tmp_path / "there", tmp_path / "target")
    assert not tree(tmp_path / "target")


async def test_a_cancel_removes_the_temporary_directory(far: TarFiles, source: Path, tmp_path: Path) -> None:
    """Promise 58: at each of the first pieces."""
    (tmp_path / "there").mkdir()

    async def move(progress: Callable[[TransferProgress], None]) -> None:
        await carry(LocalFiles(), os.fsencode(source), far, os.fsencode(tmp_path / "there"), tally=Tally(progress),
                    options=TreeOptions(), host="localhost", trusted=True)  # fmt: skip

    for step in range(1, 6):
        await cancelled_at(move, step)
        assert os.listdir(tmp_path / "there") == []


async def test_a_cancel_anywhere_leaves_old_or_new(local: LocalTransport, tmp_path: Path) -> None:
    """Promise 58: at every suspension point, up and down."""
    far = TarFiles(local, "web1")
    place, near = tmp_path / "place", tmp_path / "near"
    for folder in (place, near):
        folder.mkdir()
        (folder / "file").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"new")

    async def check() -> None:
        for folder in (place, near):
            assert os.listdir(folder) == ["file"]
            assert (folder / "file").read_bytes() in (b"old", b"new")

    options = TreeOptions(durable=False)

    async def move_up() -> None:
        await carry(LocalFiles(), os.fsencode(tmp_path / "file"), far, os.fsencode(place / "file"), tally=Tally(),
                    options=options, host="localhost", trusted=True)  # fmt: skip

    assert await cancel_everywhere(move_up, check) >= 4
    assert (place / "file").read_bytes() == b"new"
    assert await cancel_everywhere(lambda: down(far, tmp_path / "file", near / "file"), check) >= 4
