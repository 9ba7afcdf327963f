"""What travels from a tree's reader to its writer, and the judgement of what a far side lists.

Readers and writers are `FileSystem` engines; neither knows the other's side. Every piece passes `checked` between the
two: a name that could lead out of the target ends the transfer, a link that could is left out.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioremote.errors import UnsafePathError, file_error
from aioremote.types import FileStat, TransferProgress

if TYPE_CHECKING:
    from aioremote.errors import FileError
    from aioremote.protocols import FileSystem

__all__ = [
    "TEMP_MARK",
    "Listed",
    "Piece",
    "Tally",
    "TreeOptions",
    "carry",
    "carry_file",
    "check_names",
    "checked",
    "is_safe_link",
    "kind_of_special",
    "temp_name",
    "unsafe_path",
    "with_first",
]

# A temporary file's name; its length does not depend on the target's, which may be as long as names can be.
TEMP_MARK = b".aioremote-"
_PATH_BYTES = 4095  # Source: PATH_MAX of Linux, less its NUL
_SPECIAL = {0o010000: "a pipe", 0o020000: "a device", 0o060000: "a device", 0o140000: "a socket"}  # Source: inode(7)


@dataclass(frozen=True, slots=True)
class Piece:
    """A directory, a link, or a part of a file.

    Attributes:
        path: below the root of the tree, with slashes; b"" is the root itself.
        stat: of the file that it is a part of.
        data: the bytes, at most 1 MiB.
        offset: where they belong; what no piece covers is zeros.
        last: whether the file ends with this one.
        target: the text of a link.
        digest: of the whole file, with its last piece: SHA-256 as its own end has hashed it. A writer compares it with
            what it has written, before the file has its place. b"" where nobody asks for that.
    """

    path: bytes
    stat: FileStat
    data: bytes = b""
    offset: int = 0
    last: bool = True
    target: bytes = b""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a tree.

    Attributes:
        path: below the root, with slashes.
        stat: of the entry itself, also of a link.
        target: the text of a link.
        error: in a second entry for a directory: why what is in it cannot be told.
    """

    path: bytes
    stat: FileStat
    target: bytes = b""
    error: FileError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """How a writer treats what it writes.

    Attributes:
        preserve: permissions and times are those of the source. Otherwise a new file has the source's permissions less
            the umask, and a file that is replaced keeps its own.
        preserve_special: set-id bits and write permission for all are kept too.
        overwrite: whether files may be replaced; FileInTheWay otherwise.
        durable: whether to return only when the disk has it.
        verify: whether pieces come with digests; a file that does not match is a ChecksumMismatch.
        ahead_bytes: taken from the source and not known to be written, where an engine counts them.
    """

    preserve: bool = False
    preserve_special: bool = False
    overwrite: bool = True
    durable: bool = True
    verify: bool = False
    ahead_bytes: int = 16 * 1024 * 1024

    def mode(self, stat: FileStat, umask: int, existing: int | None = None) -> int:
        """Return the permissions for a file.

        Args:
            stat: of the source.
            umask: of the side where it is written.
            existing: the permissions of the file that it replaces, None for a new one.
        """
        kept = stat.st_mode & (0o7777 if self.preserve_special else 0o775)
        if self.preserve:
            return kept
        return kept & ~umask if existing is None else existing & 0o777


class Tally:
    """What a transfer has found and done so far.

    Attributes:
        files_found, bytes_found: counted by the reader.
        files_done, bytes_done: counted by the writer.
        bytes_kept: of these bytes, those that the target had already.
        skipped: what was left out: path and reason.
    """

    def __init__(self, progress: Callable[[TransferProgress], None] | None = None) -> None:
        self.files_found: int = 0
        self.bytes_found: int = 0
        self.files_done: int = 0
        self.bytes_done: int = 0
        self.bytes_kept: int = 0
        self.skipped: list[tuple[str, str]] = []
        self._progress = progress

    def found(self, stat: FileStat) -> None:
        """Count a file that will be read."""
        self.files_found += 1
        self.bytes_found += stat.st_size

    def skip(self, path: bytes, why: str) -> None:
        """Note what is left out."""
        self.skipped.append((path.decode("utf-8", "surrogateescape"), why))

    def kept(self, count: int) -> None:
        """Count bytes of a file that need not be sent."""
        self.bytes_kept += count
        self.bytes_done += count

    def wrote(self, piece: Piece) -> None:
        """Count a piece of a file that has been written, a last one also as a file; tells the caller's callback."""
        self.bytes_done += len(piece.data)
        self.files_done += piece.last
        if self._progress is not None:
            self._progress(
                TransferProgress(
                    path=piece.path.decode("utf-8", "surrogateescape"),
                    done_bytes=self.bytes_done,
                    total_bytes=self.bytes_found,
                    files_done=self.files_done,
                    files_total=self.files_found,
                )
            )


def temp_name(nonce: str) -> bytes:
    """Return the name of a temporary file, hidden and recognisable."""
    return TEMP_MARK + nonce.encode() + b".part"


def kind_of_special(stat: FileStat) -> str | None:
    """Return what a file is that is neither opened nor copied; None for files, directories and links."""
    if stat.is_file() or stat.is_dir() or stat.is_symlink():
        return None
    return _SPECIAL.get(stat.st_mode & 0o170000, "of a kind that the far side does not tell")


