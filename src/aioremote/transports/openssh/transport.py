"""The transport over the system's OpenSSH: one master, and what goes through it.

When the master ends the machine is lost: nothing here opens another connection unless a reconnect policy says so, and
no command ever does.
"""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING

from aioremote._core.engines import check_engine
from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import ConnectError, ConnectionLost, UnsupportedError
from aioremote.transports.dialled import DialledTransport
from aioremote.transports.openssh.forwarding import open_connection, open_listener
from aioremote.transports.openssh.link import Link
from aioremote.transports.openssh.master import start_master
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Endpoint

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.protocols import FileSystem
    from aioremote.transports.openssh.settings import OpenSshSettings

__all__ = ["OpenSshTransport"]

_CLOSE_SECONDS = 2.0


class OpenSshTransport(DialledTransport[Link]):
    """A host behind the system's ssh."""

    def __init__(
        self, host: str, settings: OpenSshSettings, *, user: str | None = None, port: int | None = None
    ) -> None:
        super().__init__(Address("openssh", host, user, port), settings.reconnect)
        self._settings = settings

    async def _new_link(self) -> Link:
        return await _open_link(self.address, self._settings)

    async def _begin(self, link: Link) -> None:
        on_loss = weakref.WeakMethod(self._take_loss)
        link.on_loss = lambda: (tell := on_loss()) and tell()

    def _seems_open(self, link: Link) -> bool:
        return link.control.is_open

    def _is_over(self, link: Link) -> bool:
        return not link.control.is_open and self.state != "closed"

    def another(self) -> OpenSshTransport:
        if self._settings.control_path is not None:
            text = f"{self.host}: all sessions of a master that is not ours are taken, and it has no second connection"
            raise UnsupportedError(text, host=self.host)
        return OpenSshTransport(self.host, self._settings, user=self.address.user, port=self.address.port)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        return await self.on_link(lambda link: open_connection(link, target))

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        return await self.on_link(lambda link: open_listener(link, bind))

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "tar"), host=self.host)
        return TarFiles(self, self.host)

    async def ping(self) -> float:
        return await self.on_link(lambda link: link.ping())

    def _forgotten(self) -> None:
        if self._link is not None and self._loop is not None and not self._loop.is_closed():
            self._link.abort()


async def _open_link(address: Address, settings: OpenSshSettings) -> Link:
    """Connect; what comes of it refers to no transport, so that a forgotten one goes."""
    path = settings.control_path
    master = None if path is not None else await start_master(address, settings)
    link = Link(address.host, path or (master.path if master is not None else ""), settings, master)
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await link.begin()
    except BaseException as error:
        await bounded_cleanup(link.aclose(), _CLOSE_SECONDS)
        if isinstance(error, (OSError, ConnectionLost)):
            text = f"{address.host}: no OpenSSH master answers at {link.path}: {error}"
            raise ConnectError(text, host=address.host) from error
        raise
    if master is not None:
        link.dial_again = partial(_open_link, address, settings)
    return link
