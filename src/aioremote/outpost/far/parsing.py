"""Frames out of bytes that come cut anywhere. Not for what frames mean (`wire`)."""

from .frames import FLAGS, GOAWAY, HELLO, MAX_LENGTH, NAMES, OVERHEAD, PING, PONG, Breach, unpack_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Parser"]

OF_THE_LINK = (HELLO, PING, PONG, GOAWAY)  # on channel 0; all others are on another


class Parser(object):
    """Calls `on_frame` with type, flags, channel and payload of each whole frame.

    Headers are judged as soon as they are there, so that nothing is kept for a frame that will not be taken.
    """

    __slots__ = ("_head", "_held", "_missing", "_on_frame")

    def __init__(self, on_frame: "Callable[[int, int, int, bytes], None]") -> "None":
        self._on_frame = on_frame
        self._held: "list[bytes]" = []  # the beginning of a header or, after it, of a payload
        self._missing = 0  # bytes of it
        self._head: "tuple[int, int, int, int] | None" = None  # of the frame whose payload is waited for

    def feed(self, data: "bytes") -> "None":
        """Take bytes; raises Breach at a header that breaks a rule, and what `on_frame` raises."""
        if not self._missing:
            self._feed_whole(data, 0)
        elif len(data) < self._missing:
            self._hold(data, self._missing - len(data))
        else:
            offset, held = self._missing, self._held
            held.append(data[:offset])
            self._held, self._missing = [], 0
            if self._head is None:  # what was held is a piece of a header
                self._feed_whole(b"".join([*held, data[offset:]]), 0)
                return
            (_, kind, flags, number), self._head = self._head, None
            self._on_frame(kind, flags, number, b"".join(held))
            self._feed_whole(data, offset)

    def _hold(self, data: "bytes", missing: "int") -> "None":
        if data:
            self._held.append(data)
        self._missing = missing

    def _feed_whole(self, data: "bytes", offset: "int") -> "None":
        """Take the frames that are complete, and keep the rest."""
        size = len(data)
        while offset < size:
            start = offset + OVERHEAD
            if start > size:
                self._hold(data[offset:], start - size)
                return
            head = _checked(data, offset)
            end = start + head[0]
            if end > size:
                self._head = head
                self._hold(data[start:], end - size)
                return
            self._on_frame(head[1], head[2], head[3], data[start:end])
            offset = end


def _checked(data: "bytes", offset: "int") -> "tuple[int, int, int, int]":
    """Return length, type, flags and channel of the header at `offset`."""
    length, kind, flags, reserved, number = unpack_header(data, offset)
    if not HELLO <= kind <= GOAWAY:
        raise Breach("a frame of the unknown type %d" % kind)
    if length > MAX_LENGTH:
        raise Breach("%s of %d bytes, allowed are %d" % (NAMES[kind], length, MAX_LENGTH))
    if reserved:
        raise Breach("%s with the reserved field %#x, must be 0" % (NAMES[kind], reserved))
    if flags & ~FLAGS.get(kind, 0):
        raise Breach("%s with the flags %#x, which it does not have" % (NAMES[kind], flags))
    if (number == 0) != (kind in OF_THE_LINK):
        raise Breach("%s on channel %d" % (NAMES[kind], number))
    return length, kind, flags, number
