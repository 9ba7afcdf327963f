"""Small calls over one channel: those of one turn of the loop go in one message, and answers come as they are ready.

No task and no channel a call. Not for calls with output, generators, callbacks or much data (`pin`).
"""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakValueDictionary

from aioremote._core.lifetime import Owner, settle
from aioremote.errors import RemoteError, WorkerDied
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import Handler
from aioremote.outpost.far.packets import (
    CALL,
    CANCEL,
    DEFINE,
    DIED,
    ERROR,
    GONE,
    HEAD,
    LARGE,
    MODULE,
    RESULT,
    Oversized,
    Packets,
)
from aioremote.outpost.far.sections import JSON
from aioremote.outpost.values import MAX_STEP_BYTES, Undecodable, decode, split_message, unpack_up
from aioremote.python.failures import death, failure
from aioremote.python.shipping import Freight, Shelf

if TYPE_CHECKING:
    from aioremote.outpost.far.sections import JSON
    from aioremote.outpost.link import Link
from aioremote.outpost.values import Buffer

__all__ = ["CANCEL_SECONDS", "MAX_ANSWER_BYTES", "Lane", "decoded", "raise_answer", "value_of"]

MAX_ANSWER_BYTES = 1024 * 1024 * 1024
MAX_SMALL_BYTES = 65536 + 256  # of an answer on the lane
MESSAGE_BYTES = 49152  # of calls in one message
RESULT_WINDOW = 4 * 1024 * 1024
CANCEL_SECONDS = 1.5  # until a cancelled call lets go: 0.5 s of grace there, and the way
MAX_QUESTIONS = 1000  # for modules, that wait

_ONE_TEXT = b"\0\0\0\1" + JSON
_DECODER = json.JSONDecoder()

Answer = tuple[bytes, "Buffer"]


class Lane(Handler):
    """The channel, and what is shipped for the calls on it.

    Args:
        link: a link that stands.
        version: of the far Python.
        shelf: what may be imported from here.
    """

    def __init__(self, link: Link, version: tuple[int, int, int], shelf: Shelf) -> None:
        self.link: Link = link
        self.host: str = link.host
        self.version: tuple[int, int, int] = version
        self.freight: Freight = Freight(version, shelf, self._define)
        self.owner: Owner = Owner(f"calls on {link.host}")
        self.protocol: int = 5 if version >= (3, 8) else 4
        self._shelf = shelf
        self._loop = asyncio.get_running_loop()
        self._packets = Packets(MAX_SMALL_BYTES)
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._last = 0
        self._batch: list[Buffer] = []
        self._batch_bytes = 0
        self._questions: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUESTIONS)
        self._ended: RemoteError | None = None
        self.number: int = link.open("calls", self, json.dumps(shelf.packages).encode())
        _lanes[link.host, id(link), self.number] = self
        link.serve("result", _serve_result)
        self._answering = self.owner.spawn(self._answer_questions(), "modules")

    @property
    def usable(self) -> bool:
        """Whether calls can be sent."""
        return self._ended is None and self.link.state == "up"

    async def aclose(self) -> None:
        """Give the channel up: its workers are ended."""
        self._finish(self.link.error("unknown"))
        self.link.reset(self.number)
        await self.owner.aclose()

    # calls

    async def call(self, pieces: list[Buffer]) -> Answer:
        """Send a request and return what comes back.

        Raises:
            ConnectionLost, ClosedError: the link is over.

        Cancellation: the far function is interrupted, and its worker gone, before this lets go: at most 1.5 s.
        """
        if self._ended is not None:
            raise self.link.error("not_started")
        self._last = number = (self._last + 1) & 0x7FFFFFFF
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._pending[number] = future
        self._put(CALL, number, pieces)
        try:
            return await future
        except asyncio.CancelledError:
            if number in self._pending:
                await self._cancel(number)
            raise

    async def _cancel(self, number: int) -> None:
        gone: asyncio.Future[Answer] = self._loop.create_future()
        self._pending[number] = gone
        self._put(CANCEL, number, [])
        try:
            await settle(gone, CANCEL_SECONDS)
        finally:
            self._pending.pop(number, None)
            if gone.done() and not gone.cancelled():
                gone.exception()

    def _put(self, kind: bytes, number: int, pieces: list[Buffer]) -> None:
        """Queue a packet; all of one turn of the loop go together."""
        size = sum(map(len, pieces))
        batch = self._batch
        if not batch:
            self._loop.call_soon(self._flush)
        elif self._batch_bytes + size > MESSAGE_BYTES:
            self._flush()
            self._loop.call_soon(self._flush)
        self._batch.append(HEAD.pack(size, number, kind))
        self._batch += pieces
        self._batch_bytes += size + HEAD.size
        if len(self._pending) == 1:  # one after another: there is nothing to wait for
            self._flush(at_once=True)

    def _flush(self, *, at_once: bool = False) -> None:
        if self._batch:
            batch, self._batch, self._batch_bytes = self._batch, [], 0
            if self._ended is None:
                self.link.send_message(self.number, b"".join(batch), at_once=at_once)

    def _define(self, digest: bytes, data: bytes) -> None:
        self._put(DEFINE, 0, [digest, data])

    # what comes

    def on_message(self, data: bytes, more: bool) -> None:
        self.link.grant(self.number, cost(data))
        try:
            packets = self._packets.feed(data)
        except Oversized as error:
            self._break(str(error))
            return
        pending = self._pending
        for kind, number, body in packets:
            if kind == MODULE:
                self._on_question(bytes(body))
            else:
                future = pending.pop(number, None)
                if future is not None and not future.done():
                    future.set_result((kind, body))

    def take(self, kind: bytes, number: int, body: Buffer) -> None:
        """Take an answer that came by itself."""
        future = self._pending.pop(number, None)
        if future is not None and not future.done():
            future.set_result((kind, body))

    def awaits(self, number: int) -> bool:
        """Whether somebody waits for this answer."""
        future = self._pending.get(number)
        return future is not None and not future.done()

    def fail(self, number: int, error: Exception) -> None:
        """Let whoever waits for an answer know that there is none."""
        future = self._pending.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def _on_question(self, name: bytes) -> None:
        try:
            self._questions.put_nowait(name)
        except asyncio.QueueFull:
            self._break("it asks for more modules than there can be")

    async def _answer_questions(self) -> None:
        while True:
            name = await self._questions.get()
            found = await self._shelf.find(name.decode("utf-8", "replace"))
            answer = None if found is None else (found.text, found.file, found.is_package)
            self._put(MODULE, 0, [name + b"\0", pickle.dumps(answer, protocol=4)])

    def _break(self, text: str) -> None:
        self.link.reset(self.number)
        self._finish(RemoteError(f"{self.host}: the far end broke a rule of calls: {text}", host=self.host))

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        self._finish(RemoteError(f"{self.host}: calls are over: {text}", host=self.host))

    def on_eof(self) -> None:
        self._finish(RemoteError(f"{self.host}: calls are over", host=self.host))

    def on_lost(self, text: str) -> None:
        self._finish(None)

    def _finish(self, error: RemoteError | None) -> None:
        """Tell everybody that waits."""
        if self._ended is not None:
            return
        self._ended = error or self.link.error()
        self._answering.cancel()  # nobody may close what ended with another machine's connection
        _lanes.pop((self.host, id(self.link), self.number), None)
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(error or self.link.error("unknown"))


