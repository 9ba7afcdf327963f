"""fsspec through a machine: a real reader over a real sshd, and what file systems of fsspec promise."""

import asyncio
import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas
import pytest
from fsspec.implementations.local import LocalFileSystem
from tests.integrations.conftest import on

from aioremote import HostKeys, LocalMachine, Machine
from aioremote.errors import AddressError, ConnectionLost
from aioremote.integrations.fsspec import MachineFileSystem, SshFileSystem
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd

TABLE = "city,people\nOslo,709037\nTromsø,78050\n"


@pytest.fixture(scope="module", autouse=True)
def fsspecs_thread() -> Iterator[None]:
    """End it; fsspec itself keeps it."""
    yield
    loop, thread = fsspec.asyn.loop[0], fsspec.asyn.iothread[0]
    asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()
    fsspec.asyn.reset_lock()


@pytest.fixture
def options(aioremote_sshd: Sshd) -> dict[str, object]:
    return {
        "keyfile": aioremote_sshd.keyfile,
        "host_keys": HostKeys.strict(aioremote_sshd.known_hosts),
        "config": None,
    }


@pytest.fixture
def address(aioremote_sshd: Sshd) -> str:
    return f"aioremote+ssh://{aioremote_sshd.host}:{aioremote_sshd.port}"


@pytest.fixture
def files(address: str, options: dict[str, object]) -> Iterator[SshFileSystem]:
    """As a program gets it that knows nothing of asyncio."""
    made = fsspec.filesystem("aioremote+ssh", **SshFileSystem._get_kwargs_from_urls(address), **options)
    assert isinstance(made, SshFileSystem)
    yield made
    made.close()
    SshFileSystem.clear_instance_cache()


# --- a real reader ----------------------------------------------------------------------------------------------------


def test_pandas_reads_and_writes_through_an_address(
    files: SshFileSystem, address: str, options: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "cities.csv").write_text(TABLE)
    url = f"{address}{tmp_path}/cities.csv"
    table = pandas.read_csv(url, storage_options=options)
    assert list(table.city) == ["Oslo", "Tromsø"]
    table["people"] *= 2
    for name in ("doubled.csv", "doubled.csv.gz"):
        table.to_csv(f"{address}{tmp_path}/{name}", index=False, storage_options=options)
        again = pandas.read_csv(f"{address}{tmp_path}/{name}", storage_options=options)
        assert list(again.people) == [1418074, 156100]
    assert (tmp_path / "doubled.csv").read_text() == TABLE.replace("709037", "1418074").replace("78050", "156100")


def test_pandas_reads_pieces_of_a_long_file(
    files: SshFileSystem, address: str, options: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "long.csv").write_text("number\n" + "\n".join(map(str, range(200_000))) + "\n")
    pieces = pandas.read_csv(f"{address}{tmp_path}/long.csv", storage_options=options, chunksize=50_000)
    assert [int(piece.number.sum()) for piece in pieces] == [
        sum(range(n, n + 50_000)) for n in range(0, 200_000, 50_000)
    ]


def test_a_missing_table_is_the_builtin_error(
    files: SshFileSystem, address: str, options: dict[str, object], tmp_path: Path
) -> None:
    """Promise 62."""
    with pytest.raises(FileNotFoundError) as caught:
        pandas.read_csv(f"{address}{tmp_path}/none.csv", storage_options=options)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == f"{tmp_path}/none.csv"


