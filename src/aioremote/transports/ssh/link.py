"""One established connection and everything that lives on it: sessions, their limit, the guard."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import asyncssh

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.limits import SessionLimit, refusal_pauses
from aioremote.errors import ClosedError, ConnectionLost, RemoteError, UnsupportedError
from aioremote.transports.guard import (
    GRACE_SECONDS,
    GUARD_AFTER_SECONDS,
    Guard,
    GuardHome,
    GuardProcess,
    end_script,
)
from aioremote.transports.ssh.client import NO_ANSWER
from aioremote.transports.ssh.processes import SshProcess
from aioremote.transports.ssh.sftp import SftpSession
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote._core.limits import Slot
    from aioremote.transports.ssh.client import Connection
    from aioremote.transports.ssh.settings import SshSettings

__all__ = ["Link"]

T = TypeVar("T")
CLOSE_SECONDS = 2.0
# Of these, counted from the beginning of a close; the rest is left to what the connection goes through.
_ENDS_WITHIN_SECONDS = 1.4  # all processes
_PARTS_WITHIN_SECONDS = 1.6  # the connection


class Link(GuardHome):
    """A connection that is up.

    Attributes:
        host: the machine's name, for errors.
        connection: asyncssh's side.
        nonce: marks what our own far lines print; not to be guessed from outside.
        login_shell: the far login shell once a command has told it.
        shell_is_as_told: whether a command line for such shells has worked.
        sessions: how many may be open at once, as far as learnt.
        parting: whether this end has begun to close it.
        closing: the same for the guard, which is needed until all programs have ended.
        universal_lines: whether only command lines that every shell understands are sent.
        dial_again: opens a second connection to the same server.
        guard: None with ``guard="never"``.
        sftp: its files.
    """

    def __init__(self, host: str, connection: Connection, settings: SshSettings) -> None:
        self.host = host
        self.connection = connection
        self.nonce: str = secrets.token_hex(8)
        self.login_shell: str | None = None
        self.shell_is_as_told: bool = False
        self.sessions: SessionLimit = SessionLimit(settings.max_sessions)
        self.guard_after: float = GUARD_AFTER_SECONDS if settings.guard == "auto" else 0.0
        silence = 2 * settings.keepalive * settings.keepalive_count
        self.guard: Guard | None = None if settings.guard == "never" else Guard(self, silence)
        self.agent_forwarding: bool = settings.agent_forwarding
        self.jumps: AsyncExitStack | None = None  # closed after the connection
        self.parting: bool = False
        self.closing: bool = False
        self.universal_lines: bool = False  # after a login shell turned out not to be what it says
        self.dial_again: Callable[[], Awaitable[Link]] | None = None
        self.sftp: SftpSession = SftpSession(self)
        self._owner = Owner(f"ssh to {host}")
        self._processes: set[SshProcess] = set()
        if self.guard is not None:
            self.sessions.set_reserved(1)
            if settings.guard == "always":
                self.guard.want()

    def spawn(self, coro: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run something in the background for as long as the connection is used."""
        return self._owner.spawn(coro, what)

    def forgive(self, error: BaseException) -> None:
        """Take note that a background failure has been told to whoever waited for it."""
        with suppress(ValueError):
            self._owner.failures.remove(error)

    def lost(self, outcome: Literal["not_started", "unknown", "finished"], cmd: Sequence[str] = ()) -> ConnectionLost:
        """Return the error for what the end of the connection, or of a channel without a status, left undone."""
        error = self.connection.loss
        reason = "closed" if error is None else "keepalive" if str(error) == NO_ANSWER else "reset"
        what = f" while running {cmd[0]}" if cmd else ""
        text = {
            "closed": "the link was closed",
            "keepalive": "the server no longer answers",
            "reset": "the link was lost",
        }
        detail = f" ({error})" if error is not None and str(error) else ""
        message = f"{self.host}: {text[reason]}{what}{detail}; no exit status came"
        return ConnectionLost(message, host=self.host, outcome=outcome, reason=reason, cmd=cmd)

    # starting

    async def start(self, spec: ProcessSpec) -> SshProcess:
        """Start a program on a session of its own, waiting for a free one where the server limits them."""
        process = SshProcess(self, spec)
        await self.open(process)
        return process

    async def start_unless_full(self, spec: ProcessSpec) -> SshProcess | None:
        """Start a program where a session is free now; None where the server gives no further one, and nothing ran."""
        if self.sessions.in_use and self.guard is not None:
            self.guard.want()
        slot = self.sessions.take(reserved=False)
        if slot is None:
            return None
        process = SshProcess(self, spec)
        return process if await self._try_to_open(process, slot) else None

    async def open(self, process: SshProcess) -> None:
        """Get a session for a process and order its program."""
        again = False
        for pause in refusal_pauses():
            if self.sessions.in_use and self.guard is not None:
                self.guard.want()
            slot = await self.sessions.acquire(again=again)
            if self.parting:
                slot.release()
                raise ClosedError(f"{self.host}: the machine was closed before its turn came", host=self.host)
            if await self._try_to_open(process, slot):
                return
            again = True
            await asyncio.sleep(pause)
        raise self._no_session("it refused each of many tries")

    def begin_guard(self, spec: ProcessSpec) -> SshProcess | None:
        """Ask for the guard's session now, before any other's: a burst of commands would leave none."""
        slot = self.sessions.take()
        if slot is None:
            return None
        process = SshProcess(self, spec)
        try:
            process.open(slot)
        except asyncssh.ChannelOpenError:
            slot.release()
            return None
        return process

    async def open_guard(self, spec: ProcessSpec, begun: GuardProcess | None) -> SshProcess | None:
        """Start the guard's own program on the session kept for it; None where the server has no second session."""
        if isinstance(begun, SshProcess) and await self._finish_opening(begun):
            self.sessions.set_reserved(0)
            return begun
        for pause in refusal_pauses():
            if self.sessions.maximum == 1:
                return None
            slot = await self.sessions.acquire(reserved=True)
            process = SshProcess(self, spec)
            if await self._try_to_open(process, slot):
                self.sessions.set_reserved(0)
                self._processes.discard(process)  # it outlives all others, and ends with the connection
                return process
            await asyncio.sleep(pause)
        return None

    def guard_is_open(self) -> None:
        """Have the guard told of the commands that run already."""
        for process in self._processes:
            process.register_now()

    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self.connection.is_closed()

    def _no_session(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"{self.host}: the server opens no session: {why}", host=self.host)

    async def _try_to_open(self, process: SshProcess, slot: Slot) -> bool:
        """Order a program on the session that `slot` stands for; returns whether the server gave that session."""
        self._processes.add(process)
        try:
            process.open(slot)
        except (ValueError, asyncssh.ChannelOpenError) as error:
            self._processes.discard(process)
            slot.release()
            if isinstance(error, ValueError):
                raise
            raise self.lost("not_started", process.args) from error
        return await self._finish_opening(process)

    async def _finish_opening(self, process: SshProcess) -> bool:
        """Wait for the server's answer; returns whether it gave the session."""
        slot = process.slot
        try:
            await process.opened()
        except asyncio.CancelledError:
            if process.abandon():  # too late, the order is out
                await bounded_cleanup(process.aclose(), CLOSE_SECONDS)
            raise
        except asyncssh.ChannelOpenError as error:
            self._processes.discard(process)
            if self.connection.is_closed():
                slot.release()
                raise self.lost("not_started", process.args) from error
            if self.sessions.refused(slot):
                if self.sessions.maximum == 1 and self.guard is not None:
                    self.guard.give_up()
                return False
            raise self._no_session(error.reason) from error
        except BaseException as error:
            self._processes.discard(process)
            slot.release()
            raise self.lost("not_started", process.args) from error
        return True

    def forget(self, process: SshProcess) -> None:
        """Take note that a process has ended and its channel is closed."""
        self._processes.discard(process)

    # ending

    async def end_group(self, group: int, process: SshProcess) -> None:
        """End a far process group by the best means there is; return when it is gone or nothing more can be done."""
        if self.guard is not None and self.guard.state != "open":
            process.signal_channel("TERM")  # costs nothing, and does for all but root's logins on OpenSSH
        if self.guard is not None and (await self.guard.end(group) or await self._end_from_outside(group)):
            return
        process.signal_channel("TERM")
        await process.closed_within(GRACE_SECONDS)
        process.signal_channel("KILL")
        if not await process.closed_within(GRACE_SECONDS):
            process.close_channel()

    async def _end_from_outside(self, group: int) -> bool:
        """End a group over a second connection; returns whether that came about."""
        if self.dial_again is None or self.connection.is_closed():
            return False
        try:
            other = await self.dial_again()
        except RemoteError:
            return False
        try:
            process = await other.start(ProcessSpec((b"/bin/sh", b"-c", end_script(group)), stdin=False))
            await process.wait()
        except RemoteError:
            return False
        finally:
            await other.aclose()
        return True

    def abort(self) -> None:
        """Drop the connection at once."""
        self.connection.abort()

    async def aclose(self) -> None:
        """End every process, then the connection; within `CLOSE_SECONDS`, whatever answers."""
        self.parting = True
        began = asyncio.get_running_loop().time()
        try:
            if not self.connection.is_closed() and self._processes:
                await bounded_cleanup(self._end_all(), _ENDS_WITHIN_SECONDS)
                for process in self._processes:
                    process.signal_channel("KILL")
        finally:
            self.closing = True
            try:
                await self._part(began + _PARTS_WITHIN_SECONDS)
            finally:
                self.guard = self.dial_again = None  # whatever refers to this link goes with the last that does
                await self._owner.aclose()
                if self.jumps is not None:
                    await self.jumps.aclose()

    async def _part(self, by: float) -> None:
        """Close the connection by that time, which takes one turn of the loop unless an agent was asked."""
        if self.connection.part():
            await asyncio.sleep(0)  # in which the socket is closed
            return
        try:
            async with asyncio.timeout_at(by):
                await self.connection.wait_closed()
        except TimeoutError:  # what hangs is ended
            self.connection.abort()

    async def ping(self) -> float:
        """Return the seconds of one round trip (a global request that the server has to refuse)."""
        began = time.perf_counter()
        if not await self.connection.round_trip():
            raise self.lost("finished")
        return time.perf_counter() - began

    async def _end_all(self) -> None:
        for process in list(self._processes):
            process.end()
        for process in list(self._processes):
            await process.aclose()
