"""The files of a machine that has two roads: its plain one, and an outpost for trees once one can be had.

A tree is worth bringing the outpost up: it needs no round trip for each file. Single operations and single files stay
on the plain road until there is an outpost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote._core.pieces import with_first
from aioremote.protocols import DeltaFiles, FarFile, FileSystem, Unless

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed, Piece, Tally, TreeOptions
    from aioremote.types import FileEntry, FileStat

__all__ = ["UpgradingFiles"]


class UpgradingFiles(FileSystem):
    """Files by one of two roads.

    Args:
        plain: returns the plain road's files, which may cost round trips: asked when they are needed.
        present: returns the outpost's files where it is up, None elsewhere.
        bring: brings the outpost up; returns None where that cannot be.

    Attributes:
        engine: of the files that were used last; "auto" before.
    """

    def __init__(
        self,
        plain: Callable[[], Awaitable[FileSystem]],
        present: Callable[[], FileSystem | None],
        bring: Callable[[], Awaitable[FileSystem | None]],
    ) -> None:
        self.engine: str = "auto"
        self._plain = plain
        self._present = present
        self._bring = bring

    async def _now(self, *, is_tree: bool = False) -> FileSystem:
        files = self._present() or (await self._bring() if is_tree else None) or await self._plain()
        self.engine = files.engine
        return files

    async def exists(self, path: bytes) -> bool:
        return await (await self._now()).exists(path)

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        return await (await self._now()).stat(path, follow=follow)

    async def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        async with aclosing((await self._now()).scan(path)) as batches:
            async for batch in batches:
                yield batch

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        return await (await self._now()).open(path, flags, mode)

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await (await self._now()).mkdir(path, mode)

    async def rmdir(self, path: bytes) -> None:
        await (await self._now()).rmdir(path)

    async def unlink(self, path: bytes) -> None:
        await (await self._now()).unlink(path)

    async def rename(self, path: bytes, target: bytes) -> None:
        await (await self._now()).rename(path, target)

    async def chmod(self, path: bytes, mode: int) -> None:
        await (await self._now()).chmod(path, mode)

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        await (await self._now()).chown(path, uid, gid, follow=follow)

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        await (await self._now()).utime(path, times_ns)

    async def symlink(self, target: bytes, path: bytes) -> None:
        await (await self._now()).symlink(target, path)

    async def link(self, target: bytes, path: bytes) -> None:
        await (await self._now()).link(target, path)

    async def readlink(self, path: bytes) -> bytes:
        return await (await self._now()).readlink(path)

    async def realpath(self, path: bytes) -> bytes:
        return await (await self._now()).realpath(path)

    async def remove_tree(self, path: bytes) -> None:
        await (await self._now()).remove_tree(path)

    async def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        files = await self._now(is_tree=True)
        async with aclosing(files.list_tree(root, unless=unless)) as batches:
            async for batch in batches:
                yield batch

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        return await (await self._now()).digests(paths)

    async def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        is_tree = self._present() is None and (await (await self._plain()).stat(root)).is_dir()
        files = await self._now(is_tree=is_tree)
        async with aclosing(files.read_tree(root, tally)) as pieces:
            async for batch in pieces:
                yield batch

    async def read_files(
        self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]
    ) -> AsyncGenerator[Sequence[Piece]]:
        files = await self._now(is_tree=True)
        async with aclosing(files.read_files(root, chosen)) as pieces:
            async for batch in pieces:
                yield batch

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        first = await anext(pieces, ())
        is_tree = any(piece.stat.is_dir() for piece in first)
        files = await self._now(is_tree=is_tree)
        await files.write_tree(root, with_first(first, pieces), tally, options)

    async def deltas(self) -> DeltaFiles | None:
        return await (await self._now(is_tree=True)).deltas()
