"""Connections from the far end and listeners there, as anyio streams over a master."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.streams import Feed, StreamAttribute
from aioremote.errors import BusyError, ConnectionLost, TunnelError, TunnelRefused
from aioremote.transports.openssh.control import Control
from aioremote.transports.openssh.mux import (
    Forward,
    Kind,
    Reply,
    alive_check,
    close_forward,
    open_forward,
    stdio_forward,
)
from aioremote.transports.openssh.pipes import PipeReader, PipeWriter
from aioremote.types import Endpoint

if TYPE_CHECKING:
    from aioremote.transports.openssh.link import Link

__all__ = ["MuxStream", "open_connection", "open_listener"]

_CLOSE_SECONDS = 2.0


class MuxStream(ByteStream):
    """One connection from the far end: two pipes, half-close, back-pressure."""

    def __init__(self, link: Link, peer: Endpoint) -> None:
        self._link = link
        self._peer = peer
        self._feed = Feed(self._hold)
        self._reader: PipeReader | None = None
        self._writer: PipeWriter | None = None
        self._control: Control | None = None
        self._answered: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._can_write: asyncio.Future[None] | None = None
        self._full = False
        self._sending = False
        self._ended = False
        self._abandoned = False

    async def open(self) -> None:
        """Ask for the connection.

        Raises:
            TunnelRefused: it does not come about. (A master does not tell why.)
            ConnectionLost: the master is gone.
        """
        self._control = control = Control(self._replied, self._over)
        try:
            await control.connect(self._link.path)
        except OSError as error:
            raise self._link.lost("not_started") from error
        far_in, near_out = os.pipe()
        near_in, far_out = os.pipe()
        self._reader = PipeReader(near_in, self._feed.feed, self._end_of_input)
        self._writer = PipeWriter(near_out, self._is_full)
        control.greet(stdio_forward(0, self._peer.host, self._peer.port), [far_in, far_out])
        try:
            reply = await self._answered
        except asyncio.CancelledError:  # the master dies of a caller who does not wait for its answer
            self._abandoned = True
            self._link.keep(self)
            raise
        if reply is None or reply.kind is not Kind.SESSION_OPENED:
            self.abort()
            if reply is None:
                raise self._link.lost("not_started")
            host = self._link.host
            raise TunnelRefused(f"{host}: cannot connect to {self._peer}: refused there, or forbidden", host=host)

    def _replied(self, reply: Reply) -> None:
        if not self._answered.done():
            self._answered.set_result(reply)
        elif self._abandoned:
            self.abort()

    def _over(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)
        elif self._abandoned:
            self.abort()

    def _end_of_input(self) -> None:
        self._feed.end(None if self._link.control.is_alive() else anyio.BrokenResourceError())

    def _hold(self, held: bool) -> None:  # noqa: FBT001  # a callback's form
        if self._reader is not None:
            self._reader.hold(held=held)

    def _is_full(self, full: bool) -> None:  # noqa: FBT001
        self._full = full
        if not full and self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._feed.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if self._sending:
            raise BusyError(f"somebody is writing to the connection to {self._peer} already")
        if self._ended:
            raise anyio.ClosedResourceError
        writer = self._writer
        if writer is None or not writer.is_open:
            raise anyio.BrokenResourceError
        self._sending = True
        try:
            writer.write(item)
            while self._full and writer.is_open:
                self._can_write = asyncio.get_running_loop().create_future()
                await self._can_write
        finally:
            self._sending, self._can_write = False, None
        if not writer.is_open:
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        self._ended = True
        if self._writer is not None:
            self._writer.finish()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._ended = True
        for part in (self._reader, self._writer, self._control):
            if part is not None:
                part.close()
        self._feed.end(anyio.ClosedResourceError())
        self._link.drop(self)

    def link_ended(self) -> None:
        """Leave it to the pipes to tell."""

    async def aclose(self) -> None:
        if self._writer is not None and not self._ended:
            await self.send_eof()
        if self._writer is not None and self._writer.is_waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    while self._full:
                        self._can_write = asyncio.get_running_loop().create_future()
                        await self._can_write
        await self._feed.aclose()
        self.abort()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.remote_address: lambda: self._peer.path or (self._peer.host, self._peer.port),
            StreamAttribute.readable: lambda: self._feed.readable,
        }


async def open_connection(link: Link, target: Endpoint) -> ByteStream:
    """Connect from the far side.

    Raises:
        TunnelRefused: it does not come about. (Of a unix socket a master does not tell: the stream ends at once.)
        ConnectionLost: the master is gone.
    """
    if target.path:
        return await _open_unix_connection(link, target)
    stream = MuxStream(link, target)
    await stream.open()
    link.keep(stream)
    return stream


async def _open_unix_connection(link: Link, target: Endpoint) -> ByteStream:
    """Connect to a far unix socket by a forward that serves one connection: `NEW_STDIO_FWD` cannot before 9.4."""
    with tempfile.TemporaryDirectory(prefix="aioremote-", ignore_cleanup_errors=True) as directory:
        forward = Forward(target.path, None, f"{directory}/s", reverse=False)
        reply = await link.ask(lambda number: open_forward(number, forward))
        if reply.kind is not Kind.OK:
            raise TunnelError(f"{link.host}: cannot connect to {target}: {reply.text}", host=link.host)
        try:
            return await anyio.connect_unix(forward.near_path)
        except OSError as error:
            raise link.lost("not_started") from error
        finally:
            await bounded_cleanup(_end_forward(link, forward), _CLOSE_SECONDS)


async def _end_forward(link: Link, forward: Forward) -> None:
    """End a forward once it has taken the connections that were made before."""
    with suppress(ConnectionLost):
        await link.ask(alive_check)  # a master that answers this has been through its listeners as well
        await link.ask(lambda number: close_forward(number, forward))


class _FarListener(Listener[ByteStream]):
    """Connections that the far side accepts; a socket in a private directory is where they come out."""

    def __init__(self, link: Link, bind: Endpoint) -> None:
        self._link = link
        self.bind = bind
        self._directory = tempfile.mkdtemp(prefix="aioremote-")
        near_path = f"{self._directory}/{secrets.token_hex(4)}"
        self._forward = Forward(bind.path or bind.host, None if bind.path else bind.port, near_path)
        self._near: Listener[Any] | None = None
        self._asked = False
        self._closed = False

    async def open(self) -> None:
        """Ask the far side to listen, and learn the port that it has picked."""
        self._near = await anyio.create_unix_listener(self._forward.near_path)
        self._asked = True
        reply = await self._link.ask(lambda number: open_forward(number, self._forward))
        if reply.kind is Kind.REMOTE_PORT:
            self.bind = Endpoint(self.bind.host, reply.number)
        elif reply.kind is not Kind.OK:
            self._asked = False
            host = self._link.host
            raise TunnelError(f"{host}: cannot listen on {self.bind}: it is taken or forbidden", host=host)
        self._link.keep(self)

    async def serve(self, handler: Callable[[ByteStream], Awaitable[Any]], task_group: TaskGroup | None = None) -> None:
        """Serve each connection in a task of its own.

        Raises:
            ConnectionLost: the link ended, so that nothing listens any more.
            anyio.ClosedResourceError: this listener was closed.
        """
        assert self._near is not None
        try:
            await self._near.serve(handler, task_group)
        except anyio.ClosedResourceError:
            if self._closed:
                raise
            raise self._link.lost("unknown") from None

    def link_ended(self) -> None:
        """Stop serving."""
        if self._near is not None:
            self._link.spawn(self._near.aclose(), f"end of the listener on {self.bind}")

    async def aclose(self) -> None:
        self._closed = True
        self._link.drop(self)
        try:
            if self._asked and self._link.control.is_alive():
                self._asked = False
                with suppress(ConnectionLost):
                    ask = self._link.ask(lambda number: close_forward(number, self._forward))
                    await bounded_cleanup(ask, _CLOSE_SECONDS)
        finally:
            if self._near is not None:
                await self._near.aclose()
            with suppress(OSError):
                os.unlink(self._forward.near_path)
            with suppress(OSError):
                os.rmdir(self._directory)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.local_address: lambda: self.bind.path or (self.bind.host, self.bind.port)
        }
        if not self.bind.path:
            attributes[SocketAttribute.local_port] = lambda: self.bind.port
        return attributes


async def open_listener(link: Link, bind: Endpoint) -> Listener[ByteStream]:
    """Listen on the far side.

    Raises:
        TunnelError: the port or path is taken, or the server forbids it.
        ConnectionLost: the master is gone.
    """
    found = _FarListener(link, bind)
    try:
        await found.open()
    except BaseException:
        await bounded_cleanup(found.aclose(), _CLOSE_SECONDS)
        raise
    return found