_lanes: WeakValueDictionary[tuple[str, int, int], Lane] = WeakValueDictionary()


class _Result(Handler):
    """A long answer on its way, on a channel that the far end has opened for it."""

    def __init__(self, link: Link, number: int, lane: Lane) -> None:
        self._link = link
        self._number = number
        self._lane = lane
        self._packets = Packets(MAX_ANSWER_BYTES)
        self._call = -1
        self._head = b""

    def on_data(self, data: bytes) -> None:
        self._link.grant(self._number, cost(data))
        if self._call < 0:
            self._head += data[: HEAD.size]
            if len(self._head) >= HEAD.size:
                self._call = HEAD.unpack_from(self._head)[1]
        try:
            for kind, number, body in self._packets.feed(data):
                self._lane.take(kind, number, body)
        except Oversized as error:
            self._link.reset(self._number)
            self._lane.fail(self._call, RemoteError(f"{self._lane.host}: {error}", host=self._lane.host))
            return
        if self._call >= 0 and not self._lane.awaits(self._call) and self._packets.waits:
            self._link.reset(self._number)

    def on_eof(self) -> None:
        self._link.eof(self._number)


def _serve_result(link: Link, number: int, header: bytes) -> Handler:
    lane = _lanes.get((link.host, id(link), int.from_bytes(header, "big")))
    if lane is None:
        link.reset(number)
        return Handler()
    link.accept(number)
    link.widen(number, RESULT_WINDOW)
    link.eof(number)
    return _Result(link, number, lane)


async def value_of(answer: Answer, host: str) -> Any:  # Any: what the far code returned
    """Return the value of an answer, or raise what it tells; long ones are decoded in steps."""
    kind, body = answer
    if kind == RESULT:
        if len(body) <= LARGE and (text := _plain_text(body)) is not None:
            try:
                value, end = _DECODER.raw_decode(text)
            except ValueError:
                value, end = None, -1
            if end == len(text):
                return value
        return unpack_up(body) if len(body) <= MAX_STEP_BYTES else await decoded(body)
    return raise_answer(kind, body, host)


def _plain_text(body: Buffer) -> str | None:
    """Return the JSON text of a message that is nothing else: most are, and small."""
    if body[:5] == _ONE_TEXT and int.from_bytes(body[5:13], "big") == len(body) - 13:
        text = str(body[13:], "latin-1")
        return None if '"~' in text or not text.isascii() else text
    return None


async def decoded(body: Buffer) -> Any:
    """Decode a long message, and let others have the loop meanwhile."""
    steps = decode(split_message(body))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        await asyncio.sleep(0)


def raise_answer(kind: bytes, body: Buffer, host: str) -> NoReturn:
    """Raise what an answer tells that is no result."""
    told = unpack_up(body) if kind in (ERROR, DIED) else None
    if kind == ERROR:
        raise failure(told, host=host)
    if kind == DIED:
        raise death(told, host=host)
    if kind == GONE:
        raise WorkerDied(f"{host}: the worker was ended", host=host)
    raise Undecodable(f"{host}: an answer of an unknown kind {kind!r}")
