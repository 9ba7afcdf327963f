"""The files of this machine as a `FileSystem`: the system's own calls, in worker threads.

Whole trees are in `local_trees`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from aioremote.outpost.far.tree_lister import file_digest
from aioremote.protocols import DeltaFiles, FarFile, FileSystem, Unless
from aioremote.transports.local_calls import in_thread, named, read_fully, stat_of, write_fully
from aioremote.transports.local_deltas import LocalDeltas
from aioremote.transports.local_trees import list_local_tree, read_local_files, read_local_tree, write_local_tree
from aioremote.types import FileEntry, FileStat

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed, Piece, Tally, TreeOptions

__all__ = ["LocalFiles"]

_BATCH_ENTRIES = 1000
_HASHED_TOGETHER = 64


class LocalFiles(FileSystem):
    """The files as this process's user sees them."""

    def __init__(self) -> None:
        self.engine: str = "local"

    async def exists(self, path: bytes) -> bool:
        try:
            await named(path, os.stat, path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        return stat_of(await named(path, os.stat if follow else os.lstat, path))

    async def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        listing = await named(path, os.scandir, path, undo=lambda opened: opened.close())
        try:
            while batch := await named(path, _next_entries, listing):
                yield batch
        finally:
            listing.close()

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        return _LocalFile(await named(path, os.open, path, flags | os.O_CLOEXEC, mode, undo=os.close), path)

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await named(path, os.mkdir, path, mode)

    async def rmdir(self, path: bytes) -> None:
        await named(path, os.rmdir, path)

    async def unlink(self, path: bytes) -> None:
        await named(path, os.unlink, path)

    async def rename(self, path: bytes, target: bytes) -> None:
        await named(path, os.replace, path, target)

    async def chmod(self, path: bytes, mode: int) -> None:
        await named(path, os.chmod, path, mode)

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        await named(path, os.chown if follow else os.lchown, path, uid, gid)

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        await named(path, os.utime if times_ns is None else partial(os.utime, ns=times_ns), path)

    async def symlink(self, target: bytes, path: bytes) -> None:
        await named(path, os.symlink, target, path)

    async def link(self, target: bytes, path: bytes) -> None:
        await named(path, os.link, target, path)

    async def readlink(self, path: bytes) -> bytes:
        return await named(path, os.readlink, path)

    async def realpath(self, path: bytes) -> bytes:
        return await named(path, partial(os.path.realpath, strict=False), path)

    async def remove_tree(self, path: bytes) -> None:
        await named(path, _remove_tree, path)

    def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        return list_local_tree(root)

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(paths), _HASHED_TOGETHER):
            found += await in_thread(_digests, paths[start : start + _HASHED_TOGETHER])
        return found

    def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        return read_local_tree(root, tally)

    def read_files(self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
        return read_local_files(root, chosen)

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        await write_local_tree(root, pieces, tally, options)

    async def deltas(self) -> DeltaFiles:
        return LocalDeltas()


class _LocalFile(FarFile):
    """An open file by its descriptor."""

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd: int | None = fd
        self._path = path

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError("this file was closed")
        return self._fd

    async def read(self, offset: int, count: int) -> bytes:
        return await named(self._path, read_fully, self._open_fd(), offset, count)

    async def write(self, offset: int, data: bytes) -> None:
        await named(self._path, write_fully, self._open_fd(), offset, data)

    async def stat(self) -> FileStat:
        return stat_of(await named(self._path, os.fstat, self._open_fd()))

    async def truncate(self, size: int) -> None:
        await named(self._path, os.ftruncate, self._open_fd(), size)

    async def sync(self) -> None:
        await named(self._path, os.fsync, self._open_fd())

    async def aclose(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            await named(self._path, os.close, fd)


def _next_entries(listing: Iterator[os.DirEntry[bytes]]) -> list[FileEntry]:
    found: list[FileEntry] = []
    for entry in listing:
        with suppress(FileNotFoundError):  # gone meanwhile
            found.append(FileEntry(entry.name, stat_of(entry.stat(follow_symlinks=False))))
        if len(found) == _BATCH_ENTRIES:
            break
    return found


def _digests(paths: Sequence[bytes]) -> list[bytes | None]:
    return [file_digest(path) for path in paths]


def _remove_tree(path: bytes) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    shutil.rmtree(path)  # by descriptors: no link that appears meanwhile is followed
