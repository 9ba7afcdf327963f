"""Reads a file or a tree of this side, batch by batch: what both ends of a transfer do where they read. Blocking.

Directories come before what is in them. Holes are left out. Not for what becomes of the pieces.
"""

import errno
import os
import stat
from collections import deque

from .file_frames import BLOCK_BYTES, CHANGED, Told, bounded, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    _Files = list[tuple[bytes, os.stat_result]]

__all__ = ["Changed", "TreeReader", "below"]

BATCH_FILES = 256
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_SEEK_DATA = getattr(os, "SEEK_DATA", None)
_SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


class Changed(Told):
    """A file changed while it was read.

    Attributes:
        path: the file.
    """

    def __init__(self, path: "bytes") -> "None":
        super().__init__(path)
        self.path: "bytes" = path

    def told(self) -> "bytes":
        return record(CHANGED, self.path)


def below(folder: "bytes", name: "bytes") -> "bytes":
    """Return the path of a name in a directory, or either where the other is empty."""
    return folder.rstrip(b"/") + b"/" + name if folder and name else folder or name


class TreeReader(object):
    """Reads one tree.

    Args:
        root: a file or directory; it may be a link, no other is followed.
        make: makes a piece of path, stat, data, offset, whether it is the file's last, and a link's text.

    Attributes:
        files, bytes: found and not told yet; whoever tells them sets them to 0.
        skipped: path and reason of what is left out; likewise.
    """

    def __init__(self, root: "bytes", make: "Callable[..., Any]") -> "None":
        self.files: "int" = 0
        self.bytes: "int" = 0
        self.skipped: "list[tuple[bytes, str]]" = []
        self._root = root
        self._make = make

    def batches(self) -> "Iterator[list[Any]]":
        """Yield all pieces, in batches of about a block; close it where left early.

        Raises:
            OSError: with the path.
            Changed: a file changed meanwhile.
        """
        root = self._root
        found = os.stat(root)
        if not stat.S_ISDIR(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                why = _SPECIAL.get(stat.S_IFMT(found.st_mode), "of an unknown kind")
                raise OSError(errno.EINVAL, why + ", neither file nor directory", root)
            self._found(found)
            yield from self._read_files([(b"", found)])
            return
        yield [self._make(b"", found)]
        folders = deque([b""])
        while folders:
            others, files = self._list(folders.popleft(), folders)
            if others:
                yield others
            yield from self._read_files(files)

    def chosen(self, files: "Iterable[tuple[bytes, Any]]") -> "Iterator[list[Any]]":
        """Yield the pieces of files of the tree, likewise, given each with its stat as it was listed.

        Raises:
            OSError: with the path.
            Changed: a file is not what was listed any more.
        """
        return self._read_files((path, self._as_listed(path, listed)) for path, listed in files)

    def _as_listed(self, path: "bytes", listed: "Any") -> "os.stat_result":
        full = below(self._root, path)
        found = os.lstat(full)
        time = bounded(found.st_mtime_ns)
        if not stat.S_ISREG(found.st_mode) or (found.st_size, time) != (listed.st_size, listed.st_mtime_ns):
            raise Changed(full)
        return found

    def _found(self, found: "os.stat_result") -> "None":
        self.files += 1
        self.bytes += found.st_size

    def _list(self, folder: "bytes", folders: "deque[bytes]") -> "tuple[list[Any], _Files]":
        """Return what is in a directory: directories and links as pieces, files by name."""
        others: "list[Any]" = []
        files: "_Files" = []
        place = below(self._root, folder)
        for name in sorted(os.listdir(place)):
            path, full = below(folder, name), below(place, name)
            try:
                found = os.lstat(full)
                kind = stat.S_IFMT(found.st_mode)
                if kind == stat.S_IFREG:
                    self._found(found)
                    files.append((path, found))
                elif kind == stat.S_IFDIR:
                    folders.append(path)
                    others.append(self._make(path, found))
                elif kind == stat.S_IFLNK:
                    others.append(self._make(path, found, target=os.readlink(full)))
                else:
                    self.skipped.append((path, _SPECIAL.get(kind, "of an unknown kind")))
            except FileNotFoundError:  # gone meanwhile
                pass
        return others, files

    def _read_files(self, files: "Iterable[tuple[bytes, os.stat_result]]") -> "Iterator[list[Any]]":
        group: "list[Any]" = []
        size = 0
        for path, found in files:
            if group and (size + found.st_size > BLOCK_BYTES or len(group) == BATCH_FILES):
                yield group
                group, size = [], 0
            if found.st_size > BLOCK_BYTES:
                for piece in self._read_big(path, found):
                    yield [piece]
            else:
                group.append(self._read_small(path, found))
                size += found.st_size
        if group:
            yield group

    def _open(self, path: "bytes") -> "tuple[bytes, int]":
        full = below(self._root, path)
        # Without waiting, should it have become a pipe meanwhile.
        flags = os.O_RDONLY | os.O_NONBLOCK | _CLOEXEC | (os.O_NOFOLLOW if path else 0)
        return full, os.open(full, flags)

    def _read_small(self, path: "bytes", found: "os.stat_result") -> "Any":
        full, fd = self._open(path)
        try:
            data = os.read(fd, found.st_size + 1)  # a system call less than to read until the end
            if len(data) != found.st_size:
                data += _read_fully(fd, found.st_size + 1 - len(data))
            _check_unchanged(fd, found, len(data), full)
        except OSError as error:
            raise _named(error, full) from error
        finally:
            os.close(fd)
        return self._make(path, found, data)

    def _read_big(self, path: "bytes", found: "os.stat_result") -> "Iterator[Any]":
        """Yield a big file block by block; holes yield nothing."""
        full, fd = self._open(path)
        try:
            offset = 0
            while offset < found.st_size:
                start = _next_data(fd, offset, found.st_size)
                os.lseek(fd, start, os.SEEK_SET)
                data = _read_fully(fd, min(BLOCK_BYTES, found.st_size - start))
                offset = start + len(data)
                if not data or offset >= found.st_size:
                    _check_unchanged(fd, found, offset, full)
                yield self._make(path, found, data, start, offset >= found.st_size)
        except OSError as error:
            raise _named(error, full) from error
        finally:
            os.close(fd)


def _named(error: "OSError", path: "bytes") -> "OSError":
    return OSError(error.errno, error.strerror, path)


def _next_data(fd: "int", offset: "int", size: "int") -> "int":
    """Return where the next data begins, the end of the file where a hole reaches it."""
    if _SEEK_DATA is None:
        return offset
    try:
        return os.lseek(fd, offset, _SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return min(size, os.fstat(fd).st_size)
        return offset  # a file system that knows no holes


def _read_fully(fd: "int", count: "int") -> "bytes":
    data = os.read(fd, count)
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            break
        data += more
    return data


def _check_unchanged(fd: "int", found: "os.stat_result", read_bytes: "int", full: "bytes") -> "None":
    now = os.fstat(fd)
    if read_bytes != found.st_size or _identity(now) != _identity(found):
        raise Changed(full)


def _identity(found: "os.stat_result") -> "tuple[int, ...]":
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
