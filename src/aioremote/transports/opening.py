"""Chosen files of a tree, for an engine that can only open one after another: small ones many at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote._core.pieces import Piece
from aioremote._core.stats import same_time
from aioremote.errors import FileChanged

if TYPE_CHECKING:
    from aioremote.protocols import FileSystem
    from aioremote.types import FileStat

__all__ = ["read_by_opening"]

_SMALL_BYTES = 32 * 1024  # files up to this size are read several at a time
_AT_ONCE = 128
_PIECE_BYTES = 1024 * 1024


async def read_by_opening(
    files: FileSystem, root: bytes, chosen: Sequence[tuple[bytes, FileStat]], host: str
) -> AsyncGenerator[Sequence[Piece]]:
    """Yield the pieces of some files. See `FileSystem.read_files`."""
    small = [(path, listed) for path, listed in chosen if listed.st_size <= _SMALL_BYTES]
    for start in range(0, len(small), _AT_ONCE):
        yield await _read_small(files, root, small[start : start + _AT_ONCE], host)
    for path, listed in chosen:
        if listed.st_size > _SMALL_BYTES:
            async with aclosing(_read(files, root, path, listed, host)) as pieces:
                async for piece in pieces:
                    yield [piece]


async def _read_small(
    files: FileSystem, root: bytes, chosen: Sequence[tuple[bytes, FileStat]], host: str
) -> list[Piece]:
    async def read(path: bytes, listed: FileStat) -> list[Piece]:
        async with aclosing(_read(files, root, path, listed, host)) as pieces:
            return [piece async for piece in pieces]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(path, listed)) for path, listed in chosen]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first of them, as one file alone would raise it
    return [piece for task in tasks for piece in task.result()]


async def _read(files: FileSystem, root: bytes, path: bytes, listed: FileStat, host: str) -> AsyncGenerator[Piece]:
    size = listed.st_size
    file = await files.open(os.path.join(root, path), os.O_RDONLY)
    async with aclosing(file):
        offset = 0
        while True:
            data = await file.read(offset, min(_PIECE_BYTES, size - offset)) if size else b""
            last = offset + len(data) >= size
            if last or not data:
                now = await file.stat()
                if not last or now.st_size != size or not same_time(now.st_mtime_ns, listed.st_mtime_ns):
                    shown = os.fsdecode(path)
                    text = f"{host}: {shown!r} changed while it was read; sync again"
                    raise FileChanged(text, host=host, path=shown)
            yield Piece(path, listed, data, offset, last)
            if last:
                return
            offset += len(data)
