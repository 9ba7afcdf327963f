"""How long bytes are under way on a simulated link: constant delay, limited rate, bounded buffer."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["CHUNK_BYTES", "Lane", "Way"]

CHUNK_BYTES = 64 * 1024
NARROW_CHUNK_BYTES = 8 * 1024  # with a rate: what arrives at once must be small against the rate
TIMER_SECONDS = 0.001  # asyncio rounds waits up to whole milliseconds, twice: wake one of them early


class Way:
    """One direction of the link, shared by its connections: when is a byte at the other end?"""

    def __init__(self, delay: float, rate_bytes: float | None) -> None:
        self.rate_bytes = rate_bytes
        self.left: int | None = None  # bytes until the cut that was asked for
        self.reset = True
        self._delay = delay
        self._free_at = 0.0

    def arrival(self, count: int) -> float:
        """Return the loop's time at which `count` bytes handed over now have arrived."""
        now = asyncio.get_running_loop().time()
        if self.rate_bytes is None:
            return now + self._delay
        self._free_at = max(now, self._free_at) + count / self.rate_bytes
        return self._free_at + self._delay


class Lane:
    """One direction of one connection: bytes under way, with the time each is due."""

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, buffer_bytes: int) -> None:
        self.writer = writer
        self._way = way
        self._reader = reader
        self._buffer_bytes = buffer_bytes
        self._chunk_bytes = CHUNK_BYTES if way.rate_bytes is None else NARROW_CHUNK_BYTES
        self._under_way: deque[tuple[float, bytes | OSError]] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._ended = False

    async def fill(self) -> None:
        """Read until the end or a reset; both travel behind the bytes before them."""
        while True:
            try:
                chunk: bytes | OSError = await self._reader.read(self._chunk_bytes)
            except OSError as error:
                chunk = error
            count = len(chunk) if isinstance(chunk, bytes) else 0
            self._under_way.append((self._way.arrival(count), chunk))
            self._size += count
            self._changed.set()
            if count == 0:
                return
            while self._size >= self._buffer_bytes:
                self._changed.clear()
                await self._changed.wait()

    async def next_due(self) -> bytes | None:
        """Wait for the next bytes to arrive. ``b""`` is the end, None comes after it.

        Raises:
            OSError: the sender reset the connection.
        """
        if self._ended:
            return None
        while not self._under_way:
            self._changed.clear()
            await self._changed.wait()
        due, chunk = self._under_way.popleft()
        await self._wait_until(due)
        if isinstance(chunk, OSError):
            raise chunk
        self._size -= len(chunk)
        self._changed.set()
        self._ended = not chunk
        return chunk

    async def _wait_until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        left = due - loop.time()
        if left > 0:
            await asyncio.sleep(left - TIMER_SECONDS)
        # The last fraction of a millisecond is out of a timer's reach. For a lone message it is part of somebody's
        # round trip and worth some turns of the loop; in a stream it is not.
        while not self._under_way and loop.time() < due:  # noqa: ASYNC110 - nothing signals the passing of time
            await asyncio.sleep(0)
