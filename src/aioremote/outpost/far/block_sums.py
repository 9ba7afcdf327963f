"""What is told of a file by blocks, so that another side finds what it has of it already.

Each block has a CRC-32. Every fourth also has an anchor: some of its bytes as they are, which `bytes.find` looks for at
the speed of C, where a checksum that rolls from byte to byte would not come far in Python. Both only find, and a CRC
costs less than half of a SHA-256; what comes out in the end is compared by the SHA-256 of the whole.
"""

import os
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "ANCHORED",
    "LEAST_BYTES",
    "MOST_BYTES",
    "Sums",
    "block_bytes",
    "crcs_of",
    "read_at",
    "sums_bytes",
    "sums_of",
]

LEAST_BYTES = 1048576  # of a file: below this, to ask costs more than to send
MOST_BYTES = 2**40
ANCHORED = 4
_LEAST_BLOCK, _MOST_BLOCK = 2048, 1048576
_CRC_BYTES = 4
_ANCHOR_BYTES = 16
_PLACES = 16  # in a block, where an anchor may be
_VARIED = 8  # different bytes that make a good one
_ENTRY_BYTES = 1 + _ANCHOR_BYTES  # its place, and itself
READ_BYTES = 131072  # what is hashed piece by piece stays in the processor's cache


def block_bytes(size: "int") -> "int":
    """Return the size of blocks for a file: about its square root, so that neither sums nor what is sent grows much."""
    block = _LEAST_BLOCK
    while block < _MOST_BLOCK and block * block < size:
        block *= 2
    return block


def sums_bytes(size: "int", block: "int") -> "int":
    """Return how many bytes tell of a file of that size."""
    return -(-size // block) * _CRC_BYTES + -(-(size // block) // ANCHORED) * _ENTRY_BYTES


def read_at(fd: "int", offset: "int", count: "int") -> "bytes":
    """Return so many bytes of a file, fewer only where it ends."""
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def crcs_of(
    fd: "int", size: "int", block: "int", whole: "Any" = None, until: "Callable[[], bool] | None" = None
) -> "list[int]":
    """Return the CRCs of all blocks of a file, the last one shorter; fewer where the file is shorter than that.

    Args:
        fd, size, block: the file, its bytes, and those of a block.
        whole: a hash that is given all of them too.
        until: asked now and then whether nobody wants them any more.
    """
    found: "list[int]" = []
    step = max(block, READ_BYTES)
    for start in range(0, size, step):
        if until is not None and until():
            break
        data = memoryview(read_at(fd, start, min(step, size - start)))
        if whole is not None:
            whole.update(data)
        found += [zlib.crc32(data[at : at + block]) for at in range(0, len(data), block)]
    return found


def sums_of(fd: "int", size: "int", block: "int") -> "bytes":
    """Return what is told of a file: all CRCs, then all anchors."""
    crcs = crcs_of(fd, size, block)
    anchored = range(0, size // block * block, block * ANCHORED)
    return struct.pack(">%dI" % len(crcs), *crcs) + b"".join(_anchor(fd, start, block) for start in anchored)


def _anchor(fd: "int", start: "int", block: "int") -> "bytes":
    """Return the most varied of some pieces of a block: zeros or blanks would be found everywhere."""
    best, most = b"", 0
    data = b""
    for place in range(_PLACES):
        at = block // _PLACES * place
        piece = data[at : at + _ANCHOR_BYTES] if place else read_at(fd, start, _ANCHOR_BYTES)
        varied = len(set(piece))
        if varied > most:
            best, most = bytes((place,)) + piece, varied
        if varied >= _VARIED:
            break
        data = data or read_at(fd, start, block)
    return best.ljust(_ENTRY_BYTES, b"\0")


class Sums(object):
    """What was told of a file.

    Args:
        told: as `sums_of` returns it.
        size: of the file.
        block: of a block.

    Raises:
        ValueError: it is not as long as it has to be.

    Attributes:
        size, block: as given.
        whole: the number of whole blocks; one more may be shorter.
        crcs: of each block.
    """

    def __init__(self, told: "bytes", size: "int", block: "int") -> "None":
        if len(told) != sums_bytes(size, block):
            raise ValueError("%d bytes of sums for a file of %d" % (len(told), size))
        self.size: "int" = size
        self.block: "int" = block
        self.whole: "int" = size // block
        count = -(-size // block)
        self.crcs: "list[int]" = list(struct.unpack_from(">%dI" % count, told))
        self._anchors = told[count * _CRC_BYTES :]

    def anchor(self, number: "int") -> "tuple[int, bytes]":
        """Return where in a block its anchor is, and the anchor; b"" for one that would be found everywhere."""
        at = number // ANCHORED * _ENTRY_BYTES
        place, piece = self._anchors[at], self._anchors[at + 1 : at + _ENTRY_BYTES]
        usable = place < _PLACES and len(set(piece)) > _VARIED // 4
        return self.block // _PLACES * place, piece if usable else b""

    def length(self, number: "int") -> "int":
        """Return the bytes of a block."""
        return min(self.block, self.size - number * self.block)
