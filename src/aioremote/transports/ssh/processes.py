"""Far processes over plain ssh sessions: one channel each, told apart by what they announce.

The command line makes the far shell announce its process id and then become the program (`_core.quoting`), so that the
id is also that of the process group, at no extra fork. Everything before the announcement is noise of login files and
is dropped. One long module, since the callbacks of one class are one state machine.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import asyncssh
from anyio.abc import ByteSendStream

from aioremote._core.draining import AGAIN_SECONDS, DRAIN_SECONDS, Drain
from aioremote._core.quoting import MAX_NOISE_BYTES, Announcement, command_line
from aioremote._core.streams import FarInput, Feed
from aioremote.errors import ClosedError, ConnectionLost, RemoteError, UnsupportedError, file_error
from aioremote.protocols import FarProcess, OutputStream
from aioremote.transports.guard import GRACE_SECONDS, Registration
from aioremote.transports.ssh.channels import (
    Channel,
    adopt_session,
    open_session,
    request_agent,
    request_exec,
    request_terminal,
)
from aioremote.transports.ssh.options import WINDOW_BYTES
from aioremote.types import ExitStatus, ProcessSpec

if TYPE_CHECKING:
    from aioremote._core.limits import Slot
    from aioremote.transports.guard import Guard
    from aioremote.transports.ssh.link import Link

__all__ = ["SshProcess"]

_LATE_BYTES = 2 * WINDOW_BYTES  # of output that may be the command's own after its end
_LOOKS = 60  # at output that keeps coming then
_ANSWER_SECONDS = 10.0  # for a server to answer whether there is more
PACKET_BYTES = 64 * 1024
END_OF_INPUT = b"\x04"  # what ends the input of a program on a terminal
_SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


class SshProcess(asyncssh.SSHClientSession[bytes], FarProcess):
    """One session channel as asyncssh's callbacks tell of it."""

    slot: Slot  # of the session, from `open` on

    def __init__(self, link: Link, spec: ProcessSpec) -> None:
        self.pid: int | None = None
        self.stdin: ByteSendStream | None = FarInput(self, self._prompt) if spec.stdin else None
        self._out = Feed(self._hold)
        self._err = Feed(self._hold) if spec.terminal is None else None
        self.stdout: OutputStream = self._out
        self.stderr: OutputStream | None = self._err
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.noise: bytes = b""
        self._link = link
        self._spec = spec
        self._channel: Channel | None = None
        self._announcement: Announcement | None = Announcement(link.nonce)
        self._started: asyncio.Future[None] | None = None
        self._finished: list[asyncio.Future[None]] = []
        self._refusal: Exception | None = None
        self._closed = asyncio.Event()
        self._line = b""
        self._early_errors: bytearray | None = None  # kept while the login shell may turn out to be another
        self._restarting: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._open_error: BaseException | None = None
        self._abandoned = False
        self._can_write: asyncio.Future[None] | None = None
        self._write_held = False
        self._at_line_start = True
        self._whole = False  # whether all of the output has come
        self._drained_bytes = 0
        self._drain = Drain(_LATE_BYTES, most_looks=_LOOKS)
        self._drain_timer: asyncio.TimerHandle | None = None
        self._registration: Registration | None = None
        self._ending = False
        self._exited = False
        self._done = False

    @property
    def args(self) -> list[str]:
        """The far argv, as text."""
        return [os.fsdecode(arg) for arg in self._spec.argv]

    # opening

    def open(self, slot: Slot) -> None:
        """Ask for a channel; once the server has given it, the program is ordered in the same breath.

        Raises:
            ValueError: what was asked for cannot be put into a command line; nothing was sent.
        """
        link = self._link
        self.slot, self._opened, self._open_error = slot, None, None
        # What could not be started a second time waits until another command has shown that SHELL tells the truth.
        sure = link.shell_is_as_told or not self._spec.stdin
        shell = link.login_shell if sure and not link.universal_lines else None
        self._line = self._command_line(shell)
        self._early_errors = None if shell is None or link.shell_is_as_told else bytearray()
        open_session(link.connection, WINDOW_BYTES, PACKET_BYTES, self._answered)

    def _command_line(self, login_shell: str | None) -> bytes:
        spec = self._spec
        return command_line(
            spec.argv, nonce=self._link.nonce, cwd=spec.cwd, env=spec.env or None, login_shell=login_shell
        )

    def _answered(self, channel: Channel, error: BaseException | None) -> None:
        """Take the server's answer to the open request."""
        if error is not None:
            self._open_error = error
            if self._abandoned:  # nobody waits for the answer any more
                self._give_up()
        else:
            self.slot.confirm()
            self._channel = channel
            adopt_session(channel, self)
            if self._abandoned:
                channel.close()
            else:
                self._order(channel)
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _order(self, channel: Channel) -> None:
        spec = self._spec
        if spec.terminal is not None:
            size = (spec.terminal.columns, spec.terminal.rows)
            request_terminal(channel, spec.terminal.term, size, self._without_terminal)
        if self._link.agent_forwarding:
            request_agent(channel)
        request_exec(channel, self._line, self._not_taken)
        if not spec.stdin and spec.terminal is None:
            channel.write_eof()
        elif not spec.stdin:
            channel.write(END_OF_INPUT)

    def _without_terminal(self) -> None:
        self._fail(UnsupportedError(f"{self._link.host}: the server gives no terminal", host=self._link.host))
        self.close_channel()

    def _not_taken(self) -> None:
        self._fail(
            UnsupportedError(f"{self._link.host}: the server runs no commands for this login", host=self._link.host)
        )
        self.close_channel()

    async def opened(self) -> None:
        """Wait until the program has been ordered.

        Raises:
            ChannelOpenError: the server gives no channel; nothing ran.
        """
        if self._channel is None and self._open_error is None and not self._closed.is_set():
            self._opened = asyncio.get_running_loop().create_future()
            await self._opened
        if self._open_error is not None:
            raise self._open_error

    def abandon(self) -> bool:
        """Give the session up while it is being opened: nothing is ordered on it any more.

        Returns:
            Whether that comes too late, so that the program has to be ended.
        """
        self._abandoned = True
        if self._open_error is not None:
            self._give_up()
        return self._channel is not None

    def _give_up(self) -> None:
        self._link.sessions.refused(self.slot)
        self._link.forget(self)

    # what asyncssh calls

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._exited:
            self._drained_bytes += len(data)
        if datatype is not None:
            if self._early_errors is not None:
                self._early_errors += data
                if len(self._early_errors) > MAX_NOISE_BYTES:
                    self._pass_early_errors()
            elif self._err is not None:
                self._err.feed(data)
        elif self._announcement is None:
            self._out.feed(data)
        else:
            self._read_announcement(data)

    def _read_announcement(self, data: bytes) -> None:
        assert self._announcement is not None
        told = self._announcement.feed(data)
        if told is None:
            return
        self._announcement = None
        if self._early_errors is not None:
            self._link.shell_is_as_told = self._link.shell_is_as_told or self._line != self._command_line(None)
            self._pass_early_errors()
        if told.refusal:
            self._refuse(told.refusal)
            return
        self.pid = told.pid if told.pid > 1 else None  # signals to -1 and 0 would go to everybody
        self.noise = told.noise
        self._link.login_shell = told.login_shell
        if self._ending:
            self._end_now()
        elif self._link.guard is not None and self._spec.guarded:
            self._register(self._link.guard)
        if self._started is not None and not self._started.done():
            self._started.set_result(None)
        if told.rest:
            self._out.feed(told.rest)

    def _pass_early_errors(self) -> None:
        early, self._early_errors = self._early_errors, None
        if early and self._err is not None:
            self._err.feed(bytes(early))

    def _refuse(self, name: str) -> None:
        where = os.fsdecode(self._spec.cwd or b"")
        self._fail(file_error(getattr(errno, name, errno.ENOENT), where, host=self._link.host))

    def _fail(self, error: Exception) -> None:
        self._refusal = error
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        for waiter in (self._started, *self._finished):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _register(self, guard: Guard) -> None:
        if self.pid is not None and not self._done:
            self._registration = Registration(guard, self.pid, self._link.guard_after)

    def register_now(self) -> None:
        """Tell the guard, which has just opened, of this command, where it is one that is told."""
        if self._registration is not None:
            self._registration.tell()

    def eof_received(self) -> bool:
        self._whole = True
        if self._announcement is None:
            self._out.end()
            if self._err is not None:
                self._err.end()
        return True

    def exit_status_received(self, status: int) -> None:
        self._exit(ExitStatus(status))

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: FBT001
        name = signal.partition("@")[0]
        self._exit(ExitStatus(-int(_SIGNALS.get(name, 99)), name, core_dumped))

    def _exit(self, status: ExitStatus) -> None:
        self.status = status
        self._exited = True
        self._forget()
        self._release_writer()
        self._look_later(DRAIN_SECONDS)

    def _look_later(self, seconds: float) -> None:
        self._drain_timer = asyncio.get_running_loop().call_later(seconds, self._stop_draining)

    def _stop_draining(self) -> None:
        """Close the channel where the program has ended and another process still holds its output open.

        As long as output comes in it may be the program's own on a slow link, of which a window can be on the way.
        """
        if self._done:
            return
        slow = self._out.holding or (self._err is not None and self._err.holding)
        if self._drain.is_over(self._drained_bytes, slow=slow):
            self.output_held = True
            self._finish()
            self.close_channel()
        elif self._drain.is_quiet and not self._link.parting:
            self._link.spawn(self._ask_for_more(self._drain), "rest of an output")
        else:
            self._look_later(DRAIN_SECONDS)

    async def _ask_for_more(self, drain: Drain) -> None:
        """Wait for the server's answer to something else: what it had of the output comes before that."""
        with suppress(RemoteError, asyncssh.Error, OSError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._link.ping()
        if self._drain is drain and not self._done:
            self._look_later(AGAIN_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, confirmed by the server, or the connection is gone."""
        self._channel = None
        if exc is None and self._link.connection.loss is None and not self._link.parting:
            self._whole = True  # closed by the server, without saying first that the output has ended
        self.slot.release()
        if self._was_misread():
            self._link.universal_lines = True
            self._restarting = self._link.spawn(self._start_again(), "second start of a command")
        else:
            self._release()

    def _release(self) -> None:
        self._closed.set()
        self._link.forget(self)
        self._finish()

    def _was_misread(self) -> bool:
        """Whether the login shell is another than its SHELL says, so that it ran nothing and only complained."""
        if self._announcement is None or self._early_errors is None or self.status is None:
            return False
        given_up = self._ending or self._abandoned or self._link.parting
        if given_up or not self._whole or self.status.signal is not None:
            return False
        try:
            return self._line != self._command_line(None)
        except ValueError:  # too long in that form
            return False

    async def _start_again(self) -> None:
        """Order the same program by a line that every shell understands; the complaint is dropped."""
        self._announcement, self._early_errors = Announcement(self._link.nonce), None
        self.status, self._exited, self._whole, self._drained_bytes = None, False, False, 0
        self._drain = Drain(_LATE_BYTES, most_looks=_LOOKS)
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        try:
            await self._link.open(self)
        except RemoteError as error:
            self._fail(error)
        finally:
            self._restarting = None
            if self._channel is None:
                self._release()

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        self._pass_early_errors()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
        self._forget()
        self._release_writer()
        error = None if self.status is not None and (self._whole or self.output_held) else self.lost()
        self._out.end(error)
        if self._err is not None:
            self._err.end(error)
        self._tell_waiters()

    def _forget(self) -> None:
        if self._registration is not None:
            self._registration.forget(ending=self._ending)

    def lost(self) -> ConnectionLost:
        """Return the error that stands for an end without status."""
        return self._link.lost("unknown", self.args)

    # flow

    def _hold(self, held: bool) -> None:  # noqa: FBT001  # a Feed's callback
        if self._channel is None:
            return
        if held:
            self._channel.pause_reading()
        elif not (self._out.holding or (self._err is not None and self._err.holding)):
            self._channel.resume_reading()

    def pause_writing(self) -> None:
        self._write_held = True

    def resume_writing(self) -> None:
        self._write_held = False
        self._release_writer()

    def _release_writer(self) -> None:
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    async def write(self, data: bytes) -> None:
        """Write to the far standard input, and wait while the far side is slow."""
        channel = self._writable()
        channel.write(data)
        self._at_line_start = data.endswith(b"\n") if data else self._at_line_start
        while self._write_held and not self._exited and not channel.is_closing():
            self._can_write = asyncio.get_running_loop().create_future()
            try:
                await self._can_write
            finally:
                self._can_write = None
        self._writable()

    def _writable(self) -> Channel:
        if self._exited or self._channel is None or self._channel.is_closing():
            raise anyio.BrokenResourceError
        return self._channel

    def write_eof(self) -> None:
        """End the far standard input; on a terminal that is a typed character."""
        if self._channel is None or self._channel.is_closing():
            return
        if self._spec.terminal is not None:  # in the middle of a line, the first one only hands the line over
            self._channel.write(END_OF_INPUT if self._at_line_start else END_OF_INPUT * 2)
        else:
            self._channel.write_eof()

    # FarProcess

    async def started(self) -> None:
        if self._announcement is not None and not self._done:
            self._started = asyncio.get_running_loop().create_future()
            await self._started
        if self._refusal is not None:
            raise self._refusal
        self._check_announced()
        if self._announcement is not None:
            raise self.lost()

    def _check_announced(self) -> None:
        """Raise where the session has ended and our line never ran: a forced command, or a login without a shell."""
        if self._ending and self._link.parting:
            raise ClosedError(
                f"{self._link.host}: the machine was closed while {self.args[0]} ran", host=self._link.host
            )
        if self.status is None or self._announcement is None or not (self._whole or self.output_held):
            return  # of a link that was cut, the announcement may be what is missing
        self._link.universal_lines = True
        said = self._announcement.noise.decode("utf-8", "replace").strip()[-500:]
        text = f"{self._link.host}: the login ran something else than was asked, status {self.status.returncode}"
        raise UnsupportedError(text + (f": {said}" if said else ""), host=self._link.host)

    async def wait(self) -> ExitStatus:
        if not self._done and self._refusal is None:
            await self._wait_finished()
        if self._refusal is not None:
            raise self._refusal
        self._check_announced()
        if self.status is None:
            raise self.lost()
        if not self._whole and not self.output_held:  # sshd may tell the status before the last of the output
            raise self._link.lost("finished", self.args)
        return self.status

    async def _wait_finished(self) -> None:
        finished = asyncio.get_running_loop().create_future()
        self._finished.append(finished)
        try:
            await finished
        finally:
            self._finished.remove(finished)

    def send_signal(self, name: str) -> None:
        name = name.removeprefix("SIG")
        if name not in _SIGNALS:
            raise ValueError(f"no signal named {name!r}: give a name such as 'TERM' or 'INT'")
        if self._done or self._exited:
            return
        if self.pid is not None and self._link.guard is not None:
            self._link.guard.signal(self.pid, name)
        elif self._channel is not None:
            self._channel.send_signal(name)

    def end(self) -> None:
        if self._ending or self._done:
            return
        self._ending = True
        self._forget()
        if self._restarting is not None:
            self._restarting.cancel()
        elif self.pid is not None:
            self._end_now()
        elif self._channel is not None:  # still in the login files: nothing is known but the channel
            self.signal_channel("TERM")
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self.close_channel)

    def _end_now(self) -> None:
        self._link.spawn(self._end_tree(), f"end of {self.pid}")

    async def _end_tree(self) -> None:
        assert self.pid is not None
        await self._link.end_group(self.pid, self)
        if not await self.closed_within(DRAIN_SECONDS):  # something outside the group holds the output open
            self.close_channel()

    async def closed_within(self, seconds: float) -> bool:
        """Wait until the server has confirmed the close, at most `seconds`; returns whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        return self._closed.is_set()

    def close_channel(self) -> None:
        """Close the channel, whatever the far program does."""
        if self._channel is not None:
            self._channel.close()

    def _prompt(self) -> Callable[[bytes], None] | None:
        """Return what writes at once, where nothing holds the input back."""
        held = self._write_held or self._exited or self._channel is None or self._spec.terminal is not None
        return None if held else self.write_now

    def write_now(self, data: bytes) -> None:
        """Write a few bytes without waiting (the guard's orders)."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data)

    def signal_channel(self, name: str) -> None:
        """Ask the ssh server itself for a signal (OpenSSH refuses this to root logins)."""
        if self._channel is not None:
            self._channel.send_signal(name)

    def resize(self, columns: int, rows: int) -> None:
        if self._channel is not None and self._spec.terminal is not None:
            self._channel.change_terminal_size(columns, rows)

    async def aclose(self) -> None:
        for stream in (self._out, self._err):
            if stream is not None:
                await stream.aclose()  # asyncssh does not see the channel's close while it is held back
        if not self._done:
            self.end()
        await self._closed.wait()
