"""The ssh transport: what is dialled is one of asyncssh's connections.

This module does not import asyncssh; `dial` and what stands below it do, and are imported in a thread, because that
import alone would stall the loop for 160-550 ms.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import weakref
from functools import partial
from typing import TYPE_CHECKING

from aioremote._core.engines import check_engine
from aioremote.errors import ConnectError, UnsupportedError
from aioremote.protocols import FileSystem, Transport
from aioremote.transports.dialled import DialledTransport
from aioremote.transports.ssh.settings import SshSettings
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream, Listener

    from aioremote.transports.ssh.link import Link

__all__ = ["SshTransport"]


class SshTransport(DialledTransport["Link"]):
    """A host behind ssh."""

    def __init__(
        self,
        host: str,
        settings: SshSettings,
        *,
        user: str | None = None,
        port: int | None = None,
        via: Transport | None = None,
    ) -> None:
        super().__init__(Address("ssh", host, user, port), settings.reconnect)
        self._settings = settings
        self._via = via
        self._last_will: AsyncGenerator[None] | None = None
        self._debris: set[bytes] = set()  # what a lost connection may have left of transfers

    async def _new_link(self) -> Link:
        try:
            if _dial_module is None:
                await asyncio.to_thread(_import_dial)
            assert _dial_module is not None
            link: Link = await _dial_module.dial(self.address, self._settings, self._via)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # already the import needs some
                text = f"{self.host}: this process may open no more files: raise its limit (ulimit -n)"
                raise ConnectError(text, host=self.host) from error
            raise
        except ImportError as error:
            raise UnsupportedError(f"{self.host}: ssh cannot be used here: {error}", host=self.host) from error
        link.sftp.debris = self._debris
        link.dial_again = partial(_dial_module.dial, self.address, self._settings, self._via)
        return link

    async def _begin(self, link: Link) -> None:
        assert link.jumps is not None
        link.jumps.callback(self._released)  # so that what uses the link keeps this object, and the loop alone does not
        on_loss = weakref.WeakMethod(self._take_loss)
        link.connection.on_loss = lambda _: (tell := on_loss()) and tell()
        self._last_will = _closed_with_the_loop(link)
        await anext(self._last_will)

    def _released(self) -> None:
        self._link = None

    def another(self) -> SshTransport:
        return SshTransport(self.host, self._settings, user=self.address.user, port=self.address.port, via=self._via)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        await self._connected()
        from aioremote.transports.ssh.forwarding import open_connection  # after asyncssh has been imported

        return await self.on_link(lambda link: open_connection(link, target))

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        await self._connected()
        from aioremote.transports.ssh.forwarding import open_listener

        return await self.on_link(lambda link: open_listener(link, bind))

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "sftp", "tar"), host=self.host)
        await self._connected()
        from aioremote.transports.ssh.sftp_files import SftpFiles  # after asyncssh has been imported

        files = SftpFiles(self)
        if engine == "tar" or (engine == "auto" and not await files.offered()):
            return TarFiles(self, self.host)
        return files

    async def ping(self) -> float:
        link = await self._connected()
        return await link.ping()

    async def _finish_closing(self) -> None:
        if self._last_will is not None:
            await anext(self._last_will, None)
        await super()._finish_closing()

    def _leave(self) -> None:
        super()._leave()
        self._last_will = None


async def _closed_with_the_loop(link: Link) -> AsyncGenerator[None]:
    """Close the link when the loop shuts down or nobody has it any more; sending anything means that it is closed.

    So a program that forgets to close a machine ends without pending tasks, and a forgotten one keeps no connection.
    """
    try:
        yield
    except GeneratorExit:
        link.connection.on_loss = None  # the machine was not closed, and will say so when it goes
        link.connection.abort()
        await link.aclose()
        raise


_dial_module = None


def _import_dial() -> None:
    global _dial_module
    _dial_module = importlib.import_module("aioremote.transports.ssh.dial")
