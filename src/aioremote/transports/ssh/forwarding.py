"""Connections and listeners at the far end, as anyio streams over ssh channels of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import asyncssh
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_RESOURCE_SHORTAGE

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.splice import Sink, Spliceable, SplicingListener
from aioremote._core.streams import Feed, StreamAttribute
from aioremote.errors import BusyError, TunnelError, TunnelRefused
from aioremote.transports.ssh.channels import Channel, adopt_stream, open_forward
from aioremote.transports.ssh.options import WINDOW_BYTES
from aioremote.types import Endpoint

if TYPE_CHECKING:
    from aioremote.transports.ssh.link import Link

__all__ = ["ChannelStream", "open_connection", "open_listener"]

_WAITING_CONNECTIONS = 128  # accepted by the far side and not served yet; more are turned away
_CLOSE_SECONDS = 2.0
PACKET_BYTES = 64 * 1024


class ChannelStream(asyncssh.SSHTCPSession[bytes], asyncssh.SSHUNIXSession[bytes], ByteStream, Spliceable):
    """One forwarded connection: bytes both ways, half-close, back-pressure."""

    def __init__(self, link: Link, peer: Endpoint) -> None:
        self._link = link
        self._peer = peer
        self._channel: Channel | None = None
        self._feed = Feed(self._hold)
        self._held = False
        self._can_write: asyncio.Future[None] | None = None
        self._sending = False
        self._ended = False
        self._closed = asyncio.Event()
        self._sink: Sink | None = None
        self._error: BaseException | None = None

    # what asyncssh calls

    def connection_made(self, chan: Any) -> None:  # Any: two kinds of channel
        self._channel = chan
        chan.set_write_buffer_limits(high=256 * 1024)
        if self._ended:
            chan.abort()

    def session_started(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._feed.feed(data)

    def eof_received(self) -> bool:
        self._feed.end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        lost = self._link.connection.is_closed()
        self._error = anyio.BrokenResourceError() if exc is not None or lost else None
        if self._sink is not None:
            self._sink.closed(self._error)
        self._feed.end(self._error)
        self._release_writer()
        self._closed.set()

    def pause_writing(self) -> None:
        self._held = True
        if self._sink is not None:
            self._sink.full(True)

    def resume_writing(self) -> None:
        self._held = False
        self._release_writer()
        if self._sink is not None:
            self._sink.full(False)

    def _release_writer(self) -> None:
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    def _hold(self, held: bool) -> None:  # noqa: FBT001  # a callback's form
        if self._channel is not None:
            self._channel.pause_reading() if held else self._channel.resume_reading()

    # ByteStream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._feed.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if self._sending:
            raise BusyError(f"somebody is writing to the connection to {self._peer} already")
        if self._ended:
            raise anyio.ClosedResourceError
        if self._channel is None or self._channel.is_closing():
            raise anyio.BrokenResourceError
        channel, self._sending = self._channel, True
        try:
            channel.write(item)
            while self._held and not self._closed.is_set():
                self._can_write = asyncio.get_running_loop().create_future()
                await self._can_write
        finally:
            self._sending, self._can_write = False, None
        if self._closed.is_set():
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        self.put_eof()

    def abort(self) -> None:
        """Drop the connection at once, or as soon as it has come about."""
        self._ended = True
        if self._channel is not None:
            self._channel.abort()

    # Spliceable

    def splice(self, sink: Sink) -> None:
        self._sink = sink
        self._feed.divert(sink.received, sink.ended)
        if self._closed.is_set():
            sink.closed(self._error)

    def put(self, data: bytes) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data)

    def put_eof(self) -> None:
        self._ended = True
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def set_hold(self, held: bool) -> None:  # noqa: FBT001
        self._feed.set_hold(held)

    def finish(self) -> None:
        self._ended = True
        if self._channel is not None:
            self._channel.close()

    async def aclose(self) -> None:
        self.finish()
        await self._feed.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):  # the close is ordered; only its confirmation is waited for
                await self._closed.wait()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.remote_address: lambda: self._peer.path or (self._peer.host, self._peer.port),
            StreamAttribute.readable: lambda: self._feed.readable,
        }


async def open_connection(link: Link, target: Endpoint) -> ByteStream:
    """Connect from the far side.

    Raises:
        TunnelRefused: nothing listens there. (OpenSSH says the same where it forbids unix sockets.)
        TunnelError: the far side does not come to the target, or its server forbids it.
    """
    stream = ChannelStream(link, target)
    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(channel: Channel, error: BaseException | None) -> None:
        if error is None:
            adopt_stream(channel, stream)
        if not opened.done():
            opened.set_exception(error) if error is not None else opened.set_result(None)

    try:
        open_forward(link.connection, target, WINDOW_BYTES, PACKET_BYTES, answered)
        await opened
    except asyncio.CancelledError:
        stream.abort()
        raise
    except (asyncssh.Error, OSError) as error:
        _raise_tunnel_error(link, error, f"cannot connect to {target}")
    return stream


def _error_of(opening: asyncio.Task[None]) -> BaseException | None:
    """Return how it failed; the machine may have been closed meanwhile, which cancels it."""
    return asyncio.CancelledError() if opening.cancelled() else opening.exception()


def _raise_tunnel_error(link: Link, error: BaseException, what: str) -> NoReturn:
    host = link.host
    if link.connection.is_closed() or isinstance(error, asyncio.CancelledError):
        raise link.lost("not_started") from error
    if isinstance(error, asyncssh.ChannelOpenError):
        kind = TunnelError if error.code == OPEN_ADMINISTRATIVELY_PROHIBITED else TunnelRefused
        forbids = " (the server forbids it)" if kind is TunnelError else ""
        raise kind(f"{host}: {what}: {error.reason}{forbids}", host=host) from error
    if isinstance(error, (asyncssh.Error, asyncssh.ChannelListenError, OSError)):
        raise TunnelError(f"{host}: {what}: {error}", host=host) from error
    raise error


class _FarListener(Listener[ByteStream], SplicingListener):
    """Connections that the far side accepts."""

    def __init__(self, link: Link, bind: Endpoint) -> None:
        self._link = link
        self.bind = bind
        self._streams, self._accepted = anyio.create_memory_object_stream[ChannelStream](_WAITING_CONNECTIONS)
        self._take: Callable[[Spliceable], None] | None = None
        self._listener: Any = None  # Any: asyncssh's SSHListener
        self._closed = False

    async def open(self) -> None:
        """Ask the far side to listen, and learn the port that it has picked."""
        bind, connection = self.bind, self._link.connection
        if bind.path:
            self._listener = await connection.create_unix_server(self.accept, bind.path, window=WINDOW_BYTES)
        else:
            self._listener = await connection.create_server(self.accept, bind.host, bind.port, window=WINDOW_BYTES)
            self.bind = Endpoint(bind.host, self._listener.get_port())
        self._link.spawn(self._watch(), f"end of the listener on {bind}")

    async def _watch(self) -> None:
        """End the queue when the far side does not listen any more."""
        await self._listener.wait_closed()
        self._streams.close()

    def accept(self, host: str = "", port: int = 0) -> ChannelStream:
        """Take a connection (asyncssh calls this); one too many is refused."""
        stream = ChannelStream(self._link, Endpoint(host, port, self.bind.path))
        if self._take is not None and not self._closed:
            self._take(stream)
            return stream
        try:
            self._streams.send_nowait(stream)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            reason = "too many connections wait to be served"
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, reason) from None
        return stream

    async def serve(self, handler: Callable[[ByteStream], Awaitable[Any]], task_group: TaskGroup | None = None) -> None:
        """Serve each connection in a task of its own.

        Raises:
            ConnectionLost: the link ended, so that nothing listens any more.
            anyio.ClosedResourceError: this listener was closed.
        """
        async with anyio.create_task_group() as own:
            group = task_group or own
            async for stream in self._accepted:
                group.start_soon(_serve_one, handler, stream)
            if self._closed:
                raise anyio.ClosedResourceError
            raise self._link.lost("unknown")

    async def give(self, take: Callable[[Spliceable], None]) -> None:
        self._take = take
        async for stream in self._accepted:
            take(stream)

    def discard(self) -> None:
        """Stop listening, without waiting, and turn away who waits to be served."""
        self._closed = True
        self._streams.close()
        with suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                self._accepted.receive_nowait().abort()
        self._accepted.close()
        if self._listener is not None:
            self._listener.close()

    async def aclose(self) -> None:
        self.discard()
        await bounded_cleanup(self._listener.wait_closed(), _CLOSE_SECONDS)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.local_address: lambda: self.bind.path or (self.bind.host, self.bind.port)
        }
        if not self.bind.path:
            attributes[SocketAttribute.local_port] = lambda: self.bind.port
        return attributes


async def _serve_one(handler: Callable[[ByteStream], Awaitable[Any]], stream: ChannelStream) -> None:
    async with stream:
        await handler(stream)


async def open_listener(link: Link, bind: Endpoint) -> Listener[ByteStream]:
    """Listen on the far side.

    Raises:
        TunnelError: the port or path is taken, or the server forbids it.
    """
    found = _FarListener(link, bind)
    opening = link.spawn(found.open(), f"listener on {bind}")
    try:
        await asyncio.wait({opening})
    except asyncio.CancelledError:
        opening.add_done_callback(lambda _: found.discard())
        raise
    if (error := _error_of(opening)) is not None:
        found.discard()
        link.forgive(error)
        _raise_tunnel_error(link, error, f"cannot listen on {bind}")
    return found
