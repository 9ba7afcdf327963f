"""Far paths and far files, on every kind of machine that has files; the others say so."""

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.conformance.conftest import machine_of

from aioremote import (
    Capability,
    ClosedError,
    FileError,
    FileStat,
    Machine,
    RemotePath,
    UnsupportedError,
)
from aioremote.testing.sshd import Sshd, TestUser

NASTY_NAMES = (
    "a b", "-n", "--help", "naïve", "x\ny", "it's", '"', "\\", "a\\b", "$HOME", "*", "[a]", "~", ".hidden",
    "\udcff\udc80", "\x01", "n" * 255,
)  # fmt: skip


def near(path: RemotePath) -> Path:
    return Path(str(path))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A near directory that every user may enter."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


def give(far: RemotePath) -> None:
    """Make what was put there from here the far user's."""
    subprocess.run(["chown", "-hR", "--reference", near(far), near(far)], check=True)


async def test_machines_without_files_say_so(machine: Machine, folder: RemotePath) -> None:
    if Capability.FILES in machine.capabilities:
        return
    assert await folder.exists()
    for ask in (folder.stat, folder.is_dir, (folder / "x").read_bytes, folder.resolve):
        with pytest.raises(UnsupportedError):
            await ask()
    with pytest.raises(UnsupportedError):
        await machine.upload("/etc/hostname", folder / "x")
    with pytest.raises(UnsupportedError):
        await machine.transport.putfile("/etc/hostname", str(folder / "x"))


async def test_what_is_there(far: RemotePath) -> None:
    (near(far) / "file").write_bytes(b"12345")
    (near(far) / "link").symlink_to("file")
    (near(far) / "nowhere").symlink_to("missing")
    file, link, nowhere, missing = (far / name for name in ("file", "link", "nowhere", "missing"))
    assert [await p.exists() for p in (far, file, link, nowhere, missing, file / "x")] == [True] * 3 + [False] * 3
    assert [await p.is_dir() for p in (far, file, link, missing)] == [True, False, False, False]
    assert [await p.is_file() for p in (far, file, link, nowhere)] == [False, True, True, False]
    assert [await p.is_symlink() for p in (far, file, link, nowhere)] == [False, False, True, True]
    assert await nowhere.exists(follow_symlinks=False)
    found = await link.stat()
    assert isinstance(found, FileStat)
    assert (found.st_size, stat.S_ISREG(found.st_mode)) == (5, True)
    assert int(found.st_mtime) == int(near(file).stat().st_mtime)
    assert (await link.lstat()).is_symlink()


@pytest.mark.parametrize("name", NASTY_NAMES)
async def test_names_are_exact(far: RemotePath, name: str) -> None:
    """Promises 68 and 132."""
    path = far / name
    await path.write_bytes(b"content")
    assert os.listdir(near(far)) == [name]
    assert await path.read_bytes() == b"content"
    assert [child async for child in far.iterdir()] == [path]
    assert await path.sha256() == hashlib.sha256(b"content").hexdigest()
    if name != "n" * 255:
        await path.rename(far / (name + "2"))
        assert os.listdir(near(far)) == [name + "2"]


async def test_content_as_bytes_and_text(far: RemotePath) -> None:
    path = far / "file"
    data = os.urandom(700_000)
    assert await path.write_bytes(data) == len(data)
    assert await path.read_bytes() == data
    assert await path.sha256() == hashlib.sha256(data).hexdigest()
    assert await path.write_text("é\n") == 2
    assert near(path).read_bytes() == b"\xc3\xa9\n"
    assert await path.read_text() == "é\n"
    near(path).write_bytes(b"a\r\nb\rc\xff")
    assert await path.read_text(errors="surrogateescape") == "a\nb\nc\udcff"
    assert await path.read_text(errors="replace", newline="") == "a\r\nb\rc\ufffd"
    with pytest.raises(UnicodeDecodeError):
        await path.read_text()
    await path.write_bytes(b"")
    assert await path.read_bytes() == b""


async def test_open_reads_seeks_and_writes(far: RemotePath) -> None:
    path = far / "file"
    async with path.open("wb") as f:
        await f.write(b"0123456789")
        assert await f.seek(4) == 4
        await f.write(b"x")
        assert f.tell() == 5
        await f.seek(-1, os.SEEK_END)
        await f.write(b"end")
    assert near(path).read_bytes() == b"0123x5678end"
    async with path.open("rb") as f:
        assert await f.read(3) == b"012"
        assert await f.seek(2, os.SEEK_CUR) == 5
        assert await f.read(100) == b"5678end"
        assert await f.read(1) == b""
        with pytest.raises(OSError, match="writing"):
            await f.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        await f.read()
    async with path.open("ab") as f:
        assert f.tell() == 12
        await f.write(b"!")
    async with path.open("r+b") as f:
        await f.truncate(4)
        assert await f.read() == b"0123"
        await f.write(b"4")
        await f.seek(0)
        assert await f.read() == b"01234"
    f = await path.open("rb")
    await f.aclose()
    await f.aclose()
    with pytest.raises(FileExistsError):
        async with path.open("xb"):
            pass
    with pytest.raises(ValueError, match="mode"):
        path.open("rw")  # type: ignore[call-overload]


