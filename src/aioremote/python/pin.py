"""A far worker for one call or session alone, over a channel of its own: output, generators, callbacks, much data."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from aioremote._core.lifetime import settle
from aioremote.errors import BusyError, RemoteError
from aioremote.outpost.far.calls import HEADER, SESSION, STDERR, STDOUT
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import Handler
from aioremote.outpost.far.packets import (
    CALL,
    CREDIT,
    DIED,
    ERROR,
    GONE,
    HEAD,
    ITEM,
    LARGE,
    OUTPUT,
    QUESTION,
    RESULT,
    STOP,
    Oversized,
    Packets,
    packet,
)
from aioremote.outpost.far.sections import join
from aioremote.outpost.values import pack_down, unpack_up
from aioremote.python.handles import Serving
from aioremote.python.lane import CANCEL_SECONDS, MAX_ANSWER_BYTES, Answer, Lane, value_of

if TYPE_CHECKING:
    from aioremote.outpost.values import Buffer

__all__ = ["Pin"]

PIECE_BYTES = 1024 * 1024
WINDOW_BYTES = 4 * 1024 * 1024
CREDIT_ITEMS = 8  # given back at once; 16 may be ahead
STOP_SECONDS = 0.5  # for a generator that works on an item nobody wants
MAX_ANSWERS_AT_ONCE = 16  # callbacks of one call that run: more than one only where it has threads

Sink = Callable[[bytes], object]


class Pin(Handler):
    """The channel and its worker.

    Args:
        lane: of the same interpreter; functions come from there.
        session: whether several calls will be made.
        name: of a session that a daemon keeps.
        stdout, stderr: take what is printed, as bytes.

    Attributes:
        over: why no further call is possible, or None.

    Concurrency: one call at a time.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        session: bool = False,
        name: str = "",
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> None:
        self.over: str | None = None
        self._lane = lane
        self._link = lane.link
        self._session = session
        self._sinks = {STDOUT: stdout, STDERR: stderr}
        self._loop = asyncio.get_running_loop()
        self._packets = Packets(MAX_ANSWER_BYTES)
        self._inbox: deque[Answer] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._loss: Exception | None = None
        self._serving = Serving()
        self._context = copy_context()
        self._answering: set[asyncio.Task[None]] = set()
        flags = (SESSION if session else 0) | (STDOUT if stdout else 0) | (STDERR if stderr else 0)
        self._served: asyncio.Future[None] = self._loop.create_future()
        header = HEADER.pack(lane.number, flags) + name.encode()
        self.number: int = lane.link.open("call", self, header, window=WINDOW_BYTES)

    async def served(self) -> None:
        """Wait until there is a worker; raises BusyError where the far end refuses one."""
        await asyncio.wait({self._served})
        if self._loss is not None:
            raise self._loss

    # one call

    async def call(self, pieces: list[Buffer], serving: Serving, context: Context | None = None) -> Any:
        """Send a request and return its value; raises what it raised.

        Args:
            pieces, serving: from `requests.packed`.
            context: in which callbacks run; None for the caller's.

        Cancellation: as for `Lane.call`; the worker is gone, and with it a session.
        """
        self._serving, self._context = serving, context or copy_context()
        try:
            await self._send(pieces)
            answer = await self._next()
        except asyncio.CancelledError:
            await self.cancel()
            raise
        return await value_of(answer, self._lane.host)

    async def stream(
        self, pieces: list[Buffer], serving: Serving, context: Context | None = None
    ) -> AsyncGenerator[Any, None]:
        """Send a request and yield what its generator gives."""
        self._serving, self._context = serving, context or copy_context()
        finished = False
        taken = 0
        try:
            await self._send(pieces)
            while True:
                kind, body = await self._next()
                if kind != ITEM:
                    finished = True
                    await value_of((kind, body), self._lane.host)
                    return
                taken += 1
                if taken == CREDIT_ITEMS:
                    self._link.send_message(self.number, packet(CREDIT, taken))
                    taken = 0
                yield await value_of((RESULT, body), self._lane.host)
        finally:
            if not finished:
                await self._stop()

    async def _stop(self) -> None:
        """Ask the generator to close, and end its worker where it does not."""
        if self.over is None and self._loss is None:
            self._link.send_message(self.number, packet(STOP, 0))
            last = self._lane.owner.spawn(self._last(), "last")
            try:
                await settle(last, STOP_SECONDS)
            finally:
                if not last.done():
                    last.cancel()
                    await self.cancel()

    async def _last(self) -> None:
        while (await self._next())[0] == ITEM:
            pass

    async def _send(self, pieces: list[Buffer]) -> None:
        """Send a request, in pieces that are welcome."""
        size = sum(map(len, pieces))
        head = HEAD.pack(size, 1, CALL)
        if size <= LARGE:
            self._link.send_message(self.number, b"".join([head, *pieces]))
            return
        self._link.send(self.number, head)
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE_BYTES):
                if self._loss is not None:
                    raise self._loss
                if not self._link.send(self.number, view[start : start + PIECE_BYTES]):
                    self._room = self._loop.create_future()
                    await self._room

    async def _next(self) -> Answer:
        """Return the next answer or item."""
        while not self._inbox:
            if self._loss is not None:
                raise self._loss
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        answer = self._inbox.popleft()
        kind = answer[0]
        if kind in (DIED, GONE):
            self.over = "its worker has ended"
        if kind != ITEM:
            self._stop_answering()
            if not self._session:
                self._link.eof(self.number)
        return answer

    def _stop_answering(self) -> None:
        self._serving = Serving()
        for task in self._answering:
            task.cancel()

    # its end

    async def cancel(self) -> None:
        """Interrupt what runs, and wait until the worker is gone: at most 1.5 s."""
        self._stop_answering()
        if self.over is None and self._loss is None:
            self.over = "a call in it was cancelled, and its worker ended"
            self._link.signal(self.number, b"cancel")
            gone = self._lane.owner.spawn(self._until_gone(), "end")
            try:
                await settle(gone, CANCEL_SECONDS)
            finally:
                gone.cancel()
                self._link.reset(self.number)

    async def _until_gone(self) -> None:
        try:
            while (await self._next())[0] not in (GONE, DIED):
                pass
        except RemoteError:
            pass

    async def aclose(self) -> None:
        """End a session's worker, and wait until it is gone."""
        if self.over is None and self._loss is None:
            self.over = "it was closed"
            self._link.eof(self.number)
            last = self._lane.owner.spawn(self._until_gone(), "end")
            try:
                await settle(last, CANCEL_SECONDS)
            finally:
                last.cancel()
                self._link.reset(self.number)

    # what the link calls

    def on_accept(self, header: bytes) -> None:
        if not self._served.done():
            self._served.set_result(None)

    def on_data(self, data: bytes) -> None:
        self._link.grant(self.number, cost(data))
        try:
            packets = self._packets.feed(data)
        except Oversized as error:
            self._link.reset(self.number)
            self._lose(RemoteError(f"{self._lane.host}: {error}", host=self._lane.host))
            return
        for kind, number, body in packets:
            if kind == OUTPUT:
                sink = self._sinks.get(number)
                if sink is not None:
                    sink(bytes(body))
            elif kind == QUESTION:
                self._question(body)
            elif kind in (RESULT, ERROR, ITEM, DIED, GONE):
                self._inbox.append((kind, body))
        self._wake()

    def on_message(self, data: bytes, more: bool) -> None:
        self.on_data(data)

    def _question(self, body: Buffer) -> None:
        if len(self._answering) >= MAX_ANSWERS_AT_ONCE:
            self._link.reset(self.number)
            self._lose(RemoteError(f"{self._lane.host}: more callbacks at once than there can be"))
            return
        task = self._context.run(self._lane.owner.spawn, self._answer(self._serving, body), "callback")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, serving: Serving, body: Buffer) -> None:
        try:
            asked = unpack_up(body)
        except RemoteError as error:
            self._link.reset(self.number)
            self._lose(error)
            return
        went_well, value = await serving.answer(asked)
        pieces = _answer_pieces(went_well, value, self._lane.protocol)
        if not self._link.send_message(self.number, packet(QUESTION, 0, *pieces)):
            await asyncio.sleep(0)

    def on_eof(self) -> None:
        self._lose(RemoteError(f"{self._lane.host}: the worker has ended", host=self._lane.host))

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        host = self._lane.host
        kind, what = (BusyError, "refused") if refused else (RemoteError, "given up")
        self._lose(kind(f"{host}: the call was {what}: {text}", host=host))

    def on_lost(self, text: str) -> None:
        self._lose(self._link.error("unknown"))

    def on_writable(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _lose(self, error: Exception) -> None:
        if self._loss is None:
            self._loss = error
        self.on_accept(b"")
        self.on_writable()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _answer_pieces(went_well: bool, value: Any, protocol: int) -> list[Buffer]:
    """Return an answer to a callback; an exception of a class that is not there goes as a RuntimeError."""
    if not went_well and type(value).__module__ != "builtins":
        value = RuntimeError(f"{type(value).__name__}: {value}")
    try:
        return join(pack_down((went_well, value), protocol))
    except RemoteError as error:
        return join(pack_down((False, TypeError(f"the callback's result cannot travel: {error}")), protocol))
