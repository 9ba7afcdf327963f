"""A channel that awaits: messages and bytes with back-pressure both ways. For what needs no task there is `Handler`."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from aioremote.errors import BusyError, RemoteError
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import CANCELLED, Handler
from aioremote.outpost.link import CHANNEL_WINDOW

if TYPE_CHECKING:
    from aioremote.outpost.link import Link

__all__ = ["Channel", "ChannelReset"]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class ChannelReset(RemoteError):
    """The far end gave a channel up. Those who offer something over channels say what that means.

    Attributes:
        code: one of those in `far.handlers`.
        refused: True where nothing was done.
    """

    def __init__(self, message: str, *, host: str = "", code: int = 0, refused: bool = False) -> None:
        super().__init__(message, host=host)
        self.code = code
        self.refused = refused


class Channel(Handler):
    """One channel of a link, opened with its creation; ``async with`` gives it up at the end of the block.

    Args:
        link: the link.
        kind: the service.
        header: what the service is told.
        window: bytes that may wait here unread.

    Attributes:
        number: its number on the wire.

    Raises:
        ConnectionLost, ClosedError, BusyError: as from `Link.open`.

    Concurrency: one sender and one receiver at a time, else BusyError.
    """

    __slots__ = ("_end", "_header", "_kind", "_link", "_pieces", "_readable", "_room", "number")

    def __init__(self, link: Link, kind: str, header: bytes = b"", *, window: int = CHANNEL_WINDOW) -> None:
        self._link = link
        self._kind = kind
        self._header: bytes | None = None  # of the far end's acceptance
        self._pieces: deque[tuple[bytes, bool | None]] = deque()  # bytes: None; messages: whether more follows
        self._end: Exception | None = None  # raised when the pieces are used up
        self._readable: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.number: int = link.open(kind, self, header, window=window)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset()

    # towards the far end

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes; returns when there is room for more.

        Raises:
            ChannelReset: the far end takes nothing more.
            ConnectionLost, ClosedError: the link is over.

        Cancellation: `data` has been queued whole, and goes out if the channel is not reset.
        """
        self._check_writing()
        if not self._link.send(self.number, data, end=end):
            await self._wait_for_room()

    async def send_message(self, data: bytes, *, end: bool = False) -> None:
        """Send one message, of any size; otherwise as `send`."""
        self._check_writing()
        if not self._link.send_message(self.number, data, end=end):
            await self._wait_for_room()

    def eof(self) -> None:
        """Say that nothing more will be sent. May be said again."""
        self._link.eof(self.number)

    def signal(self, data: bytes) -> None:
        """Send at most 256 bytes that overtake everything."""
        self._link.signal(self.number, data)

    def reset(self, code: int = CANCELLED, text: str = "") -> None:
        """Give the channel up, both ways, unless it is over. What has come can no longer be read."""
        self._link.reset(self.number, code, text)
        self._pieces.clear()
        self._finish(anyio.ClosedResourceError())

    def _check_writing(self) -> None:
        if self._room is not None:
            raise BusyError(f"{self._link.host}: somebody is sending on this channel already", host=self._link.host)
        if self._end is not None and not isinstance(self._end, anyio.EndOfStream):
            raise self._raised()

    async def _wait_for_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None
        if self._end is not None and not isinstance(self._end, anyio.EndOfStream):
            raise self._raised()

    # from the far end

    async def accepted(self) -> bytes:
        """Wait until the far end serves the channel, and return what it said; raises as `receive`."""
        while self._header is None:
            if self._pieces or isinstance(self._end, anyio.EndOfStream):
                return b""
            if self._end is not None:
                raise self._raised()
            await self._wait()
        return self._header

    def has_news(self) -> bool:
        """Tell whether something can be received, or the end be told, at once."""
        return bool(self._pieces) or self._end is not None

    async def receive(self) -> bytes:
        """Return the next bytes as they came, at most 1 MiB.

        Raises:
            anyio.EndOfStream: after the last.
            ChannelReset: the far end gave the channel up.
            ConnectionLost, ClosedError: the link is over.
        """
        data, more = await self._next()
        if more is not None:
            raise self._wrong("a message came where bytes were expected")
        return data

    async def receive_message(self, *, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the next message whole; otherwise as `receive`.

        Raises:
            RemoteError: it is longer than `max_bytes`, or bytes came; the channel is given up.
        """
        parts: list[bytes] = []
        size = 0
        more: bool | None = True
        while more:
            data, more = await self._next()
            parts.append(data)
            size += len(data)
            if more is None or size > max_bytes:
                raise self._wrong(
                    f"a message of more than {max_bytes} bytes" if more is not None else "bytes came, no message"
                )
        return b"".join(parts) if len(parts) > 1 else parts[0]

    async def _next(self) -> tuple[bytes, bool | None]:
        while not self._pieces:
            if self._end is not None:
                raise self._raised()
            await self._wait()
        piece = self._pieces.popleft()
        self._link.grant(self.number, cost(piece[0]))
        return piece

    async def _wait(self) -> None:
        if self._readable is not None:
            raise BusyError(f"{self._link.host}: somebody is reading this channel already", host=self._link.host)
        self._readable = asyncio.get_running_loop().create_future()
        try:
            await self._readable
        finally:
            self._readable = None

    def _wrong(self, text: str) -> RemoteError:
        self.reset(CANCELLED, text)
        return RemoteError(f"{self._link.host}: {self._kind}: {text}", host=self._link.host)

    def _raised(self) -> Exception:
        """Return what a call has to raise: a fresh one, for several may."""
        end = self._end
        if isinstance(end, ChannelReset):
            return ChannelReset(str(end), host=end.host, code=end.code, refused=end.refused)
        return self._link.error() if end is None or isinstance(end, RemoteError) else type(end)()

    def _finish(self, end: Exception) -> None:
        if self._end is None or isinstance(self._end, anyio.EndOfStream):
            self._end = end
        self._wake()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    # what the link calls

    def on_accept(self, header: bytes) -> None:
        self._header = header
        self._wake()

    def on_data(self, data: bytes) -> None:
        self._pieces.append((data, None))
        self._wake()

    def on_message(self, data: bytes, more: bool) -> None:
        self._pieces.append((data, more))
        self._wake()

    def on_eof(self) -> None:
        self._end = anyio.EndOfStream()
        self._wake()

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        host = self._link.host
        self._finish(ChannelReset(f"{host}: {self._kind}: {text}", host=host, code=code, refused=refused))

    def on_writable(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def on_lost(self, text: str) -> None:
        self._finish(RemoteError(text))
