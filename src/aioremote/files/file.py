"""Open far files: `RemoteFile` for bytes, `RemoteTextFile` for text. The names are those of `io`, awaited."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from aioremote.protocols import FarFile, FileSystem

__all__ = ["Opening", "RemoteFile", "RemoteTextFile", "flags_of", "opened", "opened_text"]

BUFFER_BYTES = 256 * 1024  # asked ahead, and kept before it is written
BULK_BYTES = 4 * 1024 * 1024  # asked at once where all is read
_KINDS = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "a": os.O_CREAT | os.O_APPEND,
    "x": os.O_CREAT | os.O_EXCL,
}
F = TypeVar("F", bound="RemoteFile | RemoteTextFile")


def flags_of(mode: str) -> int:
    """Return the flags of `os.open` for a mode as "rb" or "w+".

    Raises:
        ValueError: what is no mode.
    """
    letters = mode.replace("b", "", 1).replace("t", "", 1)
    kind, plus = letters[:1], letters[1:]
    if kind not in _KINDS or plus not in ("", "+") or ("b" in mode and "t" in mode):
        raise ValueError(f"mode {mode!r}: give one of r, w, a and x, with b for bytes and + for both ways")
    access = os.O_RDWR if plus else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return _KINDS[kind] | access


class Opening(Generic[F]):
    """A file that is about to be opened: an async context manager, and an awaitable, of the file."""

    def __init__(self, begin: Callable[[], Awaitable[F]]) -> None:
        self._begin = begin
        self._file: F | None = None

    def __await__(self) -> Generator[object, None, F]:
        return self._begin().__await__()

    async def __aenter__(self) -> F:
        self._file = await self._begin()
        return self._file

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._file is not None:
            await self._file.aclose()


async def opened(files: FileSystem, path: bytes, flags: int) -> RemoteFile:
    """Open a file for bytes."""
    far = await files.open(path, flags)
    position = 0
    if flags & os.O_APPEND:
        try:
            position = (await far.stat()).st_size
        except BaseException:
            await far.aclose()
            raise
    return RemoteFile(far, flags, position)


class RemoteFile:
    """An open far file of bytes, as `io.BufferedRandom`. One operation at a time.

    Reads ask ahead, writes are kept until there are 256 KiB of them, or `flush`, `seek`, `aclose` or a read comes.
    """

    def __init__(self, far: FarFile, flags: int, position: int) -> None:
        self._far = far
        self._access = flags & os.O_ACCMODE
        self._position = position
        self._ahead = b""  # what follows the position
        self._unwritten = bytearray()  # what belongs before it
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _check(self, *, writing: bool) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")
        if self._access == (os.O_RDONLY if writing else os.O_WRONLY):
            raise io.UnsupportedOperation("not open for " + ("writing" if writing else "reading"))

    # reading

    async def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end of the file; all that is left with a negative `size`."""
        self._check(writing=False)
        await self.flush()
        parts = [self._take(size)]
        left = size - len(parts[0])
        while size < 0 or left > 0:
            if size < 0 or left >= BUFFER_BYTES:
                data = await self._far.read(self._position, BULK_BYTES if size < 0 else min(left, BULK_BYTES))
                self._position += len(data)
            else:
                self._ahead = await self._far.read(self._position, BUFFER_BYTES)
                data = self._take(left)
            if not data:
                break
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        """Return at most `size` of the bytes that are here."""
        data = self._ahead if size < 0 else self._ahead[:size]
        self._ahead = self._ahead[len(data) :]
        self._position += len(data)
        return data

    async def readline(self, size: int = -1) -> bytes:
        """Return the next line with its newline, at most `size` bytes of it; empty at the end."""
        self._check(writing=False)
        await self.flush()
        line = bytearray()
        while size < 0 or len(line) < size:
            if not self._ahead:
                self._ahead = await self._far.read(self._position, BUFFER_BYTES)
            end = self._ahead.find(b"\n") + 1
            count = end or len(self._ahead)
            part = self._take(count if size < 0 else min(count, size - len(line)))
            line += part
            if not part or part.endswith(b"\n"):
                break
        return bytes(line)

    async def readlines(self) -> list[bytes]:
        """Return all lines that are left."""
        return [line async for line in self]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    # writing

    async def write(self, data: bytes) -> int:
        """Write all of it, by and by; returns the number of bytes."""
        self._check(writing=True)
        self._ahead = b""
        self._unwritten += data
        self._position += len(data)
        if len(self._unwritten) >= BUFFER_BYTES:
            await self.flush()
        return len(data)

    async def writelines(self, lines: list[bytes]) -> None:
        """Write one after the other."""
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Return when the far side has what was written."""
        if self._unwritten:
            data, self._unwritten = bytes(self._unwritten), bytearray()
            await self._far.write(self._position - len(data), data)

    async def truncate(self, size: int | None = None) -> int:
        """Give the file another size, by default up to the position; returns it."""
        self._check(writing=True)
        await self.flush()
        self._ahead = b""
        size = self._position if size is None else size
        await self._far.truncate(size)
        return size

    # the position

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, counted from the start, from here (`os.SEEK_CUR`) or from the end; returns it."""
        if self._closed:
            raise ValueError("I/O operation on closed file")
        await self.flush()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if base is None:
            if whence != os.SEEK_END:
                raise ValueError(f"whence {whence}: give os.SEEK_SET, os.SEEK_CUR or os.SEEK_END")
            base = (await self._far.stat()).st_size
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is before the start of the file")
        self._position, self._ahead = base + offset, b""
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    async def sha256(self) -> str:
        """Return the SHA-256, in hexadecimal digits, of all from the position on."""
        digest = hashlib.sha256()
        while data := await self.read(BULK_BYTES):
            digest.update(data)
        return digest.hexdigest()

    async def aclose(self) -> None:
        """Write what is left, and close it. May be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.flush()
        finally:
            await self._far.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


def opened_text(raw: RemoteFile, *, encoding: str, errors: str, newline: str | None) -> RemoteTextFile:
    """Return the same file as text."""
    if newline not in (None, "", "\n"):
        raise ValueError(f"newline {newline!r}: give None, '' or '\\n'")
    return RemoteTextFile(raw, encoding=encoding, errors=errors, translate=newline is None)


class RemoteTextFile:
    """An open far file of text. It is read from the start on, or written; `seek` knows the start and the end."""

    def __init__(self, raw: RemoteFile, *, encoding: str, errors: str, translate: bool) -> None:
        self._raw = raw
        self._encoder = codecs.getincrementalencoder(encoding)(errors)
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=translate) if translate else decoder
        self._ahead = ""
        self._at_end = False

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._raw.closed

    async def _more(self) -> None:
        data = await self._raw.read(BUFFER_BYTES)
        self._at_end = not data
        self._ahead += self._decoder.decode(data, self._at_end)

    async def read(self, size: int = -1) -> str:
        """Return `size` characters, fewer only at the end; all that is left with a negative `size`."""
        while not self._at_end and (size < 0 or len(self._ahead) < size):
            await self._more()
        text = self._ahead if size < 0 else self._ahead[:size]
        self._ahead = self._ahead[len(text) :]
        if size < 0:
            self._at_end = False  # the file may grow
        return text

    async def readline(self) -> str:
        """Return the next line with its newline; empty at the end."""
        while not self._at_end and "\n" not in self._ahead:
            await self._more()
        end = self._ahead.find("\n") + 1
        return await self.read(end or len(self._ahead))

    async def readlines(self) -> list[str]:
        """Return all lines that are left."""
        return [line async for line in self]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def write(self, text: str) -> int:
        """Write all of it, by and by; returns the number of characters."""
        await self._raw.write(self._encoder.encode(text))
        return len(text)

    async def writelines(self, lines: list[str]) -> None:
        """Write one after the other."""
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Return when the far side has what was written."""
        await self._raw.flush()

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the start, or with ``(0, os.SEEK_END)`` to the end.

        Raises:
            io.UnsupportedOperation: any other place; open the file in binary mode for that.
        """
        if offset or whence not in (os.SEEK_SET, os.SEEK_END):
            raise io.UnsupportedOperation("a text file can only go to its start or end: open it in binary mode")
        self._decoder.reset()
        self._ahead, self._at_end = "", False
        return await self._raw.seek(0, whence)

    async def aclose(self) -> None:
        """Write what is left, and close it. May be called twice."""
        await self._raw.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()
