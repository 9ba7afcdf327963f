"""Files through an outpost: which engine it is, and what happens when helpers, outposts or links go.

What holds for every engine is in tests/conformance.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.test_transfers import tree
from tests.outpost.conftest import FLOOR, pythons

import aioremote
from aioremote import ConnectionLost, HostKeys, Machine, SshMachine, UnsupportedError
from aioremote._core.pieces import TEMP_MARK, Tally, TreeOptions
from aioremote.outpost.far import tree_writer
from aioremote.outpost.far.file_frames import Records, record
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport
from aioremote.types import FileStat

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

MIB = 1024 * 1024
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


@asynccontextmanager
async def linked(**keywords: object) -> AsyncIterator[Machine]:
    async with Machine(LinkedTransport(LocalTransport(), **keywords), host="linked") as machine:  # type: ignore[arg-type]
        yield machine


def to(server: Sshd, **keywords: object) -> SshMachine:
    defaults = {"port": server.port, "keyfile": server.keyfile, "config": None}
    keys = HostKeys.pinned(server.host_key_fingerprint)
    return SshMachine(server.host, **{"host_keys": keys, **defaults, **keywords})  # type: ignore[arg-type]


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for number in range(40):
        path = root / f"d{number % 3}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 100))
    return root


def debris(root: Path) -> list[str]:
    return [path for path in tree(root) if TEMP_MARK.decode() in path]


def helpers_of(pid: int) -> list[int]:
    """The far helpers of an outpost: its children in a session of their own that hold a socket."""
    return [
        int(word)
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if any(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{word}/fd").iterdir())
    ]


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


# which engine


async def test_the_first_tree_brings_the_outpost_up_and_files_stay_on_sftp(
    aioremote_sshd: Sshd, small_tree: Path, tmp_path: Path
) -> None:
    file = small_tree / "d1" / "1"
    async with to(aioremote_sshd) as machine:
        assert (await machine.upload(file, str(tmp_path / "file"))).engine == "sftp"
        assert (await machine.download(str(file), tmp_path / "back")).engine == "sftp"
        assert (await machine.upload(small_tree, str(tmp_path / "up"))).engine == "outpost"
        assert (await machine.download(str(small_tree), tmp_path / "down")).engine == "outpost"
        assert (await machine.upload(file, str(tmp_path / "file"))).engine == "outpost"
        assert (await machine.upload(small_tree, str(tmp_path / "sftp"), engine="sftp")).engine == "sftp"
    assert tree(tmp_path / "up") == tree(tmp_path / "down") == tree(tmp_path / "sftp") == tree(small_tree)
    async with to(aioremote_sshd) as machine:
        assert (await machine.download(str(small_tree), tmp_path / "first")).engine == "outpost"
    async with to(aioremote_sshd, outpost="never") as machine:
        assert (await machine.download(str(small_tree), tmp_path / "never")).engine == "sftp"
        with pytest.raises(UnsupportedError, match="only by: auto, sftp"):
            await machine.download(str(small_tree), tmp_path / "x", engine="outpost")


@pytest.fixture
def without_python() -> Iterator[Sshd]:
    cases = f"internal-sftp) exec {SFTP_SERVER};; *python*) exit 127;;"  # by its command sshd would start its own
    command = f'case "$SSH_ORIGINAL_COMMAND" in {cases} esac; eval "$SSH_ORIGINAL_COMMAND"'
    with Sshd(extra_config=f"ForceCommand {command}") as made:
        yield made


async def test_a_host_without_python_keeps_sftp(without_python: Sshd, small_tree: Path, tmp_path: Path) -> None:
    async with to(without_python) as machine:
        for name in ("one", "two"):
            assert (await machine.upload(small_tree, str(tmp_path / name))).engine == "sftp"
            assert tree(tmp_path / name) == tree(small_tree)


async def test_engines_that_do_not_exist_or_are_not_there(small_tree: Path, tmp_path: Path) -> None:
    async with linked() as machine:
        for move in (
            machine.upload(small_tree, str(tmp_path / "x"), engine="pigeon"),
            machine.download(str(small_tree), tmp_path / "x", engine="pigeon"),
            aioremote.copy(small_tree, tmp_path / "x", engine="pigeon"),
        ):
            with pytest.raises(ValueError, match="engine='pigeon': give one of auto, sftp, outpost, tar, local"):
                await move
        with pytest.raises(UnsupportedError, match="'sftp'"):
            await machine.upload(small_tree, str(tmp_path / "x"), engine="sftp")
        assert (await machine.upload(small_tree, str(tmp_path / "tar"), engine="tar")).engine == "tar"
        assert (await machine.upload(small_tree, str(tmp_path / "near"), engine="local")).engine == "local"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("version", [FLOOR[0], FLOOR[-1]])
async def test_every_far_python_does(version: str, small_tree: Path, tmp_path: Path) -> None:
    async with linked(python=pythons((version,))[version]) as machine:
        await machine.upload(small_tree, str(tmp_path / "up"))
        await machine.download(str(tmp_path / "up"), tmp_path / "down")
        path = machine.path(str(tmp_path / "up" / "d1" / "1"))
        assert await path.read_bytes() == (small_tree / "d1" / "1").read_bytes()
        await machine.path(str(tmp_path / "up")).remove_tree()
    assert tree(tmp_path / "down") == tree(small_tree)
    assert not (tmp_path / "up").exists()


# ends


async def big_upload(machine: Machine, tmp_path: Path, at: int, act: object) -> None:
    """Upload a file over an old one, and do something when so many pieces are under way."""
    (tmp_path / "big").write_bytes(os.urandom(16 * MIB))
    (tmp_path / "far").mkdir(exist_ok=True)
    (tmp_path / "far" / "old").write_text("old")
    seen = 0

    def progress(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            act()  # type: ignore[operator]

    await machine.upload(tmp_path / "big", str(tmp_path / "far" / "old"), engine="outpost", progress=progress)


@pytest.mark.parametrize("at", [1, 4, 9])
async def test_a_cut_link_leaves_old_content_and_no_debris(at: int, aioremote_sshd: Sshd, tmp_path: Path) -> None:
    """Promises 58 and 60: the far helper cleans up by itself."""
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as proxy,
        to(aioremote_sshd, port=proxy.port) as machine,
    ):
        with pytest.raises(ConnectionLost):
            await big_upload(machine, tmp_path, at, proxy.cut)
        await until(lambda: os.listdir(tmp_path / "far") == ["old"])
        assert (tmp_path / "far" / "old").read_text() == "old"


@pytest.mark.parametrize("sent", [20_000, 200_000, 1_000_000, 3_000_000])
async def test_a_link_cut_at_a_byte_leaves_whole_files_only(sent: int, aioremote_sshd: Sshd, tmp_path: Path) -> None:
    """Promise 58, at sampled positions of the stream."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(300):
        (source / str(number)).write_bytes(os.urandom(20_000))
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as proxy:
        async with to(aioremote_sshd, port=proxy.port, outpost="always") as machine:
            pid = int((await machine.shell("echo $PPID")).stdout)
            await machine.path(str(tmp_path)).exists()
            proxy.cut_after(sent, "sent")
            with pytest.raises(ConnectionLost):
                await machine.upload(source, str(tmp_path / "far"))
            await machine.aclose()
        await until(lambda: not os.path.exists(f"/proc/{pid}"))  # which waits for its helpers
    assert not debris(tmp_path)
    whole = tree(source)
    for name, content in (tree(tmp_path / "far") if (tmp_path / "far").exists() else {}).items():
        assert content == whole[name]


