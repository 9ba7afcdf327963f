"""Trees written over SFTP: many files at once, each beside its target first, then in its place."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import asyncssh
from asyncssh.constants import FXF_CREAT, FXF_EXCL, FXF_READ, FXF_WRITE

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.pieces import Piece, temp_name
from aioremote.errors import UnsupportedError, file_error
from aioremote.transports.ssh.sftp_reader import below, block_bytes, stat_of
from aioremote.transports.ssh.sftp_stream import STREAM_BYTES, WriteStream
from aioremote.transports.ssh.sftp_verify import Verifier

if TYPE_CHECKING:
    from aioremote._core.pieces import Tally, TreeOptions
    from aioremote.protocols import FileSystem
    from aioremote.transports.ssh.sftp import Handle, SftpSession
    from aioremote.transports.ssh.sftp_stream import Start

__all__ = ["SftpWriter"]

T = TypeVar("T")
_LEAST_BYTES = 128 * 1024  # what any piece counts of what is being written: as many files as that at once
_CLEANUP_SECONDS = 10.0


@dataclass(slots=True)
class _Target:
    """A file being written.

    Attributes:
        path: where it belongs.
        temp: where it is until it is whole.
        folder: the task that makes its directory; tells whether that is new.
        handle: the open temporary file.
        opening: the task that makes it, where it is written in several pieces.
        stream: a plain channel that its pieces go by, as long as they follow one another.
        writing: its pieces under way.
    """

    path: bytes
    temp: bytes
    folder: asyncio.Task[bool] | None
    handle: Handle | None = None
    opening: asyncio.Task[Handle] | None = None
    stream: WriteStream | None = None
    writing: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])


class _Budget:
    """Bounds what is under way; one who takes, many who give back."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._most = most
        self._waiting: asyncio.Future[None] | None = None

    async def take(self, count: int) -> int:
        """Wait until so much is free; returns what to give back."""
        count = min(count, self._most)
        while self._left < count:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._left -= count
        return count

    def give_back(self, count: int) -> None:
        """Let others have it."""
        self._left += count
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class SftpWriter:
    """Writes one file or tree. See `FileSystem.write_tree`.

    Attributes:
        is_tree: whether it was a tree, and not a single file.
    """

    def __init__(
        self, files: FileSystem, session: SftpSession, root: bytes, tally: Tally, options: TreeOptions, start: Start
    ) -> None:
        self._start_program = start
        self.is_tree: bool = False
        self._files = files
        self._session = session
        self._root = root
        self._tally = tally
        self._options = options
        self._budget = _Budget(options.ahead_bytes)
        self._folders: dict[bytes, asyncio.Task[bool]] = {}
        self._targets: dict[bytes, _Target] = {}  # files that are not whole yet
        self._later: list[Piece] = []  # directories whose attributes are set at the end
        self._learning: asyncio.Task[None] | None = None
        self._client: asyncssh.SFTPClient
        self._group: asyncio.TaskGroup
        self._verifier: Verifier

    async def write(self, pieces: AsyncIterator[Sequence[Piece]]) -> None:
        """Write all pieces."""
        async with self._session.client() as self._client:
            try:
                async with asyncio.TaskGroup() as self._group:
                    self._verifier = Verifier(self._files, self._session.host, self._group.create_task)
                    async for batch in pieces:
                        for piece in batch:
                            await self._take(piece)
                await self._finish_folders()
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
            finally:
                if self._targets:
                    await bounded_cleanup(self._remove_parts(), _CLEANUP_SECONDS)

    async def _ask(self, question: Coroutine[object, object, T], path: bytes, doing: str) -> T:
        try:
            return await question
        except (asyncssh.Error, OSError) as error:
            raise await self._session.translated(error, self._client, path, doing) from error

    async def _take(self, piece: Piece) -> None:
        """Begin with a piece, once there is room for it."""
        taken = await self._budget.take(max(_LEAST_BYTES, len(piece.data)))
        if piece.stat.is_dir():
            self.is_tree = True
            making = self._make_folder(piece, self._parent(piece.path), taken)
            self._folders[piece.path] = self._group.create_task(making)
        elif piece.stat.is_symlink():
            self._group.create_task(self._make_link(piece, taken))
        else:
            await self._take_file(piece, taken)

    def _parent(self, path: bytes) -> asyncio.Task[bool] | None:
        return self._folders[path.rpartition(b"/")[0]] if path else None

    # directories and links

    async def _make_folder(self, piece: Piece, parent: asyncio.Task[bool] | None, taken: int) -> bool:
        """Make a directory; returns whether it is new."""
        if parent is not None:
            await parent
        full = below(self._root, piece.path)
        mode = self._options.mode(piece.stat, 0)
        try:
            await self._client.mkdir(full, asyncssh.SFTPAttrs(permissions=mode | 0o700))
            is_new = True
        except (asyncssh.Error, OSError) as error:
            if not await self._is_folder(full, follow=not piece.path):
                raise await self._session.translated(error, self._client, full, "mkdir") from error
            is_new = False
        if self._options.preserve or (is_new and mode & 0o700 != 0o700):
            self._later.append(piece)
        self._budget.give_back(taken)
        return is_new

    async def _is_folder(self, full: bytes, *, follow: bool) -> bool:
        """Whether there is a directory already. A link to one does not count below the root."""
        try:
            found = await (self._client.stat(full) if follow else self._client.lstat(full))
        except (asyncssh.Error, OSError):
            return False
        if not stat.S_ISDIR(found.permissions or 0):
            raise file_error(errno.ENOTDIR, os.fsdecode(full), host=self._session.host)
        return True

    async def _finish_folders(self) -> None:
        for piece in sorted(self._later, key=lambda piece: piece.path, reverse=True):
            full = below(self._root, piece.path)
            await self._know_umask(full)
            attrs = self._attrs(piece, self._options.mode(piece.stat, self._session.umask or 0))
            await self._ask(self._client.setstat(full, attrs), full, "chmod")

    def _attrs(self, piece: Piece, mode: int) -> asyncssh.SFTPAttrs:
        attrs = asyncssh.SFTPAttrs(permissions=mode)
        if self._options.preserve:
            attrs.atime, attrs.mtime = piece.stat.st_atime_ns // 10**9, piece.stat.st_mtime_ns // 10**9
        return attrs

    async def _make_link(self, piece: Piece, taken: int) -> None:
        if (parent := self._parent(piece.path)) is not None:
            await parent
        full = below(self._root, piece.path)
        temp = self._temp(full)
        try:
            await self._ask(self._client.symlink(piece.target, temp), full, "symlink")
            await self._put(temp, full)
        except BaseException:
            await bounded_cleanup(self._remove(temp), _CLEANUP_SECONDS)
            raise
        self._budget.give_back(taken)

    # files

    def _temp(self, full: bytes) -> bytes:
        return below(os.path.dirname(full), temp_name(secrets.token_hex(6)))

    async def _take_file(self, piece: Piece, taken: int) -> None:
        target = self._targets.get(piece.path)
        if target is None:
            full = below(self._root, piece.path)
            target = self._targets[piece.path] = _Target(full, self._temp(full), self._parent(piece.path))
        if piece.stat.st_size >= STREAM_BYTES and await self._streamed(target, piece):
            self._budget.give_back(taken)
            return
        if piece.last and target.opening is None:
            self._group.create_task(self._write_whole(target, piece, taken))
            return
        if target.opening is None:
            target.opening = self._group.create_task(self._open(target))
        writing = self._group.create_task(self._write_part(target.opening, target, piece, taken))
        target.writing.append(writing)
        if piece.last:
            self._group.create_task(self._write_rest(target.opening, target, piece))

    async def _streamed(self, target: _Target, piece: Piece) -> bool:
        """Write a piece by the plain channel, if it is the next one there."""
        if target.opening is None and not piece.offset:
            target.opening = self._group.create_task(self._open(target))
            await target.opening
            target.stream = await WriteStream.open(self._start_program, target.temp, self._session.host)
        stream = target.stream
        if stream is None:
            return False
        follows = piece.offset == stream.at
        if follows:
            await stream.send(piece.data, target.path)
        if piece.last or not follows:
            await stream.finish(target.path)
            target.stream = None
        if follows and piece.last and target.opening is not None:
            await self._complete(await target.opening, target, piece)
        if follows:
            self._tally.wrote(piece)
        return follows

    async def _open(self, target: _Target) -> Handle:
        if target.folder is not None:
            await target.folder
        await self._know_umask(target.path)
        flags = FXF_WRITE | FXF_CREAT | FXF_EXCL
        opening = self._session.open_file(self._client, target.temp, flags, asyncssh.SFTPAttrs(permissions=0o600))
        target.handle = await self._ask(opening, target.path, "create")
        return target.handle

    async def _write_data(self, handle: Handle, target: _Target, piece: Piece) -> None:
        step = block_bytes(self._client.limits.max_write_len)
        for begin in range(0, len(piece.data), step):
            writing = handle.write(piece.data[begin : begin + step], piece.offset + begin)
            await self._ask(writing, target.path, "write")

    async def _write_whole(self, target: _Target, piece: Piece, taken: int) -> None:
        """Write a file that came in one piece."""
        handle = await self._open(target)
        await self._write_data(handle, target, piece)
        await self._complete(handle, target, piece)
        self._tally.wrote(piece)
        self._budget.give_back(taken)

    async def _write_part(self, opening: asyncio.Task[Handle], target: _Target, piece: Piece, taken: int) -> None:
        await self._write_data(await opening, target, piece)
        if not piece.last:
            self._tally.wrote(piece)
        self._budget.give_back(taken)

    async def _write_rest(self, opening: asyncio.Task[Handle], target: _Target, piece: Piece) -> None:
        await asyncio.wait(target.writing)
        await self._complete(await opening, target, piece)
        self._tally.wrote(piece)

    async def _complete(self, handle: Handle, target: _Target, piece: Piece) -> None:
        """Give a file that has all its bytes its permissions and its place."""
        attrs = self._attrs(piece, await self._mode(target, piece))
        if piece.stat.st_size and not piece.data:  # it ends with a hole
            attrs.size = piece.stat.st_size
        await self._ask(handle.setstat(attrs), target.path, "write")
        durable = self._options.durable and not self.is_tree
        if durable:
            await self._sync(handle, target.path)
        await self._ask(handle.close(), target.path, "write")
        if piece.digest:
            await self._verifier.check(target.temp, piece.digest, target.path)
        await self._put(target.temp, target.path)
        del self._targets[piece.path]
        if durable:
            await self._sync_folder(os.path.dirname(target.path) or b".")

    async def _mode(self, target: _Target, piece: Piece) -> int:
        existing: int | None = None
        if not self._options.preserve and not (target.folder is not None and target.folder.result()):
            with suppress(asyncssh.Error, OSError):
                found = (await self._client.lstat(target.path)).permissions or 0
                existing = found if stat.S_ISREG(found) else None
        return self._options.mode(piece.stat, self._session.umask or 0, existing)

    async def _put(self, temp: bytes, full: bytes) -> None:
        if self._options.overwrite:
            await self._ask(self._client.posix_rename(temp, full), full, "rename")
        else:  # fails where there is something already
            await self._ask(self._client.rename(temp, full), full, "link")

    async def _sync(self, handle: Handle, path: bytes) -> None:
        with suppress(UnsupportedError):  # the server cannot
            await self._ask(handle.fsync(), path, "write")

    async def _sync_folder(self, folder: bytes) -> None:
        """Let the disk have the new name, where the server opens directories as files: OpenSSH does."""
        with suppress(asyncssh.Error, OSError):
            handle = await self._session.open_file(self._client, folder, FXF_READ, asyncssh.SFTPAttrs())
            try:
                await handle.fsync()
            finally:
                await handle.close()

    # the far umask

    async def _know_umask(self, near: bytes) -> None:
        """Learn the far umask once a session, from an empty file made for that beside `near`."""
        if self._session.umask is None:
            self._learning = self._learning or self._group.create_task(self._learn_umask(self._temp(near)))
            await self._learning

    async def _learn_umask(self, temp: bytes) -> None:
        flags = FXF_WRITE | FXF_CREAT | FXF_EXCL
        attrs = asyncssh.SFTPAttrs(permissions=0o777)
        handle: Handle | None = None
        try:
            handle = await self._ask(self._session.open_file(self._client, temp, flags, attrs), temp, "create")
            found = stat_of(await self._ask(handle.stat(), temp, ""))
            self._session.umask = 0o777 & ~found.st_mode
        finally:
            await bounded_cleanup(self._discard(handle, temp), _CLEANUP_SECONDS)

    # what is left of an early end

    async def _discard(self, handle: Handle | None, temp: bytes) -> None:
        if handle is not None:
            with suppress(asyncssh.Error, OSError):
                await handle.close()
        await self._remove(temp)

    async def _remove(self, temp: bytes) -> None:
        try:
            await self._client.remove(temp)
        except asyncssh.SFTPNoSuchFile:
            return
        except (asyncssh.Error, OSError):
            self._session.debris.add(temp)

    async def _remove_parts(self) -> None:
        self._session.debris.update(target.temp for target in self._targets.values())
        for target in self._targets.values():
            if target.stream is not None:
                await target.stream.aclose()
            self._session.debris.discard(target.temp)
            await self._discard(target.handle, target.temp)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure of tasks that were then ended because of it."""
    first = errors.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
