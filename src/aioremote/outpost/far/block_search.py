"""Finds what of a file another side has already, from the sums of its blocks. Blocking.

First, block by block, at the same place or at any other multiple of the block: that is all for changes in place. What
is left between are gaps; in these the anchors of blocks that should be there are looked for, and from each that is
found its neighbours are compared, on both sides. So the work is that of C: hashing, and finding bytes.
"""

import hashlib
import zlib

from .block_sums import ANCHORED, crcs_of, read_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .block_sums import Sums

    _Run = tuple[int, int, int]
    _Gap = tuple[int, int, int, int]

__all__ = ["Search"]

_WINDOW = 1048576  # read at once, while something is looked for
_NEAR = 65536  # around the place where it should be
_TRIES = 15  # blocks that are looked for in one gap
_EFFORT = 4  # times the file's size: bytes that may be searched and hashed for nothing


class Search(object):
    """The search in one file.

    Args:
        fd: the file.
        size: its bytes.
        block: of a block.

    Attributes:
        digest: the SHA-256 of the whole in hexadecimal digits, known after `scan`.
        given_up: set from another thread to let `scan` end early.
    """

    def __init__(self, fd: "int", size: "int", block: "int") -> "None":
        self.digest: "str" = ""
        self.given_up: "bool" = False
        self._fd = fd
        self._size = size
        self._block = block
        self._own: "list[int]" = []
        self._effort = _EFFORT * size

    def scan(self) -> "bool":
        """Hash the file: what can be done before the other side's sums are here. Returns whether it is all there."""
        whole = hashlib.sha256()
        self._own = crcs_of(self._fd, self._size, self._block, whole, lambda: self.given_up)
        self.digest = whole.hexdigest()
        return len(self._own) == -(-self._size // self._block)

    def runs(self, sums: "Sums") -> "list[_Run]":
        """Return what the other side has: start here, start there, bytes; in this file's order, not overlapping."""
        runs = self._aligned(sums)
        gaps = list(self._gaps(runs, sums))
        while gaps:
            gap = gaps.pop()
            run = self._find(gap, sums)
            if run is not None:
                runs.append(run)
                start, end, low, high = gap
                here, there, length = run
                gaps.append((start, here, low, there))
                gaps.append((here + length, end, there + length, high))
        runs.sort()
        return list(_joined(runs))

    # at multiples of the block

    def _aligned(self, sums: "Sums") -> "list[_Run]":
        known = {crc: number for number, crc in enumerate(sums.crcs[: sums.whole])}
        block, own = self._block, self._own
        runs: "list[_Run]" = []
        for number in range(self._size // block):
            there = number
            if number >= sums.whole or sums.crcs[number] != own[number]:
                there = known.get(own[number], -1)
                if there < 0 or not self._has_neighbour(number, there, sums):
                    continue
            runs.append((number * block, there * block, block))
        tail = sums.size - sums.whole * block  # the last block there, where it is here too
        start = sums.whole * block
        is_free = start + tail <= self._size and not (runs and runs[-1][0] >= start)
        if tail and is_free and zlib.crc32(read_at(self._fd, start, tail)) == sums.crcs[-1]:
            runs.append((start, start, tail))
        return list(_joined(runs))

    def _has_neighbour(self, number: "int", there: "int", sums: "Sums") -> "bool":
        """Whether another block goes with one that is somewhere else there: of many a CRC meets one by chance."""
        return any(
            0 <= there + step < sums.whole
            and 0 <= number + step < self._size // self._block
            and sums.crcs[there + step] == self._own[number + step]
            for step in (-1, 1)
        )

    def _gaps(self, runs: "list[_Run]", sums: "Sums") -> "Iterator[_Gap]":
        """Yield what lies between: start and end here, and the bytes there that belong between the same neighbours."""
        start, low = 0, 0
        for here, there, length in runs:
            yield start, here, low, there
            start, low = here + length, there + length
        yield start, self._size, low, sums.size

    # anywhere

    def _find(self, gap: "_Gap", sums: "Sums") -> "_Run | None":
        """Return a run in a gap, as long as it can be."""
        start, end, low, high = gap
        if end - start < self._block:
            return None
        first, last = -(-low // self._block), high // self._block  # whole blocks there
        for number in _spread(-(-first // ANCHORED), -(-last // ANCHORED)):
            place, anchor = sums.anchor(number * ANCHORED)
            if anchor:
                here = self._locate(gap, sums, number * ANCHORED, place, anchor)
                if here is not None:
                    return self._extended(here, number * ANCHORED, gap, sums)
        return None

    def _locate(self, gap: "_Gap", sums: "Sums", number: "int", place: "int", anchor: "bytes") -> "int | None":
        """Return where in a gap a block is: first about where it should be, then anywhere."""
        start, end, low, high = gap
        there = number * self._block
        expected = sorted((start + there - low, end - (high - there)))
        near = max(start, expected[0] - _NEAR), min(end, expected[1] + self._block + _NEAR)
        for left, right in (near, (start, end)) if near != (start, end) else (near,):
            for at in self._places(left + place, right - self._block + place + len(anchor), anchor):
                self._effort -= self._block
                if self._is_at(at - place, number, sums):
                    return at - place
        return None

    def _places(self, left: "int", right: "int", anchor: "bytes") -> "Iterator[int]":
        """Yield where some bytes are between two places."""
        while right - left >= len(anchor) and self._effort > 0:
            data = read_at(self._fd, left, min(_WINDOW, right - left))
            self._effort -= len(data)
            at = data.find(anchor)
            while at >= 0 and self._effort > 0:
                yield left + at
                at = data.find(anchor, at + 1)
            if len(data) < min(_WINDOW, right - left):  # it was cut off
                return
            left += len(data) - len(anchor) + 1

    def _is_at(self, here: "int", number: "int", sums: "Sums") -> "bool":
        return zlib.crc32(read_at(self._fd, here, sums.length(number))) == sums.crcs[number]

    def _extended(self, here: "int", number: "int", gap: "_Gap", sums: "Sums") -> "_Run":
        """Return the run around a block that was found, with its neighbours to both sides that are here too."""
        start, end, low, high = gap
        block, shift = self._block, here - number * self._block
        first, after = number, number + 1
        while (
            (first - 1) * block >= low
            and (first - 1) * block + shift >= start
            and self._is_at((first - 1) * block + shift, first - 1, sums)
        ):
            first -= 1
        while after < len(sums.crcs):
            there_end = after * block + sums.length(after)
            if there_end > high or there_end + shift > end or not self._is_at(after * block + shift, after, sums):
                break
            after += 1
        there = first * block
        return there + shift, there, (after - 1) * block + sums.length(after - 1) - there


def _spread(first: "int", last: "int") -> "Iterator[int]":
    """Yield some numbers of a range, the middle one first, then those of the halves, and so on."""
    parts, given = 2, 0
    seen: "set[int]" = set()
    while given < _TRIES and given < last - first:
        for part in range(1, parts, 2):
            number = first + (last - first) * part // parts
            if number not in seen and given < _TRIES:
                seen.add(number)
                given += 1
                yield number
        parts *= 2


def _joined(runs: "list[_Run]") -> "Iterator[_Run]":
    """Yield the same runs, those that go on where another ends as one with it."""
    held = None
    for here, there, length in runs:
        if held is not None and (held[0] + held[2], held[1] + held[2]) == (here, there):
            held = (held[0], held[1], held[2] + length)
            continue
        if held is not None:
            yield held
        held = (here, there, length)
    if held is not None:
        yield held
