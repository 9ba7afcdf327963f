"""What differs between two files, as orders: that they lead to the new one, are few, and reach nothing else."""

import hashlib
import itertools
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aioremote._core.pieces import TreeOptions
from aioremote.outpost.far.block_search import Search
from aioremote.outpost.far.block_sums import MOST_BYTES, Sums, block_bytes, sums_bytes, sums_of
from aioremote.outpost.far.patching import COPY, DATA, WHOLE, Differ, Patcher, Strayed, copied_bytes, tell_sums
from aioremote.outpost.far.tree_reader import Changed
from aioremote.outpost.far.tree_writer import TreeWriter
from aioremote.types import FileStat

SIZE = 3 * 1024 * 1024 + 777
BLOCK = block_bytes(SIZE)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[TreeWriter]:
    (tmp_path / "target").mkdir()
    made = TreeWriter(bytes(tmp_path / "target"), TreeOptions(preserve=True, durable=False))
    yield made
    made.close()


def told_of(path: Path, block: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return sums_of(fd, path.stat().st_size, block)
    finally:
        os.close(fd)


def orders_for(tmp_path: Path, old: bytes, new: bytes, block: int) -> list[bytes]:
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    differ = Differ(bytes(tmp_path / "new"), len(new), block)
    try:
        differ.scan()
        return list(differ.orders(Sums(told_of(tmp_path / "old", block), len(old), block)))
    finally:
        differ.close()


def outcome(old: bytes, orders: list[bytes]) -> bytes:
    out = bytearray()
    for order in orders:
        if order[:1] == DATA:
            out += order[1:]
        elif order[:1] == COPY:
            start = int.from_bytes(order[1:9], "big")
            out += old[start : start + copied_bytes(order)]
    return bytes(out)


def new_bytes(orders: list[bytes]) -> int:
    return sum(len(order) - 1 for order in orders if order[:1] == DATA)


def in_place(old: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(old) - 5000)
    return old[:at] + chance.randbytes(5000) + old[at + 5000 :]


def inserted(old: bytes, chance: random.Random) -> bytes:
    places = [0, *sorted(chance.randrange(len(old)) for _ in range(10)), len(old)]
    return b"".join(old[a:b] + chance.randbytes(50) for a, b in itertools.pairwise(places))


CASES: dict[str, tuple[Callable[[bytes, random.Random], bytes], int]] = {
    "the same": (lambda old, chance: old, 0),
    "changed in place": (in_place, 5000 + 2 * BLOCK),
    "put before": (lambda old, chance: chance.randbytes(100) + old, 100),
    "taken from the front": (lambda old, chance: old[1234:], BLOCK),
    "appended": (lambda old, chance: old + chance.randbytes(1000), 1000),
    "cut off": (lambda old, chance: old[: len(old) // 2 + 5], BLOCK),
    "put in at many places": (inserted, 11 * (50 + BLOCK)),
    "halves changed over": (lambda old, chance: old[SIZE // 2 :] + old[: SIZE // 2], SIZE // 2 + 2 * BLOCK),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["bytes", "log"])
def test_only_what_differs_is_sent(case: str, kind: str, tmp_path: Path) -> None:
    chance = random.Random(case)
    lines = (
        b"2026-01-01 12:%02d host app[%d]: took %d ms\n" % (n % 60, n % 97, n * 7919 % 4001) for n in range(90_000)
    )
    old = chance.randbytes(SIZE) if kind == "bytes" else b"".join(lines)[:SIZE]
    change, most = CASES[case]
    new = change(old, chance)
    orders = orders_for(tmp_path, old, new, BLOCK)
    assert outcome(old, orders) == new
    assert orders[-1] == WHOLE + hashlib.sha256(new).hexdigest().encode()
    assert new_bytes(orders) <= most


def test_files_without_anything_in_common_are_sent_as_they_are(tmp_path: Path) -> None:
    old, new = os.urandom(SIZE), os.urandom(SIZE)
    orders = orders_for(tmp_path, old, new, BLOCK)
    assert new_bytes(orders) == SIZE
    assert all(len(order) <= 1024 * 1024 + 1 for order in orders)


PIECES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 700)), max_size=12)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PIECES, PIECES)
def test_any_two_files(tmp_path: Path, old: list[tuple[int, int]], new: list[tuple[int, int]]) -> None:
    """Whatever is found, the orders lead to the new file."""
    sources = [random.Random(number).randbytes(700) if number else bytes(700) for number in range(6)]
    before, after = (b"".join(sources[number][:count] for number, count in pieces) for pieces in (old, new))
    assert outcome(before, orders_for(tmp_path, before, after, 64)) == after


def test_the_sums_are_as_long_as_is_said_and_not_long(tmp_path: Path) -> None:
    for size in (0, 1, BLOCK - 1, BLOCK, SIZE):
        (tmp_path / "old").write_bytes(bytes(size))
        assert len(told_of(tmp_path / "old", BLOCK)) == sums_bytes(size, BLOCK)
    assert sums_bytes(64 * 2**20, block_bytes(64 * 2**20)) < 100_000
    assert sums_bytes(MOST_BYTES, block_bytes(MOST_BYTES)) < 12_000_000


# --- hostile sums -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, 10_000])
def test_sums_of_another_length_are_refused(change: int) -> None:
    with pytest.raises(ValueError, match="bytes of sums for a file of"):
        Sums(bytes(sums_bytes(SIZE, BLOCK) + change), SIZE, BLOCK)


@pytest.mark.parametrize("told", ["zeros", "noise", "one anchor everywhere"])
def test_sums_that_lie_cost_a_bounded_search_and_mislead_nobody(
    told: str, tmp_path: Path, writer: TreeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor = b"abcdefgh12345678"
    new = anchor * (SIZE // 16) + bytes(SIZE % 16)
    count = sums_bytes(SIZE, BLOCK)
    crcs = -(-SIZE // BLOCK) * 4
    lies = {
        "zeros": bytes(count),
        "noise": os.urandom(count),
        "one anchor everywhere": (os.urandom(crcs) + (b"\0" + anchor) * count)[:count],
    }[told]
    (tmp_path / "new").write_bytes(new)
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: read.append(count) or pread(fd, count, at))
    differ = Differ(bytes(tmp_path / "new"), SIZE, BLOCK)
    differ.scan()
    orders = list(differ.orders(Sums(lies, SIZE, BLOCK)))
    differ.close()
    assert outcome(new, orders) == new
    assert sum(read) <= 8 * SIZE


# --- hostile orders ---------------------------------------------------------------------------------------------------


def copy(start: int, count: int) -> bytes:
    return struct.pack(">cQQ", COPY, start, count)


OLD = os.urandom(10_000)
NEW = OLD[5000:] + b"more" + OLD[:100]
DIGEST = hashlib.sha256(NEW).hexdigest().encode()
GOOD = [copy(5000, 5000), DATA + b"more", copy(0, 100), WHOLE + DIGEST]


def patched(writer: TreeWriter, orders: list[bytes], size: int = len(NEW)) -> bool:
    found = FileStat(st_mode=0o100644, st_size=size, st_mtime_ns=10**18)
    patcher = Patcher(writer, b"file", found)
    try:
        return any(patcher.follow(order) for order in orders)
    finally:
        patcher.close()
        writer.close()


def test_orders_make_the_new_file_of_the_old_one(tmp_path: Path, writer: TreeWriter) -> None:
    (tmp_path / "target" / "file").write_bytes(OLD)
    assert patched(writer, GOOD)
    assert (tmp_path / "target" / "file").read_bytes() == NEW
    assert os.listdir(tmp_path / "target") == ["file"]
    assert (tmp_path / "target" / "file").stat().st_mtime_ns == 10**18


@pytest.mark.parametrize(
    "orders",
    [
        [copy(0, 10_001)],
        [copy(10_000, 1)],
        [copy(2**64 - 1, 2**64 - 1)],
        [copy(0, 2**63)],
        [copy(0, 0)],
        [COPY + b"short"],
        [DATA],
        [DATA + bytes(len(NEW) + 1)],
        [copy(0, 10_000)] * 2,
        [*GOOD[:3], DATA + b"x"],
        [*GOOD[:2], WHOLE + DIGEST],
        [*GOOD[:3], WHOLE + b"0" * 64],
        [*GOOD[:3], WHOLE],
        [b"?"],
        [b"\xff" * 100],
    ],
    ids=lambda orders: f"{len(orders)} {orders[-1][:1]!r}",
)
def test_orders_that_lie_change_nothing(orders: list[bytes], tmp_path: Path, writer: TreeWriter) -> None:
    """Promises 58 and 61: the old file stays, and no part of another."""
    (tmp_path / "target" / "file").write_bytes(OLD)
    with pytest.raises(Strayed):
        patched(writer, orders)
    assert (tmp_path / "target" / "file").read_bytes() == OLD
    assert os.listdir(tmp_path / "target") == ["file"]


def test_orders_that_end_early_change_nothing(tmp_path: Path, writer: TreeWriter) -> None:
    (tmp_path / "target" / "file").write_bytes(OLD)
    assert not patched(writer, GOOD[:3])
    assert (tmp_path / "target" / "file").read_bytes() == OLD
    assert os.listdir(tmp_path / "target") == ["file"]


def test_links_are_not_followed_to_an_old_file(tmp_path: Path, writer: TreeWriter) -> None:
    """Promise 64."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(OLD)
    (tmp_path / "target" / "file").symlink_to("../outside/secret")
    (tmp_path / "target" / "folder").symlink_to("../outside")
    os.mkfifo(tmp_path / "target" / "pipe")
    assert tell_sums(writer, b"file", len(OLD), BLOCK) == b""
    assert tell_sums(writer, b"folder/secret", len(OLD), BLOCK) == b""
    assert tell_sums(writer, b"pipe", 0, BLOCK) == b""
    assert tell_sums(writer, b"none", 0, BLOCK) == b""
    with pytest.raises(Strayed):
        patched(writer, GOOD)
    assert (tmp_path / "outside" / "secret").read_bytes() == OLD


def test_a_file_of_another_size_is_told(tmp_path: Path, writer: TreeWriter) -> None:
    """Promise 67."""
    (tmp_path / "target" / "file").write_bytes(OLD)
    assert tell_sums(writer, b"file", len(OLD) + 1, BLOCK) == b""
    with pytest.raises(Changed):
        Differ(bytes(tmp_path / "target" / "file"), len(OLD) - 1, BLOCK)
    differ = Differ(bytes(tmp_path / "target" / "file"), len(OLD), BLOCK)
    os.truncate(tmp_path / "target" / "file", 10)
    with pytest.raises(Changed):
        differ.scan()
    differ.close()


def test_holes_stay_holes(tmp_path: Path, writer: TreeWriter) -> None:
    """Promise 68."""
    old = b"x" * 4096 + bytes(8 * 1024 * 1024) + b"y"
    (tmp_path / "target" / "file").write_bytes(old)
    new = old[:-1] + b"z"
    orders = [copy(0, len(old) - 1), DATA + b"z", WHOLE + hashlib.sha256(new).hexdigest().encode()]
    assert patched(writer, orders, len(new))
    assert (tmp_path / "target" / "file").read_bytes() == new
    assert (tmp_path / "target" / "file").stat().st_blocks * 512 < 4 * 1024 * 1024


def test_runs_do_not_overlap(tmp_path: Path) -> None:
    """They are in order, within both files, and each is what it says."""
    chance = random.Random(7)
    old = chance.randbytes(200_000)
    new = old[50_000:120_000] + chance.randbytes(333) + old[:90_001] + old[150_000:]
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    fd = os.open(tmp_path / "new", os.O_RDONLY)
    search = Search(fd, len(new), 1024)
    assert search.scan()
    at = 0
    for here, there, length in search.runs(Sums(told_of(tmp_path / "old", 1024), len(old), 1024)):
        assert here >= at
        assert new[here : here + length] == old[there : there + length]
        at = here + length
    os.close(fd)