async def test_an_outpost_that_was_killed_leaves_no_debris(tmp_path: Path) -> None:
    """Promise 60."""
    async with linked() as machine:
        pid = int((await machine.shell("echo $PPID")).stdout)
        with pytest.raises(ConnectionLost):
            await big_upload(machine, tmp_path, 3, lambda: os.kill(pid, signal.SIGKILL))
        await until(lambda: os.listdir(tmp_path / "far") == ["old"])


async def test_a_helper_that_was_killed_is_told_and_replaced(tmp_path: Path) -> None:
    """The outpost and its machine go on."""
    async with linked() as machine:
        path = machine.path(str(tmp_path / "file"))
        await path.write_text("x")
        pid = int((await machine.shell("echo $PPID")).stdout)
        async with path.open() as file:
            kill_all(helpers_of(pid))
            with pytest.raises(ConnectionLost, match="helper"):
                await file.read()
        assert await path.read_text() == "x"
        with pytest.raises(ConnectionLost, match="helper"):
            await big_upload(machine, tmp_path, 3, lambda: kill_all(helpers_of(pid)))
        assert await path.read_text() == "x"


async def test_a_big_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    """Promise 62: whatever else was under way is dropped."""
    (tmp_path / "big").write_bytes(os.urandom(24 * MIB))
    async with linked() as machine:
        for place, kind in (("no/such", FileNotFoundError), ("big/x", NotADirectoryError), ("n" * 256, OSError)):
            with pytest.raises(kind) as caught:
                await machine.upload(tmp_path / "big", str(tmp_path / place))
            assert caught.value.filename == str(tmp_path / place)
    assert os.listdir(tmp_path) == ["big"]


