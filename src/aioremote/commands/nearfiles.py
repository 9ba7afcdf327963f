"""Near files as the ends of far streams: read and written in large blocks, off the loop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import anyio

from aioremote.errors import FileError, file_error

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

__all__ = ["BlockFile", "NearWriter", "feed", "feed_file", "open_near"]

_BLOCK_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024  # of a block, for one write
_HIGH_WATER = 2 * 1024 * 1024  # bytes that wait to be written, above which the source is held back


def _near_error(error: OSError, path: Path | str) -> FileError:
    return file_error(error.errno or errno.EIO, str(path), host="localhost")


async def open_near(path: Path, mode: str) -> BinaryIO:
    """Open a near file.

    Args:
        path: which.
        mode: "rb", "wb" or "ab".

    Raises:
        FileError: it cannot be opened.
    """

    def opened() -> BinaryIO:
        file: BinaryIO = open(path, mode)  # type: ignore[assignment]  # noqa: SIM115
        if mode == "rb":
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return file

    opening = asyncio.get_running_loop().run_in_executor(None, opened)
    try:
        await asyncio.wait({opening})
        return opening.result()
    except OSError as error:
        raise _near_error(error, path) from error
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.exception():
        opening.result().close()


async def feed(data: bytes, target: ByteSendStream) -> None:
    """Write data to a standard input, and end it; what is not taken any more is dropped."""
    view = memoryview(data)
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        for start in range(0, len(view), _PIECE_BYTES):
            await target.send(bytes(view[start : start + _PIECE_BYTES]))
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await target.aclose()


async def feed_file(file: BinaryIO, path: Path, target: ByteSendStream) -> None:
    """Write a near file to a standard input, and end it; what is not taken any more is not read.

    Raises:
        FileError: it cannot be read to its end.
    """
    try:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
                for start in range(0, len(block), _PIECE_BYTES):
                    await target.send(block[start : start + _PIECE_BYTES])
    except OSError as error:
        raise _near_error(error, path) from error
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await target.aclose()


class BlockFile(Protocol):
    """What a NearWriter writes to, from a thread."""

    def writelines(self, lines: Iterable[bytes], /) -> object:
        """Write bytes."""
        ...

    def flush(self) -> object:
        """Let all be seen."""
        ...


class NearWriter:
    """Writes what it is given to a near file, in the order of the calls.

    Args:
        file: open for writing.
        path: for errors.

    Attributes:
        hold: called with True when the file is slow, with False when it has caught up.
    """

    def __init__(self, file: BlockFile, path: Path | str) -> None:
        self._file = file
        self._path = path
        self.hold: Callable[[bool], object] = bool
        self._waiting: list[bytes] = []
        self._size = 0
        self._holding = False
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Take bytes to write."""
        self._waiting.append(data)
        self._size += len(data)
        self._judge()
        self._news.set()

    def end(self) -> None:
        """Say that nothing more comes."""
        self._ended = True
        self._news.set()

    def _judge(self) -> None:
        held = self._size > _HIGH_WATER
        if held != self._holding:
            self._holding = held
            self.hold(held)

    async def write(self) -> None:
        """Write all that comes, to its end.

        Raises:
            FileError: the file takes no more.
        """
        try:
            while not self._ended or self._waiting:
                await self._news.wait()
                self._news.clear()
                blocks, self._waiting = self._waiting, []
                if blocks:
                    await asyncio.to_thread(self._file.writelines, blocks)
                    self._size -= sum(map(len, blocks))
                    self._judge()
            await asyncio.to_thread(self._file.flush)
        except OSError as error:
            raise _near_error(error, self._path) from error
