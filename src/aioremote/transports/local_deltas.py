"""Changed files of this machine by their differences: the work of far ends (`outpost.far.patching`), in threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from aioremote._core.lifetime import bounded_cleanup, settle
from aioremote._core.pieces import TreeOptions
from aioremote.errors import FileChanged
from aioremote.outpost.far.block_sums import Sums
from aioremote.outpost.far.file_frames import BLOCK_BYTES
from aioremote.outpost.far.patching import Differ, Patcher, Strayed, tell_sums
from aioremote.outpost.far.tree_reader import Changed
from aioremote.outpost.far.tree_writer import Failed, TreeWriter
from aioremote.protocols import DeltaFiles, DeltaSource
from aioremote.transports.local_calls import HOST, in_thread, local_error, named

if TYPE_CHECKING:
    from aioremote.types import FileStat

__all__ = ["LocalDeltas"]

_CLEANUP_SECONDS = 10.0
T = TypeVar("T")
A = TypeVarTuple("A")


class LocalDeltas(DeltaFiles):
    """The files as this process's user sees them."""

    async def sums(self, root: bytes, path: bytes, size: int, block: int) -> bytes:
        return await named(path, _sums, root, path, size, block)

    async def begin(self, path: bytes, size: int, old_size: int, block: int) -> DeltaSource:
        try:
            differ = await named(path, Differ, path, size, block, undo=Differ.close)
        except Changed as error:
            raise _changed(path) from error
        return _LocalSource(differ, path, old_size, block)

    async def patch(self, root: bytes, path: bytes, found: FileStat, orders: AsyncIterator[Sequence[bytes]]) -> bool:
        writer = TreeWriter(root, TreeOptions(preserve=True, durable=False))
        patcher: Patcher | None = None
        try:
            patcher = await in_thread(Patcher, writer, path, found, undo=Patcher.close)
            async for batch in orders:
                if await in_thread(_follow, patcher, batch):
                    return True
            return False
        except Strayed:
            return False
        finally:
            await bounded_cleanup(in_thread(_close, patcher, writer), _CLEANUP_SECONDS)


class _LocalSource(DeltaSource):
    """A near file; it is read from the start on, whether orders are wanted yet or not."""

    def __init__(self, differ: Differ, path: bytes, old_size: int, block: int) -> None:
        self._differ = differ
        self._path = path
        self._old = old_size, block
        self._closed = False
        self._using = threading.Lock()  # held by the thread that reads; so the file is closed after it
        self._scanned = asyncio.get_running_loop().run_in_executor(None, self._used, differ.scan)

    def _used(self, call: Callable[[*A], T], *args: *A) -> T:
        with self._using:
            return call(*args)

    async def orders(self, sums: bytes) -> AsyncGenerator[Sequence[bytes]]:
        await asyncio.wait({self._scanned})
        try:
            self._scanned.result()
        except Changed as error:
            raise _changed(self._path) from error
        orders = self._differ.orders(Sums(sums, *self._old))
        while batch := await named(self._path, self._used, _next_orders, orders):
            yield batch

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._differ.give_up()
            self._scanned.add_done_callback(lambda done: done.exception())  # told, or not wanted any more
            closing = asyncio.get_running_loop().run_in_executor(None, self._used, self._differ.close)
            await settle(closing, _CLEANUP_SECONDS)


def _sums(root: bytes, path: bytes, size: int, block: int) -> bytes:
    writer = TreeWriter(root, TreeOptions())
    try:
        return tell_sums(writer, path, size, block)
    finally:
        writer.close()


def _next_orders(orders: Iterator[bytes]) -> list[bytes]:
    """Return some more, none after the last."""
    batch: list[bytes] = []
    size = 0
    for order in orders:
        batch.append(order)
        size += len(order)
        if size >= BLOCK_BYTES:
            break
    return batch


def _follow(patcher: Patcher, batch: Sequence[bytes]) -> bool:
    try:
        return any(patcher.follow(order) for order in batch)
    except Failed as error:
        raise local_error(error.error, error.path) from error.error


def _close(patcher: Patcher | None, writer: TreeWriter) -> None:
    if patcher is not None:
        patcher.close()
    writer.close()


def _changed(path: bytes) -> FileChanged:
    shown = os.fsdecode(path)
    return FileChanged(f"{HOST}: {shown!r} changed while it was read; sync again", host=HOST, path=shown)
