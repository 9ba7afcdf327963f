"""The files of an outpost's machine as a `FileSystem`.

A single operation is one round trip. A tree is one stream over a channel of its own, with credit: no file waits for an
answer. Far helper processes do the work (`far.file_helper`), since an outpost must not wait for a disk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.pieces import Listed, Piece, Tally
from aioremote._core.stats import file_stat
from aioremote.errors import ConnectionLost, RemoteError
from aioremote.outpost.channel import Channel, ChannelReset
from aioremote.outpost.far.file_frames import (
    BLOCK_BYTES,
    DIGESTS,
    DONE,
    END,
    ENTRY,
    FINISH,
    FOUND,
    PIECE,
    SKIPPED,
    STAT,
    STOP,
    UNREAD,
    VERIFY,
    Records,
    pack_piece,
    record,
)
from aioremote.outpost.file_calls import FileCalls, file_order, named_error, nonsense, told_error
from aioremote.protocols import DeltaFiles, FarFile, FileSystem, Unless
from aioremote.types import FileEntry, FileStat

if TYPE_CHECKING:
    from aioremote._core.pieces import TreeOptions
    from aioremote.outpost.link import Link

__all__ = ["FileStream", "OutpostFiles"]

TREE_WINDOW = 4 * BLOCK_BYTES  # of a tree that is read, sent ahead
_CLEANUP_SECONDS = 10.0
_PATHS = 200  # in a record
_HANDLE_BYTES = 4
_ACCESS = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
_FLAGS = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND")
_PIECES = frozenset((b"d", b"l", b"f", b"p"))


class OutpostFiles(FileSystem):
    """The far files as the outpost's user sees them.

    Args:
        link: returns the link, for trees; brings it up.
        calls: returns the channel for single operations; brings it up too.
    """

    def __init__(self, link: Callable[[], Awaitable[Link]], calls: Callable[[], Awaitable[FileCalls]]) -> None:
        self.engine: str = "outpost"
        self._link = link
        self._calls = calls

    async def _ask(self, name: str, *args: object) -> bytes:
        return await (await self._calls()).call(name, *args)

    async def exists(self, path: bytes) -> bool:
        return await self._ask("exists", path) == b"1"

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        calls = await self._calls()
        return _stat(await calls.call("stat", path, follow), calls.link.host)

    async def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        calls = await self._calls()
        handle = 0
        try:
            answer = await calls.call("scan", path)
            while True:
                handle = int.from_bytes(answer[:_HANDLE_BYTES], "big")
                if entries := _entries(answer, calls.link.host):
                    yield entries
                if not handle:
                    break
                answer = await calls.call("more", path, handle)
        finally:
            if handle:
                calls.post("leave", path, handle)

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        calls = await self._calls()
        names = [_ACCESS[flags & os.O_ACCMODE], *(name for name in _FLAGS if flags & getattr(os, name))]

        def undo(answer: bytes) -> None:
            calls.post("close", path, int.from_bytes(answer, "big"))

        answer = await calls.call("open", path, names, mode, undo=undo)
        return _OutpostFile(calls, int.from_bytes(answer, "big"), path)

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await self._ask("mkdir", path, mode)

    async def rmdir(self, path: bytes) -> None:
        await self._ask("rmdir", path)

    async def unlink(self, path: bytes) -> None:
        await self._ask("unlink", path)

    async def rename(self, path: bytes, target: bytes) -> None:
        await self._ask("rename", path, target)

    async def chmod(self, path: bytes, mode: int) -> None:
        await self._ask("chmod", path, mode)

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        await self._ask("chown", path, uid, gid, follow)

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        await self._ask("utime", path, times_ns)

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self._ask("symlink", path, target)

    async def link(self, target: bytes, path: bytes) -> None:
        await self._ask("link", path, target)

    async def readlink(self, path: bytes) -> bytes:
        return await self._ask("readlink", path)

    async def realpath(self, path: bytes) -> bytes:
        return await self._ask("realpath", path)

    # whole trees

    async def remove_tree(self, path: bytes) -> None:
        async with await self._stream(file_order("remove", path)) as stream:
            try:
                await stream.wait_done()
            except BaseException:
                stream.signal(END)
                await bounded_cleanup(stream.drain(), _CLEANUP_SECONDS)
                raise

    async def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        order = file_order("list", root, digest=unless is not None)
        async with await self._stream(order, window=TREE_WINDOW) as stream:
            over = False
            while not over:
                bodies = await stream.records()
                if unless is not None and bodies and bodies[0][:1] == DIGESTS:
                    if await unless(bodies.pop(0)[1:]):
                        return
                    await stream.send(record(FINISH))
                listed, over = _listed(bodies, root, stream.host)
                if listed:
                    yield listed

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        digests: list[bytes | None] = []
        async with await self._stream(file_order("digest")) as stream:
            for start in range(0, len(paths), _PATHS):
                await stream.send(record(b"\0".join(paths[start : start + _PATHS])))
            await stream.send(record(FINISH))
            while True:
                for body in await stream.records():
                    if body == DONE and len(digests) == len(paths):
                        return digests
                    if body[:1] != DIGESTS or len(body) != 33:
                        raise told_error(body, stream.host)
                    digests.append(body[1:] if any(body[1:]) else None)

    async def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        stream = await self._stream(file_order("read", root), window=TREE_WINDOW)
        async with stream, aclosing(_pieces(stream, tally)) as batches:
            async for batch in batches:
                yield batch

    async def read_files(
        self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]
    ) -> AsyncGenerator[Sequence[Piece]]:
        async with await self._stream(file_order("read chosen", root), window=TREE_WINDOW) as stream:
            for start in range(0, len(chosen), _PATHS):
                await stream.send(b"".join(pack_piece(path, stat) for path, stat in chosen[start : start + _PATHS]))
            await stream.send(record(FINISH))
            async with aclosing(_pieces(stream, Tally())) as batches:
                async for batch in batches:
                    yield batch

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        order = file_order(
            "write",
            root,
            preserve=options.preserve,
            preserve_special=options.preserve_special,
            overwrite=options.overwrite,
            durable=options.durable,
        )
        async with await self._stream(order) as stream:
            try:
                async for batch in pieces:
                    if stream.has_news():  # it cannot go on
                        break
                    await stream.send(b"".join(map(_packed, batch)))
                    for piece in batch:
                        if piece.stat.is_file():
                            tally.wrote(piece)
                await stream.send(record(FINISH))
                await stream.wait_done()
            except BaseException:
                stream.signal(STOP)
                await bounded_cleanup(stream.drain(), _CLEANUP_SECONDS)
                raise

    async def deltas(self) -> DeltaFiles:
        from aioremote.outpost.deltas import OutpostDeltas  # which stands above

        return OutpostDeltas(self._link)

    async def _stream(self, order: bytes, *, window: int = BLOCK_BYTES) -> FileStream:
        return FileStream(await self._link(), order, window=window)


class FileStream(Channel):
    """A channel whose far helper does one thing and says how it ended."""

    __slots__ = ("_records",)

    def __init__(self, link: Link, order: bytes, *, window: int) -> None:
        super().__init__(link, "files", order, window=window)
        self._records = Records()

    @property
    def host(self) -> str:
        return self._link.host

    async def records(self) -> list[bytes]:
        """Return the next records, some or none.

        Raises:
            ConnectionLost: the link, or the helper, ended before it had said how it went.
        """
        try:
            data, _ = await self._next()
            if self._pieces:  # what has come while the last was written; each batch costs a turn of a thread
                parts, size = [data], len(data)
                while self._pieces and size < BLOCK_BYTES:
                    data, _ = await self._next()
                    parts.append(data)
                    size += len(data)
                data = b"".join(parts)
            return self._records.feed(data)
        except anyio.EndOfStream:
            text = f"{self.host}: the far helper for files ended early"
            raise ConnectionLost(text, host=self.host, outcome="unknown") from None
        except ChannelReset as error:
            raise RemoteError(str(error), host=self.host) from error
        except ValueError as error:
            raise nonsense(self.host) from error

    async def wait_done(self) -> None:
        """Wait until it says that all went well; raises what else it says."""
        while not (bodies := await self.records()):
            pass
        if bodies[0] != DONE:
            raise told_error(bodies[0], self.host)

    async def drain(self) -> None:
        """Wait until the helper has gone."""
        try:
            while True:
                await self._next()
        except (anyio.EndOfStream, RemoteError):
            pass


async def _pieces(stream: FileStream, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
    """Yield what a tree's reader sends."""
    over = False
    while not over:
        pieces, over = _sorted(await stream.records(), tally, stream.host)
        if pieces:
            yield pieces


