"""Lists all that is in a directory, at any depth, and hashes files: what both ends of a sync compare. Blocking."""

import errno
import hashlib
import os
import stat
from collections import deque
from operator import attrgetter

from .tree_reader import below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    _Found = tuple[bytes, os.stat_result, bytes]

__all__ = ["BATCH_ENTRIES", "TreeDigest", "file_digest", "list_tree", "open_digest"]

BATCH_ENTRIES = 1000
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_HASHED_BYTES = 1048576
_KINDS = 0o170000  # as stat.S_IFMT takes them, which would be called thousands of times
_NAME = attrgetter("name")


def list_tree(root: "bytes") -> "Iterator[tuple[list[_Found], list[tuple[bytes, OSError]]]]":
    """Yield path, stat and link text of all that is below a directory, and the directories that cannot be listed.

    A directory comes before what is in it. The root may be a link, no other is followed.

    Raises:
        OSError: of the root.
    """
    found: "list[_Found]" = []
    failed: "list[tuple[bytes, OSError]]" = []
    folders = deque([b""])
    while folders:
        folder = folders.popleft()
        try:
            found += _entries(below(root, folder), folder, folders)
        except OSError as error:
            if not folder:
                raise
            if error.errno != errno.ENOENT:  # else gone meanwhile
                failed.append((folder, error))
        if len(found) >= BATCH_ENTRIES:
            yield found, failed
            found, failed = [], []
    yield found, failed


def _entries(place: "bytes", folder: "bytes", folders: "deque[bytes]") -> "list[_Found]":
    found: "list[_Found]" = []
    above = folder + b"/" if folder else b""
    for entry in sorted(os.scandir(place), key=_NAME):
        target = b""
        try:
            told = entry.stat(follow_symlinks=False)
            kind = told.st_mode & _KINDS
            if kind == stat.S_IFLNK:
                target = os.readlink(entry.path)
        except FileNotFoundError:  # gone meanwhile
            continue
        path = above + entry.name
        found.append((path, told, target))
        if kind == stat.S_IFDIR:
            folders.append(path)
    return found


class TreeDigest(object):
    """Hashes what a sync compares: kinds, links, sizes and times of files, by path, in the order of `list_tree`."""

    def __init__(self) -> "None":
        self._sha256 = hashlib.sha256()

    def add(self, found: "Iterable[tuple[bytes, Any, bytes]]") -> "None":
        """Take path, stat and link text of more entries."""
        lines: "list[bytes]" = []
        for path, told, target in found:
            kind = told.st_mode & _KINDS
            size, time = (told.st_size, told.st_mtime_ns) if kind == stat.S_IFREG else (0, 0)
            lines.append(b"%d %d %d %d %d %b%b" % (kind, size, time, len(path), len(target), path, target))
        self._sha256.update(b"".join(lines))

    def value(self) -> "bytes":
        """Return the digest: 32 bytes."""
        return self._sha256.digest()


def file_digest(path: "bytes") -> "bytes | None":
    """Return the SHA-256 of a file; None for what cannot be read, and for what is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _CLOEXEC)  # without waiting, should it be a pipe
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return open_digest(fd)
        finally:
            os.close(fd)
    except OSError:
        return None


def open_digest(fd: "int") -> "bytes":
    """Return the SHA-256 of an open file, from its beginning."""
    sha256 = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while True:
        data = os.read(fd, _HASHED_BYTES)
        if not data:
            return sha256.digest()
        sha256.update(data)
