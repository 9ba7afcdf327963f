"""Whole trees of this machine: read as pieces, and written from them so that nothing outside the target is touched.

The writer goes by descriptors of directories, each opened from its parent without following links: neither a link that
is there already nor one that appears meanwhile leads it anywhere. The calls run in worker threads, many files at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.pieces import Piece, kind_of_special, temp_name
from aioremote.errors import FileChanged, file_error
from aioremote.transports.local_calls import HOST, in_thread, local_error, named, read_fully, stat_of, write_fully

if TYPE_CHECKING:
    from aioremote._core.pieces import Tally, TreeOptions
    from aioremote.types import FileStat

__all__ = ["read_local_tree", "write_local_tree"]

BLOCK_BYTES = 1024 * 1024  # of a big file in one piece, and of small files in one batch
_BATCH_FILES = 256
_OPEN_FOLDERS = 64
_HOLE_BYTES = 4096  # zeros that fill more than a page are not written
_CLEANUP_SECONDS = 10.0
_NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


# reading


async def read_local_tree(root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
    """Yield a near file or tree as pieces. See `FileSystem.read_tree`."""
    found = stat_of(await named(root, os.stat, root))
    if not found.is_dir():
        if why := kind_of_special(found):
            raise file_error(errno.EINVAL, os.fsdecode(root), host=HOST, text=f"{why}, neither file nor directory")
        tally.found(found)
        async for batch in _read_files(root, [(b"", found)]):
            yield batch
        return
    yield [Piece(b"", found)]
    folders = deque([b""])
    while folders:
        others, files = await named(root, _list_folder, root, folders.popleft(), tally)
        folders += [piece.path for piece in others if piece.stat.is_dir()]
        yield others
        async for batch in _read_files(root, files):
            yield batch


def _list_folder(root: bytes, folder: bytes, tally: Tally) -> tuple[list[Piece], list[tuple[bytes, FileStat]]]:
    """Return what is in a directory: directories and links as pieces, files by name."""
    others: list[Piece] = []
    files: list[tuple[bytes, FileStat]] = []
    place = _below(root, folder)
    try:
        for name in sorted(os.listdir(place)):
            path, full = _below(folder, name), _below(place, name)
            with suppress(FileNotFoundError):  # gone meanwhile
                found = stat_of(os.lstat(full))
                if found.is_file():
                    tally.found(found)
                    files.append((path, found))
                elif found.is_dir() or found.is_symlink():
                    others.append(Piece(path, found, target=os.readlink(full) if found.is_symlink() else b""))
                else:
                    tally.skip(path, kind_of_special(found) or "")
    except OSError as error:
        raise local_error(error, _named(error, place)) from error
    return others, files


def _below(folder: bytes, name: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + name if folder and name else folder or name


def _named(error: OSError, path: bytes) -> bytes:
    return os.fsencode(error.filename) if isinstance(error.filename, (str, bytes)) else path


async def _read_files(root: bytes, files: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
    for group in _groups(files):
        path, found = group[0]
        if found.st_size <= BLOCK_BYTES:
            yield await in_thread(_read_small, root, group)
        else:
            async for piece in _read_big(root, path, found):
                yield [piece]


def _groups(files: Iterable[tuple[bytes, FileStat]]) -> Iterator[list[tuple[bytes, FileStat]]]:
    """Put small files together as far as one block goes; a big one stays alone."""
    group: list[tuple[bytes, FileStat]] = []
    size = 0
    for item in files:
        if group and (size + item[1].st_size > BLOCK_BYTES or len(group) == _BATCH_FILES):
            yield group
            group, size = [], 0
        group.append(item)
        size += item[1].st_size
    if group:
        yield group


def _open_file(full: bytes, *, follow: bool) -> int:
    # Without waiting, should it have become a pipe meanwhile.
    return os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))


def _read_small(root: bytes, group: list[tuple[bytes, FileStat]]) -> list[Piece]:
    pieces: list[Piece] = []
    for path, found in group:
        full = _below(root, path)
        try:
            fd = _open_file(full, follow=not path)
            try:
                data = read_fully(fd, 0, found.st_size + 1)
                _check_unchanged(fd, found, len(data), full)
            finally:
                os.close(fd)
        except OSError as error:
            raise local_error(error, full) from error
        pieces.append(Piece(path, found, data))
    return pieces


def _check_unchanged(fd: int, found: FileStat, read_bytes: int, full: bytes) -> None:
    now = stat_of(os.fstat(fd))
    if read_bytes != found.st_size or _identity(now) != _identity(found):
        shown = os.fsdecode(full)
        raise FileChanged(f"{HOST}: {shown} changed while it was read; send it again", host=HOST, path=shown)


def _identity(found: FileStat) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def _read_big(root: bytes, path: bytes, found: FileStat) -> AsyncGenerator[Piece]:
    """Yield a big file block by block; holes yield nothing."""
    full = _below(root, path)
    fd = await in_thread(lambda: _open_named(full, follow=not path), undo=os.close)
    try:
        offset = 0
        while offset < found.st_size:
            start, data = await named(full, _next_block, fd, offset, found.st_size)
            offset = start + len(data)
            if not data or offset >= found.st_size:
                await named(full, _check_unchanged, fd, found, offset, full)
            yield Piece(path, found, data, start, last=offset >= found.st_size)
    finally:
        os.close(fd)


def _open_named(full: bytes, *, follow: bool) -> int:
    try:
        return _open_file(full, follow=follow)
    except OSError as error:
        raise local_error(error, full) from error


def _next_block(fd: int, offset: int, size: int) -> tuple[int, bytes]:
    """Return the next data and where it begins, empty at the end of the file for a hole that reaches it."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return min(size, os.fstat(fd).st_size), b""
        start = offset  # a file system that knows no holes
    return start, read_fully(fd, start, min(BLOCK_BYTES, size - start))


