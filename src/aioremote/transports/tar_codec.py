"""Tar archives in both directions, without input or output: bytes in, members and chunks out, and back.

Single headers are the standard library's; its archives would read a blocking file. Written is the GNU form, which GNU,
busybox and BSD tar read, with names of any bytes and length; read are GNU and PAX, sparse files of GNU's old form too.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BLOCK_BYTES", "END", "Chunk", "Member", "TarDecoder", "TarError", "header", "padding"]

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
CHUNK_BYTES = 1024 * 1024
_NAME_BYTES = 1024 * 1024  # of a long name or of extended attributes
# Source: GNU tar manual, "Basic Tar Format": four spans in the header, 21 in each further block.
_SPAN = 24
_HEADER_SPANS, _HEADER_MORE, _HEADER_SIZE = 386, 482, slice(483, 495)
_MORE_SPANS, _MORE_MORE = 21, 504
_MOST_SPANS = 1 << 20


class TarError(Exception):
    """What came is no tar archive."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive. A regular file's content follows in chunks.

    Attributes:
        name: as it stands there, without a slash at its end.
        kind: the letter of its type, as `tarfile` names them; regular ones are all REGTYPE.
        mode: permissions.
        size: bytes of the file, holes and all.
        mtime: seconds since the epoch.
        target: a link's text.
    """

    name: bytes
    kind: bytes
    mode: int = 0o644
    size: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes of the last member, at most 1 MiB; what none covers is zeros. A last one comes for each file."""

    data: bytes
    offset: int
    last: bool


def header(member: Member) -> bytes:
    """Return the header of a member, which `size` bytes and `padding` follow."""
    info = tarfile.TarInfo(member.name.decode("utf-8", "surrogateescape"))
    info.type, info.mode, info.size, info.mtime = member.kind, member.mode, member.size, member.mtime
    info.linkname = member.target.decode("utf-8", "surrogateescape")
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return what fills the last block of so many bytes."""
    return bytes(-size % BLOCK_BYTES)


class TarDecoder:
    """Reads an archive from bytes in any pieces.

    Attributes:
        ended: whether the end mark has come.
        rest: what came after it.
    """

    def __init__(self) -> None:
        self.ended: bool = False
        self.rest: bytearray = bytearray()
        self._data = bytearray()
        self._names: dict[str, bytes] = {}  # for the next member, from what stands before it
        self._steps = self._run()
        self._block = b""
        next(self._steps)
        self._wanted = BLOCK_BYTES

    def feed(self, data: bytes) -> list[Member | Chunk]:
        """Return what is complete with these bytes.

        Raises:
            TarError: what came is no archive.
        """
        if self.ended:
            self.rest += data
            return []
        self._data += data
        found: list[Member | Chunk] = []
        at, going = 0, True
        while going and len(self._data) - at >= self._wanted:
            block = bytes(memoryview(self._data)[at : at + self._wanted])
            at += self._wanted
            going = self._advance(block, found)
        del self._data[:at]
        if not going:
            self.ended, self.rest = True, self._data
        return found

    def _advance(self, block: bytes, found: list[Member | Chunk]) -> bool:
        """Go on with what was wanted; returns whether more is."""
        self._block = block
        for step in self._steps:
            if isinstance(step, int):
                self._wanted = step
                return True
            found.append(step)
        return False

    def _run(self) -> Iterator[int | Member | Chunk]:
        """Yield how many bytes are wanted next, and between them what was found."""
        while True:
            yield BLOCK_BYTES
            block = self._block
            if block == bytes(BLOCK_BYTES):
                return
            info = _parsed(block)
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
                yield _checked(info.size, _NAME_BYTES) + -info.size % BLOCK_BYTES
                self._note(info.type, self._block[: info.size])
                continue
            yield from self._member(info, block)

    def _note(self, kind: bytes, data: bytes) -> None:
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._names["path"] = data.rstrip(b"\0")
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self._names["linkpath"] = data.rstrip(b"\0")
        elif kind == tarfile.XHDTYPE:
            self._names.update(_records(data))

    def _member(self, info: tarfile.TarInfo, block: bytes) -> Iterator[int | Member | Chunk]:
        names, self._names = self._names, {}
        try:
            wire = _checked(int(names.get("size", info.size)))
            mtime = int(float(names.get("mtime", info.mtime)))
        except (ValueError, OverflowError) as error:
            raise TarError("bad attributes") from error
        sparse = info.type == tarfile.GNUTYPE_SPARSE
        regular = sparse or info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
        size, spans = wire, [(0, wire)]
        if sparse:
            spans = _spans(block[_HEADER_SPANS:_HEADER_MORE])
            more, size = block[_HEADER_MORE], _number(block[_HEADER_SIZE])
            while more:
                yield BLOCK_BYTES
                spans += _spans(self._block[: _MORE_SPANS * _SPAN])
                more = self._block[_MORE_MORE]
                _checked(len(spans), _MOST_SPANS)
            _check_spans(spans, wire, size)
        yield Member(
            names.get("path", info.name.encode("utf-8", "surrogateescape")).rstrip(b"/") or b"/",
            tarfile.REGTYPE if regular else info.type,
            mode=info.mode & 0o7777,
            size=size if regular else 0,
            uid=info.uid,
            gid=info.gid,
            mtime=mtime,
            target=names.get("linkpath", info.linkname.encode("utf-8", "surrogateescape")),
        )
        if regular:
            yield from self._content(spans, size)
            if wire % BLOCK_BYTES:
                yield -wire % BLOCK_BYTES

    def _content(self, spans: list[tuple[int, int]], size: int) -> Iterator[int | Chunk]:
        ended = False
        for start, length in spans:
            for at in range(start, start + length, CHUNK_BYTES):
                yield min(start + length - at, CHUNK_BYTES)
                ended = at + len(self._block) == size
                yield Chunk(self._block, at, last=ended)
        if not ended:
            yield Chunk(b"", size, last=True)


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise TarError("bad header") from error


def _checked(size: int, most: int = 1 << 63) -> int:
    if not 0 <= size <= most:
        raise TarError(f"a size of {size} bytes")
    return size


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return _checked(int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big"))
    try:
        return int(field.rstrip(b" \0") or b"0", 8)
    except ValueError as error:
        raise TarError("bad number") from error


def _spans(block: bytes) -> list[tuple[int, int]]:
    """Return offset and length of the parts that hold data."""
    fields = [block[at : at + _SPAN] for at in range(0, len(block) - _SPAN + 1, _SPAN)]
    return [(_number(field[:12]), _number(field[12:])) for field in fields if field.strip(b"\0")]


def _check_spans(spans: list[tuple[int, int]], wire: int, size: int) -> None:
    at = 0
    for start, length in spans:
        if start < at or length < 0:
            raise TarError("parts that overlap")
        at = start + length
    if at > size or sum(length for _, length in spans) != wire:
        raise TarError("parts that do not fit")


def _records(data: bytes) -> dict[str, bytes]:
    """Return the extended attributes that matter. Source: POSIX, pax, "Extended Header"."""
    found: dict[str, bytes] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 2 < int(length) <= len(data):
            raise TarError("bad attributes")
        record, data = data[len(length) + 1 : int(length) - 1], data[int(length) :]
        key, _, value = record.partition(b"=")
        if key in (b"path", b"linkpath", b"size", b"mtime"):
            found[key.decode()] = value
    return found
