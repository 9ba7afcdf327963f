"""The wire's frames: their bytes, their names and the limits that both ends hold each other to.

Every frame is a header of 12 bytes and a payload. Not for the order of frames (`wire`) nor for when they are sent
(`flow`). docs/explanation/wire.md describes each byte.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ACCEPT",
    "CLOSED",
    "COUNTED",
    "DATA",
    "END",
    "EOF",
    "FLAGS",
    "GOAWAY",
    "HELLO",
    "MAX_CREDIT",
    "MAX_HEADER",
    "MAX_KIND",
    "MAX_LENGTH",
    "MAX_SIGNAL",
    "MAX_TEXT",
    "MORE",
    "MSG",
    "NAMES",
    "OPEN",
    "OVERHEAD",
    "PING",
    "PONG",
    "REJECT",
    "RESET",
    "SIGNAL",
    "USUAL_LENGTH",
    "WINDOW",
    "Breach",
    "Event",
    "Limits",
    "WireError",
    "cost",
    "frame",
    "header_of",
    "hello",
    "opening",
    "parse_hello",
    "parse_opening",
    "parse_reason",
    "parse_window",
    "reason",
    "unpack_header",
]

CLOSED = 0  # not a frame: the event that ends a link
HELLO = 1
OPEN = 2
ACCEPT = 3
REJECT = 4
MSG = 5
DATA = 6
WINDOW = 7
EOF = 8
RESET = 9
SIGNAL = 10
PING = 11
PONG = 12
GOAWAY = 13

NAMES = {
    CLOSED: "CLOSED",
    HELLO: "HELLO",
    OPEN: "OPEN",
    ACCEPT: "ACCEPT",
    REJECT: "REJECT",
    MSG: "MSG",
    DATA: "DATA",
    WINDOW: "WINDOW",
    EOF: "EOF",
    RESET: "RESET",
    SIGNAL: "SIGNAL",
    PING: "PING",
    PONG: "PONG",
    GOAWAY: "GOAWAY",
}

MORE = 1  # on MSG: the message goes on in the channel's next frame
END = 2  # on OPEN, MSG and DATA: this direction ends with this frame, as after EOF
FLAGS = {OPEN: END, MSG: MORE | END, DATA: END}
COUNTED = (MSG, DATA)  # what takes credit

OVERHEAD = 12  # bytes of a header; they take credit as well, so that no flood of small frames is free
USUAL_LENGTH = 65536  # what senders cut payloads to
MAX_LENGTH = 1048576  # what receivers take
MAX_CREDIT = 2**31 - 1
MAX_HEADER = 65536  # bytes of the header that opens or accepts a channel
MAX_KIND = 64
MAX_TEXT = 4096
MAX_SIGNAL = 256
VERSION = 1
MAGIC = b"AiRw"

_HEADER = struct.Struct(">IBBHI")  # length, type, flags, reserved, channel
_HELLO = struct.Struct(">4sHHII")  # magic, version, reserved, window of each channel, channels at once
_MISSING = struct.Struct(">H")  # after it, where something is missing: length of the kinds, with commas between
_OPEN = struct.Struct(">IB")  # window, length of the kind
_WINDOW = struct.Struct(">I")
_REASON = struct.Struct(">H")
_PRINTABLE = bytes(range(33, 127))

unpack_header: "Callable[..., tuple[int, int, int, int, int]]" = _HEADER.unpack_from


class WireError(Exception):
    """The program on this side used the wire wrongly; the link stands."""


class Breach(Exception):
    """The other side broke a rule, which the text names; never leaves the wire."""


class Event(object):
    """Something that the other side said.

    Attributes:
        kind: the frame's type, or CLOSED.
        channel: its channel, 0 for the link itself.
        data: the header of OPEN and ACCEPT, the bytes of DATA, MSG and SIGNAL.
        number: the code of REJECT, RESET and GOAWAY; which ping a PONG answers; for MSG 1 where the message goes on.
        text: the kind of OPEN; the reason of REJECT, RESET, GOAWAY and CLOSED.
    """

    __slots__ = ("channel", "data", "kind", "number", "text")

    def __init__(
        self, kind: "int", channel: "int" = 0, data: "bytes" = b"", number: "int" = 0, text: "str" = ""
    ) -> "None":
        self.kind: "int" = kind
        self.channel: "int" = channel
        self.data: "bytes" = data
        self.number: "int" = number
        self.text: "str" = text

    def __eq__(self, other: "object") -> "bool":
        return isinstance(other, Event) and self._key() == other._key()

    def __hash__(self) -> "int":
        return hash(self._key())

    def __repr__(self) -> "str":
        return "<%s channel=%d %d bytes number=%d %r>" % (
            NAMES[self.kind],
            self.channel,
            len(self.data),
            self.number,
            self.text,
        )

    def _key(self) -> "tuple[int, int, bytes, int, str]":
        return (self.kind, self.channel, self.data, self.number, self.text)


class Limits(object):
    """What one end allows the other, and how much it keeps itself.

    Attributes:
        window: bytes that the other end may send on a channel before this end grants more.
        max_channels: channels that the other end may have open at once.
        max_chatter: PING, WINDOW, SIGNAL and RESET frames that may come at once; they are earned back by bytes
            that move (1 a KiB) and by time (100 a second).
        max_owed: control frames that wait to be written, while the other end does not read.
        max_in_flight: bytes of bulk data between the two ends, over all channels.
        missing: kinds of channels that this end does not serve, and what it cannot do within others.
    """

    __slots__ = ("max_channels", "max_chatter", "max_in_flight", "max_owed", "missing", "window")

    def __init__(
        self,
        window: "int" = 262144,
        max_channels: "int" = 256,
        max_chatter: "int" = 5000,
        max_owed: "int" = 10000,
        max_in_flight: "int" = 16777216,
        missing: "tuple[str, ...]" = (),
    ) -> "None":
        if not 1024 <= window <= MAX_CREDIT:
            raise ValueError("a window of %d bytes: give 1024 to %d" % (window, MAX_CREDIT))
        self.window: "int" = window
        self.max_channels: "int" = max_channels
        self.max_chatter: "int" = max_chatter
        self.max_owed: "int" = max_owed
        self.max_in_flight: "int" = max_in_flight
        self.missing: "tuple[str, ...]" = missing


def cost(data: "bytes | memoryview") -> "int":
    """Return the credit that a MSG or DATA frame with this payload takes."""
    return len(data) + OVERHEAD


def header_of(kind: "int", flags: "int", channel: "int", length: "int") -> "bytes":
    """Return the 12 bytes before a payload."""
    return _HEADER.pack(length, kind, flags, 0, channel)


def frame(kind: "int", channel: "int", payload: "bytes" = b"", flags: "int" = 0) -> "bytes":
    """Return a whole frame."""
    return _HEADER.pack(len(payload), kind, flags, 0, channel) + payload


def hello(limits: "Limits") -> "bytes":
    """Return the HELLO frame."""
    missing = ",".join(limits.missing).encode("ascii")
    if missing:
        missing = _MISSING.pack(len(missing)) + missing
    return frame(HELLO, 0, _HELLO.pack(MAGIC, VERSION, 0, limits.window, limits.max_channels) + missing)


def opening(kind: "str", header: "bytes", window: "int") -> "bytes":
    """Return the payload of OPEN."""
    name = kind.encode("ascii")
    if not 0 < len(name) <= MAX_KIND:
        raise ValueError("the kind of a channel is 1 to %d characters, not %r" % (MAX_KIND, kind))
    if len(header) > MAX_HEADER:
        raise ValueError("a channel's header is at most %d bytes, not %d" % (MAX_HEADER, len(header)))
    return _OPEN.pack(window, len(name)) + name + header


def reason(code: "int", text: "str") -> "bytes":
    """Return the payload of REJECT, RESET and GOAWAY."""
    return _REASON.pack(code) + text.encode("utf-8", "replace")[:MAX_TEXT]


def parse_hello(payload: "bytes") -> "tuple[int, int, frozenset[str]]":
    """Return the other end's window, how many channels it takes, and kinds that it does not serve.

    More fields may follow in later versions.
    """
    if len(payload) < _HELLO.size:
        raise Breach("HELLO of %d bytes, needs %d" % (len(payload), _HELLO.size))
    magic, version, _, window, channels = _HELLO.unpack_from(payload)
    if magic != MAGIC or version != VERSION:
        raise Breach("HELLO says %r version %d, expected %r version %d" % (magic, version, MAGIC, VERSION))
    if not 1024 <= window <= MAX_CREDIT:
        raise Breach("HELLO gives windows of %d bytes, allowed are 1024 to %d" % (window, MAX_CREDIT))
    missing = b""
    if len(payload) >= _HELLO.size + _MISSING.size:
        start = _HELLO.size + _MISSING.size
        missing = payload[start : start + _MISSING.unpack_from(payload, _HELLO.size)[0]]
    return window, channels, frozenset(missing.decode("ascii", "replace").split(",")) - {""}


def parse_opening(payload: "bytes") -> "tuple[int, str, bytes]":
    """Return the window, the kind and the header."""
    if len(payload) < _OPEN.size:
        raise Breach("OPEN of %d bytes, needs %d" % (len(payload), _OPEN.size))
    window, length = _OPEN.unpack_from(payload)
    start = _OPEN.size + length
    name = payload[_OPEN.size : start]
    if not 0 < length <= MAX_KIND or len(name) < length or name.translate(None, _PRINTABLE):
        raise Breach("OPEN without a kind of 1 to %d printable characters" % MAX_KIND)
    if window > MAX_CREDIT:
        raise Breach("OPEN with a window of %d, allowed are %d" % (window, MAX_CREDIT))
    if len(payload) - start > MAX_HEADER:
        raise Breach("OPEN with a header of %d bytes, allowed are %d" % (len(payload) - start, MAX_HEADER))
    return window, name.decode("ascii"), payload[start:]


def parse_window(payload: "bytes") -> "int":
    """Return how many bytes WINDOW grants."""
    if len(payload) != _WINDOW.size:
        raise Breach("WINDOW of %d bytes, needs %d" % (len(payload), _WINDOW.size))
    (granted,) = _WINDOW.unpack(payload)
    if not 0 < granted <= MAX_CREDIT:
        raise Breach("WINDOW grants %d, allowed are 1 to %d" % (granted, MAX_CREDIT))
    return int(granted)


def parse_reason(payload: "bytes", kind: "int") -> "tuple[int, str]":
    """Return the code and the text of REJECT, RESET and GOAWAY."""
    if not _REASON.size <= len(payload) <= _REASON.size + MAX_TEXT:
        raise Breach("%s of %d bytes, allowed are 2 to %d" % (NAMES[kind], len(payload), _REASON.size + MAX_TEXT))
    (code,) = _REASON.unpack_from(payload)
    return int(code), payload[_REASON.size :].decode("utf-8", "replace")