# writing


async def write_local_tree(
    root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
) -> None:
    """Write pieces to a near file or tree. See `FileSystem.write_tree`."""
    writer = _Writer(root, options)
    try:
        async for batch in pieces:
            await in_thread(writer.write, batch)
            for piece in batch:
                if piece.stat.is_file():
                    tally.wrote(piece)
        await in_thread(writer.finish)
    finally:
        await bounded_cleanup(in_thread(writer.close), _CLEANUP_SECONDS)


@dataclass(slots=True)
class _Growing:
    """A file of which parts are to come."""

    folder: int  # a descriptor of its own
    fd: int
    temp: bytes


class _Writer:
    """Writes one tree, called from one thread at a time."""

    def __init__(self, root: bytes, options: TreeOptions) -> None:
        self._root = root
        self._options = options
        self._folders: OrderedDict[bytes, int] = OrderedDict()  # open ones, the last used last
        self._growing: dict[bytes, _Growing] = {}
        self._later: list[Piece] = []  # directories whose permissions or times are set at the end
        self._fresh: set[bytes] = set()  # directories made here: nothing else is in them
        self._temps = (temp_name(f"{nonce}-{number:x}") for nonce in (secrets.token_hex(6),) for number in count())
        self._umask: int | None = None
        self._is_tree = False

    def write(self, batch: Sequence[Piece]) -> None:
        """Write some pieces."""
        for piece in batch:
            try:
                if piece.stat.is_dir():
                    self._make_folder(piece)
                elif piece.stat.is_symlink():
                    self._make_link(piece)
                else:
                    self._write_file(piece)
            except OSError as error:
                raise local_error(error, _below(self._root, piece.path)) from error

    def finish(self) -> None:
        """Set what is left for the end, and let the disk have it."""
        for piece in reversed(self._later):
            fd = self._folder(piece.path)
            os.fchmod(fd, self._options.mode(piece.stat, self._learnt_umask(fd)))
            if self._options.preserve:
                os.utime(fd, ns=(piece.stat.st_atime_ns, piece.stat.st_mtime_ns))
        if self._is_tree and self._options.durable:
            _sync_file_system(self._folder(b""))

    def close(self) -> None:
        """Remove what is not whole, and close everything."""
        for growing in self._growing.values():
            os.close(growing.fd)
            with suppress(OSError):
                os.unlink(growing.temp, dir_fd=growing.folder)
            os.close(growing.folder)
        for fd in self._folders.values():
            os.close(fd)
        self._growing, self._folders = {}, OrderedDict()

    # directories

    def _folder(self, path: bytes) -> int:
        """Return the descriptor of a directory of the tree, reached without following a link below the root."""
        known = self._folders.get(path)
        if known is not None:
            self._folders.move_to_end(path)
            return known
        if not path:
            fd = os.open(self._root, _FOLDER)
        else:
            above, _, name = path.rpartition(b"/")
            fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._folder(above))
        while len(self._folders) >= _OPEN_FOLDERS:
            os.close(self._folders.popitem(last=False)[1])
        self._folders[path] = fd
        return fd

    def _place(self, path: bytes) -> tuple[int, bytes]:
        """Return the directory, as a descriptor of the caller's own, and the name in it."""
        if not path:
            above, name = os.path.split(self._root)
            return os.open(above or b".", _FOLDER), name
        above, _, name = path.rpartition(b"/")
        return os.dup(self._folder(above)), name

    def _make_folder(self, piece: Piece) -> None:
        mode = self._options.mode(piece.stat, 0)
        folder, name = self._place(piece.path)
        try:
            os.mkdir(name or b".", mode | 0o700, dir_fd=folder)
            self._fresh.add(piece.path)
            is_new = True
        except FileExistsError:
            is_new = False
        finally:
            os.close(folder)
        self._is_tree = True
        self._folder(piece.path)  # fails for what is no directory
        if self._options.preserve or (is_new and mode & 0o700 != 0o700):
            self._later.append(piece)

    # links and files

    def _make_link(self, piece: Piece) -> None:
        folder, name = self._place(piece.path)
        temp = next(self._temps)
        try:
            os.symlink(piece.target, temp, dir_fd=folder)
            self._put(folder, temp, name)
        finally:
            os.close(folder)

    def _write_file(self, piece: Piece) -> None:
        growing = self._growing.get(piece.path)
        if growing is None:
            growing = self._growing[piece.path] = self._begin(piece.path)
        if len(piece.data) <= _HOLE_BYTES or piece.data.count(0) < len(piece.data):  # the rest stays a hole
            write_fully(growing.fd, piece.offset, piece.data)
        if piece.last:
            self._complete(growing, piece)

    def _begin(self, path: bytes) -> _Growing:
        folder, _ = self._place(path)
        temp = next(self._temps)
        try:
            self._learnt_umask(folder)
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise
        return _Growing(folder, fd, temp)

    def _learnt_umask(self, folder: int) -> int:
        """Return the umask, known from a file made for that: asking the system would change it for all threads."""
        if self._umask is None:
            temp = next(self._temps)
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o777, dir_fd=folder)
            try:
                os.unlink(temp, dir_fd=folder)
                self._umask = 0o777 & ~os.fstat(fd).st_mode
            finally:
                os.close(fd)
        return self._umask

    def _complete(self, growing: _Growing, piece: Piece) -> None:
        folder, name = growing.folder, os.path.basename(piece.path or self._root)
        if piece.offset or len(piece.data) > _HOLE_BYTES:  # it may end with a hole
            os.ftruncate(growing.fd, piece.stat.st_size)
        is_new = piece.path and piece.path.rpartition(b"/")[0] in self._fresh
        existing = None if is_new else _existing_mode(folder, name)
        os.fchmod(growing.fd, self._options.mode(piece.stat, self._umask or 0, existing))
        if self._options.preserve:
            os.utime(growing.fd, ns=(piece.stat.st_atime_ns, piece.stat.st_mtime_ns))
        durable = self._options.durable and not self._is_tree
        if durable:
            os.fsync(growing.fd)
        self._put(folder, growing.temp, name)
        if durable:
            os.fsync(folder)
        del self._growing[piece.path]
        os.close(growing.fd)
        os.close(folder)

    def _put(self, folder: int, temp: bytes, name: bytes) -> None:
        """Give a temporary file its place, or remove it."""
        try:
            if self._options.overwrite:
                os.replace(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.link(temp, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                os.unlink(temp, dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temp, dir_fd=folder)
            raise


def _existing_mode(folder: int, name: bytes) -> int | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_mode & 0o777 if stat.S_ISREG(found.st_mode) else None


def _sync_file_system(fd: int) -> None:
    try:
        failed = ctypes.CDLL(None, use_errno=True).syncfs(fd)
    except (AttributeError, OSError):  # no Linux
        os.sync()
        return
    if failed:
        raise OSError(ctypes.get_errno(), "syncfs")
