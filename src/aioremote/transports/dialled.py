"""A machine behind a connection that is made when first needed, once for all tasks that want it, and may be lost.

The half of both ssh roads that knows states and policies. Not for what a connection is: that is its link.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from aioremote._core.backoff import may_pass, pauses
from aioremote._core.lifetime import Owner, settle
from aioremote._core.names import check_host_name, check_port, check_user_name
from aioremote._core.pieces import carry_file
from aioremote.errors import ClosedError, ConnectError, ConnectionLost, ForkedConnection, UnsupportedError
from aioremote.protocols import SessionTransport
from aioremote.transports.local_files import LocalFiles
from aioremote.types import Address, Capability, ProcessSpec

if TYPE_CHECKING:
    from aioremote.protocols import FarProcess
    from aioremote.types import Reconnect

__all__ = ["DialledLink", "DialledTransport", "State"]

CLOSE_SECONDS = 2.0
State = Literal["new", "connecting", "connected", "lost", "reconnecting", "closed"]


class DialledLink(Protocol):
    """A connection that is up."""

    async def start(self, spec: ProcessSpec) -> FarProcess:
        """Start a program on a session of its own, waiting for a free one."""
        ...

    async def start_unless_full(self, spec: ProcessSpec) -> FarProcess | None:
        """Start a program where a session is free now."""
        ...

    async def ping(self) -> float:
        """Return the seconds of one round trip."""
        ...

    def lost(self, outcome: Literal["not_started", "unknown", "finished"]) -> ConnectionLost:
        """Return the error for what its end left undone."""
        ...

    def abort(self) -> None:
        """Drop it."""
        ...

    async def aclose(self) -> None:
        """End what runs on it, then itself."""
        ...


L = TypeVar("L", bound=DialledLink)
T = TypeVar("T")


class DialledTransport(SessionTransport, Generic[L]):
    """A host behind a connection.

    Args:
        address: its own; host, user and port are checked.
        reconnect: how a lost connection is tried again when it is next needed; None leaves it lost.

    Attributes:
        state: "new", "connecting", "connected", "lost", "reconnecting" or "closed".

    Raises:
        AddressError, ValueError: what no host, user or port can be.
    """

    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(self, address: Address, reconnect: Reconnect | None) -> None:
        check_host_name(address.host)
        if address.user is not None:
            check_user_name(address.user)
        check_port(address.port)
        self.address: Address = address
        self.state: State = "new"
        self._policy = reconnect
        self._link: L | None = None
        self._connecting: asyncio.Task[L] | None = None
        self._owner: Owner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0  # of the process that has connected
        self._loss: ConnectionLost | None = None
        self._ended: asyncio.Future[ConnectionLost | None] | None = None  # for who waits for the end of the link

    @property
    def host(self) -> str:
        """The host as it was given."""
        return self.address.host

    @abstractmethod
    async def _new_link(self) -> L:
        """Connect."""

    async def _begin(self, link: L) -> None:
        """Take note of the connection, which is up now."""

    def _seems_open(self, link: L) -> bool:
        """Whether nothing is known here of the connection's end."""
        return True

    # connecting

    async def connect(self) -> None:
        await self._connected()

    async def _connected(self) -> L:
        self._check_usable()
        link = self._link
        if link is not None and self.state == "connected":
            if self._seems_open(link):
                return link
            self._take_loss()
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

    def _start_connecting(self) -> asyncio.Task[L]:
        """Return the one connect that all tasks share; it survives the cancel of any of them."""
        if self.state == "lost" and self._policy is None:
            text = f"{self.host}: the connection was lost earlier; open a new machine, or give it reconnect=True"
            raise ConnectionLost(text, host=self.host, outcome="not_started")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._connecting is None or self._connecting.done():
            self._owner = self._owner or Owner(str(self.address))
            self._owner.failures.clear()  # each was told to those who waited
            if self.state == "lost" and self._policy is not None:
                self._connecting = self._owner.spawn(self._dial_again(self._policy), "reconnect")
            else:
                self._connecting = self._owner.spawn(self._dial(), "connect")
            self.state = "reconnecting" if self.state == "lost" else "connecting"
        return self._connecting

    async def _dial_again(self, policy: Reconnect) -> L:
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

    async def _dial(self) -> L:
        try:
            link = await self._new_link()
        except BaseException:
            if self.state == "connecting":
                self.state, self._loop = "new", None
            raise
        self._link, self.state = link, "connected"
        await self._begin(link)
        return link

    def _take_loss(self) -> None:
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
        if self.state == "lost" and self._policy is None:
            self.state = "new"
            await self._drop_link()
        await self.connect()

    def _is_forked(self) -> bool:
        return self._loop is not None and self._pid != os.getpid()

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self.host}: this machine was closed", host=self.host)

    # what it is for

    async def on_link(self, ask: Callable[[L], Awaitable[T]]) -> T:
        """Ask something of the link; of the next one, by the policy, where that is lost and nothing can have run."""
        while True:
            link = await self._connected()
            try:
                return await ask(link)
            except ConnectionLost as error:
                again = self._policy is not None and self._is_over(link)
                if error.outcome != "not_started" or not again:
                    raise

    def _is_over(self, link: L) -> bool:
        """Whether this link is lost, and another may be had."""
        return self.state in ("lost", "reconnecting")

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        return await self.on_link(lambda link: link.start(spec))

    async def start_unless_full(self, spec: ProcessSpec) -> FarProcess | None:
        return await self.on_link(lambda link: link.start_unless_full(spec))

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        await carry_file(await self.open_files(), os.fsencode(remote_path), LocalFiles(), os.fsencode(local_path))

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await carry_file(LocalFiles(), os.fsencode(local_path), await self.open_files(), os.fsencode(remote_path))

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
                await settle(connecting, CLOSE_SECONDS)
        finally:
            try:
                if link is not None:
                    await link.aclose()
            finally:
                await self._finish_closing()

    async def _finish_closing(self) -> None:
        """Release what is left once the link is closed."""
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
            self._forgotten()

    def _forgotten(self) -> None:
        """Let go of a connection that nobody has closed."""


def _tell(told: asyncio.Future[None], _: object) -> None:
    if not told.done():
        told.set_result(None)
