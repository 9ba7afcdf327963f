"""What the two ends of a "files" channel say to each other: records on a stream of bytes. Pure functions.

A record is its length and a body whose first byte is its kind. Near orders are pickled, as whatever goes there; what
comes from the far end is plain structures.
"""

import errno
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BLOCK_BYTES",
    "CHANGED",
    "DIGESTS",
    "DONE",
    "END",
    "ENTRY",
    "ERROR",
    "FINISH",
    "FOUND",
    "MISMATCH",
    "MOST_BYTES",
    "PIECE",
    "RECORD",
    "SKIPPED",
    "STAT",
    "STOP",
    "SUMS",
    "TROUBLE",
    "UNREAD",
    "VERIFY",
    "Records",
    "Told",
    "bounded",
    "pack_error",
    "pack_piece",
    "pack_stat",
    "record",
    "stat_fields",
]

BLOCK_BYTES = 1048576  # of a file in one piece, and of small files in one batch
MOST_BYTES = 2 * BLOCK_BYTES  # of a record

# First bytes of bodies. A piece begins with one of the kinds in `pack_piece`.
DONE = b"o"  # all went well; the answer follows
ERROR = b"e"  # errno's name, path and text, with NUL between
CHANGED = b"c"  # a file changed while it was read; its path
TROUBLE = b"x"  # the service broke; a text
FOUND = b"+"  # more files and bytes will come: two numbers
SKIPPED = b"-"  # path and reason, with NUL between
UNREAD = b"u"  # errno's name and path of a directory that cannot be listed, with NUL between
DIGESTS = b"h"  # of files, in the order asked for: 32 bytes each, zeros for what cannot be read
MISMATCH = b"m"  # what was written is not what was sent, and all is as it was; the file's path, where several are
VERIFY = b"v"  # near: the next piece ends a file that hashes to this
SUMS = b"b"  # a part of the sums of a file's blocks
FINISH = b"."  # near: all pieces have been sent

STOP = b"s"  # a signal from the near end: let go of what is not whole
END = b"e"  # another: go no further, whatever it is

RECORD = struct.Struct(">I")
# mode, size, uid, gid, times of access, content and attributes, inode, device, links
STAT = struct.Struct(">IqqqqqqQQQ")
PIECE = struct.Struct(">cHHqIqqqqqqQQQ")  # kind, lengths of path and link text, offset; then as STAT
ENTRY = struct.Struct(">HIqqqqqqQQQ")  # length of the name; then as STAT
_PIECE = struct.Struct(">IcHHqIqqqqqqQQQ")  # with the record's length
_LEAST, _MOST = -(2**63), 2**63 - 1


def record(*parts: "bytes") -> "bytes":
    """Return a record of these parts."""
    return b"".join((RECORD.pack(sum(map(len, parts))), *parts))


def stat_fields(found: "Any") -> "tuple[int, ...]":
    """Return what of an `os.stat_result`, or of anything with its names, is told."""
    return (
        found.st_mode,
        found.st_size,
        found.st_uid,
        found.st_gid,
        bounded(found.st_atime_ns),
        bounded(found.st_mtime_ns),
        bounded(found.st_ctime_ns),
        found.st_ino & (2**64 - 1),
        found.st_dev & (2**64 - 1),
        found.st_nlink,
    )


def bounded(time: "int") -> "int":
    """Return a time as it can be told."""
    return time if _LEAST <= time <= _MOST else _LEAST if time < 0 else _MOST


def pack_stat(found: "Any") -> "bytes":
    """Return a stat as bytes."""
    return STAT.pack(*stat_fields(found))


def pack_piece(
    path: "bytes", found: "Any", data: "bytes" = b"", offset: "int" = 0, last: "bool" = True, target: "bytes" = b""
) -> "bytes":
    """Return a piece of a tree as a record: "d" for a directory, "l" for a link, "f" for a file's end, "p" for more."""
    kind = (found.st_mode & 0o170000) >> 12
    name = b"d" if kind == 4 else b"l" if kind == 10 else b"f" if last else b"p"
    size = PIECE.size + len(path) + len(target) + len(data)
    head = _PIECE.pack(size, name, len(path), len(target), offset, *stat_fields(found))
    return b"".join((head, path, target, data))


def pack_error(error: "OSError", path: "bytes", text: "str" = "") -> "bytes":
    """Return what the system said of a path."""
    name = errno.errorcode.get(error.errno or errno.EIO, "EIO")
    return record(ERROR, name.encode("ascii"), b"\0", path, b"\0", text.encode("utf-8", "replace"))


class Told(Exception):
    """What ends a transfer, and the other end has to know."""

    def told(self) -> "bytes":
        """Return the record that tells it."""
        raise NotImplementedError


class Records(object):
    """Cuts a stream into the bodies of its records.

    Args:
        most: bytes of one; a longer one is ValueError.
    """

    def __init__(self, most: "int" = MOST_BYTES) -> "None":
        self._most = most
        self._parts: "list[bytes]" = []
        self._have = 0
        self._need = RECORD.size

    def feed(self, data: "bytes") -> "list[bytes]":
        """Take more of the stream; returns what is whole."""
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        data = b"".join(self._parts) if len(self._parts) > 1 else data
        bodies: "list[bytes]" = []
        at, size, self._need = 0, len(data), RECORD.size
        while size - at >= RECORD.size:
            length = RECORD.unpack_from(data, at)[0]
            if not 0 < length <= self._most:
                raise ValueError("a record of %d bytes" % length)
            end = at + RECORD.size + length
            if end > size:
                self._need = RECORD.size + length
                break
            bodies.append(data[at + RECORD.size : end])
            at = end
        self._parts, self._have = [data[at:]], size - at
        return bodies