async def test_a_cancel_anywhere_leaves_the_machine_as_good_as_before(small_tree: Path, tmp_path: Path) -> None:
    """Promises 13, 58 and 60."""
    async with linked() as machine:
        await machine.connect()
        there = machine.path(str(tmp_path / "far"))

        async def everything() -> None:
            await machine.upload(small_tree, there)
            await machine.download(there, tmp_path / "back")
            async with (there / "d1" / "1").open("rb") as file:
                await file.read()
            [path async for path in there.iterdir()]
            await there.remove_tree()

        async def check() -> None:
            assert not debris(tmp_path)
            assert await machine.path("/").exists()

        assert await cancel_everywhere(everything, check) >= 5


async def test_a_reader_that_stops_early_ends_the_far_helper(tmp_path: Path) -> None:
    """And a listing that is left early holds nothing."""
    (tmp_path / "many").mkdir()
    for number in range(2500):
        (tmp_path / "many" / str(number)).touch()
    (tmp_path / "big").write_bytes(os.urandom(24 * MIB))
    async with linked() as machine:
        files = await machine.transport.open_files()
        pid = int((await machine.shell("echo $PPID")).stdout)
        pieces = files.read_tree(bytes(tmp_path), Tally())
        await anext(pieces)
        await pieces.aclose()
        await until(lambda: len(helpers_of(pid)) == 1)
        entries = files.scan(bytes(tmp_path / "many"))
        assert len(await anext(entries)) == 1000
        await entries.aclose()
        found = [entry async for batch in files.scan(bytes(tmp_path / "many")) for entry in batch]
        assert sorted(int(entry.name) for entry in found) == list(range(2500))
        fds = Path(f"/proc/{helpers_of(pid)[0]}/fd")
        assert not [fd for fd in fds.iterdir() if os.readlink(fd).endswith("/many")]


async def test_a_tree_does_not_hold_up_calls_nor_the_loop(tmp_path: Path) -> None:
    """The loop stalls for less than 50 ms, and single operations are answered meanwhile."""
    (tmp_path / "tree").mkdir()
    for number in range(3000):
        (tmp_path / "tree" / str(number)).write_bytes(os.urandom(8000))
    async with linked() as machine:
        await machine.connect()
        worst = 0.0

        async def tick() -> None:
            nonlocal worst
            while True:
                began = time.thread_time()
                await asyncio.sleep(0)
                worst = max(worst, time.thread_time() - began)

        ticking = asyncio.get_running_loop().create_task(tick())
        upload = asyncio.get_running_loop().create_task(machine.upload(tmp_path / "tree", str(tmp_path / "up")))
        asked = 0
        while not upload.done():
            await machine.path(str(tmp_path)).stat()
            asked += 1
        ticking.cancel()
        await asyncio.wait({ticking})
        assert upload.result().files == 3000
        assert worst < 0.05
        assert asked > 3


