"""A far process that is still running, as an `anyio.abc.Process`."""

from __future__ import annotations

import asyncio
import signal as signal_module
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import TYPE_CHECKING, cast

import anyio.abc
from anyio.abc import ByteReceiveStream, ByteSendStream

from aioremote.commands.lines import LineQueue
from aioremote.commands.lookup import explain_not_found, forget_programs
from aioremote.commands.orders import DEFAULT_OUTPUT_BYTES
from aioremote.commands.running import CANCEL_SECONDS, end_process, too_late
from aioremote.errors import CommandNotFound, FileError, RemoteError, UnsupportedError

if TYPE_CHECKING:
    from aioremote.commands.orders import Order
    from aioremote.protocols import FarProcess, Starter
    from aioremote.types import ExitStatus, Line

__all__ = ["Process", "Starting"]


class Process(anyio.abc.Process):
    """A program running at the far end. Leaving its ``async with`` block ends the far process tree.

    Reading is by `stdout` and `stderr` (anyio byte streams), or by `lines`. What nobody reads is held back: the far
    program waits once some 2 MiB are on the way. Read both streams, or one of them while the other stays small, before
    `wait`.

    Cancellation: a cancel inside the block ends the far tree (TERM, half a second, KILL) before the block is left, at
        the latest after 2 s; a note on the exception says so where the far end has not confirmed it.
    """

    def __init__(self, far: FarProcess, order: Order, host: str, *, transport: Starter) -> None:
        self._far = far
        self._order = order
        self._transport = transport
        self._missing: RemoteError | None = None
        self._looked_up = False
        self._queue: LineQueue | None = None
        self.host = host

    @property
    def args(self) -> tuple[str, ...]:
        """The far argv."""
        return self._order.args

    @property
    def pid(self) -> int:
        """The far process id; also that of its process group."""
        return self._far.pid if self._far.pid is not None else -1

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs, and after the link was lost."""
        return self._far.status.returncode if self._far.status is not None else None

    @property
    def signal(self) -> str | None:
        """The signal that ended it, without SIG; None for a plain exit or while it runs."""
        return self._far.status.signal if self._far.status is not None else None

    @property
    def escaped(self) -> tuple[int, ...]:
        """After its end was asked for: far processes that had left its session (`setsid`) and live on, sorted.

        Known where an outpost runs it, on Linux, of those whose parents were still there; else always empty.
        """
        return self._far.escaped

    @property
    def stdin(self) -> ByteSendStream | None:
        """Its standard input; ``await p.stdin.aclose()`` is the end of input."""
        return self._far.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Its standard output (with a terminal: all of its output)."""
        return cast(ByteReceiveStream, self._far.stdout)

    @property
    def stderr(self) -> ByteReceiveStream | None:
        """Its standard error; None with a terminal."""
        return cast("ByteReceiveStream | None", self._far.stderr)

    async def wait(self) -> int:
        """Wait for its end and return the exit status (negative for a signal).

        What was not read until now is taken in, up to 64 MiB, and can still be read afterwards.

        Raises:
            CommandNotFound: it ended with 127 because there is no such program. Where the transport knows that before
                (on this computer, say), starting it raises this instead. FileError where it may not be executed.
            ConnectionLost: the link ended first.
        """
        status = await self._status()
        if status.returncode in (126, 127) and not self._looked_up:
            try:
                await explain_not_found(self._transport, self._order, self.host)
            except (CommandNotFound, FileError) as error:
                self._missing = error
            self._looked_up = True
        if self._missing is not None:
            raise self._missing
        return status.returncode

    async def _status(self) -> ExitStatus:
        limit = self._order.max_output_bytes
        for stream in (self._far.stdout, self._far.stderr):
            if stream is not None:
                stream.raise_limit(DEFAULT_OUTPUT_BYTES if limit is None else limit)
        return await self._far.wait()

    def terminate(self) -> None:
        """Ask its process group to end (TERM). `wait` tells the outcome."""
        self._far.send_signal("TERM")

    def kill(self) -> None:
        """Ask for the end of its process group (KILL). `wait` tells the outcome."""
        self._far.send_signal("KILL")

    def send_signal(self, signal: int | str | signal_module.Signals) -> None:
        """Ask for a signal to its process group, by near number or by name ("HUP")."""
        name = signal if isinstance(signal, str) else signal_module.Signals(signal).name
        self._far.send_signal(name.removeprefix("SIG"))

    def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal the new size in characters.

        Raises:
            UnsupportedError: it has no terminal.
        """
        if self._order.spec.terminal is None:
            raise UnsupportedError(
                f"{self.host}: {self.args[0]} has no terminal; start it with pty=True", host=self.host
            )
        self._far.resize(columns, rows)

    async def lines(self) -> AsyncGenerator[Line, None]:
        """Iterate over the lines of both streams as they come, to the end of both.

        Yields:
            Line: with source and text, without its newline. An exit status is not judged here: see `wait`.
        """
        queue = self._queue = self._queue or LineQueue(self._far, self._order, self.host)
        while (batch := await queue.next_batch(None)) is not None:
            for line in batch:
                yield line

    async def aclose(self) -> None:
        """End the far tree if it runs, and release everything; at the latest after 2 s."""
        await end_process(self._far, asyncio.CancelledError(), CANCEL_SECONDS)
        if self._far.stdin is not None:
            await self._far.stdin.aclose()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await end_process(self._far, exc_val or asyncio.CancelledError(), CANCEL_SECONDS)


class Starting:
    """A program about to be started: ``async with m.start(...) as p`` or ``p = await m.start(...)``."""

    def __init__(self, transport: Starter, order: Order, host: str) -> None:
        self._transport = transport
        self._order = order
        self._host = host
        self._process: Process | None = None

    async def _start(self) -> Process:
        far: FarProcess | None = None
        connected = False
        try:
            async with asyncio.timeout(self._order.timeout):
                await self._transport.connect()
                connected = True
                far = await self._transport.start_process(self._order.spec)
                await far.started()
        except BaseException as error:
            forget_programs(self._transport, error)
            await end_process(far, error, CANCEL_SECONDS)
            if isinstance(error, TimeoutError) and not isinstance(error, RemoteError):
                raise too_late(self._order, self._host, connected=connected) from error
            raise
        return Process(far, self._order, self._host, transport=self._transport)

    def __await__(self) -> Generator[object, None, Process]:
        return self._start().__await__()

    async def __aenter__(self) -> Process:
        self._process = await self._start()
        return self._process

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self._process.__aexit__(exc_type, exc_val, exc_tb)
