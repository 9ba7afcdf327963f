"""A changed file as orders: take these bytes of the old one, take these new ones. Both how they are given and followed.

Whoever follows them trusts nobody: they name no file, reach no byte outside of the old one, and give just as many bytes
as were announced; what comes out takes the old one's place only when its SHA-256 is that of the source.
"""

import hashlib
import os
import stat
import struct

from .block_search import Search
from .block_sums import READ_BYTES, Sums, read_at, sums_of
from .file_frames import BLOCK_BYTES, MISMATCH, Told, record
from .tree_reader import Changed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .tree_writer import TreeWriter

__all__ = ["COPY", "DATA", "WHOLE", "Differ", "Patcher", "Strayed", "copied_bytes", "tell_sums"]

COPY = b"k"  # so many bytes of the old file, from there on
DATA = b"n"  # new bytes
WHOLE = b"w"  # that was all; the SHA-256 of the whole
_COPY = struct.Struct(">cQQ")


class Strayed(Told):
    """What came out is not the source; the old file is as it was."""

    def told(self) -> "bytes":
        return record(MISMATCH)


def copied_bytes(order: "bytes") -> "int":
    """Return how many bytes of the old file an order takes."""
    if order[:1] != COPY or len(order) != _COPY.size:
        return 0
    count: "int" = _COPY.unpack(order)[2]
    return count


def tell_sums(writer: "TreeWriter", path: "bytes", size: "int", block: "int") -> "bytes":
    """Return the sums of a file below a writer's root, reached without following links; b"" where it is another now."""
    try:
        fd = writer.open_existing(path)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return b""
        told = sums_of(fd, size, block)
        return told if os.fstat(fd).st_size == size else b""
    finally:
        os.close(fd)


class Differ(object):
    """The side that has the new file.

    Args:
        path: the file.
        size: its bytes, as far as is known.
        block: of the other side's sums.

    Raises:
        Changed: it has another size now.
    """

    def __init__(self, path: "bytes", size: "int", block: "int") -> "None":
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
        self._size = size
        self._search = Search(self._fd, size, block)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            self.close()
            raise Changed(path)

    def scan(self) -> "None":
        """Do what can be done before the other side's sums are here.

        Raises:
            Changed: the file is shorter now.
        """
        if not self._search.scan():
            raise Changed(self._path)

    def orders(self, sums: "Sums") -> "Iterator[bytes]":
        """Yield the orders: bodies of records."""
        at = 0
        for here, there, length in [*self._search.runs(sums), (self._size, 0, 0)]:
            for start in range(at, here, BLOCK_BYTES):
                yield DATA + read_at(self._fd, start, min(BLOCK_BYTES, here - start))
            if length:
                yield _COPY.pack(COPY, there, length)
            at = here + length
        yield WHOLE + self._search.digest.encode("ascii")

    def give_up(self) -> "None":
        """Let `scan` end early, in whatever thread it is: as if the file were shorter."""
        self._search.given_up = True

    def close(self) -> "None":
        """Close the file."""
        os.close(self._fd)


class Patcher(object):
    """The side that has the old file, and where the new one is written.

    Args:
        writer: of the tree; whoever has it closes it, and with it what is not whole.
        path: the file, below the writer's root.
        found: what the source's stat tells.

    Raises:
        Strayed: there is no old file to be read any more.
    """

    def __init__(self, writer: "TreeWriter", path: "bytes", found: "Any") -> "None":
        self._writer = writer
        self._path = path
        self._found = found
        try:
            self._old: "int" = writer.open_existing(path)
        except OSError:
            raise Strayed() from None
        self._size = os.fstat(self._old).st_size
        self._whole = hashlib.sha256()
        self._at = 0

    def follow(self, order: "bytes") -> "bool":
        """Follow an order; returns whether it was the last.

        Raises:
            Strayed: the orders do not lead to the source.
            Failed: as from `TreeWriter.write`.
        """
        kind = order[:1]
        if kind == DATA and len(order) > 1:
            self._add(order[1:])
        elif kind == COPY and len(order) == _COPY.size:
            self._copy(*_COPY.unpack(order)[1:])
        elif kind == WHOLE:
            if self._at != self._found.st_size or order[1:] != self._whole.hexdigest().encode("ascii"):
                raise Strayed()
            self._writer.write(self._path, self._found, b"", self._at, True)
            return True
        else:
            raise Strayed()
        return False

    def _copy(self, start: "int", count: "int") -> "None":
        if not 0 < count <= self._size - start:
            raise Strayed()
        while count:
            data = read_at(self._old, start, min(READ_BYTES, count))
            if not data:  # it is shorter now
                raise Strayed()
            self._add(data)
            start, count = start + len(data), count - len(data)

    def _add(self, data: "bytes") -> "None":
        if len(data) > self._found.st_size - self._at:
            raise Strayed()
        self._whole.update(data)
        self._writer.write(self._path, self._found, data, self._at, False)
        self._at += len(data)

    def close(self) -> "None":
        """Close the old file."""
        if self._old >= 0:
            os.close(self._old)
            self._old = -1
