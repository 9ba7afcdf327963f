"""Changed big files of a sync by their differences, from end to end. Orders themselves: outpost/far/test_patching."""

import os
import random
from pathlib import Path

import pytest
from tests.outpost.conftest import FAR, FLOOR, pythons
from tests.transports.test_outpost_files import linked, to

from aioremote import LocalMachine, Machine, SyncReport
from aioremote.errors import ConnectionLost, FileChanged, RemoteError
from aioremote.outpost import launch
from aioremote.outpost.deltas import OutpostDeltas
from aioremote.outpost.far import patching
from aioremote.outpost.far.block_sums import LEAST_BYTES
from aioremote.outpost.stages import Payload
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.types import TransferProgress

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

SIZE = 2 * LEAST_BYTES + 77


class Trees:
    """A source and a target directory, with a file that is big and differs."""

    def __init__(self, root: Path) -> None:
        self.new, self.old = root / "new" / "sub" / "big", root / "old" / "sub" / "big"
        self.source, self.target = root / "new", root / "old"
        chance = random.Random(3)
        content = chance.randbytes(SIZE)
        for file in (self.new, self.old):
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
        self.write_new(content[: SIZE // 2] + chance.randbytes(1000) + content[SIZE // 2 + 1000 :])
        self.new.chmod(0o640)

    def write_new(self, data: bytes) -> None:
        self.new.write_bytes(data)
        os.utime(self.new, (10**9, 10**9))

    def arrived(self) -> bool:
        return (
            self.old.read_bytes() == self.new.read_bytes()
            and self.old.stat().st_mtime == self.new.stat().st_mtime
            and self.old.stat().st_mode == self.new.stat().st_mode
            and os.listdir(self.old.parent) == ["big"]
        )


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


async def sync(machine: Machine, trees: Trees, way: str, **keywords: object) -> SyncReport:
    if way == "down":
        return await machine.sync(machine.path(str(trees.source)), trees.target, **keywords)  # type: ignore[arg-type]
    return await machine.sync(trees.source, str(trees.target), **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("version", FLOOR)
async def test_only_what_differs_is_sent_to_and_from_every_far_python(version: str, way: str, trees: Trees) -> None:
    async with linked(python=pythons((version,))[version]) as machine:
        report = await sync(machine, trees, way)
        assert trees.arrived()
        assert report.sent == ("sub/big",)
        assert 1000 <= report.bytes <= 1000 + 2 * 4096
        again = await sync(machine, trees, way)
        assert (again.sent, again.unchanged) == ((), 1)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_the_wire_carries_what_differs(way: str, aioremote_sshd: Sshd, trees: Trees) -> None:
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as link,
        to(aioremote_sshd, port=link.port) as machine,
    ):
        await machine.python.eval("1")  # the outpost has come
        before = link.bytes_sent + link.bytes_received
        report = await sync(machine, trees, way)
        assert trees.arrived()
        assert report.bytes < 10_000
        assert link.bytes_sent + link.bytes_received - before < 100_000


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("case", ["put before", "appended", "cut off", "all new"])
async def test_any_change_arrives(way: str, case: str, trees: Trees) -> None:
    old = trees.old.read_bytes()
    new, most = {
        "put before": (os.urandom(100) + old, 100),
        "appended": (old + os.urandom(5000), 5000 + 4096),
        "cut off": (old[: LEAST_BYTES + 5], 4096),
        "all new": (os.urandom(SIZE), SIZE),
    }[case]
    trees.write_new(new)
    async with linked() as machine:
        report = await sync(machine, trees, way)
    assert trees.arrived()
    assert report.bytes <= most


async def test_progress_tells_the_whole_file_and_the_report_what_was_sent(trees: Trees) -> None:
    seen: list[TransferProgress] = []
    async with linked() as machine:
        report = await sync(machine, trees, "up", progress=seen.append)
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (SIZE, SIZE)
    assert (seen[-1].files_done, seen[-1].files_total) == (1, 1)
    assert report.bytes < 10_000


@pytest.mark.parametrize("way", ["up", "down"])
async def test_it_is_sent_whole_where_that_is_wanted_or_no_outpost_is_there(
    way: str, aioremote_sshd: Sshd, trees: Trees
) -> None:
    old = trees.old.read_bytes()
    for keywords, options in (({}, {"delta": False}), ({"outpost": "never"}, {}), ({}, {"engine": "sftp"})):
        trees.old.write_bytes(old)
        async with to(aioremote_sshd, **keywords) as machine:
            report = await sync(machine, trees, way, **options)
        assert trees.arrived()
        assert report.bytes == SIZE


async def test_small_files_and_near_machines_send_the_whole(trees: Trees) -> None:
    async with LocalMachine() as machine:
        assert (await sync(machine, trees, "up")).bytes == SIZE
    trees.old.write_bytes(trees.old.read_bytes()[: LEAST_BYTES - 1])
    trees.write_new(trees.new.read_bytes())
    async with linked() as machine:
        assert (await sync(machine, trees, "up")).bytes == SIZE


async def test_a_dry_run_changes_nothing(trees: Trees) -> None:
    old = trees.old.read_bytes()
    async with linked() as machine:
        report = await sync(machine, trees, "up", dry_run=True)
    assert report.sent == ("sub/big",)
    assert trees.old.read_bytes() == old


async def test_what_does_not_come_out_is_sent_whole(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 61, at the writing end: a wrong order is told by the checksum, and the file goes as a whole."""
    real = patching.Differ.orders

    def spoilt(self: patching.Differ, sums: object) -> object:
        for order in real(self, sums):  # type: ignore[arg-type]
            yield order[:-1] + b"?" if order[:1] == patching.DATA else order

    monkeypatch.setattr(patching.Differ, "orders", spoilt)
    async with linked() as machine:
        report = await sync(machine, trees, "up")
    assert trees.arrived()
    assert SIZE < report.bytes < SIZE + 10_000


def make_hostile(monkeypatch: pytest.MonkeyPatch, honest: str, hostile: str) -> None:
    """Let the outposts that come have another line in their helper for files."""
    sources = {path.stem: path.read_text() for path in FAR.glob("*.py")}
    assert honest in sources["file_helper"]
    sources["file_helper"] = sources["file_helper"].replace(honest, hostile)
    monkeypatch.setattr(launch, "outpost_payload", lambda **_: Payload(sources, "serve"))


@pytest.mark.parametrize("told", ["told + b'x'", "told[:-1]", "told * 1000"])
async def test_sums_of_another_length_end_the_sync(told: str, trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than there has to be is ever kept."""
    old = trees.old.read_bytes()
    make_hostile(monkeypatch, "for start in range(0, len(told)", f"told = {told}\n    for start in range(0, len(told)")
    async with linked() as machine:
        with pytest.raises(RemoteError, match="no record of files"):
            await sync(machine, trees, "up")
    assert trees.old.read_bytes() == old
    assert os.listdir(trees.old.parent) == ["big"]


@pytest.mark.parametrize(
    "orders",
    [
        "[b'k' + b'\\xff' * 16]",
        "[b'k' + bytes(7) + b'\\x01' + bytes(8)]",
        "[b'n' + bytes(1000)] * 1000000",
        "[b'k' + bytes(14) + b'\\x10\\0'] * 1000000",
        "[b'w' + b'0' * 64]",
        "[b'w']",
        "[]",
    ],
)
async def test_orders_of_a_hostile_far_end_change_nothing(
    orders: str, trees: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promises 58 and 61: what does not come out as it was told is dropped, and the file asked for whole."""
    make_hostile(monkeypatch, "differ.orders(Sums(told, size, block))", orders)
    async with linked() as machine:
        report = await sync(machine, trees, "down")
    assert trees.arrived()
    assert SIZE <= report.bytes <= 3 * SIZE


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_source_that_changes_meanwhile_is_told(way: str, trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 67."""
    old = trees.old.read_bytes()
    real = OutpostDeltas.sums if way == "up" else OutpostDeltas.begin

    async def late(*args: object) -> object:
        trees.new.write_bytes(b"short")
        return await real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(OutpostDeltas, "sums" if way == "up" else "begin", late)
    async with linked() as machine:
        with pytest.raises(FileChanged, match="changed while it was read"):
            await sync(machine, trees, way)
    assert trees.old.read_bytes() == old
    assert os.listdir(trees.old.parent) == ["big"]


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_cancel_anywhere_leaves_the_old_file_or_the_new_one(way: str, trees: Trees) -> None:
    """Promises 13, 58 and 60."""
    old, new = trees.old.read_bytes(), trees.new.read_bytes()
    async with linked() as machine:
        await machine.connect()

        async def one() -> None:
            trees.old.write_bytes(old)
            await sync(machine, trees, way)

        async def check() -> None:
            assert os.listdir(trees.old.parent) == ["big"]
            assert trees.old.read_bytes() in (old, new)
            assert await machine.path("/").exists()

        assert await cancel_everywhere(one, check) >= 5


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("count", [1, 5_000, 20_000])
async def test_a_cut_link_leaves_the_old_file(count: int, way: str, aioremote_sshd: Sshd, trees: Trees) -> None:
    """Promises 58 and 60: sums or orders that end in their midst."""
    old = trees.old.read_bytes()
    trees.write_new(os.urandom(100_000) + old)
    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as link:
        async with to(aioremote_sshd, port=link.port) as machine:
            await machine.python.eval("1")
            link.cut_after(count, "sent" if way == "up" else "received")
            with pytest.raises(ConnectionLost):
                await sync(machine, trees, way)
        await until(lambda: os.listdir(trees.old.parent) == ["big"])
    assert trees.old.read_bytes() == old
