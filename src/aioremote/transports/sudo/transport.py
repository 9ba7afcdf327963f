"""The sudo transport: the same connection as another user.

Programs start through sudo (`door`, `entry`), and a guard that runs as the target user ends them, since a login cannot
signal another user's processes. Connections and listeners are the login's own: sudo has no part in them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from aioremote._core.engines import check_engine
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.names import check_user_name
from aioremote._core.pieces import carry_file
from aioremote.errors import ClosedError
from aioremote.protocols import FarProcess, FileSystem, Transport
from aioremote.transports.guard import Guard, GuardHome, GuardProcess
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.sudo.door import ORDER_SECONDS, Door
from aioremote.transports.sudo.loop import GuardLoop
from aioremote.transports.sudo.process import SudoProcess
from aioremote.transports.tar_files import TarFiles
from aioremote.transports.views import add_view
from aioremote.types import Address, Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.errors import ConnectionLost
    from aioremote.protocols import PasswordProvider
    from aioremote.transports.sudo.entry import Entry, Told

__all__ = ["EnteredTransport", "SudoTransport"]

T = TypeVar("T")
CLOSE_SECONDS = 1.4
GUARD_OPENING_SECONDS = 1.0  # that a second command waits for the guard to get its session first
STARVING_SECONDS = 2.0  # after which the guard gives its session to the only command there is
SILENCE_SECONDS = 90.0


class EnteredTransport(Transport, GuardHome):
    """What lies behind another transport, and is entered anew for every program. The other stays its owner's to close.

    Args:
        inner: how the host is reached.
        address: its own.
        capabilities: its own.
        whose: names it in errors, as "as root".
        silence: seconds without a heartbeat after which the guard takes the link for lost.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        address: Address,
        capabilities: frozenset[Capability],
        whose: str,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.address: Address = address
        self.capabilities: frozenset[Capability] = capabilities
        self.host: str = inner.address.host or "localhost"
        self._whose = whose
        self.closed: bool = False
        self.closing: bool = False  # for the guard, which is needed until all have ended
        self._silence = silence
        self.guard: Guard = Guard(self, silence)
        self._inner = inner
        self._first = asyncio.Lock()
        self._starting = 0
        self._idle = asyncio.Event()
        self.owner: Owner = Owner(str(self.address))
        self._door: Door = self._make_door()
        self._processes: set[SudoProcess] = set()
        self._guarding: GuardLoop | None = None

    def _make_door(self) -> Door:
        """Return what every program has to pass."""
        raise NotImplementedError

    @property
    def state(self) -> str:
        """One of "new", "connecting", "connected", "lost" and "closed"."""
        return "closed" if self.closed else getattr(self._inner, "state", "connected")

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.host}: this machine ({self._whose}) was closed", host=self.host)

    async def connect(self) -> None:
        self._check_open()
        await self._inner.connect()

    # programs

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        self._check_open()
        if self._door.asks is None:
            async with self._first:  # one finds out what sudo wants
                if self._door.asks is None:
                    return await self._start(spec)
        if self._starting or self._processes:  # the guard's session comes first: a burst would leave none
            with suppress(TimeoutError):
                async with asyncio.timeout(GUARD_OPENING_SECONDS):
                    await self.guard.opened()
        return await self._start(spec)

    async def _start(self, spec: ProcessSpec) -> FarProcess:
        self._check_open()
        if self.guard.state == "none" and self._guarding is not None and self._guarding.lost:
            self.guard, self._guarding = Guard(self, self._silence), None  # somebody has connected again
        starving = asyncio.get_running_loop().call_later(STARVING_SECONDS, self._feed_the_starving)
        self._starting += 1
        try:
            process = SudoProcess(self, *await self._door.enter(spec), stdin=spec.stdin, guarded=spec.guarded)
            self._processes.add(process)
        finally:
            starving.cancel()
            self._starting -= 1
            if not self._starting:
                self._idle.set()
        if self.closed:
            await process.aclose()
            self._check_open()
        return process

    def _feed_the_starving(self) -> None:
        """Close the guard where it holds the only session that the server gives."""
        if not self._processes:
            self.guard.give_up()

    async def end_too_late(self, entry: Entry, told: Told) -> None:
        """End a program whose caller has gone meanwhile."""
        await SudoProcess(self, entry, told, stdin=False, guarded=False).aclose()

    def forget(self, process: SudoProcess) -> None:
        """Take note that a process has ended."""
        self._processes.discard(process)

    # the guard's home

    def spawn(self, coro: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        return self.owner.spawn(coro, what)

    def begin_guard(self, spec: ProcessSpec) -> GuardProcess | None:
        return None

    async def open_guard(self, spec: ProcessSpec, begun: GuardProcess | None) -> GuardProcess | None:
        if self._guarding is not None:
            await self._guarding.aclose()
        entry, _ = await self._door.enter(spec)
        self._guarding = GuardLoop(entry, self.owner)
        return self._guarding

    def guard_is_open(self) -> None:
        for process in self._processes:
            process.register_now()

    def is_lost(self) -> bool:
        return self.closing

    # the rest is the login's

    async def open_connection(self, target: Endpoint) -> ByteStream:
        self._check_open()
        return await self._inner.open_connection(target)

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        self._check_open()
        return await self._inner.open_listener(bind)

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "tar"), host=self.host)
        self._check_open()
        return TarFiles(self, self.host)

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        near = os.fsencode(local_path)
        await carry_file(await self.open_files(), os.fsencode(remote_path), LocalFiles(), near)

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        near = os.fsencode(local_path)
        await carry_file(LocalFiles(), near, await self.open_files(), os.fsencode(remote_path))

    async def ping(self) -> float:
        self._check_open()
        return await self._inner.ping()

    async def wait_lost(self) -> ConnectionLost | None:
        if self.closed:
            return None
        lost = self.owner.spawn(self._inner.wait_lost(), "wait for the loss of the connection")
        try:
            await asyncio.wait({lost})
        finally:
            lost.cancel()
        return None if lost.cancelled() else lost.result()

    async def reconnect(self) -> None:
        self._check_open()
        await self._inner.reconnect()

    async def aclose(self) -> None:
        self.closed = True
        try:
            await bounded_cleanup(self._end_all(), CLOSE_SECONDS)
        finally:
            self.closing = True
            await self.owner.aclose()

    async def _end_all(self) -> None:
        if self._starting:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(ORDER_SECONDS):
                    await self._idle.wait()
        processes = list(self._processes)
        for process in processes:
            process.end()
        for process in processes:
            await process.aclose()
        self.closing = True
        if self._guarding is not None:
            await self._guarding.aclose()

    def abort(self) -> None:
        self.closed = True
        for process in self._processes:
            process.end()


class SudoTransport(EnteredTransport):
    """Another user on the host behind another transport, which stays its owner's to close.

    Args:
        inner: how the host is reached.
        user: the target user.
        password: a str, or an async function that gets a PasswordRequest and returns a str; None where sudo asks for
            none.
    """

    def __init__(self, inner: Transport, *, user: str = "root", password: str | PasswordProvider | None = None) -> None:
        check_user_name(user)
        self.user: str = user
        # A value would show in what is dumped of this object.
        self._password: Callable[[], str | PasswordProvider | None] = lambda: password
        super().__init__(
            inner,
            address=replace(inner.address, path=f"{inner.address.path}#sudo:{user}"),
            capabilities=inner.capabilities | {Capability.FILES},
            whose=f"as {user}",
        )
        add_view(inner, self)

    def _make_door(self) -> Door:
        return Door(self._inner, self.user, password=self._password(), owner=self.owner, end=self.end_too_late)
