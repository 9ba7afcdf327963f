"""The ssh transport: connects when first needed, once for all tasks that want it, and judges host keys.

This module does not import asyncssh; `dial` and what stands below it do, and are imported in a thread, because that
import alone would stall the loop for 160-550 ms.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from aioremote._core.backoff import may_pass, pauses
from aioremote._core.engines import check_engine
from aioremote._core.lifetime import Owner, settle
from aioremote._core.names import check_host_name, check_user_name
from aioremote._core.pieces import carry_file
from aioremote.errors import ClosedError, ConnectError, ConnectionLost, ForkedConnection, UnsupportedError
from aioremote.protocols import FileSystem, SessionTransport, Transport
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.ssh.settings import SshSettings
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from anyio.abc import ByteStream, Listener

    from aioremote.protocols import FarProcess
    from aioremote.transports.ssh.link import Link
    from aioremote.types import Reconnect

__all__ = ["SshTransport", "State"]

T = TypeVar("T")
_CLOSE_SECONDS = 2.0

State = Literal["new", "connecting", "connected", "lost", "reconnecting", "closed"]


class SshTransport(SessionTransport):
    """A host behind ssh.

    Attributes:
        state: "new", "connecting", "connected", "lost", "reconnecting" or "closed".
    """

    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(
        self,
        host: str,
        settings: SshSettings,
        *,
        user: str | None = None,
        port: int | None = None,
        via: Transport | None = None,
    ) -> None:
        check_host_name(host)
        if user is not None:
            check_user_name(user)
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"port {port}: give a number from 1 to 65535")
        self.address: Address = Address("ssh", host, user, port)
        self.state: State = "new"
        self._settings = settings
        self._via = via
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None
        self._owner: Owner | None = None
        self._last_will: AsyncGenerator[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0  # of the process that has connected
        self._loss: ConnectionLost | None = None
        self._debris: set[bytes] = set()  # what a lost connection may have left of transfers
        self._ended: asyncio.Future[ConnectionLost | None] | None = None  # for who waits for the end of the link

    @property
    def host(self) -> str:
        """The host as it was given."""
        return self.address.host

    # connecting

    async def connect(self) -> None:
        await self._connected()

    async def _connected(self) -> Link:
        if self.state == "closed":
            raise self._closed()
        if self._is_forked():
            raise ForkedConnection(
                f"{self.host}: this connection belongs to the process that forked this one: make a machine of your own",
                host=self.host,
            )
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise self._wrong_loop()
        if self._link is not None and self.state == "connected":
            return self._link
        task = self._start_connecting()
        if not task.done():
            told = asyncio.get_running_loop().create_future()
            task.add_done_callback(partial(_tell, told))
            await told  # and not the task, which the cancel of one who waits must not reach
        if task.cancelled():
            raise self._closed()
        return task.result()

    def _start_connecting(self) -> asyncio.Task[Link]:
        """Return the one connect that all tasks share; it survives the cancel of any of them."""
        policy = self._settings.reconnect
        if self.state == "lost" and policy is None:
            text = f"{self.host}: the connection was lost earlier; open a new machine, or give it reconnect=True"
            raise ConnectionLost(text, host=self.host, outcome="not_started")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._connecting is None or self._connecting.done():
            self._owner = self._owner or Owner(str(self.address))
            self._owner.failures.clear()  # each was told to those who waited
            if self.state == "lost" and policy is not None:
                self._connecting = self._owner.spawn(self._dial_again(policy), "reconnect")
            else:
                self._connecting = self._owner.spawn(self._dial(), "connect")
            self.state = "reconnecting" if self.state == "lost" else "connecting"
        return self._connecting

    async def _dial_again(self, policy: Reconnect) -> Link:
        """Connect after a loss, as often as the policy says; what cannot get better by waiting is told at once."""
        old, self._link = self._link, None
        try:
            if old is not None:
                await old.aclose()
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

    async def _dial(self) -> Link:
        try:
            if _dial_module is None:
                await asyncio.to_thread(_import_dial)
            assert _dial_module is not None
            link: Link = await _dial_module.dial(self.address, self._settings, self._via)
        except BaseException as error:
            if self.state == "connecting":
                self.state, self._loop = "new", None
            if isinstance(error, OSError) and error.errno in (
                errno.EMFILE,
                errno.ENFILE,
            ):  # already the import needs some
                text = f"{self.host}: this process may open no more files: raise its limit (ulimit -n)"
                raise ConnectError(text, host=self.host) from error
            if isinstance(error, ImportError):
                raise UnsupportedError(f"{self.host}: ssh cannot be used here: {error}", host=self.host) from error
            raise
        link.sftp.debris = self._debris
        link.dial_again = partial(_dial_module.dial, self.address, self._settings, self._via)
        self._link, self.state = link, "connected"
        assert link.jumps is not None
        link.jumps.callback(self._released)  # so that what uses the link keeps this object, and the loop alone does not
        on_loss = weakref.WeakMethod(self._on_loss)
        link.connection.on_loss = lambda error: (tell := on_loss()) and tell(error)
        self._last_will = _closed_with_the_loop(link)
        await anext(self._last_will)
        return link

    def _on_loss(self, error: Exception | None) -> None:
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
            old, self._link, self.state = self._link, None, "new"
            if old is not None:
                await old.aclose()
        await self.connect()

    def _released(self) -> None:
        self._link = None

    def _is_forked(self) -> bool:
        return self._loop is not None and self._pid != os.getpid()

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self.host}: this machine was closed", host=self.host)

    def _wrong_loop(self) -> UnsupportedError:
        text = f"{self.host}: this machine was connected by another event loop; make one for each loop"
        return UnsupportedError(text, host=self.host)

    # what it is for

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        return await self.on_link(lambda link: link.start(spec))

    async def start_unless_full(self, spec: ProcessSpec) -> FarProcess | None:
        return await self.on_link(lambda link: link.start_unless_full(spec))

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

    async def on_link(self, ask: Callable[[Link], Awaitable[T]]) -> T:
        """Ask something of the link; of the next one, by the policy, where that is lost and nothing can have run."""
        while True:
            link = await self._connected()
            try:
                return await ask(link)
            except ConnectionLost as error:
                again = self._settings.reconnect is not None and self.state in ("lost", "reconnecting")
                if error.outcome != "not_started" or not again:
                    raise

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "sftp", "tar"), host=self.host)
        await self._connected()
        from aioremote.transports.ssh.sftp_files import SftpFiles  # after asyncssh has been imported

        files = SftpFiles(self)
        if engine == "tar" or (engine == "auto" and not await files.offered()):
            return TarFiles(self, self.host)
        return files

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        await carry_file(await self.open_files(), os.fsencode(remote_path), LocalFiles(), os.fsencode(local_path))

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await carry_file(LocalFiles(), os.fsencode(local_path), await self.open_files(), os.fsencode(remote_path))

    async def ping(self) -> float:
        link = await self._connected()
        return await link.ping()

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
                if self._last_will is not None:
                    await anext(self._last_will, None)
                if self._owner is not None:
                    await self._owner.aclose()

    def _leave(self) -> None:
        """Let go of what belongs to the process that forked this one, without a word to anybody."""
        self._connecting = self._link = self._ended = self._last_will = self._owner = None

    def abort(self) -> None:
        if self._is_forked():
            self._leave()
        self.state = "closed"
        self._tell_end(None)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.connection.abort()

    def __del__(self) -> None:
        if getattr(self, "state", "new") == "connected" and not self._is_forked():
            warnings.warn(
                f"{self.address} was never closed: use `async with` or `await machine.aclose()`",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )


def _tell(told: asyncio.Future[None], _: object) -> None:
    if not told.done():
        told.set_result(None)


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
