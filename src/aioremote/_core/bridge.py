"""An asyncio transport over an anyio byte stream, for protocols that want a transport."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote.errors import RemoteError

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["StreamTransport"]

_HIGH_WATER_BYTES = 256 * 1024
_INFO = {  # by the names that asyncio's transports give them
    "peername": SocketAttribute.remote_address,
    "sockname": SocketAttribute.local_address,
    "ssl_object": TLSAttribute.ssl_object,
    "cipher": TLSAttribute.cipher,
    "peercert": TLSAttribute.peer_certificate,
}
_CLOSE_SECONDS = 0.4  # for the stream's own end, once the connection over it has ended


class StreamTransport(asyncio.Transport):
    """Moves bytes between a stream and a protocol, with back-pressure both ways.

    Args:
        stream: closed with the transport.
        protocol: hears of what comes, and once of the end.
        way: what the stream is, for the error that tells of its breaking.
    """

    def __init__(self, stream: ByteStream, protocol: asyncio.Protocol, *, way: str) -> None:
        super().__init__()
        self._way = way
        self._stream = stream
        self._protocol: asyncio.BaseProtocol = protocol
        self._owner = Owner("bridge")
        self._moving: set[asyncio.Task[None]] = set()
        self._buffer = bytearray()
        self._to_write = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closed = asyncio.Event()
        self._closing = False
        self._held = False
        self._eof: bool | None = None  # True once it is to be sent, False once it is

    def start(self) -> None:
        """Begin: the protocol learns of its transport, and bytes flow."""
        self._protocol.connection_made(self)
        self._moving = {self._owner.spawn(self._read(), "read"), self._owner.spawn(self._write(), "write")}
        self._owner.spawn(self._run(), "run")

    async def _run(self) -> None:
        """Wait until either direction has ended, and end the rest."""
        error: Exception | None = None
        try:
            await asyncio.wait(self._moving, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closing = True
            for task in self._moving:
                task.cancel()
            await asyncio.wait(self._moving)
            for task in self._moving:
                if not task.cancelled() and isinstance(found := task.exception(), Exception):
                    error = ConnectionResetError(f"{self._way} broke" + (f": {found}" if str(found) else ""))
            self._protocol.connection_lost(error)
            with suppress(anyio.BrokenResourceError, OSError, RemoteError):  # what counts is in `error`
                await bounded_cleanup(self._stream.aclose(), _CLOSE_SECONDS)
            self._closed.set()

    async def _read(self) -> None:
        assert isinstance(self._protocol, asyncio.Protocol)
        while True:
            await self._may_read.wait()
            try:
                data = await self._stream.receive()
            except anyio.EndOfStream:
                if self._protocol.eof_received():  # it wants to go on writing
                    await asyncio.get_running_loop().create_future()
                return
            self._protocol.data_received(data)

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            data = bytes(self._buffer)
            self._buffer.clear()
            self._to_write.clear()
            if data:
                await self._stream.send(data)
            if self._held and not self._buffer:
                self._held = False
                self._protocol.resume_writing()
            if self._eof and not self._buffer:
                self._eof = False
                await self._stream.send_eof()
            if self._closing and not self._buffer:
                return

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes."""
        if self._closing or self._eof is not None:
            return
        self._buffer += data
        self._to_write.set()
        if len(self._buffer) > _HIGH_WATER_BYTES and not self._held:
            self._held = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Whether the stream has a half-close; TLS has none."""
        return self._stream.extra(TLSAttribute.ssl_object, None) is None  # noqa: S610  # no Django

    def write_eof(self) -> None:
        """Send what is queued, then the end."""
        if self._eof is None and not self._closing:
            self._eof = True
            self._to_write.set()

    def pause_reading(self) -> None:
        """Stop the flow to the protocol."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Let it flow again."""
        self._may_read.set()

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing

    def close(self) -> None:
        """Send what is queued, then end."""
        self._closing = True
        self._to_write.set()

    def abort(self) -> None:
        """End at once, whatever is still on its way."""
        self._closing = True
        self._buffer.clear()
        for task in self._moving:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the stream is closed."""
        await self._closed.wait()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: asyncio's signature
        """Return what the stream tells of itself; there is no socket."""
        attribute = _INFO.get(name)
        return default if attribute is None else self._stream.extra(attribute, default)  # noqa: S610  # no Django

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol
