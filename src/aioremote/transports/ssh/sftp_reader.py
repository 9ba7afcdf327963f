"""Trees read over SFTP: directories and small files many at once, a big file in several blocks at once.

What a server lists is judged before anything is asked about it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import asyncssh
from asyncssh.constants import FXF_READ

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.pieces import Piece, check_names, kind_of_special
from aioremote.errors import FileChanged, file_error
from aioremote.transports.ssh.sftp import opened
from aioremote.transports.ssh.sftp_stream import STREAM_BYTES, read_stream
from aioremote.types import FileEntry, FileStat

if TYPE_CHECKING:
    from aioremote._core.pieces import Tally
    from aioremote.transports.ssh.sftp import Handle, SftpSession
    from aioremote.transports.ssh.sftp_stream import Start

__all__ = ["below", "block_bytes", "read_sftp_tree", "scan_folder", "stat_of"]

T = TypeVar("T")
_IN_FLIGHT = 128  # files and directories being read
_READS_IN_FLIGHT = 16  # blocks of one big file: 4 MiB
_MOST_BLOCK_BYTES = 255 * 1024  # Source: OpenSSH takes messages of at most 256 KiB
_LEAST_BLOCK_BYTES = 32 * 1024  # Source: draft-ietf-secsh-filexfer-02 section 3: every server takes as much
_CLEANUP_SECONDS = 10.0
_READ_ON_SECONDS = 1.0


def block_bytes(limit: int) -> int:
    """Return how many bytes to ask for at once, where the server tells this limit."""
    return min(_MOST_BLOCK_BYTES, limit or _LEAST_BLOCK_BYTES)


def stat_of(attrs: asyncssh.SFTPAttrs) -> FileStat:
    """Return the server's attributes as our own value."""
    return FileStat(
        st_mode=attrs.permissions or 0,
        st_size=attrs.size or 0,
        st_uid=-1 if attrs.uid is None else attrs.uid,
        st_gid=-1 if attrs.gid is None else attrs.gid,
        st_atime_ns=int(attrs.atime or 0) * 10**9,
        st_mtime_ns=int(attrs.mtime or 0) * 10**9,
    )


def below(folder: bytes, name: bytes) -> bytes:
    """Return a path below another; either may be empty."""
    return folder.rstrip(b"/") + b"/" + name if folder and name else folder or name


async def scan_folder(session: SftpSession, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
    """Yield the entries of a directory, a batch an answer of the server."""
    async with session.client() as client:
        try:
            batch: list[FileEntry] = []
            async for found in client.scandir(path):
                name = found.filename if isinstance(found.filename, bytes) else os.fsencode(found.filename)
                if name not in (b".", b".."):
                    batch.append(FileEntry(name, stat_of(found.attrs)))
                if len(batch) == 1000:
                    yield batch
                    batch = []
            yield batch
        except (asyncssh.Error, OSError) as error:
            raise await session.translated(error, client, path, "opendir") from error


async def read_sftp_tree(
    session: SftpSession, root: bytes, tally: Tally, start: Start
) -> AsyncGenerator[Sequence[Piece]]:
    """Yield a far file or tree as pieces. See `FileSystem.read_tree`.

    Args:
        session, root, tally: what to read, and where it is counted.
        start: starts a program where a session is free now.
    """
    async with session.client() as client:
        reader = _Reader(session, client, root, tally, start)
        try:
            async for batch in reader.read():
                yield batch
        finally:
            await reader.aclose()


class _Reader:
    """Reads one tree: work to be done, work under way, in that order."""

    def __init__(
        self, session: SftpSession, client: asyncssh.SFTPClient, root: bytes, tally: Tally, start: Start
    ) -> None:
        self._start_program = start
        self._session = session
        self._client = client
        self._root = root
        self._tally = tally
        self._owner = Owner("read a far tree")
        self._files: deque[tuple[bytes, FileStat]] = deque()
        self._folders: deque[bytes] = deque()
        self._listing: deque[asyncio.Task[list[Piece]]] = deque()
        self._reading: deque[asyncio.Task[Piece]] = deque()
        self._block = block_bytes(client.limits.max_read_len)

    async def aclose(self) -> None:
        """End what is under way. What small files are being read is read to its end, so that each is closed."""
        if self._reading:
            await bounded_cleanup(asyncio.wait(self._reading), _READ_ON_SECONDS)
        await bounded_cleanup(self._owner.aclose(), _CLEANUP_SECONDS)

    async def read(self) -> AsyncGenerator[Sequence[Piece]]:
        """Yield all pieces."""
        found = stat_of(await self._ask(self._client.stat(self._root), self._root))
        if found.is_dir():
            yield [Piece(b"", found)]
            self._folders.append(b"")
        elif why := kind_of_special(found):
            text = f"{why}, neither file nor directory"
            raise file_error(errno.EINVAL, os.fsdecode(self._root), host=self._session.host, text=text)
        else:
            self._tally.found(found)
            self._files.append((b"", found))
        while self._folders or self._files or self._listing or self._reading:
            self._start()
            if self._reading:
                yield await self._finished_files()
            elif self._listing:
                yield await _done(self._listing.popleft())
            else:
                path, found = self._files.popleft()
                async for piece in self._read_big(path, found):
                    yield [piece]

    def _start(self) -> None:
        """Have as much under way as may be; a big file waits for its turn alone."""
        while self._folders and len(self._listing) < _IN_FLIGHT and len(self._files) < 100 * _IN_FLIGHT:
            self._listing.append(self._owner.spawn(self._list(self._folders.popleft()), "list"))
        while self._files and len(self._reading) < _IN_FLIGHT and self._files[0][1].st_size < self._block:
            self._reading.append(self._owner.spawn(self._read_small(*self._files.popleft()), "read"))

    async def _finished_files(self) -> list[Piece]:
        """Wait for the first half of the files: a turn of a writer's thread costs more than a file."""
        pieces: list[Piece] = []
        for _ in range((len(self._reading) + 1) // 2):
            pieces.append(await _done(self._reading[0]))
            self._reading.popleft()
        return pieces

    async def _ask(self, question: Coroutine[object, object, T], path: bytes, doing: str = "") -> T:
        try:
            return await question
        except (asyncssh.Error, OSError) as error:
            raise await self._session.translated(error, self._client, path, doing) from error

    async def _list(self, folder: bytes) -> list[Piece]:
        """Return the directories and links of a directory, and note its files."""
        pieces: list[Piece] = []
        known: set[bytes] = set()
        place = below(self._root, folder)
        async for batch in scan_folder(self._session, place):
            check_names(self._session.host, folder, (name for name, _ in batch), known)
            for name, found in batch:
                path = below(folder, name)
                if found.is_file():
                    self._tally.found(found)
                    self._files.append((path, found))
                elif found.is_symlink():
                    full = below(self._root, path)
                    target = os.fsencode(await self._ask(self._client.readlink(full), full, "readlink"))
                    pieces.append(Piece(path, found, target=target))
                elif found.is_dir():
                    pieces.append(Piece(path, found))
                else:
                    self._tally.skip(path, kind_of_special(found) or "")
        self._folders += [piece.path for piece in pieces if piece.stat.is_dir()]
        return pieces

    async def _open(self, full: bytes) -> Handle:
        opening = self._session.open_file(self._client, full, FXF_READ, asyncssh.SFTPAttrs())
        return await self._ask(opening, full, "open")

    async def _read_small(self, path: bytes, found: FileStat) -> Piece:
        """Return a file in one piece: one answer of the server, so that it is what the file was at one moment."""
        full = below(self._root, path)
        try:
            handle = await opened(self._client, full, FXF_READ, asyncssh.SFTPAttrs())
            data = await handle.read(found.st_size + 1, 0)
            await handle.close()
        except (asyncssh.Error, OSError) as error:
            raise await self._session.translated(error, self._client, full, "open") from error
        if len(data) > found.st_size:
            raise self._changed(full)
        return Piece(path, replace(found, st_size=len(data)), data)

    async def _read_big(self, path: bytes, found: FileStat) -> AsyncGenerator[Piece]:
        full = below(self._root, path)
        handle = await self._open(full)
        blocks: deque[asyncio.Task[bytes]] = deque()
        try:
            found = stat_of(await self._ask(handle.stat(), full))
            offset = 0
            if found.st_size >= STREAM_BYTES:
                async with aclosing(read_stream(self._start_program, full, found.st_size)) as parts:
                    async for data in parts:
                        offset += len(data)
                        if offset >= found.st_size:
                            await self._check_unchanged(handle, found, full)
                            await self._check_place(found, full)
                        yield Piece(path, found, data, offset - len(data), last=offset >= found.st_size)
            asked = offset
            while offset < found.st_size:
                while asked < found.st_size and len(blocks) < _READS_IN_FLIGHT:
                    count = min(self._block, found.st_size - asked)
                    blocks.append(self._owner.spawn(self._read_block(handle, asked, count, full), "read"))
                    asked += count
                data = await _done(blocks.popleft())
                offset += len(data)
                if offset >= found.st_size:
                    await self._check_unchanged(handle, found, full)
                yield Piece(path, found, data, offset - len(data), last=offset >= found.st_size)
        finally:
            for block in blocks:
                block.cancel()
            await bounded_cleanup(self._close(handle), _CLEANUP_SECONDS)

    async def _read_block(self, handle: Handle, offset: int, count: int, full: bytes) -> bytes:
        data = b""
        while len(data) < count:
            more = await self._ask(handle.read(count - len(data), offset + len(data)), full, "read")
            if not more:
                raise self._changed(full)
            data += more
        return data

    async def _check_unchanged(self, handle: Handle, found: FileStat, full: bytes) -> None:
        now = stat_of(await self._ask(handle.stat(), full))
        if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise self._changed(full)

    async def _check_place(self, found: FileStat, full: bytes) -> None:
        """What was read by the path has to be what was opened."""
        now = stat_of(await self._ask(self._client.stat(full), full))
        if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise self._changed(full)

    def _changed(self, full: bytes) -> FileChanged:
        shown, host = os.fsdecode(full), self._session.host
        return FileChanged(f"{host}: {shown} changed while it was read; fetch it again", host=host, path=shown)

    async def _close(self, handle: Handle) -> None:
        with suppress(asyncssh.Error, OSError):
            await handle.close()


async def _done(task: asyncio.Task[T]) -> T:
    await asyncio.wait({task})
    return task.result()