# what both ends share


def test_the_two_names_of_a_temporary_file_are_one() -> None:
    assert tree_writer.TEMP_MARK == TEMP_MARK


@given(st.integers(0, 0o7777), st.integers(0, 0o777), st.none() | st.integers(0, 0o777), st.booleans(), st.booleans())
def test_both_ends_give_the_same_permissions(
    mode: int, umask: int, existing: int | None, preserve: bool, special: bool
) -> None:
    """Promise 66."""
    found = FileStat(st_mode=0o100000 | mode, st_size=0)
    near = TreeOptions(preserve=preserve, preserve_special=special)
    far = tree_writer.Options(preserve=preserve, preserve_special=special)
    assert near.mode(found, umask, existing) == far.mode(found, umask, existing)


@given(st.lists(st.binary(min_size=1, max_size=50)), st.data())
def test_records_are_the_same_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(record(body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    records, found = Records(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += records.feed(stream[start:end])
    assert found == bodies


@pytest.mark.parametrize("bad", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_record_of_a_wrong_size_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="a record of"):
        Records().feed(bad)


@pytest.mark.parametrize("version", [FLOOR[0], FLOOR[-1]])
async def test_a_tree_that_is_the_same_is_not_listed(version: str, small_tree: Path, tmp_path: Path) -> None:
    """A sync of what has not changed compares one digest; of what has, the same round trip brings the listing."""
    asked: list[bytes] = []

    async def note(digest: bytes) -> bool:
        asked.append(digest)
        return len(asked) == 1

    async with linked(python=pythons((version,))[version]) as machine:
        copy = tmp_path / "copy"
        (small_tree / "link").symlink_to("d0")
        assert (await machine.sync(small_tree, machine.path(copy))).sent
        files = await machine.transport.open_files()
        found = [[e.path async for b in files.list_tree(os.fsencode(copy), unless=note) for e in b] for _ in range(2)]
        assert found[0] == []
        assert len(found[1]) == 40 + 3 + 1
        assert asked[0] == asked[1]
        assert (await machine.sync(small_tree, machine.path(copy))).unchanged == 41
        for change in ("content", "time", "link", "name"):
            at = small_tree / "d0" / "3"
            if change == "content":
                at.write_bytes(b"x" * 300)
            elif change == "time":
                os.utime(at, ns=(1, 10**18 + 1))
            elif change == "link":
                (small_tree / "link").unlink()
                (small_tree / "link").symlink_to("d1")
            else:
                at.rename(small_tree / "d0" / "other")
            report = await machine.sync(small_tree, machine.path(copy), delete=True)
            assert len(report.sent) == 1, change
        assert {p.relative_to(copy) for p in copy.rglob("*")} == {
            p.relative_to(small_tree) for p in small_tree.rglob("*")
        }


async def test_a_tree_that_cannot_be_listed_whole_is_not_told_by_a_digest(
    aioremote_sshd: Sshd, aioremote_user: TestUser
) -> None:
    async def never(digest: bytes) -> bool:
        raise AssertionError(digest)

    async with to(aioremote_sshd, user=aioremote_user.name, outpost="always") as machine, machine.tempdir() as root:
        await machine.run("sh", "-c", "mkdir d0 d1; echo 0 > d0/0; echo 1 > d1/1; chmod 0 d1", cwd=root)
        files = await machine.transport.open_files()
        entries = [e async for b in files.list_tree(os.fsencode(str(root)), unless=never) for e in b]
        await (root / "d1").chmod(0o700)
    assert [entry.path for entry in entries if entry.error is not None] == [b"d1"]
