"""A far shell that stays: its directory, variables and functions last from one line to the next.

Not for programs that want to talk (`Machine.start`), nor for a single line (`Machine.shell`).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from aioremote._core.deadline import Deadline
from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.streams import CHUNK_BYTES
from aioremote.commands.lookup import find_programs
from aioremote.commands.orders import DEFAULT_OUTPUT_BYTES, Order, make_order
from aioremote.commands.running import CANCEL_SECONDS, TIMEOUT_SECONDS, end_process, finished, judge, too_late
from aioremote.commands.session_text import input_file, line_text, mark_pattern, new_mark, put_line, taking_line
from aioremote.errors import (
    BusyError,
    ClosedError,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    FileError,
    OutputLimitExceeded,
    RemoteError,
    SessionEnded,
    UnsupportedError,
    file_error,
)
from aioremote.types import ExitStatus, PartialResult, Result

if TYPE_CHECKING:
    from aioremote.protocols import FarProcess, OutputStream, Transport

__all__ = ["Session"]

PREPARE_SECONDS = 0.5  # in which an idle shell gets ready for its end
TIDY_SECONDS = 0.5  # in which the input of a line that was cut is removed
MARK_BYTES = 64  # and more than a mark has


class _Stream:
    """One output stream of the shell, cut at the marks.

    Attributes:
        data: what has come for the line that runs.
    """

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._rest = bytearray()  # what came after the last mark, from programs in the background
        self.data = bytearray()

    def begin(self) -> None:
        """Begin another line's output."""
        self.data, self._rest = self._rest, bytearray()

    def put_back(self) -> None:
        """Leave what has come to the next line."""
        self.data, self._rest = bytearray(), self.data + self._rest

    async def read_until(self, mark: bytes, is_full: Callable[[], bool]) -> int | None:
        """Read up to a mark; returns the status with it, None where there is none: at the end, or when it is full."""
        pattern = mark_pattern(mark)
        searched = 0
        while (found := pattern.search(self.data, searched)) is None:
            if is_full():
                return None
            searched = max(0, len(self.data) - MARK_BYTES)
            try:
                self.data += await self._stream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, ConnectionLost):
                return None
        self._rest, self.data = self.data[found.end() :], self.data[: found.start()]
        return int(found[1])


