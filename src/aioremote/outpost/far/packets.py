"""Packets between a near interpreter, the outpost and its workers: a number, a kind and a body, one after another.

They make a stream of bytes, whatever pieces it is cut into. The same at both ends. What the kinds mean is the business
of `calls`; which bodies there are, that of `values`.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    _Buffer: "TypeAlias" = "bytes | bytearray | memoryview"

__all__ = [
    "CALL",
    "CANCEL",
    "CREDIT",
    "DEFINE",
    "DIED",
    "ERROR",
    "GONE",
    "HEAD",
    "ITEM",
    "LARGE",
    "MODULE",
    "OUTPUT",
    "PIN",
    "QUESTION",
    "RESULT",
    "STOP",
    "UNPIN",
    "Oversized",
    "Packets",
    "packet",
]

HEAD = struct.Struct(">QIc")  # length of the body, number, kind
LARGE = 65536

CALL = b"C"  # near to worker: sections of a request
RESULT = b"R"  # worker to near: sections of a value
ERROR = b"E"  # worker to near: sections of a description (`failures`)
ITEM = b"Y"  # worker to near: sections of a value that a generator has given
CREDIT = b"G"  # near to worker: the number is how many more items may come
STOP = b"S"  # near to worker: no more items are wanted
QUESTION = b"Q"  # worker to near: sections of (handle, arguments, keywords); back: sections of an answer
OUTPUT = b"O"  # outpost to near: number 1 stdout, 2 stderr
DIED = b"D"  # outpost to near: sections of how the worker has ended
GONE = b"K"  # outpost to near: a cancelled call and its worker have ended
CANCEL = b"X"  # near to outpost
DEFINE = b"F"  # near to outpost: digest and shipment. A worker asks the outpost with the digest alone
MODULE = b"M"  # worker or outpost asks: a dotted name; back: the name, NUL, and a pickle
PIN = b"P"  # outpost to worker: calls come over the stream from now on
UNPIN = b"U"  # outpost to worker: no longer


class Oversized(ValueError):
    """A packet that is longer than allowed."""


def packet(kind: "bytes", number: "int", *parts: "_Buffer") -> "bytes":
    """Return a whole packet."""
    return b"".join((HEAD.pack(sum(map(len, parts)), number, kind), *parts))


class Packets(object):
    """Takes a stream of packets apart.

    Args:
        most: bytes of a body.
    """

    def __init__(self, most: "int") -> "None":
        self._most = most
        self._rest: "_Buffer" = b""  # less than a head, or a short packet in part
        self._long: "bytearray | None" = None  # a long body, as far as it has come: grown in place, copied once less
        self._head = (b"", 0)
        self._left = 0

    @property
    def waits(self) -> "bool":
        """Whether a packet has come in part."""
        return self._long is not None or len(self._rest) > 0

    def feed(self, data: "_Buffer") -> "list[tuple[bytes, int, _Buffer]]":
        """Return the packets that are complete now, as (kind, number, body); raises `Oversized`."""
        found: "list[tuple[bytes, int, _Buffer]]" = []
        start = 0
        if self._long is not None:
            start = self._lengthen(data, 0, found)
        elif self._rest:
            data, self._rest = bytes(self._rest) + data, b""
        size = len(data)
        while size - start >= HEAD.size:
            length, number, kind = HEAD.unpack_from(data, start)
            if length > self._most:
                raise Oversized("a packet of %d bytes, at most %d are allowed" % (length, self._most))
            end = start + HEAD.size + length
            if length > LARGE:
                self._long, self._head, self._left = bytearray(), (kind, number), length
                start = self._lengthen(data, start + HEAD.size, found)
            elif end > size:
                break
            else:
                found.append((kind, number, data[start + HEAD.size : end]))
                start = end
        if start < size:
            self._rest = data[start:] if start else data
        return found

    def _lengthen(self, data: "_Buffer", start: "int", found: "list[tuple[bytes, int, _Buffer]]") -> "int":
        """Add to a long body; returns where in the data it ends."""
        assert self._long is not None
        end = min(len(data), start + self._left)
        self._long += memoryview(data)[start:end]
        self._left -= end - start
        if not self._left:
            kind, number = self._head
            found.append((kind, number, memoryview(self._long)))
            self._long = None
        return end
