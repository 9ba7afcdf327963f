"""Tar archives against the real programs, and in any pieces."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioremote.transports.tar_codec import END, Chunk, Member, TarDecoder, TarError, header, padding

NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {b"/"[0], 0} & set(name) and name not in (b".", b"..")
)
FILES = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6)


def decoded(archive: bytes, step: int = 1 << 30) -> dict[bytes, tuple[Member, bytes]]:
    """Return all members with their content."""
    decoder = TarDecoder()
    found: dict[bytes, tuple[Member, bytes]] = {}
    last: Member | None = None
    for at in range(0, len(archive), step):
        for item in decoder.feed(archive[at : at + step]):
            if isinstance(item, Member):
                last = item
                found[item.name] = (item, b"")
            else:
                assert last is not None
                data = found[last.name][1]
                found[last.name] = (last, data + bytes(item.offset - len(data)) + item.data)
    assert decoder.ended
    return found


def packed(files: dict[bytes, bytes]) -> bytes:
    parts = [
        header(Member(name, tarfile.REGTYPE, 0o640, len(data), mtime=77)) + data + padding(len(data))
        for name, data in files.items()
    ]
    return b"".join(parts) + END


@given(FILES, st.integers(1, 700))
def test_any_pieces_give_the_same(files: dict[bytes, bytes], step: int) -> None:
    archive = packed(files)
    assert {name: data for name, (_, data) in decoded(archive, step).items()} == files


@settings(max_examples=15, deadline=None)
@given(files=FILES, program=st.sampled_from([["tar"], ["busybox", "tar"]]))
def test_real_programs_read_what_is_written(
    files: dict[bytes, bytes], program: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names of any bytes."""
    place = os.fsencode(tmp_path_factory.mktemp("unpacked"))
    files = {b"d" + name[:250]: data for name, data in files.items()}
    subprocess.run([*program, "-xpf", "-", "-C", place], input=packed(files), check=True)
    found = {name: Path(os.fsdecode(place + b"/" + name)).read_bytes() for name in os.listdir(place)}
    assert found == files


@pytest.mark.parametrize(
    "form", [["tar", "--format=gnu"], ["tar", "--format=pax"], ["tar", "--format=ustar"], ["busybox", "tar"]]
)
def test_what_real_programs_write_is_read(form: list[str], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("t" * 90)
    if "ustar" not in form[-1]:
        (tmp_path / ("n" * 255)).write_bytes(b"long")
        (tmp_path / "longer").symlink_to("t" * 300)
    archive = subprocess.run([*form, "-cf", "-", "-C", tmp_path, "."], check=True, capture_output=True).stdout
    found = decoded(archive, 999)
    for path in tmp_path.rglob("*"):
        member, data = found[b"./" + os.fsencode(path.relative_to(tmp_path))]
        if path.is_symlink():
            assert (member.kind, member.target) == (tarfile.SYMTYPE, os.fsencode(os.readlink(path)))
        elif path.is_file():
            assert (member.kind, member.mtime, data) == (tarfile.REGTYPE, int(path.stat().st_mtime), path.read_bytes())
        else:
            assert member.kind == tarfile.DIRTYPE


def test_sparse_files_of_many_parts(tmp_path: Path) -> None:
    """Promise 68: only what holds data travels."""
    with open(tmp_path / "file", "wb") as file:
        for number in range(60):
            file.seek(number << 20)
            file.write(b"%d" % number)
        file.truncate(5 << 30)
    archive = subprocess.run(
        ["tar", "-cSf", "-", "--format=gnu", "-C", tmp_path, "file"], check=True, capture_output=True
    )
    assert len(archive.stdout) < 1 << 20
    decoder = TarDecoder()
    member, *chunks = decoder.feed(archive.stdout)
    assert isinstance(member, Member)
    assert member.size == 5 << 30
    with open(tmp_path / "back", "wb") as back:
        for chunk in chunks:
            assert isinstance(chunk, Chunk)
            back.seek(chunk.offset)
            back.write(chunk.data)
        back.truncate(member.size)
    assert isinstance(chunks[-1], Chunk)
    assert [chunk.last for chunk in chunks if isinstance(chunk, Chunk)].index(True) == len(chunks) - 1
    for place in range(0, 64 << 20, 1 << 19):
        with open(tmp_path / "file", "rb") as one, open(tmp_path / "back", "rb") as other:
            one.seek(place)
            other.seek(place)
            assert one.read(100) == other.read(100)


@given(st.binary(min_size=512, max_size=3000))
def test_garbage_is_no_archive(garbage: bytes) -> None:
    decoder = TarDecoder()
    try:
        decoder.feed(garbage)
    except TarError:
        return
    assert decoder.ended


@given(FILES.filter(bool), st.data())
def test_damaged_archives_end_well(files: dict[bytes, bytes], data: st.DataObject) -> None:
    archive = bytearray(packed(files))
    for _ in range(3):
        archive[data.draw(st.integers(0, len(archive) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        TarDecoder().feed(bytes(archive))
    except TarError:
        return


def test_extended_attributes_are_read() -> None:
    """PAX: path, size and time of the next member alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mtime in (("ü" * 120, 5.5), ("plain", 6)):
            info = tarfile.TarInfo(name)
            info.mtime, info.size = mtime, 3
            archive.addfile(info, io.BytesIO(b"abc"))
    found = decoded(out.getvalue())
    assert {name.decode(): (member.mtime, data) for name, (member, data) in found.items()} == {
        "ü" * 120: (5, b"abc"),
        "plain": (6, b"abc"),
    }