def test_fsspec_caches_in_front_of_it(
    files: SshFileSystem, address: str, options: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(b"once")
    cache = tmp_path / "cache"
    with fsspec.open(
        f"filecache::{address}{tmp_path}/data", **{"aioremote+ssh": options, "filecache": {"cache_storage": str(cache)}}
    ) as file:
        assert file.read() == b"once"
    assert any(path.read_bytes() == b"once" for path in cache.iterdir())


# --- addresses --------------------------------------------------------------------------------------------------------


def test_an_address_gives_host_and_path() -> None:
    taken = SshFileSystem._get_kwargs_from_urls("aioremote+ssh://john@[::1]:2222/srv/a b#c?.csv")
    assert taken == {"host": "::1", "user": "john", "port": 2222}
    assert SshFileSystem._get_kwargs_from_urls("aioremote+ssh://web1/x") == {"host": "web1"}
    assert SshFileSystem._strip_protocol("aioremote+ssh://john@web1/srv/a b#c?.csv") == "/srv/a b#c?.csv"
    assert SshFileSystem._strip_protocol("aioremote+ssh://web1") == "/"
    assert SshFileSystem._strip_protocol(["/srv/", "data/x"]) == ["/srv", "data/x"]


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(AddressError, match="password"):
        fsspec.open("aioremote+ssh://john:secret@web1/x")


def test_a_path_has_an_address_again(files: SshFileSystem, address: str) -> None:
    assert files.unstrip_protocol("/srv/x") == f"{address}/srv/x"


def test_equal_arguments_share_a_connection(files: SshFileSystem, address: str, options: dict[str, object]) -> None:
    again, path = fsspec.url_to_fs(f"{address}/srv/x", **options)
    assert again is files
    assert path == "/srv/x"


def test_it_travels_to_another_process(address: str, options: dict[str, object], tmp_path: Path) -> None:
    """As dask sends it: what is pickled is how to connect."""
    (tmp_path / "x").write_bytes(b"far")
    files = fsspec.filesystem("aioremote+ssh", **SshFileSystem._get_kwargs_from_urls(address), **options)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).cat_file(sys.argv[1]))"
    argv = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "x")]
    run = subprocess.run(argv, input=pickle.dumps(files), capture_output=True, timeout=30)
    assert (run.stdout, run.stderr) == (b"b'far'\n", b"")  # nor is there a warning: it was closed at the end


def test_importing_the_library_does_not_import_fsspec() -> None:
    code = "import aioremote, sys; print('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"False\n"


# --- what a file system does ------------------------------------------------------------------------------------------


def test_listings_tell_what_there_is(files: SshFileSystem, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / os.fsdecode(b"caf\xe9\n")).write_bytes(b"")
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "to-folder").symlink_to(".")
    (tmp_path / "to-nothing").symlink_to("none")
    os.mkfifo(tmp_path / "pipe")
    listed = {os.path.basename(one["name"]): one for one in files.ls(str(tmp_path), detail=True)}
    assert {name: one["type"] for name, one in listed.items()} == {
        "folder": "directory",
        "file": "file",
        "caf\udce9\n": "file",
        "to-file": "file",
        "to-folder": "link",
        "to-nothing": "link",
        "pipe": "other",
    }
    assert listed["to-file"]["size"] == 3
    assert listed["to-file"]["islink"]
    assert files.info(f"{tmp_path}/to-folder")["type"] == "directory"
    assert files.ls(f"{tmp_path}/file", detail=False) == [f"{tmp_path}/file"]
    assert files.isdir(str(tmp_path))
    assert not files.exists(f"{tmp_path}/none")
    assert files.info(f"{tmp_path}/file")["mtime"] == pytest.approx((tmp_path / "file").stat().st_mtime, abs=1)
    with pytest.raises(FileNotFoundError):
        files.ls(f"{tmp_path}/none")


