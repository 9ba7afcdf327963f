"""The transport over the system's OpenSSH: one master, brought up when first needed, once for all tasks that want it.

When the master ends the machine is lost: nothing here opens another connection unless a reconnect policy says so, and
no command ever does.
"""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from aioremote._core.backoff import may_pass, pauses
from aioremote._core.engines import check_engine
from aioremote._core.lifetime import Owner, bounded_cleanup, settle
from aioremote._core.names import check_host_name, check_user_name
from aioremote._core.pieces import carry_file
from aioremote.errors import ClosedError, ConnectError, ConnectionLost, ForkedConnection, UnsupportedError
from aioremote.protocols import FileSystem, SessionTransport
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.openssh.forwarding import open_connection, open_listener
from aioremote.transports.openssh.link import Link
from aioremote.transports.openssh.master import start_master
from aioremote.transports.openssh.settings import check_port
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream, Listener

    from aioremote.protocols import FarProcess
    from aioremote.transports.openssh.settings import OpenSshSettings
    from aioremote.types import Reconnect

__all__ = ["OpenSshTransport"]

T = TypeVar("T")
_CLOSE_SECONDS = 2.0
State = Literal["new", "connecting", "connected", "lost", "reconnecting", "closed"]


class OpenSshTransport(SessionTransport):
    """A host behind the system's ssh.

    Attributes:
        state: "new", "connecting", "connected", "lost", "reconnecting" or "closed".
    """

    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(
        self, host: str, settings: OpenSshSettings, *, user: str | None = None, port: int | None = None
    ) -> None:
        check_host_name(host)
        if user is not None:
            check_user_name(user)
        check_port(port)
        self.address: Address = Address("openssh", host, user, port)
        self.state: State = "new"
        self._settings = settings
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None
        self._owner: Owner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0  # of the process that has connected
        self._loss: ConnectionLost | None = None
        self._ended: asyncio.Future[ConnectionLost | None] | None = None  # for who waits for the end of the link

    @property
    def host(self) -> str:
        """The host as it was given."""
        return self.address.host

    # connecting

    async def connect(self) -> None:
        await self._connected()

    async def _connected(self) -> Link:
        self._check_usable()
        link = self._link
        if link is not None and self.state == "connected":
            if link.control.is_open:
                return link
            self._on_loss()
        task = self._start_connecting()
        if not task.done():
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            task.add_done_callback(partial(_tell, told))
            await told  # and not the task, which the cancel of one who waits must not reach
        if task.cancelled():
            raise self._closed()
        return task.result()

    def _check_usable(self) -> None:
        if self.state == "closed":
            raise self._closed()
        if self._is_forked():
            text = (
                f"{self.host}: this connection belongs to the process that forked this one: make a machine of your own"
            )
            raise ForkedConnection(text, host=self.host)
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            text = f"{self.host}: this machine was connected by another event loop; make one for each loop"
            raise UnsupportedError(text, host=self.host)

    def _start_connecting(self) -> asyncio.Task[Link]:
        """Return the one connect that all tasks share; it survives the cancel of any of them."""
        policy = self._settings.reconnect
        if self.state == "lost" and policy is None:
            text = f"{self.host}: the connection was lost earlier; open a new machine, or give it reconnect=True"
            raise ConnectionLost(text, host=self.host, outcome="not_started")
        if self._connecting is None or self._connecting.done():
            self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
            self._owner = self._owner or Owner(str(self.address))
            self._owner.failures.clear()  # each was told to those who waited
            again = self.state == "lost" and policy is not None
            self._connecting = self._owner.spawn(
                self._dial_again(policy) if again and policy is not None else self._dial(), "connect"
            )
            self.state = "reconnecting" if again else "connecting"
        return self._connecting

    async def _dial_again(self, policy: Reconnect) -> Link:
        """Connect after a loss, as often as the policy says; what cannot get better by waiting is told at once."""
        try:
            await self._drop_link()
            failure: ConnectError | None = None
            for pause in pauses(policy):
                await asyncio.sleep(pause)
                try:
                    return await self._dial()
                except ConnectError as error:
                    if not may_pass(error):
                        raise
                    failure = error
            raise failure or self._closed()
        finally:
            if self.state == "reconnecting":
                self.state = "lost"

    async def _drop_link(self) -> None:
        old, self._link = self._link, None
        if old is not None:
            await old.aclose()

    async def _dial(self) -> Link:
        try:
            link = await _new_link(self.address, self._settings)
        except BaseException:
            if self.state == "connecting":
                self.state, self._loop = "new", None
            raise
        self._link, self.state = link, "connected"
        on_loss = weakref.WeakMethod(self._on_loss)
        link.on_loss = lambda: (tell := on_loss()) and tell()
        return link

    def _on_loss(self) -> None:
        if self.state == "connected" and self._link is not None:
            self.state, self._loss = "lost", self._link.lost("unknown")
            self._tell_end(self._loss)

    def _tell_end(self, loss: ConnectionLost | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_result(loss)

    async def wait_lost(self) -> ConnectionLost | None:
        if self.state in ("closed", "lost"):
            return self._loss if self.state == "lost" else None
        ended = self._ended = self._ended or asyncio.get_running_loop().create_future()
        await asyncio.wait({ended})
        return ended.result()

    async def reconnect(self) -> None:
        if self.state == "lost" and self._settings.reconnect is None:
            self.state = "new"
            await self._drop_link()
        await self.connect()

    def _is_forked(self) -> bool:
        return self._loop is not None and self._pid != os.getpid()

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self.host}: this machine was closed", host=self.host)

    # what it is for

    async def _on_link(self, ask: Callable[[Link], Awaitable[T]]) -> T:
        """Ask something of the link; of the next one, by the policy, where that is lost and nothing can have run."""
        while True:
            link = await self._connected()
            try:
                return await ask(link)
            except ConnectionLost as error:
                again = self._settings.reconnect is not None and not link.control.is_open
                if error.outcome != "not_started" or not again or self.state == "closed":
                    raise

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        return await self._on_link(lambda link: link.start(spec))

    async def start_unless_full(self, spec: ProcessSpec) -> FarProcess | None:
        return await self._on_link(lambda link: link.start_unless_full(spec))

    def another(self) -> OpenSshTransport:
        if self._settings.control_path is not None:
            text = f"{self.host}: all sessions of a master that is not ours are taken, and it has no second connection"
            raise UnsupportedError(text, host=self.host)
        return OpenSshTransport(self.host, self._settings, user=self.address.user, port=self.address.port)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        return await self._on_link(lambda link: open_connection(link, target))

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        return await self._on_link(lambda link: open_listener(link, bind))

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "tar"), host=self.host)
        return TarFiles(self, self.host)

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        await carry_file(await self.open_files(), os.fsencode(remote_path), LocalFiles(), os.fsencode(local_path))

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await carry_file(LocalFiles(), os.fsencode(local_path), await self.open_files(), os.fsencode(remote_path))

    async def ping(self) -> float:
        return await self._on_link(lambda link: link.ping())

    # its end

    async def aclose(self) -> None:
        if self._is_forked():
            self._leave()
        self.state = "closed"
        self._tell_end(None)
        connecting, self._connecting = self._connecting, None
        link, self._link = self._link, None
        try:
            if connecting is not None and not connecting.done():
                connecting.cancel()
                await settle(connecting, _CLOSE_SECONDS)
        finally:
            try:
                if link is not None:
                    await link.aclose()
            finally:
                if self._owner is not None:
                    await self._owner.aclose()

    def _leave(self) -> None:
        """Let go of what belongs to the process that forked this one, without a word to anybody."""
        self._connecting = self._link = self._ended = self._owner = None

    def abort(self) -> None:
        if self._is_forked():
            self._leave()
        self.state = "closed"
        self._tell_end(None)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.abort()

    def __del__(self) -> None:
        if getattr(self, "state", "new") == "connected" and not self._is_forked():
            warnings.warn(
                f"{self.address} was never closed: use `async with` or `await machine.aclose()`",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )
            if self._link is not None and self._loop is not None and not self._loop.is_closed():
                self._link.abort()


async def _new_link(address: Address, settings: OpenSshSettings) -> Link:
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
        link.dial_again = partial(_new_link, address, settings)
    return link


def _tell(told: asyncio.Future[None], _: object) -> None:
    if not told.done():
        told.set_result(None)
