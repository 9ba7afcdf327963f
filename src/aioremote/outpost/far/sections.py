"""How several buffers make one message: a head with the kind and the length of each, then the buffers.

The same at both ends. What the kinds mean is the business of `values`, far and near.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    _Buffer: "TypeAlias" = "bytes | bytearray | memoryview"

__all__ = ["ARRAY", "BYTES", "DOUBLES", "INTEGERS", "JSON", "MAX_SECTIONS", "PICKLE", "TEXT", "Lied", "join", "split"]

JSON = b"j"  # ASCII text
BYTES = b"b"
ARRAY = b"a"  # bytes that may be changed
TEXT = b"s"  # UTF-8, with lone surrogates
INTEGERS = b"q"  # signed, 64 bits each, little-endian
DOUBLES = b"d"  # IEEE 754, 64 bits each, little-endian
PICKLE = b"p"  # near to far only

KINDS = frozenset((JSON, BYTES, ARRAY, TEXT, INTEGERS, DOUBLES, PICKLE))
MAX_SECTIONS = 65536
COUNT = struct.Struct(">I")
ENTRY = struct.Struct(">cQ")


class Lied(ValueError):
    """A head that does not describe what follows it."""


def join(sections: "list[tuple[bytes, _Buffer]]") -> "list[_Buffer]":
    """Return the pieces of a message; joined or written one after another they are the same."""
    head = COUNT.pack(len(sections)) + b"".join([ENTRY.pack(kind, len(data)) for kind, data in sections])
    return [head] + [data for _, data in sections]


def split(message: "_Buffer") -> "list[tuple[bytes, memoryview]]":
    """Take a message apart, without copying; raises `Lied`. Nothing is allocated by a length that is only claimed."""
    view = memoryview(message)
    if len(view) < COUNT.size:
        raise Lied("a message of %d bytes has no head" % len(view))
    count = COUNT.unpack_from(view)[0]
    start = COUNT.size + count * ENTRY.size
    if not 0 < count <= MAX_SECTIONS or start > len(view):
        raise Lied("a message of %d bytes claims %d sections" % (len(view), count))
    sections: "list[tuple[bytes, memoryview]]" = []
    for kind, length in ENTRY.iter_unpack(view[COUNT.size : start]):
        if kind not in KINDS:
            raise Lied("a section of unknown kind %r" % kind)
        if length > len(view) - start:
            raise Lied("a section of %d bytes where %d are left" % (length, len(view) - start))
        sections.append((kind, view[start : start + length]))
        start += length
    if start != len(view):
        raise Lied("%d bytes after the last section" % (len(view) - start))
    return sections