def is_safe_link(path: bytes, target: bytes) -> bool:
    """Whether a link at `path` of a tree stays in the tree, whatever other links of this kind are in it.

    It begins with as many ".." as its own folder is deep at most: these are resolved from that folder, which is a real
    one. A later ".." would be resolved from wherever other links lead.
    """
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    up = next((number for number, part in enumerate(parts) if part != b".."), len(parts))
    return bool(target) and not target.startswith(b"/") and b".." not in parts[up:] and up <= path.count(b"/")


def unsafe_path(host: str, path: bytes, why: str) -> UnsafePathError:
    """Return the error for an entry that no honest source lists."""
    shown = path[:200].decode("utf-8", "surrogateescape")
    text = f"{host}: the source lists {shown!r}: {why}; nothing outside the target was touched"
    return UnsafePathError(text, host=host, path=shown)


def check_names(host: str, folder: bytes, names: Iterable[bytes], known: set[bytes]) -> None:
    """Judge what a far side lists as the entries of one directory.

    Args:
        host: the machine's name.
        folder: below the root of the tree.
        names: more entries.
        known: those before; takes the new ones.

    Raises:
        UnsafePathError: what no directory can hold, or not twice.
    """
    for name in names:
        path = folder + b"/" + name if folder else name
        if name in (b"", b".", b"..") or b"\0" in name or b"/" in name:
            raise unsafe_path(host, path, f"{name!r} is no name that a directory can hold")
        if name in known:
            raise unsafe_path(host, path, "twice")
        if len(path) > _PATH_BYTES:
            raise unsafe_path(host, path, f"longer than {_PATH_BYTES} bytes")
        known.add(name)


@dataclass(slots=True)
class _Judge:
    """What has been listed so far."""

    host: str
    trusted: bool
    tally: Tally
    folders: set[bytes] = field(default_factory=set[bytes])
    begun: dict[bytes, int] = field(default_factory=dict[bytes, int])  # where the next part of a file may begin
    seen: dict[bytes, set[bytes]] = field(default_factory=dict[bytes, set[bytes]])  # by folder

    def admits(self, piece: Piece) -> bool:
        """Whether the piece is to be written; raises where its name is not to be trusted."""
        if piece.offset >= self.begun.get(piece.path, piece.offset + 1):
            self._part(piece)
            return True
        self._check(piece.path)
        if piece.stat.is_dir():
            self.folders.add(piece.path)
        elif not piece.last:
            self._part(piece)
        if piece.stat.is_symlink() and not self.trusted and not is_safe_link(piece.path, piece.target):
            self.tally.skip(piece.path, "a link that leads out of the tree")
            return False
        return True

    def _part(self, piece: Piece) -> None:
        if piece.last:
            self.begun.pop(piece.path)
        else:
            self.begun[piece.path] = piece.offset + len(piece.data)

    def _check(self, path: bytes) -> None:
        if not path:
            if self.seen:
                raise unsafe_path(self.host, path, "twice")
            self.seen[b""] = set()
            return
        folder, _, name = path.rpartition(b"/")
        if folder not in self.folders:
            raise unsafe_path(self.host, path, "not below a directory of the tree")
        check_names(self.host, folder, [name], self.seen.setdefault(folder, set()))


async def checked(
    pieces: AsyncGenerator[Sequence[Piece]], tally: Tally, *, host: str, trusted: bool
) -> AsyncGenerator[Sequence[Piece]]:
    """Yield the pieces that may be written.

    Args:
        pieces: from a reader; closed at the end.
        tally: where what is left out is noted.
        host: the reader's machine, for errors.
        trusted: for a near source: its links may lead anywhere.

    Raises:
        UnsafePathError: an entry that no honest source lists.
    """
    judge = _Judge(host, trusted, tally)
    async with aclosing(pieces):
        async for batch in pieces:
            yield [piece for piece in batch if judge.admits(piece)]


async def with_first(first: Sequence[Piece], pieces: AsyncIterator[Sequence[Piece]]) -> AsyncGenerator[Sequence[Piece]]:
    """Yield a batch that was taken to look at it, and the rest."""
    if first:
        yield first
    async for batch in pieces:
        yield batch


async def carry(
    source: FileSystem,
    path: bytes,
    target: FileSystem,
    place: bytes,
    *,
    tally: Tally,
    options: TreeOptions,
    host: str,
    trusted: bool,
) -> None:
    """Bring a file or tree from one file system to another.

    Args:
        source, path: what to bring.
        target, place: where to; the final path.
        tally: counts.
        options: how.
        host: the source's machine, for errors.
        trusted: whether the source is near.
    """
    async with aclosing(checked(source.read_tree(path, tally), tally, host=host, trusted=trusted)) as pieces:
        await target.write_tree(place, pieces, tally, options)


async def carry_file(source: FileSystem, path: bytes, target: FileSystem, place: bytes) -> None:
    """Bring one file as `Transport.getfile` and `putfile` do.

    Raises:
        IsAFolder: it is a directory.
    """
    if (await source.stat(path)).is_dir():
        raise file_error(errno.EISDIR, os.fsdecode(path))
    await carry(source, path, target, place, tally=Tally(), options=TreeOptions(), host="", trusted=False)
