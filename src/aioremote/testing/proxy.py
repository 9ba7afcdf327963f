"""A TCP link that misbehaves on request: slow, narrow, frozen or cut, on loopback.

    async with TcpProxy(server.host, server.port, delay=0.02) as link:   # 40 ms a round trip
        ... connect to link.host, link.port ...
        link.freeze()                                                    # nothing arrives any more, nobody is told

It relays bytes and knows no protocol. It shares the loop, and so the CPU, with what is tested: good for round trips,
not for throughput near the machine's limit. Connecting costs no simulated round trip: it ends at the proxy.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Literal, Self

from aioremote.testing._lanes import CHUNK_BYTES, Lane, Way

__all__ = ["Direction", "TcpProxy"]

Direction = Literal["sent", "received"]  # from the client to the target, and back


class TcpProxy:
    """A relay between clients and one target, as ``async with`` block.

    Args:
        target_host: Where connections go.
        target_port: Its port.
        delay: Seconds each way, whatever is under way already: a round trip takes twice as long.
        rate_bytes: Bytes a second, each way, shared by all connections; None is unlimited.
        buffer_bytes: How much a direction of a connection holds in flight before its sender is held back. The kernel's
            socket buffers come on top.
        listen_host: The address to listen on.

    Attributes:
        accept_silently: While True, new connections are accepted and nothing is ever sent or relayed.
        accepted: Connections accepted so far.
        bytes_sent: Bytes written to targets so far.
        bytes_received: Bytes written to clients so far.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        delay: float = 0.0,
        rate_bytes: float | None = None,
        buffer_bytes: int = 1024 * 1024,
        listen_host: str = "127.0.0.1",
    ) -> None:
        if delay < 0 or buffer_bytes < 1 or (rate_bytes is not None and rate_bytes <= 0):
            raise ValueError("delay cannot be negative; rate_bytes and buffer_bytes must be positive")
        self.host = listen_host
        self.accept_silently = False
        self.accepted: int = 0
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self._target = (target_host, target_port)
        self._buffer_bytes = buffer_bytes
        self._ways = {"sent": Way(delay, rate_bytes), "received": Way(delay, rate_bytes)}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._relays: set[_Relay] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on; RuntimeError while it does not."""
        if self._server is None:
            raise RuntimeError("this proxy does not listen")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def active(self) -> int:
        """Connections open now."""
        return len(self._relays)

    @property
    def frozen(self) -> bool:
        """Whether `freeze` holds."""
        return not self._flowing.is_set()

    def freeze(self) -> None:
        """Stop relaying, both ways: a black hole. Connections stay open, new ones are accepted.

        What is sent meanwhile is held, up to `buffer_bytes`; so is an end or a reset of one side.
        """
        self._flowing.clear()

    def thaw(self) -> None:
        """Go on after `freeze`; what was held is delivered."""
        self._flowing.set()

    def cut(self, *, reset: bool = True) -> None:
        """End every connection now, both sides; what is in flight is lost. New connections are served.

        Args:
            reset: With RST, as a router that lost its state; False sends an orderly end (FIN).
        """
        for relay in list(self._relays):
            relay.cut(reset=reset)

    def cut_after(self, count: int, direction: Direction, *, reset: bool = True) -> None:
        """End every connection as `cut` does once exactly `count` more bytes were relayed in `direction`.

        Args:
            count: Bytes from now on, over all connections; 0 cuts at once.
            direction: ``sent`` (client to target) or ``received``.
            reset: As for `cut`.
        """
        way = self._ways[direction]
        way.left, way.reset = count, reset
        if count <= 0:
            way.left = None
            self.cut(reset=reset)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and cut what is open; does nothing the second time."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        await self._idle.wait()
        if server is not None:
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = _Relay(writer)
        self.accepted += 1
        self._relays.add(relay)
        self._idle.clear()
        try:
            async with asyncio.TaskGroup() as group:
                severed = group.create_task(relay.severed())
                if self._server is not None:  # else it was accepted while the proxy closed
                    await self._relay(relay, reader, writer)
                severed.cancel()
        except* _SeveredError:
            pass
        finally:
            try:
                await relay.aclose()
            finally:
                self._relays.discard(relay)
                if not self._relays:
                    self._idle.set()

    async def _relay(self, relay: _Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.accept_silently:
            while await reader.read(CHUNK_BYTES):
                pass
            return
        await self._flowing.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            relay.reset_all()
            return
        relay.add(far_writer)
        lanes = (
            Lane(self._ways["sent"], reader, far_writer, self._buffer_bytes),
            Lane(self._ways["received"], far_reader, writer, self._buffer_bytes),
        )
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(lane.fill())
                group.create_task(self._drain(lanes[0], "sent"))
                group.create_task(self._drain(lanes[1], "received"))
        except* OSError:
            relay.reset_all()

    async def _drain(self, lane: Lane, direction: Direction) -> None:
        """Write what has been under way long enough."""
        way = self._ways[direction]
        while (chunk := await lane.next_due()) is not None:
            await self._flowing.wait()
            if lane.writer.is_closing():  # writing would be no OSError on every loop
                raise ConnectionResetError
            if not chunk:
                lane.writer.write_eof()
                continue
            allowed = chunk if way.left is None else chunk[: way.left]
            lane.writer.write(allowed)
            await lane.writer.drain()
            if direction == "sent":
                self.bytes_sent += len(allowed)
            else:
                self.bytes_received += len(allowed)
            if way.left is not None:
                way.left -= len(allowed)
                if way.left <= 0:
                    way.left = None
                    self.cut(reset=way.reset)


class _SeveredError(Exception):
    """The test cut this connection."""


class _Relay:
    """The sockets of one connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._cut = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self.add(writer)

    def add(self, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        _socket(writer).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def severed(self) -> None:
        """Wait for `cut`, then raise _SeveredError."""
        await self._cut.wait()
        raise _SeveredError

    def reset_all(self) -> None:
        """Abort both sides with RST."""
        for writer in self._writers:
            if writer.transport.is_closing():
                continue
            # Source: socket(7): a linger time of zero makes close() send RST and drop what is unsent.
            _socket(writer).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def cut(self, *, reset: bool) -> None:
        """End both sides now."""
        if reset:
            self.reset_all()
        else:
            for writer in self._writers:
                writer.transport.abort()
        self._cut.set()

    async def aclose(self) -> None:
        """Close both sides when all is written."""
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            try:
                await writer.wait_closed()
            except OSError:
                pass  # the other end was faster


def _socket(writer: asyncio.StreamWriter) -> socket.socket:
    found: socket.socket = writer.get_extra_info("socket")
    return found
