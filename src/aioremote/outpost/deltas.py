"""Changed files of an outpost's machine by their differences: the orders and answers of `far.file_helper`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from aioremote._core.lifetime import bounded_cleanup
from aioremote.outpost.far.block_sums import sums_bytes
from aioremote.outpost.far.file_frames import BLOCK_BYTES, DONE, MISMATCH, STOP, SUMS, record
from aioremote.outpost.far.patching import COPY, DATA, WHOLE
from aioremote.outpost.file_calls import file_order, nonsense, told_error
from aioremote.outpost.files import TREE_WINDOW, FileStream
from aioremote.protocols import DeltaFiles, DeltaSource

if TYPE_CHECKING:
    from aioremote.outpost.link import Link
    from aioremote.types import FileStat

__all__ = ["OutpostDeltas"]

_CLEANUP_SECONDS = 10.0
_ORDERS = frozenset((COPY, DATA, WHOLE))


class OutpostDeltas(DeltaFiles):
    """The far files as the outpost's user sees them.

    Args:
        link: as for `OutpostFiles`.
    """

    def __init__(self, link: Callable[[], Awaitable[Link]]) -> None:
        self._link = link

    async def sums(self, root: bytes, path: bytes, size: int, block: int) -> bytes:
        wanted = sums_bytes(size, block)
        told = bytearray()
        async with await self._stream(file_order("sums", root, below=path, size=size, block=block)) as stream:
            while True:
                for body in await stream.records():
                    if body == DONE:
                        if len(told) not in (0, wanted):
                            raise nonsense(stream.host)
                        return bytes(told)
                    if body[:1] != SUMS:
                        raise told_error(body, stream.host)
                    told += body[1:]
                    if len(told) > wanted:
                        raise nonsense(stream.host)

    async def begin(self, path: bytes, size: int, old_size: int, block: int) -> DeltaSource:
        order = file_order("diff", path, size=size, old_size=old_size, block=block)
        return _OutpostSource(await self._stream(order, window=TREE_WINDOW))

    async def patch(self, root: bytes, path: bytes, found: FileStat, orders: AsyncIterator[Sequence[bytes]]) -> bool:
        stat = (found.st_mode, found.st_size, found.st_atime_ns, found.st_mtime_ns)
        async with await self._stream(file_order("patch", root, below=path, stat=stat)) as stream:
            try:
                async for batch in orders:
                    if stream.has_news():  # it cannot go on
                        break
                    await stream.send(b"".join(map(record, batch)))
                stream.eof()
                while not (bodies := await stream.records()):
                    pass
                if bodies[0] not in (DONE, MISMATCH):
                    raise told_error(bodies[0], stream.host)
                return bodies[0] == DONE
            except BaseException:
                stream.signal(STOP)
                await bounded_cleanup(stream.drain(), _CLEANUP_SECONDS)
                raise

    async def _stream(self, order: bytes, *, window: int = BLOCK_BYTES) -> FileStream:
        return FileStream(await self._link(), order, window=window)


class _OutpostSource(DeltaSource):
    """A far file; its helper reads it from the start on."""

    def __init__(self, stream: FileStream) -> None:
        self._stream = stream

    async def orders(self, sums: bytes) -> AsyncGenerator[Sequence[bytes]]:
        await self._stream.send(sums)
        while True:
            bodies = await self._stream.records()
            orders = [body for body in bodies if body[:1] in _ORDERS]
            if orders:
                yield orders
            if len(orders) < len(bodies):
                if bodies[len(orders)] != DONE:
                    raise told_error(bodies[len(orders)], self._stream.host)
                return

    async def aclose(self) -> None:
        self._stream.reset()
