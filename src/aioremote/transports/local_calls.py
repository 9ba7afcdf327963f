"""Calls of this system in worker threads, with their errors translated. What `local_files` and `local_trees` share."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from aioremote._core.lifetime import settle
from aioremote._core.stats import file_stat
from aioremote.errors import FileError, file_error
from aioremote.types import FileStat

__all__ = ["HOST", "in_thread", "local_error", "named", "read_fully", "stat_of", "write_fully"]

T = TypeVar("T")
A = TypeVarTuple("A")
HOST = "localhost"
_CANCEL_SECONDS = 10.0  # for a call that hangs, as on a network file system


async def in_thread(call: Callable[[*A], T], *args: *A, undo: Callable[[T], None] | None = None) -> T:
    """Call something in a worker thread.

    Cancellation: waits for the end of the call, at most 10 s; `undo` gets what it returned.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call, *args)
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: _undo(done, undo))
        await settle(future, _CANCEL_SECONDS)
        raise
    return future.result()


def _undo(done: asyncio.Future[T], undo: Callable[[T], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and undo is not None:
        undo(done.result())


async def named(path: bytes, call: Callable[[*A], T], *args: *A, undo: Callable[[T], None] | None = None) -> T:
    """The same, with what the system raises as the FileError of `path`."""
    try:
        return await in_thread(call, *args, undo=undo)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise local_error(error, path) from error


def local_error(error: OSError, path: bytes) -> FileError:
    """Return the FileError for what the system said of a path."""
    return file_error(error.errno or errno.EIO, os.fsdecode(path), host=HOST)


def stat_of(found: os.stat_result) -> FileStat:
    """Return the same as our own value."""
    return file_stat(
        found.st_mode,
        found.st_size,
        found.st_uid,
        found.st_gid,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
        found.st_nlink,
    )


def read_fully(fd: int, offset: int, count: int) -> bytes:
    """Read `count` bytes, fewer only at the end of the file."""
    data = os.pread(fd, count, offset)
    while len(data) < count and (more := os.pread(fd, count - len(data), offset + len(data))):
        data += more
    return data


def write_fully(fd: int, offset: int, data: bytes) -> None:
    """Write all of it."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written
