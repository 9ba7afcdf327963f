"""A master that is up and everything that goes through it: sessions, their limit, the guard, requests of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from aioremote._core.deadline import Reminders
from aioremote._core.draining import DRAIN_SECONDS
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.limits import SessionLimit, refusal_pauses
from aioremote.errors import ClosedError, ConnectionLost, RemoteError, UnsupportedError
from aioremote.transports.guard import GUARD_AFTER_SECONDS, Guard, GuardHome, GuardProcess, end_script
from aioremote.transports.openssh.control import Control, dial
from aioremote.transports.openssh.mux import Reply, alive_check
from aioremote.transports.openssh.pipes import PipePool
from aioremote.transports.openssh.processes import MuxProcess
from aioremote.transports.openssh.watch import Watch, quick_watch
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote._core.limits import Slot
    from aioremote.transports.openssh.master import Master
    from aioremote.transports.openssh.settings import OpenSshSettings

__all__ = ["Dependent", "Link"]


class Dependent(Protocol):
    """What ends with a link."""

    def link_ended(self) -> None:
        """Take note that the master has ended."""
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...


T = TypeVar("T")
CLOSE_SECONDS = 2.0
_ENDS_WITHIN_SECONDS = 1.4  # all processes, counted from the beginning of a close


class Link(GuardHome):
    """What lives on one master.

    Attributes:
        host: the machine's name, for errors.
        path: of the control socket.
        master: the private one, which ends with this; None for somebody else's.
        control: the connection that tells of the master's end; requests that are no sessions go over it.
        nonce: marks what our own far lines print; not to be guessed from outside.
        sessions: how many may be open at once, as far as learnt.
        guard: ends far process trees.
        parting: whether this end has begun to close it.
        closing: the same for the guard, which is needed until all programs have ended.
        dial_again: opens a second connection to the same server; None where that is not ours to do.
        on_loss: called once when the master has gone.
        watch: tells of what comes on the sockets and pipes of commands.
        pipes: what commands borrow.
        draining: reminds of output that another process holds open after the command's own end.
    """

    def __init__(self, host: str, path: str, settings: OpenSshSettings, master: Master | None) -> None:
        self.host = host
        self.path = path
        self.master = master
        self.control: Control = Control(self._answered, self._ended)
        self.nonce: str = secrets.token_hex(8)
        self.sessions: SessionLimit = SessionLimit(settings.max_sessions)
        self.sessions.set_reserved(1)
        self.guard_after: float = GUARD_AFTER_SECONDS if settings.guard == "auto" else 0.0
        self.guard: Guard | None = Guard(self, 2 * settings.keepalive * settings.keepalive_count)
        self.parting: bool = False
        self.closing: bool = False
        self.dial_again: Callable[[], Awaitable[Link]] | None = None
        self.on_loss: Callable[[], None] | None = None
        self.watch: Watch = quick_watch()
        self.pipes: PipePool = PipePool(self.watch)
        self.draining: Reminders = Reminders(DRAIN_SECONDS)
        self._settings = settings
        self._owner = Owner(f"openssh to {host}")
        self._processes: set[MuxProcess] = set()
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._streams: set[Dependent] = set()
        self._master_pid = 0
        self._guard_process: MuxProcess | None = None
        self._spare: socket.socket | None = None

    async def begin(self) -> None:
        """Connect to the master.

        Raises:
            OSError: there is none.
            ConnectionLost: what answers is none, or it went.
        """
        await self.control.connect(self.path)
        number = next(self._numbers)
        answer = self._expect(number)
        self.control.greet(alive_check(number))
        self._master_pid = (await answer).number
        if self._settings.guard == "always" and self.guard is not None:
            self.guard.want()

    # requests of its own

    def _expect(self, number: int) -> asyncio.Future[Reply]:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        answer.add_done_callback(lambda _: self._asked.pop(number, None))
        return answer

    async def ask(self, make: Callable[[int], bytes]) -> Reply:
        """Send a request, made with the number given, and return the master's reply.

        Raises:
            ConnectionLost: the master is gone.
        """
        if not self.control.is_open:
            raise self.lost("not_started")
        number = next(self._numbers)
        answer = self._expect(number)
        self.control.send(make(number))
        return await answer

    def _answered(self, reply: Reply) -> None:
        answer = self._asked.get(reply.request)
        if answer is not None and not answer.done():
            answer.set_result(reply)

    def _ended(self) -> None:
        for answer in list(self._asked.values()):
            if not answer.done():
                answer.set_exception(self.lost("unknown"))
        for stream in list(self._streams):
            stream.link_ended()
        if self.on_loss is not None and not self.parting:
            self.on_loss()

    def take_connection(self) -> socket.socket | None:
        """Return a connection to the master for a session; None where its queue has no room now.

        One is made in advance: it has been accepted and greeted by the time that it is needed.

        Raises:
            OSError: there is no master, or this process may open no more files.
        """
        near, self._spare = self._spare or dial(self.path), None
        if near is not None:
            with suppress(OSError):
                self._spare = dial(self.path)
        return near

    async def is_alive(self) -> bool:
        """Ask the master whether it lives."""
        try:
            await self.ask(alive_check)
        except ConnectionLost:
            return False
        return True

    def tell_window_change(self) -> None:
        """Have the master look for terminals of another size."""
        with suppress(ProcessLookupError, PermissionError):
            if self._master_pid > 1 and self.control.is_alive():
                os.kill(self._master_pid, signal.SIGWINCH)

    def spawn(self, coro: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run something in the background for as long as the master is used."""
        return self._owner.spawn(coro, what)

    def lost(self, outcome: Literal["not_started", "unknown", "finished"], cmd: Sequence[str] = ()) -> ConnectionLost:
        """Return the error for what the end of the master left undone."""
        said = self.master.said() if self.master is not None else ""
        reason = "keepalive" if "not responding" in said else "protocol" if self.control.fault else "closed"
        what = f" while running {cmd[0]}" if cmd else ""
        detail = str(self.control.fault or said)
        message = f"{self.host}: the OpenSSH master has ended{what}{f' ({detail})' if detail else ''}"
        return ConnectionLost(
            f"{message}; no exit status came", host=self.host, outcome=outcome, reason=reason, cmd=cmd
        )

    # starting

    async def start(self, spec: ProcessSpec) -> MuxProcess:
        """Start a program on a session of its own, waiting for a free one where the server limits them."""
        again = False
        for pause in refusal_pauses():
            if self.sessions.in_use and self.guard is not None:
                self.guard.want()
            slot = await self.sessions.acquire(again=again)
            if self.parting:
                slot.release()
                raise ClosedError(f"{self.host}: the machine was closed before its turn came", host=self.host)
            process = await self._open(MuxProcess(self, spec), slot)
            if process is not None:
                return process
            again = True
            await asyncio.sleep(pause)
        raise self._no_session("it refused each of many tries")

    async def start_unless_full(self, spec: ProcessSpec) -> MuxProcess | None:
        """Start a program where a session is free now; None where the server gives no further one, and nothing ran."""
        if self.sessions.in_use and self.guard is not None:
            self.guard.want()
        slot = self.sessions.take(reserved=False)
        return None if slot is None else await self._open(MuxProcess(self, spec), slot)

    async def _open(self, process: MuxProcess, slot: Slot) -> MuxProcess | None:
        """Order a program on the session that `slot` stands for; None where the server refuses it."""
        self._processes.add(process)
        try:
            opened = await process.open(slot)
        except (
            asyncio.CancelledError
        ):  # the order is out, and the master dies of a caller that does not hear its answer
            await bounded_cleanup(process.aclose(), CLOSE_SECONDS)
            raise
        except BaseException as error:
            self._processes.discard(process)
            slot.release()
            if isinstance(error, OSError) and not isinstance(error, RemoteError):
                raise self._cannot_ask(error, process.args) from error
            raise
        if opened:
            return process
        self._processes.discard(process)
        if self.sessions.refused(slot):
            if self.sessions.maximum == 1 and self.guard is not None:
                self.guard.give_up()
            return None
        raise self._no_session("it refused the first")

    def _cannot_ask(self, error: OSError, cmd: Sequence[str]) -> RemoteError:
        if not self.control.is_alive():
            return self.lost("not_started", cmd)
        text = f"{self.host}: cannot reach the OpenSSH master: {error.strerror}"
        return ConnectionLost(text, host=self.host, outcome="not_started", cmd=cmd)

    def _no_session(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"{self.host}: the server opens no session: {why}", host=self.host)

    def begin_guard(self, spec: ProcessSpec) -> MuxProcess | None:
        """Ask for the guard's session now, before any other's: a burst of commands would leave none."""
        slot = self.sessions.take()
        if slot is None:
            return None
        process = MuxProcess(self, spec)
        try:
            ordered = process.order(slot)
        except OSError:
            ordered = False
        if not ordered:
            slot.release()
            return None
        return process

    async def open_guard(self, spec: ProcessSpec, begun: GuardProcess | None) -> MuxProcess | None:
        """Start the guard's own program on the session kept for it; None where the server has no second session."""
        process = await self._open(begun, begun.slot) if isinstance(begun, MuxProcess) else None
        for pause in refusal_pauses():
            if process is not None:
                self.sessions.set_reserved(0)
                self._processes.discard(process)  # it outlives all others, and ends with the connection
                self._guard_process = process
                return process
            if self.sessions.maximum == 1:
                return None
            await asyncio.sleep(pause)
            process = await self._open(MuxProcess(self, spec), await self.sessions.acquire(reserved=True))
        return None

    def guard_is_open(self) -> None:
        """Have the guard told of the commands that run already."""
        for process in self._processes:
            process.register_now()

    def is_lost(self) -> bool:
        """Whether the master has ended."""
        return not self.control.is_alive()

    def forget(self, process: MuxProcess) -> None:
        """Take note that a process has ended and its session is closed."""
        self._processes.discard(process)

    def keep(self, stream: Dependent) -> None:
        """Have a connection or listener end with the link."""
        self._streams.add(stream)

    def drop(self, stream: Dependent) -> None:
        """Take note that a connection or listener has ended."""
        self._streams.discard(stream)

    # ending

    async def end_group(self, group: int) -> None:
        """End a far process group by the best means there is; return when it is gone or nothing more can be done."""
        if self.guard is not None and not await self.guard.end(group):
            await self._end_from_outside(group)

    async def _end_from_outside(self, group: int) -> None:
        """End a group over a second connection, where there is no session for the guard."""
        if self.dial_again is None or self.is_lost():
            return
        with suppress(RemoteError):
            other = await self.dial_again()
            try:
                process = await other.start(ProcessSpec((b"/bin/sh", b"-c", end_script(group)), stdin=False))
                await process.wait()
            finally:
                await other.aclose()

    async def ping(self) -> float:
        """Return the seconds that an empty session takes: a master forwards nothing smaller."""
        began = time.perf_counter()
        process = await self.start(ProcessSpec((b"/bin/sh", b"-c", b":"), stdin=False, guarded=False))
        await process.wait()
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """End every process, then a master of our own; within `CLOSE_SECONDS`, whatever answers."""
        self.parting = True
        for stream in list(self._streams):
            await stream.aclose()
        try:
            if self.control.is_alive():
                await bounded_cleanup(self._end_all(), _ENDS_WITHIN_SECONDS)
        finally:
            self.closing = True
            try:
                if self.master is not None:
                    await self.master.aclose()
            finally:
                self._let_go()
                await self._owner.aclose()

    async def _end_all(self) -> None:
        for process in list(self._processes):
            process.end()
        for process in list(self._processes):
            await process.aclose()
        if self._guard_process is not None and self.master is None:  # of another's master, nothing is to be left
            self._guard_process.write_eof()
            await self._guard_process.closed_within(GUARD_AFTER_SECONDS)

    def _let_go(self) -> None:
        self.guard = self.dial_again = None  # whatever refers to this link goes with the last that does
        self.control.close()
        for process in (*self._processes, self._guard_process):
            if process is not None:
                process.close_session()
        self.pipes.close()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    def abort(self) -> None:
        """Drop everything at once."""
        self.parting = self.closing = True
        if self.master is not None:
            self.master.abort()
        self._let_go()
