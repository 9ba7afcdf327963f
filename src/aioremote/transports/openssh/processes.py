"""Far processes over a master: one connection to its control socket and three pipes each.

The command line is that of every ssh road (`_core.quoting`): it tells its process id behind a nonce and becomes the
program. What the control socket does not tell: by which signal a program ended that nobody here has signalled, and,
where it ends without a status, whether the program or the link has: the master is asked then. One long module, since
the callbacks of one class are one state machine, as in `ssh.processes`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import termios
import tty
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteSendStream

from aioremote._core.draining import DRAIN_SECONDS, Drain
from aioremote._core.quoting import Announcement, command_line
from aioremote._core.streams import FarInput, Feed
from aioremote.errors import ClosedError, ConnectionLost, UnsupportedError, file_error
from aioremote.protocols import FarProcess, OutputStream
from aioremote.transports.guard import GRACE_SECONDS, Registration
from aioremote.transports.openssh.control import BACKLOG_PAUSE_SECONDS, Control
from aioremote.transports.openssh.mux import Kind, Reply, new_session
from aioremote.transports.openssh.pipes import PipeReader, PipeWriter
from aioremote.types import ExitStatus, ProcessSpec

if TYPE_CHECKING:
    from aioremote._core.limits import Slot
    from aioremote.transports.guard import Guard
    from aioremote.transports.openssh.link import Link

__all__ = ["MuxProcess"]

OPEN_SECONDS = 2.0  # that an end waits for the server's answer; a control connection must not be closed before it
_LATE_BYTES = 4 * 1024 * 1024  # of output that may be a command's own after its end: two windows of OpenSSH's
_LOOKS = 60  # at output that keeps coming then
_MORE_LOOKS = 6  # by how long the session took to open
_END_OF_INPUT = b"\x04"  # what ends the input of a program on a terminal
_UNKNOWN_SIGNAL = "UNKNOWN"
_SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


class MuxProcess(FarProcess):
    """One session of a master."""

    slot: Slot  # of the session, from `open` on

    def __init__(self, link: Link, spec: ProcessSpec) -> None:
        self.pid: int | None = None
        self.stdin: ByteSendStream | None = FarInput(self) if spec.stdin else None
        self._out = Feed(self._hold)
        self._err = Feed(self._hold) if spec.terminal is None else None
        self.stdout: OutputStream = self._out
        self.stderr: OutputStream | None = self._err
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.noise: bytes = b""
        self._link = link
        self._spec = spec
        self._control: Control | None = None
        self._input: PipeWriter | None = None
        self._outputs: list[tuple[Feed, PipeReader]] = []
        self._terminal: int | None = None  # the near end of a terminal that lends the far one its size
        self._announcement: Announcement | None = Announcement(link.nonce)
        self._opened: asyncio.Future[None] | None = None
        self._open_error: Exception | None = None
        self._answered = False
        self._is_ordered = False
        self.is_open: bool = False  # whether the server has given the session
        self._started: asyncio.Future[None] | None = None
        self._finished: list[asyncio.Future[None]] = []
        self._refusal: Exception | None = None
        self._closed = asyncio.Event()  # the session is, as the master says
        self._can_write: asyncio.Future[None] | None = None
        self._write_held = False
        self._at_line_start = True
        self._registration: Registration | None = None
        self._sent_signals: set[str] = set()
        self._ended_at = float("inf")
        self._ending = False
        self._lost_output = False
        self._ordered_at = self._opening_seconds = 0.0
        self._drain: Drain | None = None
        self._earlier_bytes = 0
        self._done = False

    @property
    def args(self) -> list[str]:
        """The far argv, as text."""
        return [os.fsdecode(arg) for arg in self._spec.argv]

    # opening

    async def open(self, slot: Slot) -> bool:
        """Order the program, unless `order` has; returns whether the server gave the session.

        Raises:
            ValueError: what was asked for cannot be put into a command line; nothing was sent.
            OSError: the master is gone, or this process may open no more files.
        """
        while not self._is_ordered and not self.order(slot):  # noqa: ASYNC110  # there is nothing to wait for
            await asyncio.sleep(BACKLOG_PAUSE_SECONDS)
        await self._wait_answered()
        if self._open_error is not None:
            raise self._open_error
        return self.is_open

    def order(self, slot: Slot) -> bool:
        """Order the program now; returns whether the master's queue had room. Raises as `open` does."""
        spec, self.slot = self._spec, slot
        line = command_line(spec.argv, nonce=self._link.nonce, cwd=spec.cwd, env=spec.env or None)
        message = new_session(0, line, term=None if spec.terminal is None else spec.terminal.term)
        near = self._link.take_connection()
        if near is None:
            return False
        self._control = control = Control(self._replied, self._ended, self._link.watch)
        control.adopt(near)
        try:
            ends = self._open_pipes()
            control.greet(message, ends, lent=[self._link.pipes.null, *ends[1:]])
        except BaseException:
            self._release_pipes()
            control.close()
            raise
        self._is_ordered = True
        self._ordered_at = asyncio.get_running_loop().time()
        return True

    async def _wait_answered(self) -> None:
        """Wait for the server's answer; the master dies of a caller who has gone before it."""
        while not self._answered:
            self._opened = asyncio.get_running_loop().create_future()
            await self._opened

    def _open_pipes(self) -> list[int]:
        """Open what the master is to read and write; returns its ends."""
        pipes = self._link.pipes
        ends: list[int] = []
        for feed in (self._out, self._err):
            if feed is None:
                ends.append(pipes.null)
                continue
            pipe = pipes.take(self._read_announcement if feed is self._out else feed.feed, self._check_finished)
            ends.append(pipe.far)
            self._outputs.append((feed, pipe))
        return [self._input_end(), *ends]

    def _input_end(self) -> int:
        if self._spec.terminal is not None:
            self._terminal, far = os.openpty()
            termios.tcsetwinsize(far, (self._spec.terminal.rows, self._spec.terminal.columns))
            self._input = PipeWriter(self._terminal, self._input_is_full, owns=False)
            return far
        if not self._spec.stdin:
            return self._link.pipes.null
        far, near = os.pipe()
        self._input = PipeWriter(near, self._input_is_full)
        return far

    # what the master says

    def _replied(self, reply: Reply) -> None:
        if reply.kind is Kind.EXIT_MESSAGE:
            self._exit(ExitStatus(reply.number))
        elif reply.kind is Kind.SESSION_OPENED:
            self.is_open = True
            self._opening_seconds = asyncio.get_running_loop().time() - self._ordered_at
            self.slot.confirm()
            if self._terminal is not None:
                self._prepare_terminal(self._terminal)
            self._tell_opened()
        elif reply.kind is Kind.TTY_ALLOC_FAIL:
            self._fail(UnsupportedError(f"{self._link.host}: the server gives no terminal", host=self._link.host))
            self.end()
        elif not self.is_open:
            self._refused()

    def _prepare_terminal(self, near: int) -> None:
        """Have what is typed go through as it is, now that the far terminal has got this one's modes."""
        tty.setraw(near)
        if not self._spec.stdin and self._input is not None:
            self._input.write(_END_OF_INPUT)

    def _refused(self) -> None:
        self._release_pipes()
        if self._control is not None:
            self._control.close()
        self._tell_opened()

    def _tell_opened(self) -> None:
        self._answered = True
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _ended(self) -> None:
        """The master has closed the session, or is gone."""
        if not self.is_open:
            self._open_error = self._link.lost("not_started", self.args)
            self._refused()
            return
        self._closed.set()
        self.slot.release()
        self._link.forget(self)
        self._drain_pipes()
        if self.status is not None and not self._outputs:
            self._finish()
        elif self.status is not None or not self._link.control.is_alive():
            self._tell_started()
            self._check_finished()
        else:
            self._tell_started()
            self._link.spawn(self._find_out(), "how a command ended")

    def _drain_pipes(self) -> None:
        """Read the last of the output: a master closes a session when it has written all."""
        for output in list(self._outputs):
            if output[1].drain():
                self._outputs.remove(output)
                self._link.pipes.give(output[1])

    async def _find_out(self) -> None:
        """Tell a killed command from a lost link."""
        if await self._link.is_alive() and self.status is None:
            name = self._signal_sent()
            self._exit(ExitStatus(-int(_SIGNALS.get(name, 99)), name))
        self._check_finished()

    def _signal_sent(self) -> str:
        """Return the signal that was sent from here; of several (KILL follows TERM) none, as nobody says which."""
        if asyncio.get_running_loop().time() >= self._ended_at + GRACE_SECONDS:
            self._sent_signals.add("KILL")
        return min(self._sent_signals) if len(self._sent_signals) == 1 else _UNKNOWN_SIGNAL

    def _read_announcement(self, data: bytes) -> None:
        if self._announcement is None:
            self._out.feed(data)
            return
        told = self._announcement.feed(data)
        if told is None:
            return
        self._announcement = None
        if told.refusal:
            where = os.fsdecode(self._spec.cwd or b"")
            self._fail(file_error(getattr(errno, told.refusal, errno.ENOENT), where, host=self._link.host))
            return
        self.pid = told.pid if told.pid > 1 else None  # signals to -1 and 0 would go to everybody
        self.noise = told.noise
        if self._ending:
            self._end_now()
        elif self._link.guard is not None and self._spec.guarded:
            self._register(self._link.guard)
        self._tell_started()
        if told.rest:
            self._out.feed(told.rest)

    def _register(self, guard: Guard) -> None:
        if self.pid is not None and not self._done:
            self._registration = Registration(guard, self.pid, self._link.guard_after)

    def register_now(self) -> None:
        """Tell the guard, which has just opened, of this command, where it is one that is told."""
        if self._registration is not None:
            self._registration.tell()

    def _forget(self) -> None:
        if self._registration is not None:
            self._registration.forget(ending=self._ending)

    def _tell_started(self) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._refusal = error
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        if self._started is not None:
            self._tell_started()
        for waiter in self._finished:
            if not waiter.done():
                waiter.set_result(None)

    # the end

    def _exit(self, status: ExitStatus) -> None:
        self.status = status
        if self._registration is not None:
            self._forget()
        if self._can_write is not None:
            self._release_writer()
        self._link.draining.add(self._stop_draining)

    def _stop_draining(self) -> None:
        """Give up the output where the program has ended and another process still holds it open."""
        if self._done:
            return
        count = sum(pipe.read_bytes for _, pipe in self._outputs)
        if self._drain is None:
            quiet = 2 + min(_MORE_LOOKS, int(self._opening_seconds / DRAIN_SECONDS))  # a long road takes longer
            self._drain, self._earlier_bytes = Drain(_LATE_BYTES, most_looks=_LOOKS, quiet_looks=quiet), count
        slow = any(feed is not None and feed.holding for feed in (self._out, self._err))
        if not self._drain.is_over(count - self._earlier_bytes, slow=slow):
            self._link.draining.add(self._stop_draining)
            return
        self.output_held = True
        self._finish()
        self.close_session()

    def _check_finished(self) -> None:
        """Finish once the session is closed and all of the output has come."""
        if self._done or any(pipe.is_open for _, pipe in self._outputs):
            return
        if self._closed.is_set() and (self.status is not None or not self._link.control.is_alive()):
            self._finish()

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        link = self._link
        link.draining.remove(self._stop_draining)
        if self._registration is not None:
            self._forget()
        if self._can_write is not None:
            self._release_writer()
        whole = self.status is not None and (self.output_held or link.control.is_alive())
        error = None if whole else self.lost()
        self._lost_output = not whole
        self._out.end(error)
        if self._err is not None:
            self._err.end(error)
        self._tell_waiters()
        self._release_pipes()

    def _release_pipes(self) -> None:
        for _, pipe in self._outputs:
            pipe.close()
        self._outputs.clear()
        if self._input is not None:
            self._input.close()
        near, self._terminal = self._terminal, None
        if near is not None:
            os.close(near)

    def lost(self) -> ConnectionLost:
        """Return the error that stands for an end without status."""
        return self._link.lost("unknown" if self.status is None else "finished", self.args)

    def close_session(self) -> None:
        """Let go of the session, whatever the far program does: it sees the end of its input and broken pipes."""
        control, self._control = self._control, None
        if control is not None and self.is_open and not self._closed.is_set():
            control.close()
            self._closed.set()
            self.slot.release()
            self._link.forget(self)
            self._release_pipes()
            self._finish()

    # flow

    def _hold(self, _: bool) -> None:  # noqa: FBT001  # a Feed's callback
        for feed, pipe in self._outputs:
            pipe.hold(held=feed.holding)

    def _input_is_full(self, full: bool) -> None:  # noqa: FBT001
        self._write_held = full
        if not full:
            self._release_writer()

    def _release_writer(self) -> None:
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    async def write(self, data: bytes) -> None:
        """Write to the far standard input, and wait while the far side is slow."""
        pipe = self._writable()
        pipe.write(data)
        self._at_line_start = data.endswith(b"\n") if data else self._at_line_start
        while self._write_held and self.status is None and pipe.is_open:
            self._can_write = asyncio.get_running_loop().create_future()
            try:
                await self._can_write
            finally:
                self._can_write = None
        self._writable()

    def _writable(self) -> PipeWriter:
        if self.status is not None or self._input is None or not self._input.is_open:
            raise anyio.BrokenResourceError
        return self._input

    def write_now(self, data: bytes) -> None:
        """Write a few bytes without waiting (the guard's orders)."""
        if self._input is not None:
            self._input.write(data)

    def write_eof(self) -> None:
        """End the far standard input; on a terminal that is a typed character."""
        if self._input is None:
            return
        if self._terminal is None:
            self._input.finish()
        else:  # in the middle of a line, the first one only hands the line over
            self._input.write(_END_OF_INPUT if self._at_line_start else _END_OF_INPUT * 2)

    # FarProcess

    async def started(self) -> None:
        while self._announcement is not None and not self._done and self._refusal is None:
            self._started = self._started or asyncio.get_running_loop().create_future()
            await asyncio.wait({self._started})
            if self._closed.is_set():
                await self._wait_finished()
                break
        if self._refusal is not None:
            raise self._refusal
        self._check_announced()
        if self._announcement is not None:
            raise self.lost()

    def _check_announced(self) -> None:
        """Raise where the session has ended and our line never ran: a forced command, or a login without a shell."""
        host = self._link.host
        if self._ending and self._link.parting:
            raise ClosedError(f"{host}: the machine was closed while {self.args[0]} ran", host=host)
        if self.status is None or self._announcement is None or self._lost_output:
            return  # of a link that was cut, the announcement may be what is missing
        said = self._announcement.noise.decode("utf-8", "replace").strip()[-500:]
        text = f"{host}: the login ran something else than was asked, status {self.status.returncode}"
        raise UnsupportedError(text + (f": {said}" if said else ""), host=host)

    async def wait(self) -> ExitStatus:
        await self._wait_finished()
        if self._refusal is not None:
            raise self._refusal
        self._check_announced()
        if self.status is None or self._lost_output:
            raise self.lost()
        return self.status

    async def _wait_finished(self) -> None:
        if self._done or self._refusal is not None:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished.append(finished)
        try:
            await finished
        finally:
            self._finished.remove(finished)

    def send_signal(self, name: str) -> None:
        name = name.removeprefix("SIG")
        if name not in _SIGNALS:
            raise ValueError(f"no signal named {name!r}: give a name such as 'TERM' or 'INT'")
        if self._done or self.status is not None or self.pid is None or self._link.guard is None:
            return
        self._sent_signals.add(name)
        self._link.guard.signal(self.pid, name)

    def end(self) -> None:
        if self._ending or self._done:
            return
        self._ending = True
        self._ended_at = asyncio.get_running_loop().time()
        self._sent_signals.add("TERM")
        self._forget()
        if self.pid is not None:
            self._end_now()
        elif self.is_open:  # still in the login files: nothing is known but the session
            asyncio.get_running_loop().call_later(OPEN_SECONDS, self._give_up_unless_told)

    def _give_up_unless_told(self) -> None:
        if self.pid is None:
            self.close_session()

    def _end_now(self) -> None:
        self._link.spawn(self._end_tree(), f"end of {self.pid}")

    async def _end_tree(self) -> None:
        assert self.pid is not None
        await self._link.end_group(self.pid)
        if not await self.closed_within(GRACE_SECONDS):  # something outside the group holds the output open
            self.close_session()

    async def closed_within(self, seconds: float) -> bool:
        """Wait until the session is closed, at most `seconds`; returns whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        return self._closed.is_set()

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None:
            termios.tcsetwinsize(self._terminal, (rows, columns))
            self._link.tell_window_change()

    async def aclose(self) -> None:
        for stream in (self._out, self._err):
            if stream is not None:
                await stream.aclose()
        if not self._is_ordered:
            return
        await self._wait_answered()
        if not self.is_open:
            return
        if not self._done:
            self.end()
        await self._closed.wait()
        if not self._done and self.status is None:
            await self._wait_finished()
        self._finish()
