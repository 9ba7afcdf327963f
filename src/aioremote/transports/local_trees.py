"""Files and trees of this machine as pieces and back: the readers and writers of far ends, in worker threads."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.pieces import Listed, Piece, Tally
from aioremote.errors import ChecksumMismatch, FileChanged, file_error
from aioremote.outpost.far.tree_lister import list_tree
from aioremote.outpost.far.tree_reader import Changed, TreeReader
from aioremote.outpost.far.tree_writer import Failed, Mismatch, TreeWriter
from aioremote.transports.local_calls import HOST, in_thread, local_error, named, stat_of
from aioremote.types import FileStat

if TYPE_CHECKING:
    from aioremote._core.pieces import TreeOptions

__all__ = ["list_local_tree", "read_local_files", "read_local_tree", "write_local_tree"]

_CLEANUP_SECONDS = 10.0


def _piece(
    path: bytes,
    found: os.stat_result,
    data: bytes = b"",
    offset: int = 0,
    last: bool = True,  # noqa: FBT001, FBT002  # as `TreeReader` calls it
    target: bytes = b"",
) -> Piece:
    return Piece(path, stat_of(found), data, offset, last, target)


async def list_local_tree(root: bytes) -> AsyncGenerator[Sequence[Listed]]:
    """Yield what is in a near tree. See `FileSystem.list_tree`."""
    batches = list_tree(root)
    while (batch := await named(root, _next_listed, batches, root)) is not None:
        yield batch


def _next_listed(
    batches: Iterator[tuple[list[tuple[bytes, os.stat_result, bytes]], list[tuple[bytes, OSError]]]], root: bytes
) -> list[Listed] | None:
    batch = next(batches, None)
    if batch is None:
        return None
    found = [Listed(path, stat_of(told), target) for path, told, target in batch[0]]
    for path, error in batch[1]:
        found.append(
            Listed(path, FileStat(st_mode=stat.S_IFDIR, st_size=0), error=local_error(error, os.path.join(root, path)))
        )
    return found


async def read_local_tree(root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
    """Yield a near file or tree as pieces. See `FileSystem.read_tree`."""
    reader = TreeReader(root, _piece)
    async with aclosing(_in_threads(reader, reader.batches(), root, tally)) as batches:
        async for batch in batches:
            yield batch


async def read_local_files(root: bytes, chosen: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
    """Yield near files as pieces. See `FileSystem.read_files`."""
    reader = TreeReader(root, _piece)
    async with aclosing(_in_threads(reader, reader.chosen(chosen), root, Tally())) as batches:
        async for batch in batches:
            yield batch


async def _in_threads(
    reader: TreeReader, batches: Iterator[list[Piece]], root: bytes, tally: Tally
) -> AsyncGenerator[Sequence[Piece]]:
    try:
        while True:
            batch = await in_thread(_next_batch, batches, root)
            tally.files_found += reader.files
            tally.bytes_found += reader.bytes
            reader.files = reader.bytes = 0
            for path, why in reader.skipped:
                tally.skip(path, why)
            reader.skipped = []
            if batch is None:
                return
            yield batch
    finally:
        with suppress(ValueError):  # a call that hangs still has it
            batches.close()  # type: ignore[attr-defined]  # it is a generator


def _next_batch(batches: Iterator[list[Piece]], root: bytes) -> list[Piece] | None:
    try:
        return next(batches, None)
    except Changed as error:
        shown = os.fsdecode(error.path)
        raise FileChanged(f"{HOST}: {shown} changed while it was read; send it again", host=HOST, path=shown) from error
    except OSError as error:
        path = os.fsencode(error.filename) if isinstance(error.filename, (str, bytes)) else root
        if error.errno == errno.EINVAL:
            raise file_error(errno.EINVAL, os.fsdecode(path), host=HOST, text=error.strerror or "") from error
        raise local_error(error, path) from error


async def write_local_tree(
    root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
) -> None:
    """Write pieces to a near file or tree. See `FileSystem.write_tree`."""
    writer = TreeWriter(root, options)
    try:
        async for batch in pieces:
            await in_thread(_write, writer, batch)
            for piece in batch:
                if piece.stat.is_file():
                    tally.wrote(piece)
        await in_thread(_finish, writer)
    finally:
        await bounded_cleanup(in_thread(writer.close), _CLEANUP_SECONDS)


def _write(writer: TreeWriter, batch: Sequence[Piece]) -> None:
    try:
        for piece in batch:
            writer.write(piece.path, piece.stat, piece.data, piece.offset, piece.last, piece.target, piece.digest)
    except Mismatch as error:
        shown = os.fsdecode(error.path)
        text = f"{HOST}: what has arrived of {shown!r} is not what was sent; the file is as it was"
        raise ChecksumMismatch(text, host=HOST, path=shown) from error
    except Failed as error:
        raise local_error(error.error, error.path) from error.error


def _finish(writer: TreeWriter) -> None:
    try:
        writer.finish()
    except Failed as error:
        raise local_error(error.error, error.path) from error.error
