"""The whole of a transport over one outpost: for a machine whose only road is a stream of bytes, or to save sessions.

Programs run as the outpost's children, any number at once over one process of the transport below; connections and
listeners are the outpost's too. What it cannot do yet is left to that transport. Not for choosing between the two
(`upgrading`).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Literal

from aioremote._core.deadline import Deadline
from aioremote._core.engines import check_engine
from aioremote._core.lifetime import Owner, settle
from aioremote._core.pieces import carry_file
from aioremote.errors import ClosedError, ConnectionLost
from aioremote.outpost.far.frames import Limits
from aioremote.outpost.file_calls import FileCalls
from aioremote.outpost.files import OutpostFiles
from aioremote.outpost.launch import Launcher, launch
from aioremote.outpost.link import Link
from aioremote.outpost.listeners import open_listener
from aioremote.outpost.program import Program
from aioremote.outpost.sockets import open_connection
from aioremote.protocols import FarProcess, FileSystem, Transport
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream, Listener

    from aioremote.outpost.link import FarEnd, Service

__all__ = ["BringUp", "LinkedTransport"]

BringUp = Callable[[Deadline], Awaitable["FarEnd"]]

MOST_PROGRAMS = 3000  # at once; an outpost takes 4096 channels
MOST_ACCEPTED = 1024  # connections of far listeners, and answers to calls; further clients wait at the far end
_CLOSE_SECONDS = 2.0
_OWN = frozenset(Capability)
_OF_SERVICES = {
    "process": {Capability.COMMANDS, Capability.TERMINAL, Capability.SIGNALS, Capability.TREE_KILL},
    "connect": {Capability.TCP_CONNECTIONS, Capability.UNIX_CONNECTIONS},
    "listen": {Capability.TCP_LISTENERS, Capability.UNIX_LISTENERS},
    "files": {Capability.FILES},
    "signal": {Capability.SIGNALS},
    "terminal": {Capability.TERMINAL},
}


class LinkedTransport(Transport):
    """A machine through its outpost.

    Args:
        base: reaches the machine and starts the outpost; it is this transport's from now on.
        launcher: starts the outpost in place of `base`.
        bring_up: returns a far end on which an outpost already speaks, by the given deadline, in place of launching
            one; raises ConnectError where it cannot. The far end is this transport's from then on.
        python: a path, or a name on the far PATH; None looks for one of 3.6 or later.
        isolated: whether Python ignores PYTHON* variables and the user's own site-packages.
        keepalive: seconds of silence after which each end asks; 0 for never.
        keepalive_count: silent intervals that make a lost link.
        launch_timeout: seconds for the outpost to come up; None for no limit.
        services: what the far end may open here, by kind.
        kill_escapees: whether the end of a tree also ends what has left its session (`setsid`, daemons); Linux. Each
            program then has a variable AIOREMOTE_PROGRAM, by which they are found.

    Attributes:
        base: as given.
        version: the far Python's, as (3, 11, 7); all zero before there is a link.
        capabilities: all, until an outpost has said what it does not serve.
        paths: those of `base`, until an outpost has said that it is on Windows.
        keeps_sessions: whether Python sessions with a name outlive the link: those of daemons.
    """

    keeps_sessions: bool = False

    def __init__(
        self,
        base: Transport,
        *,
        launcher: Launcher | None = None,
        bring_up: BringUp | None = None,
        python: str | None = None,
        isolated: bool = False,
        keepalive: float = 15.0,
        keepalive_count: int = 3,
        launch_timeout: float | None = 30.0,
        services: Mapping[str, Service] | None = None,
        kill_escapees: bool = False,
    ) -> None:
        self.base: Transport = base
        self._launcher: Launcher = launcher or base
        self._given = bring_up
        self.address: Address = base.address
        self.capabilities: frozenset[Capability] = base.capabilities | _OWN
        self.paths: type[PurePosixPath | PureWindowsPath] = base.paths
        self.version: tuple[int, int, int] = (0, 0, 0)
        self.host: str = base.address.host or "localhost"
        self._python = python
        self._isolated = isolated
        self._keepalive = keepalive
        self._keepalive_count = keepalive_count
        self._launch_timeout = launch_timeout
        self._services = services
        self._kill_escapees = kill_escapees
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None
        self._owner: Owner | None = None
        self._closed = False
        self._ended: asyncio.Future[None] | None = None  # for who waits for the end of the link
        self._files: FileCalls | None = None
        self._programs: set[Program] = set()
        self._queue: deque[asyncio.Future[None]] = deque()  # of those for whom there is no channel

    @property
    def state(self) -> Literal["new", "connecting", "connected", "lost", "closed"]:
        """Whether it can be used."""
        if self._closed:
            return "closed"
        if self._link is not None:
            return "connected" if self._link.state == "up" else "lost"
        return "new" if self._connecting is None or self._connecting.done() else "connecting"

    # connecting

    async def connect(self) -> None:
        if self._link is None or self._link.state != "up":
            await self.link()

    async def link(self) -> Link:
        """Return the link to the outpost, which is brought up where there was none; all who wait share one attempt.

        Raises:
            BootstrapError: no Python came up there.
            ConnectError: as from the transport below.
            ConnectionLost: it was lost earlier; see `reconnect`.
            ForkedConnection: it belongs to another process.
            ClosedError: this transport was closed.
        """
        link = self._link
        if link is not None and link.state == "up":
            return link
        self._check_open()
        if link is not None:
            if link.is_forked:
                raise link.error("not_started")
            text = f"{self.host}: the link to the outpost was lost earlier"
            raise ConnectionLost(text, host=self.host, outcome="not_started")
        if self._connecting is None or self._connecting.done():
            self._owner = self._owner or Owner(f"outpost on {self.host}")
            self._owner.failures.clear()  # each was told to those who waited
            self._connecting = self._owner.spawn(self._bring_up(), "connect")
        task = self._connecting
        await asyncio.wait({task})
        if task.cancelled():
            self._check_open()
        return task.result()

    async def _bring_up(self) -> Link:
        await self.base.connect()
        deadline = Deadline(self._launch_timeout)
        far = await (self._launch if self._given is None else self._given)(deadline)
        link = Link(
            far,
            host=self.host,
            keepalive=self._keepalive,
            keepalive_count=self._keepalive_count,
            services=self._services,
            limits=Limits(max_channels=MOST_ACCEPTED),
        )
        try:
            await link.start(timeout=deadline.left())
        except BaseException:
            await link.aclose()
            raise
        self._link, self.version = link, getattr(far, "version", self.version)
        self.capabilities = self.base.capabilities | _OWN.difference(
            *(_OF_SERVICES.get(kind, ()) for kind in link.missing)
        )
        self.paths = PureWindowsPath if "posix" in link.missing else self.base.paths
        assert self._owner is not None
        self._owner.spawn(self._tell_end(link), "wait for the end of the link")
        return link

    async def _launch(self, deadline: Deadline) -> FarEnd:
        options = {
            "keepalive": self._keepalive,
            "keepalive_count": self._keepalive_count,
            "kill_escapees": self._kill_escapees,
        }
        return await launch(
            self._launcher, deadline=deadline, python=self._python, isolated=self._isolated, options=options
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.host}: this machine was closed", host=self.host)

    async def reconnect(self) -> None:
        link = self._link
        if link is not None and link.state == "lost":
            self._link = None
            await link.aclose()
            await self.base.reconnect()
        await self.connect()

    async def wait_lost(self) -> ConnectionLost | None:
        if not self._closed and self.state != "lost":
            ended = self._ended = self._ended or asyncio.get_running_loop().create_future()
            await asyncio.wait({ended})
        error = None if self._closed or self._link is None else self._link.error()
        return error if isinstance(error, ConnectionLost) else None

    async def _tell_end(self, link: Link) -> None:
        await link.wait_over()
        self._wake_who_waits()

    def _wake_who_waits(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_result(None)

    # programs

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        link = self._link
        if link is None or link.state != "up":
            link = await self.link()
        while len(self._programs) >= MOST_PROGRAMS:
            await self._wait_for_place()
        program = Program(link, spec, self._forget)
        self._programs.add(program)
        return program

    async def _wait_for_place(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            raise

    def _forget(self, program: Program) -> None:
        self._programs.discard(program)
        if self._queue:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return

    # files

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, host=self.host)
        self._check_open()
        if engine == "tar":
            return TarFiles(self, self.host)
        if engine not in ("auto", "outpost"):
            return await self.base.open_files(engine)
        return OutpostFiles(self.link, self._file_calls)

    async def _file_calls(self) -> FileCalls:
        """Return the channel for single file operations; its far helper is kept, and replaced where it has ended."""
        link = await self.link()
        calls = self._files
        if calls is None or calls.link is not link or calls.end is not None:
            calls = self._files = FileCalls(link)
        return calls

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        await carry_file(await self.open_files(), os.fsencode(remote_path), LocalFiles(), os.fsencode(local_path))

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await carry_file(LocalFiles(), os.fsencode(local_path), await self.open_files(), os.fsencode(remote_path))

    # connections

    async def open_connection(self, target: Endpoint) -> ByteStream:
        return await open_connection(await self.link(), target)

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        return await open_listener(await self.link(), bind)

    # its end

    async def ping(self) -> float:
        return await (await self.link()).ping()

    async def aclose(self) -> None:
        if self._link is not None and self._link.is_forked:
            self._link = self._owner = self._connecting = None
        self._closed = True
        self._wake_who_waits()
        connecting, self._connecting = self._connecting, None
        try:
            if connecting is not None and not connecting.done():
                connecting.cancel()
                await settle(connecting, _CLOSE_SECONDS)
        finally:
            try:
                if self._link is not None:
                    await self._link.aclose()
            finally:
                try:
                    if self._owner is not None:
                        await self._owner.aclose()
                finally:
                    await self.base.aclose()

    def abort(self) -> None:
        self._closed = True
        self._wake_who_waits()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.abort()
        self.base.abort()
