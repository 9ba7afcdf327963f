"""One file that goes on where an earlier transfer of it was cut off.

What has arrived stays beside the target, under a name that follows from the target's, until it is whole; then its
checksum is compared with the source's and it takes the target's place. Not for trees: those `sync` brings up to date.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote._core.pieces import TEMP_MARK, Piece, Tally, TreeOptions
from aioremote.errors import ChecksumMismatch, FileChanged, FileMissing, UnsupportedError

if TYPE_CHECKING:
    from aioremote.files.transfer import End
    from aioremote.protocols import FarFile
    from aioremote.types import FileStat

__all__ = ["PIECE_BYTES", "file_digest", "read_digest", "resume"]

PIECE_BYTES = 1024 * 1024
_HASH = 'head -c "$2" <"$1" | sha256sum'


async def resume(source: End, target: End, place: bytes, *, tally: Tally, options: TreeOptions) -> None:
    """Bring one file to its place, and send only what an earlier call has not brought.

    Args:
        source, target: the ends.
        place: the final path.
        tally: counts; its bytes are those that were sent now.
        options: how.

    Raises:
        FileChanged: the source changed meanwhile.
        ChecksumMismatch: what arrived is not what was sent; it is removed, and the target as it was.

    Cancellation: the target is old or new; what has arrived is kept for the next call.
    """
    found = await source.files.stat(source.path)
    tally.found(found)
    folder, name = os.path.split(place)
    part = os.path.join(folder, TEMP_MARK + hashlib.sha256(name).hexdigest()[:16].encode() + b".part")
    have = await _kept(source, target, part, found)
    await _send_rest(source, target, part, have, found, tally)
    after = await source.files.stat(source.path)
    if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
        raise FileChanged(
            f"{source.host}: {os.fsdecode(source.path)!r} changed while it was read",
            host=source.host,
            path=os.fsdecode(source.path),
        )
    if await file_digest(source, source.path, found.st_size) != await file_digest(target, part, found.st_size):
        await target.files.unlink(part)
        text = f"{target.host}: what has arrived of {os.fsdecode(place)!r} is not what was sent; the file is as it was"
        raise ChecksumMismatch(text, host=target.host, path=os.fsdecode(source.path))
    await _finish(target, part, place, found, options)


async def _kept(source: End, target: End, part: bytes, found: FileStat) -> int:
    """Return how many bytes of an earlier transfer are those of the source; of a cut one the last piece may be torn."""
    try:
        size = (await target.files.stat(part, follow=False)).st_size
    except FileMissing:
        return 0
    for have in dict.fromkeys((size, (size - 1) // PIECE_BYTES * PIECE_BYTES)):
        if 0 < have <= found.st_size and await file_digest(source, source.path, have) == await file_digest(
            target, part, have
        ):
            return have
    return 0


async def _send_rest(source: End, target: End, part: bytes, have: int, found: FileStat, tally: Tally) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if not have else 0)
    reading = await source.files.open(source.path, os.O_RDONLY)
    async with aclosing(reading):
        writing = await target.files.open(part, flags, found.st_mode & 0o775)
        async with aclosing(writing):
            await writing.truncate(have)
            await _copy(reading, writing, have, found, tally)
            await writing.sync()


async def _copy(reading: FarFile, writing: FarFile, have: int, found: FileStat, tally: Tally) -> None:
    """Write one piece after the other, so that a cut leaves the beginning of the file; the next is read meanwhile."""
    data = await reading.read(have, PIECE_BYTES)
    if not data:
        tally.wrote(Piece(b"", found, offset=have))
    while data:
        async with asyncio.TaskGroup() as group:
            coming = group.create_task(reading.read(have + len(data), PIECE_BYTES))
            await writing.write(have, data)
        have += len(data)
        tally.wrote(Piece(b"", found, data, have - len(data), last=have >= found.st_size))
        data = coming.result()


async def file_digest(end: End, path: bytes, count: int) -> str:
    """Return the SHA-256 of the first bytes of a file, computed where the file is if a program can do it."""
    if end.machine is not None:
        argv = ("/bin/sh", "-c", _HASH, "sh", os.fsdecode(path), str(count))
        try:
            result = await end.machine.run(*argv, ok_codes=None)
        except UnsupportedError:  # a server for files only
            result = None
        if result is not None and len(digest := result.stdout[:64]) == 64:
            return digest
    return (await read_digest(end, path, count)).hex()


async def read_digest(end: End, path: bytes, count: int) -> bytes:
    """Return the SHA-256 of the first bytes of a file, read from here."""
    sha256 = hashlib.sha256()
    file = await end.files.open(path, os.O_RDONLY)
    async with aclosing(file):
        for offset in range(0, count, PIECE_BYTES):
            data = await file.read(offset, min(PIECE_BYTES, count - offset))
            await asyncio.to_thread(sha256.update, data)
    return sha256.digest()


async def _finish(target: End, part: bytes, place: bytes, found: FileStat, options: TreeOptions) -> None:
    """Give the whole file its permissions and its place."""
    try:
        existing = (await target.files.stat(place)).st_mode
    except FileMissing:
        existing = None
    if options.preserve or options.preserve_special or existing is not None:
        await target.files.chmod(part, options.mode(found, 0, existing))
    if options.preserve:
        await target.files.utime(part, (found.st_atime_ns, found.st_mtime_ns))
    await target.files.rename(part, place)
