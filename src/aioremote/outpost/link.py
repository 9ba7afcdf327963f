"""The near end of a link to an outpost: the wire over a far process's stdin and stdout.

One task writes; what comes is taken in plain calls. Channels are used either by a `Handler`, which costs neither task
nor queue, or by a `Channel`, which awaits. Not for starting the far end (`launch`) nor for what services mean.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic  # uvloop's own time counts whole milliseconds
from typing import TYPE_CHECKING, Literal, Protocol

import anyio

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.streams import FarInput
from aioremote.errors import BusyError, ClosedError, ConnectionLost, ForkedConnection, RemoteError, UnsupportedError
from aioremote.outpost.far.frames import CLOSED, GOAWAY, HELLO, PONG, Limits, WireError
from aioremote.outpost.far.handlers import CANCELLED, Handler
from aioremote.outpost.far.wire import Wire
from aioremote.outpost.routes import Routes
from aioremote.outpost.silence import Watch

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote.outpost.far.frames import Event
    from aioremote.protocols import FarProcess, OutputStream

__all__ = ["CHANNEL_WINDOW", "FarEnd", "Link", "Said", "Service"]

WRITE_BYTES = 131072
CHANNEL_WINDOW = 1048576  # of channels that this end opens; those of the far end have less
CLOSE_SECONDS = 2.0
SHOWN_CHARS = 800  # of the far stderr in an error

Service = Callable[["Link", int, bytes], Handler | None]  # None: it was rejected
Reason = Literal["keepalive", "closed", "reset", "protocol"]


class Said(Protocol):
    """What the far end has written on its standard error, as far as it is kept."""

    @property
    def text(self) -> str: ...


class FarEnd(Protocol):
    """An outpost that was launched: its process, and its streams from the first byte of the wire on."""

    @property
    def process(self) -> FarProcess: ...
    @property
    def stdin(self) -> ByteSendStream: ...
    @property
    def stdout(self) -> OutputStream: ...
    @property
    def stderr(self) -> Said: ...


class Link:
    """One link to an outpost that has been launched.

    Args:
        far: the far end as it was launched; it is this link's from now on.
        host: the machine's name, for errors.
        keepalive: seconds of silence after which to ask; 0 for never.
        keepalive_count: silent intervals that make a lost link.
        services: what the far end may open here, by kind; anything else is refused.
        limits: what the far end is allowed.

    Concurrency: any number of tasks of one loop.
    """

    def __init__(
        self,
        far: FarEnd,
        *,
        host: str = "",
        keepalive: float = 15.0,
        keepalive_count: int = 3,
        services: Mapping[str, Service] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.host = host
        self._far = far
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(limits or Limits(), near=True)
        self._owner = Owner(f"outpost on {host}")
        serving = {kind: partial(service, self) for kind, service in (services or {}).items()}
        self._routes = Routes(self._wire, serving, self._report)
        self._wake: asyncio.Future[None] | None = None
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._pings: dict[int, asyncio.Future[float]] = {}
        self._loss: tuple[Reason, str] | None = None
        self._closing = False
        self._parted = False  # the far end has said goodbye
        self._watch = Watch(keepalive, keepalive_count, self._probe, self._silent)

    # its life

    async def start(self, *, timeout: float | None = None) -> None:
        """Greet the far end and wait for its greeting.

        Raises:
            ConnectionLost: the far end ended, or speaks something else.
            TimeoutError: no greeting within `timeout` seconds.
        """
        self._owner.spawn(self._write(), "writer")
        self._far.stdout.divert(self._take, self._on_end)
        self._watch.start()
        async with asyncio.timeout(timeout):
            await asyncio.wait({self._greeted})
        if self._loss is not None:
            raise self.error("not_started")

    @property
    def state(self) -> Literal["up", "lost", "closed"]:
        """Whether it can be used."""
        if self._closing or self.is_forked:
            return "closed"
        return "up" if self._loss is None else "lost"

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the one that has the link."""
        return self._pid != os.getpid()

    @property
    def missing(self) -> frozenset[str]:
        """Kinds of channels that the far end does not serve, and what it cannot do within others."""
        return self._wire.missing

    def error(self, outcome: Literal["not_started", "unknown", "finished"] = "unknown") -> RemoteError:
        """Return a fresh error for what the end of the link left undone."""
        if self.is_forked:
            text = f"{self.host}: this outpost belongs to the process that forked this one: make a machine of your own"
            return ForkedConnection(text, host=self.host)
        reason, text = self._loss or ("closed", "the link stands")
        if self._closing and reason == "closed":
            return ClosedError(f"{self.host}: the outpost was closed", host=self.host)
        said = self._far.stderr.text.strip()[-SHOWN_CHARS:]
        message = f"{self.host}: the link to the outpost is over: {text}" + (f"\n{said}" if said else "")
        return ConnectionLost(message, host=self.host, outcome=outcome, reason=reason)

    async def wait_over(self) -> None:
        """Wait until the link is lost or closed; `state` and `error` tell which."""
        while self._loss is None:
            await asyncio.wait({self._over})

    async def aclose(self) -> None:
        """Say goodbye, wait for the answer at most 2 s, and release everything. May be called twice.

        Whatever the far end runs for this link has ended when its answer comes.
        """
        if self.is_forked:
            return
        first, self._closing = not self._closing, True
        try:
            if first and self._loss is None and self._greeted.done():
                await bounded_cleanup(self._say_goodbye(), CLOSE_SECONDS)
        finally:
            self._lose("closed", "closed at this end")
            await bounded_cleanup(self._release(), 2 * CLOSE_SECONDS)

    async def _say_goodbye(self) -> None:
        self._wire.goaway()
        self._poke()
        await asyncio.wait({self._over})

    async def _release(self) -> None:
        try:
            await self._owner.aclose()
            await self._far.stdin.aclose()
            if self._parted:  # it is about to exit by itself
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._far.process.wait()
        except (TimeoutError, RemoteError, anyio.BrokenResourceError):
            pass
        finally:
            await self._far.process.aclose()

    def abort(self) -> None:
        """Drop the link at once; the far process is told to end."""
        if not self.is_forked:
            self._lose("closed", "aborted at this end")

    # channels

    def serve(self, kind: str, service: Service) -> None:
        """Let the far end open channels of a kind from now on."""
        self._routes.serve(kind, partial(service, self))

    def open(
        self, kind: str, handler: Handler, header: bytes = b"", *, window: int = CHANNEL_WINDOW, end: bool = False
    ) -> int:
        """Open a channel for a handler and return its number.

        Args:
            kind: the service.
            handler: is called with what comes.
            header: what the service is told, at most 64 KiB.
            window: bytes that may come before the handler has granted more.
            end: nothing else will be sent.

        Raises:
            UnsupportedError: the far end has said that it does not serve this kind.
            ConnectionLost, ClosedError: the link is over.
            BusyError: the far end takes no more channels at once.
        """
        if self._loss is not None or self._closing or self.is_forked:
            raise self.error("not_started")
        if kind in self._wire.missing:
            text = f"{self.host}: the outpost there has no service {kind!r}"
            raise UnsupportedError(text, host=self.host)
        try:
            number = self._wire.open(kind, header, window=window, end=end)
        except WireError as error:
            raise BusyError(f"{self.host}: {error}", host=self.host) from error
        self._routes.add(number, handler)
        self._poke()
        return number

    def send(self, number: int, data: bytes | memoryview, *, end: bool = False) -> bool:
        """Queue bytes of a stream; False asks to wait for the handler's `on_writable`."""
        welcome = self._wire.send(number, data, end=end)
        self._poke()
        return welcome

    def send_message(self, number: int, data: bytes | memoryview, *, end: bool = False, at_once: bool = False) -> bool:
        """Queue a message, or write it `at_once` where nothing else waits; otherwise as `send`."""
        welcome = self._wire.send_message(number, data, end=end)
        if not (at_once and self._write_now()):
            self._poke()
        return welcome

    def room(self, number: int) -> int:
        """Return how many bytes would go without waiting for the far end's credit, headers included."""
        return self._wire.room(number)

    def eof(self, number: int) -> None:
        """Say that nothing more will be sent."""
        self._wire.eof(number)
        self._poke()

    def signal(self, number: int, data: bytes) -> None:
        """Send at most 256 bytes past all that waits."""
        self._wire.signal(number, data)
        self._poke()

    def grant(self, number: int, count: int) -> None:
        """Say that content was used; `frames.cost` of each piece adds up to `count`."""
        self._wire.grant(number, count)
        self._poke()

    def widen(self, number: int, window: int) -> None:
        """Let the far end send up to `window` bytes ahead on a channel."""
        self._wire.widen(number, window)
        self._poke()

    def accept(self, number: int, header: bytes = b"") -> None:
        """Say that a channel of the far end is served."""
        self._wire.accept(number, header)
        self._poke()

    def reject(self, number: int, code: int, text: str) -> None:
        """Refuse a channel of the far end: nothing was done."""
        self._wire.reject(number, code, text)
        self._poke()

    def reset(self, number: int, code: int = CANCELLED, text: str = "") -> None:
        """Give a channel up; its handler is not called any more."""
        self._wire.reset(number, code, text)
        self._routes.forget((number,))
        self._poke()

    async def ping(self) -> float:
        """Return the seconds of one round trip to the outpost itself, past all that waits."""
        if self._loss is not None or self._closing or self.is_forked:
            raise self.error("finished")
        number = self._wire.ping(monotonic())
        answer: asyncio.Future[float] = self._loop.create_future()
        self._pings[number] = answer
        self._poke()
        try:
            return await answer
        finally:
            self._pings.pop(number, None)

    # what comes

    def _take(self, data: bytes) -> None:
        if self._loss is not None:
            return
        self._watch.heard()
        for event in self._wire.receive(data, monotonic()):
            if event.channel:
                self._routes.deliver(event)
            else:
                self._on_link(event)
        self._routes.forget(self._wire.ended())
        self._poke()

    def _on_link(self, event: Event) -> None:
        if event.kind == PONG:
            answer = self._pings.get(event.number)
            if answer is not None and not answer.done():
                answer.set_result(self._wire.round_trip or 0.0)
        elif event.kind == HELLO:
            self._wire.ping(monotonic())  # while nothing else is under way: the cap on bulk goes by it
            self._greeted.set_result(None)
        elif event.kind == CLOSED:
            self._lose("protocol", f"the far end broke a rule of the wire: {event.text}")
        elif event.kind == GOAWAY:
            self._parted = True
            self._lose("protocol" if event.number else "closed", f"the far end says goodbye: {event.text}")

    def _on_end(self) -> None:
        self._lose("closed", "its output has ended")

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"a channel to the outpost on {self.host} broke", "exception": error}
        )

    # what goes

    def _poke(self) -> None:
        """Let the writer look, if there is something for it."""
        wake = self._wake
        if wake is not None and not wake.done() and self._wire.waits():
            wake.set_result(None)

    def _write_now(self) -> bool:
        """Write what waits, in this turn of the loop; returns whether that could be."""
        stdin, wake = self._far.stdin, self._wake
        if wake is None or wake.done() or not isinstance(stdin, FarInput):
            return False
        write = stdin.prompt()
        if write is None:
            return False
        write(self._next_bytes())
        return not self._wire.waits()

    def _next_bytes(self) -> bytes:
        wire = self._wire
        data = b"".join(wire.take(monotonic(), WRITE_BYTES))
        self._routes.writable(wire.drained())
        self._routes.forget(wire.ended())
        return data

    async def _write(self) -> None:
        wire, loop = self._wire, self._loop
        while self._loss is None or wire.waits():
            data = self._next_bytes()
            try:
                if data:
                    await self._far.stdin.send(data)
                else:
                    self._wake = loop.create_future()
                    await self._wake
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteError):
                self._lose("reset", "it takes no more input")
                return
            finally:
                self._wake = None

    # the end

    def _probe(self) -> None:
        self._wire.ping(monotonic())
        self._poke()

    def _silent(self, seconds: float) -> None:
        self._lose("keepalive", f"nothing came for {seconds:g} s")

    def _lose(self, reason: Reason, text: str) -> None:
        """Tell everybody, once, that the link is over."""
        if self._loss is not None:
            return
        self._loss = (reason, text)
        self._watch.stop()
        if not self._closing:
            self._far.process.end()
        for future in (self._greeted, self._over):
            if not future.done():
                future.set_result(None)
        for answer in self._pings.values():
            if not answer.done():
                answer.set_exception(self.error("finished"))
        self._routes.lose_all(text)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