class Session:
    """A persistent far shell: ``async with m.session() as sh: await sh.run("cd /tmp; x=1")``.

    Leaving the block ends the shell and what its lines have left running. A shell that waits for its next line first
    runs its exit trap; all get TERM, and after half a second KILL.

    Concurrency: one line at a time, else BusyError. Several sessions of one machine run side by side.

    Attributes:
        host: the machine's name.
        shell: the shell, as it was given.
    """

    def __init__(self, transport: Transport, order: Order, host: str, *, shell: str, mark: bytes) -> None:
        self.host = host
        self.shell = shell
        self._transport = transport
        self._order = order
        self._mark = mark
        self._far: FarProcess | None = None
        self._streams: list[_Stream] = []
        self._running = False
        self._input = b""  # the far name of the input file that there may be
        self._over = "is not open: use `async with`"

    @property
    def pid(self) -> int:
        """The shell's far process id; -1 before it is open."""
        return self._far.pid if self._far is not None and self._far.pid is not None else -1

    # opening and closing

    async def __aenter__(self) -> Self:
        if self._far is not None:
            raise ClosedError(f"{self.host}: a session is opened once; make another one", host=self.host)
        connected = False
        try:
            async with asyncio.timeout(self._order.timeout):
                await self._transport.connect()
                connected = True
                self._far = await self._transport.start_process(self._order.spec)
                await self._begin(self._far)
        except BaseException as error:
            await end_process(self._far, error, CANCEL_SECONDS)
            if isinstance(error, TimeoutError) and not isinstance(error, RemoteError):
                raise too_late(self._order, self.host, connected=connected) from error
            raise
        self._over = ""
        return self

    async def _begin(self, far: FarProcess) -> None:
        """Wait until the shell is about to begin; what came before is noise."""
        self._streams = [_Stream(stream) for stream in (far.stdout, far.stderr) if stream is not None]
        if await self._read(self._mark, DEFAULT_OUTPUT_BYTES) is not None:
            return
        status = await far.wait()
        if status.returncode == 127:
            found = await find_programs(self._transport, [os.fsencode(self.shell)], self._order)
            raise CommandNotFound([self.shell], host=self.host, path=found.path)
        raise await self._ended(self._order, self._partial(self._order, asyncio.get_running_loop().time()))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the shell and what its lines have left running, at the latest after 3 s. May be called twice."""
        idle = not (self._over or self._running)
        self._over = self._over or "was closed"
        if self._far is None:
            return
        try:
            if idle:
                await bounded_cleanup(self._prepare_end(self._far), PREPARE_SECONDS)
        finally:
            await end_process(self._far, asyncio.CancelledError(), CANCEL_SECONDS)

    async def _prepare_end(self, far: FarProcess) -> None:
        """Let the shell outlive the TERM that goes to its whole group, and end by the end of its input."""
        await self._exchange(b"trap : TERM", DEFAULT_OUTPUT_BYTES)
        far.end()
        if far.stdin is not None:
            await far.stdin.aclose()

    # running

    async def run(
        self,
        line: str | bytes,
        *,
        input: str | bytes | None = None,  # noqa: A002  # subprocess's name for it
        check: bool = True,
        timeout: float | None = None,
        ok_codes: Iterable[int] = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        errors: str = "replace",
    ) -> Result:
        """Run shell text, of one or several lines, and return its result. What it changes in the shell stays.

        What an ``exec`` does to standard input, output and error holds until the end of the text only. Programs that
        earlier ones left in the background write into the output of the one that runs.

        Args:
            line: text for the shell. Put no unchecked text into it.
            input: what its commands read on standard input; None for nothing. Meant for little: it travels as text,
                and lies in a far file that only the login can read and that is gone before the commands begin.
            check, ok_codes, max_output_bytes, errors: as in `Machine.run`.
            timeout: seconds for this text; None for no limit.

        Returns:
            Result: ``args`` is ``(shell, "-c", line)``, returncode what the shell has in ``$?``: 128 and more for a
                program that was ended by a signal. With a terminal stderr is part of stdout.

        Raises:
            CommandFailed: a status that is not in `ok_codes`. The session goes on, also after a syntax error.
            SessionEnded: the shell itself has ended: ``exit``, ``exec``, a signal, ``set -e``, or an error after which
                this shell does not go on (bash and zsh: ``${x?}``; mksh: a syntax error).
            CommandTimeout, OutputLimitExceeded: as from `Machine.run`; the session is over.
            FileError: there is no place for the `input`; nothing ran.
            BusyError: another call of this session runs.
            ClosedError: the session is over, or not open yet.
            ConnectionLost: the link ended.
            ValueError, TypeError: an argument that cannot be passed; nothing was sent.

        Cancellation: the session is over, since nobody can say in what state a cut line leaves its shell. The whole
            tree is ended before the call lets go, at the latest after 2 s.
        """
        order = make_order(
            (self.shell, "-c", line),
            cwd=None,
            env={},
            input=input,
            check=check,
            timeout=timeout,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            encoding=self._order.encoding,
            errors=errors,
        )
        self._check_open()
        if self._running:
            raise BusyError(f"{self.host}: the session in {self.shell} runs a line already", host=self.host)
        self._running = True
        try:
            result = await self._bounded(order)
        finally:
            self._running = False
        return judge(result, order)

    def _check_open(self) -> None:
        if self._over:
            raise ClosedError(f"{self.host}: the session in {self.shell} {self._over}", host=self.host)

    async def _bounded(self, order: Order) -> Result:
        """Run text within its time. Whatever cuts it ends the session."""
        began = asyncio.get_running_loop().time()
        scope = Deadline(order.timeout).scope()
        try:
            async with scope:
                try:
                    return await self._perform(order, began)
                except (FileError, UnsupportedError):  # nothing of the line was sent
                    raise
                except BaseException as error:
                    self._over = self._over or "is over: a line in it was cut"
                    seconds = TIMEOUT_SECONDS if scope.expired() else CANCEL_SECONDS
                    await end_process(self._far, error, seconds - (TIDY_SECONDS if self._input else 0))
                    if self._input and not isinstance(error, ConnectionLost):
                        await bounded_cleanup(self._remove_input(), TIDY_SECONDS)
                    raise
        except TimeoutError as error:
            if isinstance(error, RemoteError) or not scope.expired():
                raise
            raise self._timed_out(order, self._partial(order, began)) from error
        except ConnectionLost as error:
            error.cmd, error.result = list(order.args), self._partial(order, began)
            raise

    async def _perform(self, order: Order, began: float) -> Result:
        line, stdin = order.spec.argv[2], b"/dev/null"
        if order.input:
            stdin = self._input = input_file(new_mark())
            await self._put(stdin, order.input)
            line = taking_line(stdin, line)
        status = await self._exchange(line, order.max_output_bytes, stdin=stdin)
        self._input = b""
        so_far = self._partial(order, began)
        if self._is_full(order.max_output_bytes, 0):
            raise self._exceeded(order, so_far)
        if status is None:
            self._check_open()
            raise await self._ended(order, so_far)
        return finished(so_far, ExitStatus(status), order)

    async def _put(self, name: bytes, data: bytes) -> None:
        status = await self._exchange(put_line(name, data), DEFAULT_OUTPUT_BYTES)
        if status:
            text = f"no place for the input: {bytes(self._streams[-1].data).decode(errors='replace').strip()}"
            raise file_error(errno.EIO, name.decode().strip('"'), host=self.host, text=text)
        for stream in self._streams:
            stream.put_back()

    async def _remove_input(self) -> None:
        argv = (b"/bin/sh", b"-c", b"rm -f " + self._input)
        spec = replace(self._order.spec, argv=argv, cwd=None, stdin=False, terminal=None)
        with suppress(RemoteError):  # it is the cut that is told
            far = await self._transport.start_process(spec)
            try:
                await far.wait()
            finally:
                await far.aclose()

    async def _exchange(self, line: bytes, max_bytes: int | None, *, stdin: bytes = b"/dev/null") -> int | None:
        """Have the shell run a line; returns the status, None where the shell has ended or has said too much."""
        mark = new_mark()
        terminal = self._order.spec.terminal is not None
        text = line_text(self.shell, line, mark, stdin=stdin, on_terminal=terminal)
        for stream in self._streams:
            stream.begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(text))
            return await self._read(mark, max_bytes)

    async def _send(self, text: bytes) -> None:
        assert self._far is not None and self._far.stdin is not None  # noqa: PT018
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # it has ended, as its output will tell
            for start in range(0, len(text), CHUNK_BYTES):
                await self._far.stdin.send(text[start : start + CHUNK_BYTES])

    async def _read(self, mark: bytes, max_bytes: int | None) -> int | None:
        def is_full() -> bool:
            full = self._is_full(max_bytes, 2 * MARK_BYTES)
            if full:  # while one stream is held back, the other need not come to its end
                for task in tasks:
                    if task is not asyncio.current_task():
                        task.cancel()
            return full

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stream.read_until(mark, is_full)) for stream in self._streams]
        return None if any(task.cancelled() or task.result() is None for task in tasks) else tasks[0].result()

    def _is_full(self, max_bytes: int | None, more: int) -> bool:
        return max_bytes is not None and sum(len(stream.data) for stream in self._streams) > max_bytes + more

    # what is told of it

    def _partial(self, order: Order, began: float) -> PartialResult:
        left = order.max_output_bytes
        parts: list[bytes] = []
        for stream in self._streams:
            parts.append(bytes(stream.data[:left]))
            left = None if left is None else left - len(parts[-1])
        return PartialResult(
            args=order.args,
            host=self.host,
            elapsed=asyncio.get_running_loop().time() - began,
            stdout_bytes=parts[0] if parts else b"",
            stderr_bytes=parts[1] if len(parts) > 1 else b"",
            encoding=order.encoding,
            errors=order.errors,
        )

    async def _ended(self, order: Order, result: PartialResult) -> SessionEnded:
        """Return the error for a shell that is no more; ConnectionLost or ClosedError where it was not its own end."""
        assert self._far is not None
        status = await self._far.wait()
        how = f"killed by SIG{status.signal}" if status.signal else f"exit status {status.returncode}"
        self._over = f"has ended: {how}"
        text = f"{self.host}: {result.command_line}: the session's shell has ended: {how}"
        return SessionEnded(
            text, host=self.host, cmd=order.args, returncode=status.returncode, signal=status.signal, result=result
        )

    def _timed_out(self, order: Order, result: PartialResult) -> CommandTimeout:
        seconds = order.timeout or 0.0
        text = f"{self.host}: {result.command_line}: not finished after {seconds:g} s; the session is over"
        return CommandTimeout(text, host=self.host, cmd=order.args, timeout=seconds, result=result)

    def _exceeded(self, order: Order, result: PartialResult) -> OutputLimitExceeded:
        limit = order.max_output_bytes or 0
        text = f"{self.host}: {result.command_line}: more than {limit} bytes of output; the session is over"
        return OutputLimitExceeded(text, host=self.host, cmd=order.args, limit_bytes=limit, result=result)
