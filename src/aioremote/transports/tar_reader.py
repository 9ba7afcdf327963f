"""Far trees read as one tar stream: one process, whatever the number of files."""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from aioremote._core.pieces import Piece, kind_of_special
from aioremote.errors import FileChanged, TransferError, file_error
from aioremote.transports.shell_calls import errno_in, operand, program, said_error
from aioremote.transports.tar_codec import Member, TarDecoder, TarError
from aioremote.types import FileStat

if TYPE_CHECKING:
    from aioremote._core.pieces import Tally
    from aioremote.protocols import FarProcess, FileSystem, Starter
    from aioremote.transports.tar_codec import Chunk

__all__ = ["TarReader"]

# The first line of output says whether tar is GNU's, which tells by itself of files that change. After another's
# archive comes what the files are then.
_READ = b"""
follow=
if [ -d "$1" ]; then cd -P "$1" || exit 41; what=.
elif [ -f "$1" ]; then what=./${1##*/}; follow=-h; cd -P "${1%/*}/" || exit 1
elif [ ! -e "$1" ]; then why_missing "$1"
elif [ -p "$1" ]; then exit 60
elif [ -S "$1" ]; then exit 62
else exit 61
fi
case $(tar --version 2>/dev/null) in
*"GNU tar"*)
 echo gnu
 exec tar $follow --format=gnu --sparse --hard-dereference --quoting-style=literal -cf - "$what" ;;
esac
echo plain
tar -c $follow -f - "$what" || exit
if stat -c %f / >/dev/null 2>&1; then find "$what" -type f -exec stat -c '%s %Y %n/' {} + 2>/dev/null
else find "$what" -type f -exec stat -f '%z %m %N/' {} + 2>/dev/null
fi
exit 0
"""
_SPECIAL = {60: "a pipe", 61: "a device", 62: "a socket"}
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
_SOCKET = re.compile(r"^tar: (.*): socket ignored$", re.MULTILINE)
_CHANGED = re.compile(r"^tar: (.*): (?:[Ff]ile changed as we read it|File shrank by .*)$")
_VANISHED = re.compile(r"^tar: (.*): File removed before we read it$")
_FAILED = re.compile(r"^tar: (.*): (?:Cannot|can't|Warning|Read|short) ?.*$")
_RECORD = re.compile(rb"(\d{1,19}) (\d{1,19}) (.*)", re.DOTALL)
_READ_BYTES = 256 * 1024
_AHEAD_BYTES = 4 * 1024 * 1024
_SAID_BYTES = 64 * 1024
_REST_BYTES = 256 * 1024 * 1024  # of what a tar that is not GNU's is followed by
_HELD_FILES = 64  # big ones that are not given their place before tar has said that none changed
_PART_BYTES = 1024 * 1024


