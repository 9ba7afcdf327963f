"""Changed files of a sync by their differences: which are worth it, and the way from one side's orders to the other's.

What differs is found and put together in `outpost.far.block_search` and `patching`, on whichever side that is.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote._core.pieces import Piece
from aioremote.outpost.far.block_sums import LEAST_BYTES, MOST_BYTES, block_bytes
from aioremote.outpost.far.patching import DATA, copied_bytes

if TYPE_CHECKING:
    from aioremote._core.pieces import Tally
    from aioremote.files.transfer import End
    from aioremote.protocols import DeltaFiles
    from aioremote.types import FileStat

__all__ = ["send_changes"]


async def send_changes(
    source: End, target: End, changed: Mapping[bytes, tuple[FileStat, FileStat]], tally: Tally
) -> set[bytes]:
    """Send the big ones among changed files by their differences.

    Args:
        source, target: the ends; the paths are below theirs.
        changed: what both sides have, with the source's stat and the target's.
        tally: counts.

    Returns:
        The paths that are done. The others are to be sent whole.
    """
    worth = {path: stats for path, stats in changed.items() if all(map(_is_worth_it, stats))}
    if not worth or source.files.engine == target.files.engine == "local":
        return set()
    done: set[bytes] = set()
    ours = await source.files.deltas()
    if ours is None:
        return done
    for path, (stat, old) in worth.items():
        kept, before = tally.bytes_kept, tally.bytes_done
        if await _send(ours, source, target, path, stat, old, tally):
            tally.wrote(Piece(path, stat))
            done.add(path)
        else:
            tally.bytes_done -= tally.bytes_kept - kept
            tally.bytes_kept = kept
            tally.bytes_found += tally.bytes_done - before  # that was sent, and is sent again
    return done


def _is_worth_it(stat: FileStat) -> bool:
    return stat.is_file() and LEAST_BYTES <= stat.st_size <= MOST_BYTES


async def _send(
    ours: DeltaFiles, source: End, target: End, path: bytes, stat: FileStat, old: FileStat, tally: Tally
) -> bool:
    """Send one; returns whether it is there now."""
    block = block_bytes(old.st_size)
    reading = await ours.begin(os.path.join(source.path, path), stat.st_size, old.st_size, block)
    async with aclosing(reading):  # while an outpost comes up, and the other side reads too
        theirs = await target.files.deltas()
        sums = await theirs.sums(target.path, path, old.st_size, block) if theirs is not None else b""
        if theirs is None or not sums:
            return False
        async with aclosing(reading.orders(sums)) as orders, aclosing(_counted(orders, path, stat, tally)) as counted:
            return await theirs.patch(target.path, path, stat, counted)


async def _counted(
    orders: AsyncGenerator[Sequence[bytes]], path: bytes, stat: FileStat, tally: Tally
) -> AsyncGenerator[Sequence[bytes]]:
    left = stat.st_size
    async for batch in orders:
        for order in batch:
            kept = min(copied_bytes(order), left)
            tally.kept(kept)
            data = order[1:] if order[:1] == DATA else b""
            if data:
                tally.wrote(Piece(path, stat, data, last=False))
            left -= kept + len(data)
        yield batch