async def test_lines_of_a_file(far: RemotePath) -> None:
    lines = [f"line {number} é\n" for number in range(30_000)]
    await (far / "file").write_text("".join(lines) + "last")
    async with (far / "file").open() as f:
        assert await f.readline() == lines[0]
        assert await f.read(6) == "line 1"
        assert await f.readline() == " é\n"
        assert [line async for line in f] == [*lines[2:], "last"]
        await f.seek(0)
        assert await f.readline() == lines[0]
    async with (far / "file").open("rb") as f:
        assert await f.readlines() == [line.encode() for line in [*lines, "last"]]
        await f.seek(0)
        assert await f.readline(4) == b"line"


async def test_directories(far: RemotePath) -> None:
    """Promise 62: each builtin error, with errno and path."""
    deep = far / "a" / "b" / "c"
    with pytest.raises(FileNotFoundError) as missing:
        await deep.mkdir()
    assert isinstance(missing.value, FileError)
    assert missing.value.filename == str(deep)
    await deep.mkdir(parents=True)
    await deep.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileExistsError):
        await deep.mkdir()
    (near(far) / "file").touch()
    with pytest.raises(FileExistsError):
        await (far / "file").mkdir(exist_ok=True)
    with pytest.raises(NotADirectoryError):
        await (far / "file" / "x").mkdir()
    with pytest.raises(OSError, match="not empty") as full:
        await (far / "a").rmdir()
    assert full.value.errno == 39
    with pytest.raises(NotADirectoryError):
        await (far / "file").rmdir()
    await deep.rmdir()
    assert not near(deep).exists()
    with pytest.raises(NotADirectoryError):
        [child async for child in (far / "file").iterdir()]
    with pytest.raises(FileNotFoundError):
        [child async for child in (far / "missing").iterdir()]
    await (far / "a").remove_tree()
    assert os.listdir(near(far)) == ["file"]
    with pytest.raises(NotADirectoryError):
        await (far / "file").remove_tree()


async def test_errors_name_the_path(far: RemotePath) -> None:
    """Promise 62."""
    await (far / "folder").mkdir()
    await (far / "file").touch()
    await (far / "folder" / "x").symlink_to("y")
    for ask, kind in (
        ((far / "missing").read_bytes, FileNotFoundError),
        ((far / "file" / "x").read_bytes, NotADirectoryError),
        (lambda: (far / "folder").write_bytes(b"x"), IsADirectoryError),
        ((far / "folder").unlink, IsADirectoryError),
        (lambda: (far / "missing").rename(far / "x"), FileNotFoundError),
        (lambda: (far / "missing").chmod(0o600), FileNotFoundError),
        ((far / "missing").readlink, FileNotFoundError),
        ((far / "missing").stat, FileNotFoundError),
        (lambda: (far / "folder" / "x").symlink_to("y"), FileExistsError),
        (lambda: (far / "x").hardlink_to(far / "missing"), FileNotFoundError),
        (lambda: (far / "file").hardlink_to(far / "file"), FileExistsError),
    ):
        with pytest.raises(kind) as caught:
            await ask()
        assert isinstance(caught.value, FileError)
        assert caught.value.errno is not None
        assert str(far) in str(caught.value.filename)
        assert str(far) in str(caught.value)
    with pytest.raises(OSError, match="name too long") as long:
        await (far / ("n" * 256)).write_bytes(b"")
    assert long.value.errno == 36


