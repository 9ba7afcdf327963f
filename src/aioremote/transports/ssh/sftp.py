"""The sftp session of a connection.

Opened when first needed, shared by all who need files, given up when it is idle and in the way. asyncssh speaks the
protocol; what its errors mean stands in `sftp_errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED
from asyncssh.sftp import start_sftp_client  # private: SSHClientConnection's own leaves a failed session open

from aioremote._core.limits import refusal_pauses
from aioremote.errors import ClosedError, UnsupportedError
from aioremote.transports.ssh.sftp_errors import is_end, meaning

if TYPE_CHECKING:
    from aioremote._core.limits import Slot
    from aioremote.transports.ssh.link import Link

__all__ = ["Handle", "SftpSession", "opened"]

T = TypeVar("T")
_VERSION = 3  # what OpenSSH speaks


class Handle(Protocol):
    """What is used of an open file; asyncssh's own annotations leave open whether it gives bytes."""

    async def read(self, size: int, offset: int) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...

    async def write(self, data: bytes, offset: int) -> int:
        """Write all of `data`."""
        ...

    async def stat(self) -> asyncssh.SFTPAttrs:
        """Return the attributes."""
        ...

    async def setstat(self, attrs: asyncssh.SFTPAttrs) -> None:
        """Set some attributes."""
        ...

    async def truncate(self, size: int) -> None:
        """Set the size."""
        ...

    async def fsync(self) -> None:
        """Let the disk have it."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class SftpSession:
    """At most one sftp session on a link.

    Its slot counts as any session's. While somebody waits for a slot, the session is closed as soon as nothing is under
    way on it and no file is open; the next operation opens another.

    Attributes:
        umask: of the far side, None until a tree has been written.
        debris: temporary files that a lost session may have left.
    """

    def __init__(self, link: Link) -> None:
        self.umask: int | None = None
        self.debris: set[bytes] = set()
        self._link = link
        self._client: asyncssh.SFTPClient | None = None
        self._opening: asyncio.Task[asyncssh.SFTPClient] | None = None
        self._users = 0
        self._wanted = False
        link.sessions.on_shortage = self._give_way

    @property
    def host(self) -> str:
        """The machine's name, for errors."""
        return self._link.host

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[asyncssh.SFTPClient]:
        """Return the client, opening the session where needed; it stays open for as long as the block lasts."""
        self._users += 1
        try:
            yield self._client or await self._opened()
        finally:
            self._users -= 1
            if self._wanted:
                self._give_way()

    async def ask(self, path: bytes, call: Callable[[asyncssh.SFTPClient], Awaitable[T]], doing: str = "") -> T:
        """Ask something of the server, and translate its error.

        Args:
            path: what it is about.
            call: what to ask.
            doing: the name of the operation, for errors that SFTP leaves unclear.
        """
        async with self.client() as client:
            try:
                return await call(client)
            except (asyncssh.Error, OSError) as error:
                raise await self.translated(error, client, path, doing) from error

    async def open_file(
        self,
        client: asyncssh.SFTPClient,
        path: bytes,
        flags: int,
        attrs: asyncssh.SFTPAttrs,
        *,
        block_bytes: int = 0,
    ) -> Handle:
        """Open a file; where the caller is cancelled meanwhile, it is closed when it has been opened.

        Args:
            client: ours.
            path: the file.
            flags: asyncssh's.
            attrs: for a new file.
            block_bytes: 0 makes one request of each read and write, -1 several of the server's own size.
        """
        opening = self._link.spawn(opened(client, path, flags, attrs, block_bytes), "open a far file")
        try:
            await asyncio.wait({opening})
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_late)
            raise
        if (error := opening.exception()) is not None:
            self._link.forgive(error)
            raise error
        return opening.result()

    def _close_late(self, opening: asyncio.Task[Handle]) -> None:
        if opening.cancelled():
            return
        if (error := opening.exception()) is not None:
            self._link.forgive(error)
        elif not self._link.parting:
            self._link.spawn(_closed(opening.result()), "close a far file")

    async def translated(
        self, error: BaseException, client: asyncssh.SFTPClient, path: bytes, doing: str = ""
    ) -> Exception:
        """Return our error for one of asyncssh's."""
        if is_end(error) or self._link.is_lost():
            return self._link.lost("unknown")
        return await meaning(error, client, path, host=self.host, doing=doing)

    # opening and closing

    async def _opened(self) -> asyncssh.SFTPClient:
        """Wait for the one opening that all share; it survives the cancel of any of them."""
        if self._opening is None:
            self._opening = self._link.spawn(self._open(), "open the sftp session")
        opening = self._opening
        await asyncio.wait({opening})
        if self._opening is opening:
            self._opening = None
        if opening.cancelled():
            raise ClosedError(f"{self.host}: this machine was closed", host=self.host)
        if (error := opening.exception()) is not None:
            self._link.forgive(error)
            raise error
        return opening.result()

    async def _open(self) -> asyncssh.SFTPClient:
        again = False
        for pause in refusal_pauses():
            slot = await self._link.sessions.acquire(again=again)
            client = await self._try_to_open(slot)
            if client is not None:
                self._client, self._wanted = client, False
                self._link.spawn(self._watch(client, slot), "wait for the end of the sftp session")
                if self._link.sessions.is_short:
                    self._give_way()
                if self.debris:
                    self._link.spawn(self._remove_debris(client), "remove what a lost session has left")
                return client
            again = True
            await asyncio.sleep(pause)
        raise UnsupportedError(f"{self.host}: the server opens no session for sftp", host=self.host)

    async def _try_to_open(self, slot: Slot) -> asyncssh.SFTPClient | None:
        """Return the client, None where the server had no session free."""
        try:
            client = await self._speak()
        except asyncssh.ChannelOpenError as error:
            if error.code == OPEN_REQUEST_SESSION_FAILED:
                slot.release()
                raise self._no_sftp("the server offers no sftp") from error
            if not self._link.is_lost() and self._link.sessions.refused(slot):
                return None
            slot.release()
            raise self._link.lost("not_started") from error
        except (asyncssh.Error, OSError) as error:
            slot.release()
            if self._link.is_lost():
                raise self._link.lost("not_started") from error
            raise self._no_sftp(f"what answers there does not speak sftp ({error})") from error
        except BaseException:
            slot.release()
            raise
        slot.confirm()
        return client

    async def _speak(self) -> asyncssh.SFTPClient:
        connection: Any = self._link.connection  # Any: asyncssh leaves open what its streams carry
        writer, reader, _ = await connection.open_session(subsystem="sftp", encoding=None)
        loop = asyncio.get_running_loop()
        try:
            return await start_sftp_client(connection, loop, "replace", reader, writer, None, "strict", _VERSION)
        except BaseException:
            writer.channel.abort()
            raise

    def _no_sftp(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"{self.host}: no far files: {why}", host=self.host)

    async def _watch(self, client: asyncssh.SFTPClient, slot: Slot) -> None:
        try:
            await client.wait_closed()
        finally:
            if self._client is client:
                self._client = None
            slot.release()

    def _give_way(self) -> None:
        """Close the session for who waits for a slot, now or when it is idle."""
        client = self._client
        self._wanted = client is not None
        if client is not None and not self._users:
            self._client, self._wanted = None, False
            self._opening = None  # whose waiters were cancelled, where it still stands
            client.exit()

    async def _remove_debris(self, client: asyncssh.SFTPClient) -> None:
        while self.debris:
            path = self.debris.pop()
            try:
                await client.remove(path)
            except asyncssh.SFTPNoSuchFile:
                pass
            except (asyncssh.Error, OSError) as error:
                if is_end(error):
                    self.debris.add(path)
                    return


async def opened(
    client: asyncssh.SFTPClient, path: bytes, flags: int, attrs: asyncssh.SFTPAttrs, block_bytes: int = 0
) -> Handle:
    """Open a file. A cancel may leave it open: see `SftpSession.open_file`."""
    found: object = await client.open(path, flags, attrs, None, block_size=block_bytes)
    return cast(Handle, found)


async def _closed(file: Handle) -> None:
    try:
        await file.close()
    except (asyncssh.Error, OSError):
        return