def test_find_and_glob_go_through_directories(files: SshFileSystem, tmp_path: Path) -> None:
    for name in ("a.csv", "b/c.csv", "b/d/e.csv", "b/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    root = str(tmp_path)
    assert files.find(root) == [f"{root}/{name}" for name in ("a.csv", "b/c.csv", "b/d/e.csv", "b/f.txt")]
    assert files.glob(f"{root}/**/*.csv") == [f"{root}/{name}" for name in ("a.csv", "b/c.csv", "b/d/e.csv")]
    assert files.du(root) == len("a.csvb/c.csvb/d/e.csvb/f.txt")


def test_parts_are_read_by_range(files: SshFileSystem, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    path = str(tmp_path / "x")
    whole = bytes(range(100))
    for start, end in ((None, None), (10, 20), (10, None), (-10, None), (None, -10), (-20, -10), (90, 200), (50, 40)):
        assert files.cat_file(path, start, end) == whole[start:end]
    found = files.cat_ranges([path, path, path + "none"], [0, 90, 0], [5, 200, 1])
    assert found[:2] == [whole[:5], whole[90:]]
    assert isinstance(found[2], FileNotFoundError)


def test_a_piped_file_is_whole_or_not_there(files: SshFileSystem, tmp_path: Path) -> None:
    """Promise 58."""
    path = str(tmp_path / "x")
    for value in (b"", b"one", os.urandom(3 * 1024 * 1024 + 1)):
        files.pipe_file(path, value)
        assert (tmp_path / "x").read_bytes() == value
    with pytest.raises(FileExistsError):
        files.pipe_file(path, b"other", mode="create")
    with pytest.raises(FileNotFoundError):
        files.pipe_file(f"{tmp_path}/none/x", b"other")
    assert os.listdir(tmp_path) == ["x"]


def test_files_and_trees_come_and_go(files: SshFileSystem, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    (near / "sub").mkdir(parents=True)
    (near / "a").write_bytes(b"a" * 100_000)
    (near / "sub" / "b").write_bytes(b"b")
    files.put(str(near), str(far), recursive=True)
    assert (far / "sub" / "b").read_bytes() == b"b"
    with pytest.raises(FileExistsError):
        files.put_file(str(near / "a"), str(far / "a"), mode="create")
    files.get(str(far), str(tmp_path / "back"), recursive=True)
    assert (tmp_path / "back" / "a").read_bytes() == b"a" * 100_000
    seen = fsspec.callbacks.Callback()
    files.get_file(str(far / "a"), str(tmp_path / "one"), callback=seen)
    assert (seen.size, seen.value) == (100_000, 100_000)


def test_names_are_changed_and_removed(files: SshFileSystem, tmp_path: Path) -> None:
    root = str(tmp_path)
    files.makedirs(f"{root}/a/b")
    files.makedirs(f"{root}/a/b", exist_ok=True)
    with pytest.raises(FileExistsError):
        files.mkdir(f"{root}/a/b")
    files.touch(f"{root}/a/b/x")
    files.mv(f"{root}/a/b/x", f"{root}/a/y")
    files.mv(f"{root}/a/y", f"{root}/a/b")  # into it
    files.cp_file(f"{root}/a/b/y", f"{root}/z")
    assert files.find(root) == [f"{root}/a/b/y", f"{root}/z"]
    with pytest.raises(IsADirectoryError):
        files.rm(f"{root}/a")
    with pytest.raises(OSError, match="not empty"):
        files.rmdir(f"{root}/a")
    (tmp_path / "link").symlink_to("a")
    files.rm(f"{root}/link", recursive=True)
    assert (tmp_path / "a" / "b" / "y").exists()
    files.rm(f"{root}/a", recursive=True)
    files.rm([f"{root}/z"])
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        files.rm_file(f"{root}/none")


def test_an_open_file_is_read_and_written_anywhere(files: SshFileSystem, tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with files.open(path, "wb", block_size=1000) as file:
        for number in range(1000):
            file.write(b"%07d\n" % number)
    with files.open(path, "r+b") as file:
        file.seek(8 * 500)
        assert file.read(8) == b"0000500\n"
        file.seek(-8, os.SEEK_CUR)
        file.write(b"changed\n")
        file.seek(-8, os.SEEK_END)
        assert file.readline() == b"0000999\n"
    with files.open(path, "ab") as file:
        assert file.tell() == 8000
        file.write(b"more\n")
    with files.open(path, "r", encoding="ascii", block_size=512) as file:
        lines = file.readlines()
    assert (lines[499], lines[500], lines[501], lines[-1]) == ("0000499\n", "changed\n", "0000501\n", "more\n")
    with pytest.raises(FileExistsError):
        files.open(path, "xb")
    with pytest.raises(ValueError, match="mode 'q"):
        files.open(path, "qb")
    files.touch(path)
    assert files.info(path)["size"] == 0


def test_a_transaction_puts_all_there_at_its_end(files: SshFileSystem, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with files.transaction, files.open(f"{tmp_path}/old", "wb") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "old").read_bytes() == b"old"
    assert (tmp_path / "old").read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), files.transaction, files.open(f"{tmp_path}/old", "wb") as file:
        file.write(b"%d" % (1 // 0))
    assert (tmp_path / "old").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["old"]
    with pytest.raises(ValueError, match="in a transaction"), files.transaction:
        files.open(f"{tmp_path}/old", "ab")


# --- with a machine that there is -------------------------------------------------------------------------------------


async def test_the_awaited_methods_are_a_machines(machine: Machine, tmp_path: Path) -> None:
    files = MachineFileSystem(machine, asynchronous=True)
    path = str(tmp_path / "x")
    await files._pipe_file(path, b"0123456789")
    assert await files._cat_ranges([path, path], [0, 8], [2, None]) == [b"01", b"89"]
    file = await files.open_async(path, "r+b")
    assert file.size == 10
    await file.seek(4)
    await file.write(b"----")
    await file.close()
    assert await files._cat_file(path) == b"0123----89"
    assert await files._ls(str(tmp_path), detail=False) == [path]


async def test_a_program_with_a_loop_gives_it_to_a_thread(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text(TABLE)
    files = MachineFileSystem(machine)

    def read() -> list[str]:
        with files.open(f"{tmp_path}/cities.csv") as file:
            return list(pandas.read_csv(file).city)

    assert await asyncio.to_thread(read) == ["Oslo", "Tromsø"]
    with pytest.raises(NotImplementedError, match="running loop"):
        files.ls(str(tmp_path))


async def test_an_address_is_read_where_a_loop_runs(files: SshFileSystem, tmp_path: Path) -> None:
    """As in a notebook: whoever asks waits."""
    (tmp_path / "x").write_bytes(b"far")
    assert files.cat_file(str(tmp_path / "x")) == b"far"


async def test_a_relative_path_is_below_the_tasks_directory(tmp_path: Path) -> None:
    """Promise 132."""
    (tmp_path / "x").write_bytes(b"here")
    async with LocalMachine() as machine:
        with machine.cwd(str(tmp_path)):
            assert await MachineFileSystem(machine)._cat_file("x") == b"here"


async def test_a_lost_link_is_a_connection_error(aioremote_sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    pinned = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as link,
        on(aioremote_sshd, port=link.port, host_keys=pinned) as machine,
    ):
        files = MachineFileSystem(machine)
        assert await files._cat_file(str(tmp_path / "x")) == b"x"
        link.cut()
        with pytest.raises(ConnectionLost) as caught:
            await files._cat_file(str(tmp_path / "x"))
        assert isinstance(caught.value, ConnectionError)


def test_it_answers_as_fsspecs_own_local_files(files: SshFileSystem, tmp_path: Path) -> None:
    """What generic code asks of any file system."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"12")
    theirs = LocalFileSystem()
    for path in (str(tmp_path), f"{tmp_path}/sub", f"{tmp_path}/sub/x", f"{tmp_path}/none"):
        assert files.exists(path) == theirs.exists(path)
        assert files.isdir(path) == theirs.isdir(path)
        assert files.isfile(path) == theirs.isfile(path)
        assert files.find(path) == theirs.find(path)
    assert list(files.walk(str(tmp_path))) == list(theirs.walk(str(tmp_path)))
    assert files.size(f"{tmp_path}/sub/x") == 2
    assert files.head(f"{tmp_path}/sub/x", 1) == b"1"