async def test_a_full_disk_and_a_read_only_one(
    aioremote_sshd: Sshd, aioremote_user: TestUser, open_folder: Path, tmp_path: Path
) -> None:
    """Promise 62: ENOSPC and EROFS."""
    source, tmp_path = tmp_path / "source", open_folder
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "none", tmp_path], check=True)
    try:
        for kind in ("local", "ssh-root", "ssh-user", "ssh-outpost", "local-sudo"):
            async with machine_of(kind, aioremote_sshd, aioremote_user) as machine:
                (tmp_path / "old").write_bytes(b"old")
                (tmp_path / "old").chmod(0o666)
                source.write_bytes(os.urandom(1_000_000))
                with pytest.raises(OSError, match=r"[Nn]o space") as caught:
                    await machine.upload(source, str(tmp_path / "old"))
                assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "old"))
                assert os.listdir(tmp_path) == ["old"]
                assert (tmp_path / "old").read_bytes() == b"old"
                subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
                with pytest.raises(OSError, match=r"[Rr]ead-only") as caught:
                    await machine.path(str(tmp_path / "new")).write_bytes(b"x")
                assert caught.value.errno == 30
                subprocess.run(["mount", "-o", "remount,rw", tmp_path], check=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("kind", ["ssh-user", "ssh-outpost"])
async def test_forbidden_files(kind: str, aioremote_sshd: Sshd, aioremote_user: TestUser, tmp_path: Path) -> None:
    """Promise 62: EACCES."""
    async with machine_of(kind, aioremote_sshd, aioremote_user) as machine:
        tmp_path.chmod(0o700)
        (tmp_path / "secret").write_text("x")
        with pytest.raises(PermissionError):
            await machine.path(str(tmp_path / "secret")).read_text()
        with pytest.raises(PermissionError):
            await machine.upload("/etc/hostname", str(tmp_path / "new"))
        with pytest.raises(PermissionError):
            await machine.path("/etc/aioremote-no").mkdir()


async def test_links(far: RemotePath) -> None:
    link, file = far / "link", far / "file"
    await file.write_text("x")
    await link.symlink_to("file")
    assert os.readlink(near(link)) == "file"
    assert str(await link.readlink()) == "file"
    assert await link.resolve() == file
    assert await (far / "no" / ".." / "such").resolve() == far / "such"
    with pytest.raises(FileNotFoundError):
        await (far / "no").resolve(strict=True)
    await (far / "to-path").symlink_to(file)
    assert os.readlink(near(far / "to-path")) == str(file)
    await (far / "hard").hardlink_to(file)
    assert near(far / "hard").samefile(near(file))
    assert await (far / "hard").samefile(file)
    assert await link.samefile(file)
    assert not await far.samefile(file)
    await link.unlink()
    assert near(file).exists()
    await link.unlink(missing_ok=True)


async def test_names_attributes_and_times(far: RemotePath) -> None:
    file = far / "file"
    await file.touch(mode=0o640)
    assert near(file).stat().st_mode & 0o777 == 0o640
    os.utime(near(file), (1, 1))
    await file.touch()
    assert near(file).stat().st_mtime > 1e9
    with pytest.raises(FileExistsError):
        await file.touch(exist_ok=False)
    await file.chmod(0o604)
    assert near(file).stat().st_mode & 0o777 == 0o604
    await (far / "other").write_text("other")
    assert await (far / "other").replace(file) == file
    assert near(file).read_text() == "other"
    assert await file.access(os.F_OK)
    assert await file.access(os.R_OK | os.W_OK)
    assert not await file.access(os.X_OK)
    assert not await (far / "missing").access(os.F_OK)
    found = near(file).stat()
    await file.chown(found.st_uid, found.st_gid)
    await file.chown(group=found.st_gid)
    with pytest.raises(FileError, match="no user 'no-such'"):
        await file.chown("no-such")
    if os.geteuid() == 0 and found.st_uid == 0:
        await file.chown("daemon", "daemon")
        assert near(file).owner() == near(file).group() == "daemon"


async def test_glob_is_that_of_pathlib(far: RemotePath) -> None:
    """The same paths as pathlib finds, also with leading dots, links and brackets."""
    root = near(far)
    for name in ("a/b/c.py", "a/.hid/d.py", "a/x y.py", "b/[z].py", ".e.py", "b/f.txt", "b/deep/er/g.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "loop").symlink_to(".")
    (root / "nowhere.py").symlink_to("missing")
    give(far)
    patterns = (
        "*.py",
        "*",
        "**/*.py",
        "a/*",
        "*/*.py",
        "b/**/g.py",
        "?/b",
        "[ab]/*",
        "a/b/c.py",
        "no/*",
        "**/er/*",
        ".*",
    )
    for pattern in patterns:
        found = [str(path) async for path in far.glob(pattern)]
        assert sorted(found) == sorted(str(path) for path in root.glob(pattern)), pattern
        assert len(set(found)) == len(found)
    both = {str(path) async for path in far.glob("*.py", "a/*")}
    assert both == {str(path) for pattern in ("*.py", "a/*") for path in root.glob(pattern)}
    assert sorted([str(path) async for path in far.rglob("*.py")]) == sorted(map(str, root.rglob("*.py")))
    for bad in ("", "/etc/*"):
        with pytest.raises(ValueError, match="pattern"):
            [path async for path in far.glob(bad)]


async def test_walk_is_that_of_pathlib(far: RemotePath) -> None:
    root = near(far)
    for name in ("a/b/c", "a/d", "e/f", "g"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "link").symlink_to("a")
    give(far)
    for follow in (False, True):
        found = {str(path): (set(dirs), set(rest)) async for path, dirs, rest in far.walk(follow_symlinks=follow)}
        expected = {top: (set(dirs), set(rest)) for top, dirs, rest in os.walk(root, followlinks=follow)}
        if not follow:  # Path.walk tells links among the files then
            expected[str(root)] = ({"a", "e"}, {"g", "link"})
        assert found == expected
    order = [path.name async for path, _, _ in far.walk(top_down=False)]
    assert order.index("b") < order.index("a") < order.index(far.name)
    async for path, dirs, _ in far.walk():
        dirs[:] = [name for name in dirs if name != "a"]
        assert path.name != "b"


async def test_relative_paths_are_below_the_tasks_directory(files_machine: Machine, far: RemotePath) -> None:
    """Promise 132."""
    with files_machine.cwd(str(far)):
        await files_machine.path("sub").mkdir()
        with files_machine.cwd("sub"):
            await files_machine.path("-file").write_text("x")
            assert await files_machine.path("-file").sha256() == hashlib.sha256(b"x").hexdigest()
            assert await files_machine.path("-file").absolute() == far / "sub" / "-file"
            assert await files_machine.path(".").resolve() == await (far / "sub").resolve()
            assert [str(path) async for path in files_machine.path().glob("*")] == ["-file"]
    assert near(far / "sub" / "-file").read_text() == "x"


async def test_copy_and_move(far: RemotePath) -> None:
    await (far / "tree").mkdir()
    await (far / "tree" / "file").write_text("x")
    assert await (far / "tree").copy(far / "copy") == far / "copy"
    assert near(far / "copy" / "file").read_text() == "x"
    await (far / "tree" / "file").copy(far / "file")
    assert await (far / "file").move(far / "moved") == far / "moved"
    assert sorted(os.listdir(near(far))) == ["copy", "moved", "tree"]


async def test_closed_machines_say_so(files_machine: Machine) -> None:
    path = files_machine.path("/etc/hostname")
    assert await path.exists()
    await files_machine.aclose()
    with pytest.raises(ClosedError):
        await path.exists()


async def test_what_is_in_a_tree(files_machine: Machine, far: RemotePath) -> None:
    """Names, kinds, link texts and hashes, exact, however deep; a missing tree, a file (promises 68 and 132)."""
    root = near(far) / "tree"
    folder = root / "deep" / "er"
    folder.mkdir(parents=True)
    for name in NASTY_NAMES:
        (folder / name).write_bytes(name.encode(errors="surrogateescape"))
    (folder / "odd\n").mkdir()
    (folder / "odd\n" / "\\x").write_bytes(b"odd")
    (root / "link").symlink_to("a//\nb=//\n")
    os.mkfifo(root / "pipe")
    give(far)
    files = await files_machine.transport.open_files()
    listed = [entry async for batch in files.list_tree(os.fsencode(root)) for entry in batch]
    there = {
        os.path.relpath(os.path.join(at, name), root) for at, *names in os.walk(root) for some in names for name in some
    }
    assert sorted(os.fsdecode(entry.path) for entry in listed) == sorted(there)
    for entry in listed:
        found = os.lstat(os.path.join(os.fsencode(root), entry.path))
        assert (entry.stat.st_mode, entry.stat.st_size) == (found.st_mode, found.st_size)
        assert entry.stat.st_mtime_ns // 10**9 == found.st_mtime_ns // 10**9
        assert entry.target == (b"a//\nb=//\n" if entry.path == b"link" else b"")
        assert os.path.dirname(entry.path) in {b"", *(one.path for one in listed[: listed.index(entry)])}
    paths = [os.fsencode(folder / name) for name in NASTY_NAMES]
    missing, pipe = os.fsencode(root / "missing"), os.fsencode(root / "deep")
    *digests, none, also_none = await files.digests([*paths, missing, pipe])
    assert (none, also_none) == (None, None)
    for path, digest in zip(paths, digests, strict=True):
        assert digest in (hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest(), None)
    assert any(digests)
    odd = os.fsencode(folder / "odd\n" / "\\x")
    assert await files.digests([odd]) == [hashlib.sha256(b"odd").digest()]
    for path, kind in (("missing", FileNotFoundError), ("deep/er/" + NASTY_NAMES[0], NotADirectoryError)):
        with pytest.raises(kind):
            async with aclosing(files.list_tree(os.fsencode(root / path))) as batches:
                await anext(batches)