def _packed(piece: Piece) -> bytes:
    head = record(VERIFY, piece.digest) if piece.digest else b""
    return head + pack_piece(piece.path, piece.stat, piece.data, piece.offset, piece.last, piece.target)


def _sorted(bodies: list[bytes], tally: Tally, host: str) -> tuple[list[Piece], bool]:
    """Return the pieces among some records, and whether they were the last; note and raise what else they tell."""
    pieces: list[Piece] = []
    for body in bodies:
        kind = body[:1]
        if kind in _PIECES:
            pieces.append(_piece(body, host))
        elif kind == FOUND:
            files, _, size = body[1:].partition(b" ")
            if not (files.isdigit() and size.isdigit() and len(body) < 64):
                raise nonsense(host)
            tally.files_found += int(files)
            tally.bytes_found += int(size)
        elif kind == SKIPPED:
            path, _, why = body[1:].partition(b"\0")
            tally.skip(path, why.decode("utf-8", "replace"))
        elif kind == DONE:
            return pieces, True
        else:
            raise told_error(body, host)
    return pieces, False


def _listed(bodies: list[bytes], root: bytes, host: str) -> tuple[list[Listed], bool]:
    """Return the entries among some records, and whether they were the last."""
    listed: list[Listed] = []
    for body in bodies:
        kind = body[:1]
        if kind in _PIECES:
            listed.append(_entry(body, host))
        elif kind == UNREAD:
            name, _, path = body[1:].partition(b"\0")
            listed.append(
                Listed(path, FileStat(st_mode=0o040000, st_size=0), error=named_error(name, root, path, host))
            )
        elif kind == DONE:
            return listed, True
        else:
            raise told_error(body, host)
    return listed, False


