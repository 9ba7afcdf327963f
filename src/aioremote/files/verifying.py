"""What a source's files hash to at their own end, with their pieces.

A writer compares that with what it has written, before a file has its place.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from aioremote.files.resuming import read_digest

if TYPE_CHECKING:
    from aioremote._core.pieces import Piece
    from aioremote.files.transfer import End

__all__ = ["digests_of", "with_digests"]


async def with_digests(source: End, pieces: AsyncGenerator[Sequence[Piece]]) -> AsyncGenerator[Sequence[Piece]]:
    """Yield the pieces, each file's last one with its digest: one question a batch. Closes `pieces`."""
    async with aclosing(pieces):
        async for batch in pieces:
            sizes = {piece.path: piece.stat.st_size for piece in batch if piece.stat.is_file() and piece.last}
            digests = await digests_of(source, sizes) if sizes else {}
            yield [
                replace(piece, digest=digests[piece.path]) if piece.last and piece.path in digests else piece
                for piece in batch
            ]


async def digests_of(end: End, sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
    """Return what files hash to; they are read from here only where the end itself cannot hash.

    Args:
        end: where they are.
        sizes: by path below it; the end's own path for b"".
    """
    places = {path: os.path.join(end.path, path) if path else end.path for path in sizes}
    found = await end.files.digests(list(places.values()))
    return {
        path: digest or await read_digest(end, places[path], sizes[path])
        for path, digest in zip(places, found, strict=True)
    }
