"""Far trees written as one tar stream: unpacked beside the target, then each file is given its place."""

from __future__ import annotations

import os
import re
import secrets
import tarfile
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import anyio

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.pieces import Piece, temp_name
from aioremote.errors import ChecksumMismatch, TransferError, UnsupportedError
from aioremote.transports.shell_calls import operand, program, run_program, said_error
from aioremote.transports.tar_codec import END, Member, header, padding
from aioremote.transports.tar_script import WRITE, quoted, touch_line

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote._core.pieces import Tally, TreeOptions
    from aioremote.protocols import FarProcess, Starter

__all__ = ["TarWriter"]

_CLEANUP_SECONDS = 10.0
_SAID_BYTES = 64 * 1024
_JOINED = 64  # parts of a file put together by one command
_NO_STAT = 50
_MISMATCH = 51
_NO_HASH = 52
_LINE = re.compile(r" differ: .*line (\d+)")  # what cmp says


class _Parts:
    """A file that comes in several pieces: each is a member of its own, and put in its place at the far end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.runs: list[tuple[int, list[bytes]]] = []  # where parts that follow one another begin
        self.end = -1

    def add(self, piece: Piece) -> bytes:
        """Return the name of the next part, which is none where it has no bytes."""
        name = b"parts/%d-%x" % (self.number, piece.offset)
        if not piece.data:
            return name
        if piece.offset != self.end or len(self.runs[-1][1]) == _JOINED:
            self.runs.append((piece.offset, []))
        self.runs[-1][1].append(name)
        self.end = piece.offset + len(piece.data)
        return name


class TarWriter:
    """Writes one far file or tree. See `FileSystem.write_tree`."""

    def __init__(self, starter: Starter, host: str, root: bytes, tally: Tally, options: TreeOptions) -> None:
        self._starter = starter
        self._host = host
        self._root = operand(root.rstrip(b"/") or b"/")
        self._tally = tally
        self._options = options
        self._temp = temp_name(secrets.token_hex(6))
        above, _, name = self._root.rpartition(b"/")
        self._above = above + b"/"
        self._name = b"root" if name in (b"", b".", b"..") else name
        self._umask = 0
        self._parts: dict[bytes, _Parts] = {}
        self._count = 0
        self._before: list[bytes] = []  # lines for the far shell: before and after the files have their places
        self._fresh: list[bytes] = []
        self._after: list[bytes] = []
        self._hashed: list[tuple[bytes, bytes, bytes]] = []  # path, name in the archive, and what it hashes to
        self._said = bytearray()
        self._is_over = False  # the far script has ended, and removed what it made

    async def write(self, pieces: AsyncIterator[Sequence[Piece]]) -> None:
        """Write all pieces."""
        async for batch in pieces:
            if batch:
                await self._write_from(batch, pieces)
                return

    async def _write_from(self, first: Sequence[Piece], rest: AsyncIterator[Sequence[Piece]]) -> None:
        try:
            far = await self._start(is_tree=first[0].stat.is_dir())
            try:
                await self._talk(far, first, rest)
            finally:
                await far.aclose()
        finally:
            if not self._is_over:
                await bounded_cleanup(self._remove_temp(), _CLEANUP_SECONDS)

    async def _start(self, *, is_tree: bool) -> FarProcess:
        options = self._options
        durable = (b"tree" if is_tree else b"file") if options.durable else b""
        spec = program(
            WRITE,
            self._root,
            self._above,
            self._name,
            self._temp,
            b"tree" if is_tree else b"file",
            b"" if options.preserve else b"-m",
            b"1" if options.overwrite else b"",
            b"1" if options.overwrite and not options.preserve else b"",
            durable,
            b"1" if options.verify else b"",
            stdin=True,
        )
        return await self._starter.start_process(spec)

    async def _talk(self, far: FarProcess, first: Sequence[Piece], rest: AsyncIterator[Sequence[Piece]]) -> None:
        if far.stderr is not None:
            far.stderr.divert(self._hear)
        if not await self._learn_umask(far):
            raise await self._failure(far)
        stdin = far.stdin
        assert stdin is not None  # it was asked for
        try:
            await stdin.send(header(Member(b"parts", tarfile.DIRTYPE, 0o700)))
            await stdin.send(header(Member(b"tree", tarfile.DIRTYPE, 0o700)))
            await self._send(stdin, first)
            async for more in rest:
                await self._send(stdin, more)
            await stdin.send(_file(b"hashed", b"".join(name + b"\0" for _, name, _ in self._hashed)))
            await stdin.send(_file(b"hashes", b"".join(digest.hex().encode() + b"\n" for *_, digest in self._hashed)))
            for name, lines in ((b"before", self._before), (b"fresh", self._fresh), (b"after", self._after)):
                await stdin.send(_file(name, b"".join(lines)))
            await stdin.send(_file(b"whole", b"") + END)
            await stdin.aclose()
        except anyio.BrokenResourceError:  # it ended early, and says why
            raise await self._failure(far) from None
        status = await far.wait()
        if status.returncode:
            raise await self._failure(far)
        self._is_over = True

    def _hear(self, chunk: bytes) -> None:
        self._said += chunk
        del self._said[:-_SAID_BYTES]

    async def _learn_umask(self, far: FarProcess) -> bool:
        """Whether the far script began: it tells its umask when it has its temporary directory."""
        line = b""
        while not line.endswith(b"\n"):
            try:
                line += await far.stdout.receive()
            except anyio.EndOfStream:
                return False
        self._umask = int(line, 8)
        return True

    async def _failure(self, far: FarProcess) -> Exception:
        status = await far.wait()
        self._is_over = status.returncode >= 0
        said = self._said.decode(errors="surrogateescape").strip()
        if status.returncode == _NO_STAT:
            return UnsupportedError(f"{self._host}: cannot write trees without `stat`", host=self._host)
        if status.returncode == _NO_HASH:
            return UnsupportedError(f"{self._host}: cannot verify without `sha256sum`", host=self._host)
        if status.returncode == _MISMATCH:
            return self._mismatch(said)
        if not status.returncode:
            return TransferError(f"{self._host}: the far side closed its input early: {said}", host=self._host)
        return said_error(self._host, self._blamed(said), status, said)

    def _mismatch(self, said: str) -> ChecksumMismatch:
        line = _LINE.search(said)
        path = self._hashed[int(line[1]) - 1][0] if line is not None else b""
        shown = os.fsdecode(_shown(self._root) + (b"/" + path if path else b""))
        text = f"{self._host}: what has arrived of {shown!r} is not what was sent; all is as it was"
        return ChecksumMismatch(text, host=self._host, path=shown)

    def _blamed(self, said: str) -> bytes:
        """Return the path for what was said last: a file of the tree, where it is named."""
        mark = "tree/" + os.fsdecode(self._name) + "/"
        for line in said.splitlines():
            before, found, rest = line.partition(mark)
            if found and before.startswith("tar: "):
                return _shown(self._root) + b"/" + os.fsencode(rest.partition(": ")[0])
        return _shown(self._root)

    async def _remove_temp(self) -> None:
        places = (self._above + self._temp, self._root.rstrip(b"/") + b"/" + self._temp)
        await run_program(self._starter, b'exec rm -rf -- "$@"', *places)

    # pieces

    async def _send(self, stdin: ByteSendStream, batch: Sequence[Piece]) -> None:
        packed = b"".join([self._packed(piece) for piece in batch])
        if packed:
            await stdin.send(packed)
        for piece in batch:
            if piece.stat.is_file():
                self._tally.wrote(piece)

    def _member(self, path: bytes) -> bytes:
        return b"tree/" + self._name + (b"/" + path if path else b"")

    def _packed(self, piece: Piece) -> bytes:
        found, name = piece.stat, self._member(piece.path)
        if piece.digest:
            self._hashed.append((piece.path, name, piece.digest))
        mode = self._options.mode(found, self._umask)
        mtime = found.st_mtime_ns // 10**9
        if found.is_dir():
            self._note_folder(piece, mode)
            return header(Member(name, tarfile.DIRTYPE, mode | 0o700, mtime=mtime))
        if found.is_symlink():
            return header(Member(name, tarfile.SYMTYPE, 0o777, mtime=mtime, target=piece.target))
        if piece.path not in self._parts and piece.last and len(piece.data) == found.st_size:
            return _file(name, piece.data, mode, mtime)
        return self._part(piece, name, mode)

    def _note_folder(self, piece: Piece, mode: int) -> None:
        """Permissions that would be in the way, and times, are set at the end, the deepest first."""
        place = quoted(b"./" + piece.path)
        if self._options.preserve:
            self._after.insert(0, b"chmod %o %s\n" % (mode, place) + touch_line(piece.stat, place))
        elif mode & 0o700 != 0o700:
            self._fresh.insert(0, b"fresh %s && chmod %o %s\n" % (quoted(b"/" + piece.path), mode, place))

    def _part(self, piece: Piece, name: bytes, mode: int) -> bytes:
        parts = self._parts.get(piece.path)
        if parts is None:
            self._count += 1
            parts = self._parts[piece.path] = _Parts(self._count)
        packed = _file(parts.add(piece), piece.data, 0o600) if piece.data else b""
        if piece.last:
            del self._parts[piece.path]
            target = quoted(name)
            for offset, names in parts.runs:
                self._before.append(b"join %d %s %s\n" % (offset, target, b" ".join(names)))
            self._before.append(b"finish %d %o %s\n" % (piece.stat.st_size, mode, target))
            if self._options.preserve:
                self._before.append(touch_line(piece.stat, target))
        return packed


def _file(name: bytes, data: bytes, mode: int = 0o600, mtime: int = 0) -> bytes:
    return header(Member(name, tarfile.REGTYPE, mode, len(data), mtime=mtime)) + data + padding(len(data))


def _shown(path: bytes) -> bytes:
    return path.removeprefix(b"./")