def _entry(body: bytes, host: str) -> Listed:
    try:
        _, path, _, _, *fields = PIECE.unpack_from(body)
    except struct.error as error:
        raise nonsense(host) from error
    start = PIECE.size + path
    return Listed(body[PIECE.size : start], file_stat(*fields), body[start:])


def _piece(body: bytes, host: str) -> Piece:
    try:
        kind, path, target, offset, *fields = PIECE.unpack_from(body)
    except struct.error as error:
        raise nonsense(host) from error
    start = PIECE.size + path
    end = start + target
    return Piece(body[PIECE.size : start], file_stat(*fields), body[end:], offset, kind != b"p", body[start:end])


def _stat(answer: bytes, host: str) -> FileStat:
    try:
        return file_stat(*STAT.unpack(answer))
    except struct.error as error:
        raise nonsense(host) from error


def _entries(answer: bytes, host: str) -> list[FileEntry]:
    found: list[FileEntry] = []
    at = _HANDLE_BYTES
    try:
        while at < len(answer):
            length, *fields = ENTRY.unpack_from(answer, at)
            at += ENTRY.size
            found.append(FileEntry(answer[at : at + length], file_stat(*fields)))
            at += length
    except struct.error as error:
        raise nonsense(host) from error
    return found


class _OutpostFile(FarFile):
    """An open file by its far handle."""

    def __init__(self, calls: FileCalls, handle: int, path: bytes) -> None:
        self._calls = calls
        self._handle: int | None = handle
        self._path = path

    async def _ask(self, name: str, *args: object) -> bytes:
        if self._handle is None:
            raise ValueError("this file was closed")
        return await self._calls.call(name, self._path, self._handle, *args)

    async def read(self, offset: int, count: int) -> bytes:
        data = await self._ask("read", offset, min(count, BLOCK_BYTES))
        while len(data) < count:
            more = await self._ask("read", offset + len(data), min(count - len(data), BLOCK_BYTES))
            if not more:
                break
            data += more
        return data

    async def write(self, offset: int, data: bytes) -> None:
        for start in range(0, len(data), BLOCK_BYTES):
            await self._ask("write", offset + start, bytes(data[start : start + BLOCK_BYTES]))

    async def stat(self) -> FileStat:
        return _stat(await self._ask("fstat"), self._calls.link.host)

    async def truncate(self, size: int) -> None:
        await self._ask("truncate", size)

    async def sync(self) -> None:
        await self._ask("sync")

    async def aclose(self) -> None:
        if self._handle is not None and self._calls.end is None:
            try:
                await self._ask("close")
            finally:
                self._handle = None
