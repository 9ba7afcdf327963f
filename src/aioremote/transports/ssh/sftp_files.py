"""The far files over SFTP. Whole trees are in `sftp_reader` and `sftp_writer`."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, TypeVar

import asyncssh
from asyncssh.constants import FXF_APPEND, FXF_CREAT, FXF_EXCL, FXF_READ, FXF_TRUNC, FXF_WRITE

from aioremote.errors import UnsupportedError
from aioremote.protocols import FarFile, FileSystem, Unless
from aioremote.transports.opening import read_by_opening
from aioremote.transports.scanning import list_by_scans
from aioremote.transports.shell_files import ShellFiles
from aioremote.transports.ssh.sftp import Handle
from aioremote.transports.ssh.sftp_reader import read_sftp_tree, scan_folder, stat_of
from aioremote.transports.ssh.sftp_writer import SftpWriter
from aioremote.types import FileEntry, FileStat, ProcessSpec

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed, Piece, Tally, TreeOptions
    from aioremote.transports.ssh.sftp import SftpSession
    from aioremote.transports.ssh.transport import SshTransport

__all__ = ["SftpFiles"]

T = TypeVar("T")
_FLAGS = {
    os.O_APPEND: FXF_APPEND,
    os.O_CREAT: FXF_CREAT,
    os.O_TRUNC: FXF_TRUNC,
    os.O_EXCL: FXF_EXCL,
}
_ACCESS = {
    os.O_RDONLY: FXF_READ,
    os.O_WRONLY: FXF_WRITE,
    os.O_RDWR: FXF_READ | FXF_WRITE,
}
_SYNC = b'sync -f -- "$1" 2>/dev/null || sync'


class SftpFiles(FileSystem):
    """The files as the login sees them."""

    def __init__(self, transport: SshTransport) -> None:
        self.engine: str = "sftp"
        self._transport = transport

    async def offered(self) -> bool:
        """Whether the server opens a session for SFTP; it stays open for what comes."""
        try:
            await self._session()
        except UnsupportedError:
            return False
        return True

    async def _ask(self, path: bytes, call: Callable[[asyncssh.SFTPClient], Awaitable[T]], doing: str = "") -> T:
        return await self._transport.on_link(lambda link: link.sftp.ask(path, call, doing))

    async def _session(self) -> SftpSession:
        async def take(session: SftpSession) -> SftpSession:
            async with session.client():
                return session

        return await self._transport.on_link(lambda link: take(link.sftp))

    async def exists(self, path: bytes) -> bool:
        async def ask(client: asyncssh.SFTPClient) -> bool:
            try:
                await client.stat(path)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory):
                return False
            return True

        return await self._ask(path, ask)

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        return stat_of(await self._ask(path, lambda client: client.stat(path) if follow else client.lstat(path)))

    async def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        session = await self._session()
        async with aclosing(scan_folder(session, path)) as batches:
            async for batch in batches:
                yield batch

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        wanted = _ACCESS[flags & os.O_ACCMODE]
        for near, far in _FLAGS.items():
            wanted |= far if flags & near else 0
        session = await self._session()
        held = AsyncExitStack()
        try:
            client = await held.enter_async_context(session.client())
            try:
                handle = await session.open_file(
                    client, path, wanted, asyncssh.SFTPAttrs(permissions=mode), block_bytes=-1
                )
            except (asyncssh.Error, OSError) as error:
                doing = "create" if flags & os.O_EXCL else "open"
                raise await session.translated(error, client, path, doing) from error
        except BaseException:
            await held.aclose()
            raise
        return _SftpFile(session, client, handle, path, held)

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await self._ask(path, lambda client: client.mkdir(path, asyncssh.SFTPAttrs(permissions=mode)), "mkdir")

    async def rmdir(self, path: bytes) -> None:
        await self._ask(path, lambda client: client.rmdir(path), "rmdir")

    async def unlink(self, path: bytes) -> None:
        await self._ask(path, lambda client: client.remove(path), "unlink")

    async def rename(self, path: bytes, target: bytes) -> None:
        async def ask(client: asyncssh.SFTPClient) -> None:
            await client.lstat(path)  # so that what is said of the renaming itself is about the target
            try:
                await client.posix_rename(path, target)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPFailure) as error:
                raise await session.translated(error, client, target, "rename") from error

        session = await self._session()
        await self._ask(path, ask)

    async def chmod(self, path: bytes, mode: int) -> None:
        await self._ask(path, lambda client: client.chmod(path, mode), "chmod")

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        if uid < 0 or gid < 0:  # SFTP sets both or none
            found = await self.stat(path, follow=follow)
            uid, gid = (uid if uid >= 0 else found.st_uid), (gid if gid >= 0 else found.st_gid)
        attrs = asyncssh.SFTPAttrs(uid=uid, gid=gid)
        await self._ask(path, lambda client: client.setstat(path, attrs, follow_symlinks=follow), "chown")

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        atime, mtime = times_ns or (time.time_ns(), time.time_ns())
        attrs = asyncssh.SFTPAttrs(atime=atime // 10**9, mtime=mtime // 10**9)
        await self._ask(path, lambda client: client.setstat(path, attrs), "utime")

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self._ask(path, lambda client: client.symlink(target, path), "symlink")

    async def link(self, target: bytes, path: bytes) -> None:
        await self.stat(target, follow=False)  # so that what is said next is about the new name
        await self._ask(path, lambda client: client.link(target, path), "link")

    async def readlink(self, path: bytes) -> bytes:
        return await self._ask(path, lambda client: client.readlink(path), "readlink")

    async def realpath(self, path: bytes) -> bytes:
        return await self._ask(path, lambda client: client.realpath(path))

    async def remove_tree(self, path: bytes) -> None:
        # SFTP has no way to keep a link that appears meanwhile from being followed; rm has.
        await ShellFiles(self._transport, self._transport.host).remove_tree(path)

    def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        return list_by_scans(self, root, self._transport.host)

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        try:  # SFTP cannot hash
            return await ShellFiles(self._transport, self._transport.host).digests(paths)
        except UnsupportedError:  # a server for files only
            return [None] * len(paths)

    async def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        async with aclosing(
            read_sftp_tree(await self._session(), root, tally, self._transport.start_unless_full)
        ) as pieces:
            async for batch in pieces:
                yield batch

    def read_files(self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
        return read_by_opening(self, root, chosen, self._transport.host)

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        writer = SftpWriter(self, await self._session(), root, tally, options, self._transport.start_unless_full)
        await writer.write(pieces)
        if writer.is_tree and options.durable:
            await self._sync(root)

    async def _sync(self, root: bytes) -> None:
        """Let the far disk have a tree: SFTP itself can only do that file by file."""
        spec = ProcessSpec((b"/bin/sh", b"-c", _SYNC, b"sh", root), stdin=False)
        try:
            process = await self._transport.start_process(spec)
            try:
                await process.wait()
            finally:
                await process.aclose()
        except UnsupportedError:  # a server for files only
            return


class _SftpFile(FarFile):
    """An open far file. It keeps the session open."""

    def __init__(
        self,
        session: SftpSession,
        client: asyncssh.SFTPClient,
        handle: Handle,
        path: bytes,
        held: AsyncExitStack,
    ) -> None:
        self._session = session
        self._client = client
        self._handle: Handle | None = handle
        self._path = path
        self._held = held

    async def _ask(self, call: Callable[[Handle], Awaitable[T]], doing: str) -> T:
        if self._handle is None:
            raise ValueError("this file was closed")
        try:
            return await call(self._handle)
        except (asyncssh.Error, OSError) as error:
            raise await self._session.translated(error, self._client, self._path, doing) from error

    async def read(self, offset: int, count: int) -> bytes:
        return await self._ask(lambda handle: handle.read(count, offset), "read")  # several blocks at once

    async def write(self, offset: int, data: bytes) -> None:
        await self._ask(lambda handle: handle.write(data, offset), "write")

    async def stat(self) -> FileStat:
        return stat_of(await self._ask(lambda handle: handle.stat(), "stat"))

    async def truncate(self, size: int) -> None:
        await self._ask(lambda handle: handle.truncate(size), "write")

    async def sync(self) -> None:
        try:
            await self._ask(lambda handle: handle.fsync(), "write")
        except UnsupportedError:  # the server cannot tell
            return

    async def aclose(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            await handle.close()
        except (asyncssh.Error, OSError) as error:
            raise await self._session.translated(error, self._client, self._path, "write") from error
        finally:
            await self._held.aclose()
