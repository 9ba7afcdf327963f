"""The near end of a program that an outpost runs: a `FarProcess` on one channel of its link.

Not for starting outposts, nor for what is above one program (`transports.linked`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteSendStream

from aioremote._core.streams import FarInput, Feed
from aioremote.errors import CommandNotFound, ConnectionLost, UnsupportedError, file_error
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import UNKNOWN, Handler
from aioremote.outpost.far.orders import (
    END_TREE,
    ENDED,
    ERRORS,
    MAX_IN_HEADER,
    RESIZE,
    SEND_SIGNAL,
    STDIN_BROKEN,
    Ending,
    Order,
    pack_order,
    unpack_ending,
)
from aioremote.protocols import FarProcess, OutputStream
from aioremote.types import ExitStatus

if TYPE_CHECKING:
    from aioremote.outpost.link import Link
    from aioremote.types import ProcessSpec

__all__ = ["Program"]

MOST_AFTER_END = 4194304  # bytes that are kept after the end was asked for; an honest far end sends fewer
MAX_MESSAGE_BYTES = 65536

_SUCCESS = ExitStatus(0)
_ERRNOS = {name: number for number, name in errno.errorcode.items()}
_SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


class Program(Handler, FarProcess):
    """A program of an outpost; it is ordered with its creation.

    Args:
        link: the link to the outpost.
        spec: the program.
        on_end: called once when the channel is over.

    Raises:
        ValueError: what no program can be given; nothing was sent.
        ConnectionLost, ClosedError, BusyError: as from `Link.open`.
    """

    def __init__(self, link: Link, spec: ProcessSpec, on_end: Callable[[Program], None]) -> None:
        self.pid: int | None = None
        self.stdin: ByteSendStream | None = FarInput(self) if spec.stdin else None
        self._out = Feed(self._hold)
        self._err = Feed(self._hold) if spec.terminal is None else None
        self.stdout: OutputStream = self._out
        self.stderr: OutputStream | None = self._err
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.escaped: tuple[int, ...] = ()
        self.noise: bytes = b""
        self._link = link
        self._spec = spec
        self._on_end = on_end
        self._feed = self._out  # whose bytes come
        self._parts: list[bytes] = []  # of a message
        self._owed = 0  # credit, while a reader is slow
        self._error: Exception | None = None
        self._refused: Exception | None = None  # where nothing was started
        self._over = False
        self._ending = False
        self._left = MOST_AFTER_END
        self._input_ended = not spec.stdin
        self._input_broken = False
        self._starters: list[asyncio.Future[None]] = []  # who wait for the beginning
        self._waiters: list[asyncio.Future[None]] = []  # and for the end
        self._room: asyncio.Future[None] | None = None
        if spec.terminal is not None and "terminal" in link.missing:
            raise UnsupportedError(f"{link.host}: there are no terminals there", host=link.host)
        order = pack_order(_order(spec))
        fits = len(order) <= MAX_IN_HEADER
        self._number = link.open("process", self, order if fits else b"", end=fits and not spec.stdin)
        if not fits:
            link.send_message(self._number, order, end=not spec.stdin)

    # what the link calls

    def on_accept(self, header: bytes) -> None:
        self.pid = int(header)
        if self._starters:
            _wake(self._starters)

    def on_data(self, data: bytes) -> None:
        self._left -= len(data) if self._ending else 0
        if self._left >= 0:
            self._feed.feed(data)
        self._used(cost(data))

    def on_message(self, data: bytes, more: bool) -> None:
        if data[:1] == ENDED and not more and not self._parts:
            self._take_ending(data)  # of a channel that needs no credit any more
            return
        self._used(cost(data))
        if more or self._parts:
            self._parts.append(data)
            if sum(map(len, self._parts)) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            if more:
                return
            data, self._parts = b"".join(self._parts), []
        kind = data[:1]
        if kind == ENDED:
            self._take_ending(data)
        elif kind == STDIN_BROKEN:
            self._input_broken = True
            self._let_write()
        else:
            self._feed = self._err if kind == ERRORS and self._err is not None else self._out

    def _take_ending(self, data: bytes) -> None:
        ending = unpack_ending(data)
        self.status = _status(ending) if ending.code or ending.signal else _SUCCESS
        self.output_held = ending.held
        self.escaped = tuple(ending.escaped)
        if ending.output:
            self._out.feed(ending.output)
        if ending.errors and self._err is not None:
            self._err.feed(ending.errors)
        if not self._input_ended:
            self._link.reset(self._number)
        self._finish(None)

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        if refused:
            self._refused = self._refusal(code, text)
        self._finish(self._refused or self._broken(text))

    def on_lost(self, text: str) -> None:
        self._finish(self._broken(text) if self._link.state == "up" else self._link.error())

    def on_writable(self) -> None:
        self._let_write()

    def _refusal(self, code: int, text: str) -> Exception:
        """Return the error for a program that was not started."""
        host, spec = self._link.host, self._spec
        what, _, rest = text.partition(" ")
        name, _, path = rest.partition(" ")
        number = _ERRNOS.get(name, errno.EIO)
        args = [os.fsdecode(arg) for arg in spec.argv]
        if what == "cwd":
            return file_error(number, os.fsdecode(spec.cwd or b""), host=host)
        if what == "program" and number == errno.ENOENT:
            return CommandNotFound(args[:1], host=host, cmd=args, path=path.split(":") if path else ())
        if what in ("program", "start"):
            return file_error(number, args[0], host=host)
        if code == UNKNOWN:
            return UnsupportedError(f"{host}: {text}", host=host)
        return ConnectionLost(f"{host}: {args[0]}: {text}", host=host, outcome="not_started", cmd=args)

    def _broken(self, text: str) -> Exception:
        """Return the error for a program of which nothing more is known."""
        host, args = self._link.host, [os.fsdecode(arg) for arg in self._spec.argv]
        return ConnectionLost(f"{host}: {args[0]}: {text}", host=host, reason="protocol", cmd=args)

    def _finish(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over, self._error = True, error
        lost = None if self.status is not None or error is self._refused else error
        self._out.end(lost)
        if self._err is not None:
            self._err.end(lost)
        if self._room is not None:
            self._let_write()
        _wake(self._waiters)
        if self._starters:
            _wake(self._starters)
        self._on_end(self)

    # flow

    def _used(self, count: int) -> None:
        if not self._ending and (self._out.holding or (self._err is not None and self._err.holding)):
            self._owed += count
        else:
            self._link.grant(self._number, count)

    def _hold(self, held: bool) -> None:  # a Feed's callback
        if not held and self._owed:
            owed, self._owed = self._owed, 0
            self._used(owed)

    async def write(self, data: bytes) -> None:
        """Write to the far standard input, and wait while the far side is slow."""
        self._check_writable()
        if data and not self._link.send(self._number, data):
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None
            self._check_writable()

    def _check_writable(self) -> None:
        if self._over or self._input_broken:
            raise anyio.BrokenResourceError

    def _let_write(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def write_eof(self) -> None:
        """End the far standard input; on a terminal that is a typed character."""
        if not self._over:
            self._input_ended = True
            self._link.eof(self._number)

    # FarProcess

    async def started(self) -> None:
        while self.pid is None and not self._over:
            await _wait_in(self._starters)
        if self.pid is None:
            self._raise()

    async def wait(self) -> ExitStatus:
        while not self._over:
            await _wait_in(self._waiters)
        if self._error is not None:
            self._raise()
        assert self.status is not None
        return self.status

    def _raise(self) -> None:
        if isinstance(self._error, ConnectionLost):  # each gets one of its own, since more is written on it
            error = self._error
            raise ConnectionLost(
                str(error.args[0]), host=error.host, outcome=error.outcome, reason=error.reason, cmd=error.cmd
            )
        if self._error is not None:
            raise self._error

    def send_signal(self, name: str) -> None:
        name = name.removeprefix("SIG")
        if name not in _SIGNALS:
            raise ValueError(f"no signal named {name!r}: give a name such as 'TERM' or 'INT'")
        if "signal" not in self._link.missing:
            if not self._over:
                self._link.signal(self._number, SEND_SIGNAL + name.encode())
        elif name == "KILL":
            self.end()
        else:
            raise UnsupportedError(f"{self._link.host}: there are no signals there but KILL", host=self._link.host)

    def end(self) -> None:
        if not self._over and not self._ending:
            self._ending = True  # from now on the far end says little, and may say it whoever reads
            self._link.signal(self._number, END_TREE)
            self._hold(False)

    def resize(self, columns: int, rows: int) -> None:
        if self._spec.terminal is not None and not self._over:
            self._link.signal(self._number, RESIZE + b"%d %d" % (columns, rows))

    async def aclose(self) -> None:
        for stream in (self._out, self._err):
            if stream is not None:
                await stream.aclose()  # or its end could not be told while it is held back
        self.end()
        while not self._over:
            await _wait_in(self._waiters)


async def _wait_in(line: list[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    line.append(waiter)
    try:
        await waiter
    finally:
        line.remove(waiter)


def _wake(line: list[asyncio.Future[None]]) -> None:
    for waiter in line:
        if not waiter.done():
            waiter.set_result(None)


def _status(ending: Ending) -> ExitStatus:
    if not ending.signal:
        return ExitStatus(ending.code & 0xFFFFFFFF)  # Windows uses all 32 bits
    number = _SIGNALS.get(ending.signal, -ending.code)
    return ExitStatus(-int(number), ending.signal, ending.core_dumped)


def _order(spec: ProcessSpec) -> Order:
    terminal = spec.terminal
    env = {name.encode("utf-8", "surrogateescape"): value for name, value in spec.env.items()} if spec.env else {}
    if terminal is not None:
        env = {b"TERM": terminal.term.encode(), **env}
    return Order(
        list(spec.argv),
        spec.cwd,
        env,
        stdin=spec.stdin,
        guarded=spec.guarded,
        size=None if terminal is None else (terminal.columns, terminal.rows),
    )