class TarReader:
    """Reads one far file or tree. See `FileSystem.read_tree`."""

    def __init__(self, files: FileSystem, starter: Starter, host: str, root: bytes, tally: Tally) -> None:
        self._files = files
        self._starter = starter
        self._host = host
        self._root = root.rstrip(b"/") or b"/"
        self._tally = tally
        self._decoder = TarDecoder()
        self._said = bytearray()
        self._intro: bytes | None = b""  # the first line, until it is whole
        self._gnu = True
        self._is_single: bool | None = None  # until the first member has come
        self._alone = b"./" + os.path.basename(self._root)
        self._path = b""  # of the file that is being read
        self._stat = FileStat(st_mode=0, st_size=0)
        self._buffer = bytearray()  # its bytes, where they will be one piece
        self._held: dict[bytes, Piece] = {}
        self._linked: list[bytes] = []  # further names of files, read at the end
        self._seen: dict[bytes, tuple[int, int]] = {}  # size and time, where tar does not look itself

    async def read(self) -> AsyncGenerator[Sequence[Piece]]:
        """Yield the pieces."""
        far = await self._starter.start_process(program(_READ, operand(self._root)))
        try:
            if far.stderr is not None:
                far.stderr.divert(self._hear)
            far.stdout.raise_limit(_AHEAD_BYTES)
            async with aclosing(self._stream(far)) as batches:
                async for batch in batches:
                    yield batch
            await self._check_end(far)
        finally:
            await far.aclose()
        if self._held:
            yield list(self._held.values())
        for path in self._linked:
            async for piece in self._read_linked(path):
                yield [piece]

    def _hear(self, chunk: bytes) -> None:
        self._said += chunk
        del self._said[:-_SAID_BYTES]

    async def _stream(self, far: FarProcess) -> AsyncGenerator[Sequence[Piece]]:
        while True:
            try:
                data = await far.stdout.receive(_READ_BYTES)
            except anyio.EndOfStream:
                return
            try:
                batch = self._take(data)
            except TarError as error:
                raise TransferError(f"{self._host}: tar sent no archive: {error}", host=self._host) from error
            if batch:
                yield batch

    def _take(self, data: bytes) -> list[Piece]:
        if self._intro is not None:
            line, newline, data = (self._intro + data).partition(b"\n")
            self._intro = None if newline else line[:_SAID_BYTES]
            self._gnu = line == b"gnu"
            if not newline:
                return []
        if self._decoder.ended and (self._gnu or len(self._decoder.rest) > _REST_BYTES):
            return []
        batch: list[Piece] = []
        for found in self._decoder.feed(data):
            if isinstance(found, Member):
                self._begin(found, batch)
            else:
                self._content(found, batch)
        return batch

    # members

    def _begin(self, member: Member, batch: list[Piece]) -> None:
        path = self._place(member)
        found = FileStat(
            st_mode=_TYPES.get(member.kind, 0) | member.mode,
            st_size=member.size,
            st_uid=member.uid,
            st_gid=member.gid,
            st_atime_ns=member.mtime * 10**9,
            st_mtime_ns=member.mtime * 10**9,
        )
        if member.kind == tarfile.LNKTYPE:
            self._linked.append(path)
        elif found.is_file():
            self._path, self._stat = path, found
            self._tally.found(found)
            if not self._gnu:
                self._seen[path] = member.size, member.mtime
        elif found.is_dir() or found.is_symlink():
            batch.append(Piece(path, found, target=member.target))
        else:
            self._tally.skip(path, kind_of_special(found) or "")

    def _place(self, member: Member) -> bytes:
        """Return the path below the root; what leads elsewhere is left as it is, for `checked` to judge."""
        if self._is_single is None:
            self._is_single = member.name == self._alone and member.kind == tarfile.REGTYPE
            if self._is_single:
                return b""
        return b"" if member.name == b"." else member.name.removeprefix(b"./")

    def _content(self, chunk: Chunk, batch: list[Piece]) -> None:
        whole = self._stat.st_size <= _PART_BYTES and not (self._is_single and self._stat.st_size)
        if whole:
            self._gather(chunk, batch)
            return
        if chunk.data:
            batch.append(Piece(self._path, self._stat, chunk.data, chunk.offset, last=False))
        if chunk.last:
            if len(self._held) >= _HELD_FILES:
                self._check_said()
                batch.append(self._held.pop(next(iter(self._held))))
            self._held[self._path] = Piece(self._path, self._stat, b"", self._stat.st_size)

    def _gather(self, chunk: Chunk, batch: list[Piece]) -> None:
        """Put a small file together; its holes are zeros here."""
        self._buffer += bytes(chunk.offset - len(self._buffer)) + chunk.data
        if chunk.last:
            batch.append(Piece(self._path, self._stat, bytes(self._buffer)))
            self._buffer = bytearray()

    # the end

    async def _check_end(self, far: FarProcess) -> None:
        """Raise what tar said of the files."""
        status = await far.wait()
        if status.returncode in _SPECIAL:
            text = f"{_SPECIAL[status.returncode]}, neither file nor directory"
            raise file_error(errno.EINVAL, os.fsdecode(self._root), host=self._host, text=text)
        self._check_said()
        for found in _SOCKET.findall(self._text()):
            self._tally.skip(os.fsencode(found).removeprefix(b"./"), "a socket")
        if status.returncode and not (self._gnu and status.returncode == 1 and self._decoder.ended):
            raise self._failure() or said_error(self._host, self._root, status, self._text())
        if not self._decoder.ended:
            raise TransferError(f"{self._host}: the archive of tar ended early: {self._text()}", host=self._host)
        for record in bytes(self._decoder.rest).lstrip(b"\0").split(b"/\n"):
            self._compare(record)

    def _text(self) -> str:
        return self._said.decode(errors="surrogateescape").strip()

    def _check_said(self) -> None:
        for line in self._text().splitlines():
            if found := _CHANGED.match(line):
                raise self._changed(self._full(found[1]))

    def _failure(self) -> Exception | None:
        """Return the error for the first file that tar could not read."""
        for line in self._text().splitlines():
            if (found := _FAILED.match(line)) and not _VANISHED.match(line):
                return file_error(errno_in(line), os.fsdecode(self._full(found[1])), host=self._host)
        return None

    def _full(self, shown: str) -> bytes:
        """Return the far path for a name as tar says it."""
        name = os.fsencode(shown).removeprefix(b"./")
        return self._root if self._is_single or name in (b"", b".") else self._root.rstrip(b"/") + b"/" + name

    def _changed(self, full: bytes) -> FileChanged:
        shown = os.fsdecode(full)
        text = f"{self._host}: {shown} changed while it was read; send it again"
        return FileChanged(text, host=self._host, path=shown)

    def _compare(self, record: bytes) -> None:
        """Look at what a file was after it was read."""
        found = _RECORD.fullmatch(record)
        if found is None:
            return
        name = b"" if self._is_single else found[3].removeprefix(b"./")
        if self._seen.get(name, (int(found[1]), int(found[2]))) != (int(found[1]), int(found[2])):
            raise self._changed(self._full(os.fsdecode(name)))

    async def _read_linked(self, path: bytes) -> AsyncGenerator[Piece]:
        """Read a file that tar told as a further name of another."""
        full = self._root.rstrip(b"/") + b"/" + path
        found = await self._files.stat(full, follow=False)
        if not found.is_file():
            raise self._changed(full)
        self._tally.found(found)
        file = await self._files.open(full, os.O_RDONLY)
        try:
            offset = 0
            while not offset or offset < found.st_size:
                data = await file.read(offset, min(_PART_BYTES, found.st_size - offset))
                end = offset + len(data)
                if (not data and found.st_size) or (end >= found.st_size and await file.stat() != found):
                    raise self._changed(full)
                yield Piece(path, found, data, offset, last=end >= found.st_size)
                if not found.st_size:
                    return
                offset = end
        finally:
            await file.aclose()
