"""Open far files as fsspec wants them: for threads that may wait, or awaited. The file systems are in `fsspec`."""

# fsspec says little of its own types:
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync as _untyped_sync

from aioremote.errors import file_error
from aioremote.files.file import BULK_BYTES, RemoteFile

if TYPE_CHECKING:
    from aioremote.integrations.fsspec import MachineFileSystem
    from aioremote.protocols import FarFile
    from aioremote.types import FileStat

__all__ = ["CLOSE_SECONDS", "AwaitedFile", "RawFile", "Uncommitted", "buffered", "running_loop", "sync", "wait_in"]

CLOSE_SECONDS = 10.0
sync: Callable[..., Any] = _untyped_sync  # Any: fsspec says no more


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread."""
    """Return the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def wait_in(loop: asyncio.AbstractEventLoop, awaited: Coroutine[Any, Any, None], timeout: float) -> None:
    """Run something in the loop; wait for it where this is another thread."""
    done = asyncio.run_coroutine_threadsafe(awaited, loop)
    if running_loop() is not loop:
        done.result(timeout)


class AwaitedFile(RemoteFile):
    """An open file, as fsspec wants one that is awaited.

    Attributes:
        size: when it was opened.
    """

    def __init__(self, far: FarFile, flags: int, size: int) -> None:
        super().__init__(far, flags, size if flags & os.O_APPEND else 0)
        self.size: int = size

    async def close(self) -> None:
        """Write what is left, and close it. May be called twice."""
        await self.aclose()


class RawFile(io.RawIOBase):
    """An open far file for a thread that may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, far: FarFile, name: str, mode: str, position: int) -> None:
        self.name = name
        self.mode = mode
        self._loop = loop
        self._far = far
        self._position = position

    def readable(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        return "r" not in self.mode or "+" in self.mode

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # Any: whatever has a buffer
        data: bytes = sync(self._loop, self._far.read, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        sync(self._loop, self._far.write, self._position, bytes(data))
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: lambda: 0, os.SEEK_CUR: lambda: self._position, os.SEEK_END: self._size}
        if whence not in starts:
            raise ValueError(f"whence {whence}: give os.SEEK_SET, os.SEEK_CUR or os.SEEK_END")
        position = starts[whence]() + offset
        if position < 0:
            raise ValueError(f"position {position} is before the start of the file")
        self._position = position
        return position

    def _size(self) -> int:
        found: FileStat = sync(self._loop, self._far.stat)
        return found.st_size

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        sync(self._loop, self._far.truncate, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            wait_in(self._loop, self._far.aclose(), CLOSE_SECONDS)


def buffered(raw: RawFile, block_size: int | None) -> io.BufferedIOBase:
    """Return a file with a buffer of that many bytes, of 4 MiB by default."""
    """Return a file with a buffer of that many bytes, of 4 MiB by default."""
    size = block_size or BULK_BYTES
    if raw.readable() and raw.writable():
        return io.BufferedRandom(raw, size)
    return io.BufferedReader(raw, size) if raw.readable() else io.BufferedWriter(raw, size)


class Uncommitted(io.BufferedWriter):
    """A file that is written beside its target until the transaction ends."""

    def __init__(self, raw: RawFile, size: int, files: MachineFileSystem, beside: str, target: str) -> None:
        super().__init__(raw, size)
        self._files = files
        self._beside = beside
        self._target = target
        self._is_new = raw.mode == "xb"

    def commit(self) -> None:
        """Give it its place."""
        if self._is_new and self._files.exists(self._target):
            self.discard()
            raise file_error(errno.EEXIST, self._target, host=self._files.machine.host)
        self._files.mv(self._beside, self._target)

    def discard(self) -> None:
        """Remove it."""
        self._files.rm_file(self._beside)
