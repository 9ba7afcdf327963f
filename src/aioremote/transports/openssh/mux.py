"""What is said on a master's control socket: requests as bytes, replies as values. No I/O.

Source: OpenSSH's PROTOCOL.mux, version 4. Not spoken: the proxy mode, in which a failed open ends the master.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "HELLO",
    "MAX_PACKET_BYTES",
    "Forward",
    "Kind",
    "MuxError",
    "Reader",
    "Reply",
    "alive_check",
    "close_forward",
    "new_session",
    "open_forward",
    "stdio_forward",
    "terminate",
]

VERSION = 4
MAX_PACKET_BYTES = 256 * 1024  # Source: CHANNEL_MUX_MAX_PACKET, channels.c
UNIX_PORT = 0xFFFFFFFE  # stands for "the host is the path of a unix socket"; PORT_STREAMLOCAL, misc.h
_NO_ESCAPE = 0xFFFFFFFF

_NUMBER = struct.Struct(">I")
_TWO = struct.Struct(">II")
_THREE = struct.Struct(">III")
_SESSION = struct.Struct(">10I")  # size, kind, request, reserved, terminal, X11, agent, subsystem, escape, size of term

_C_NEW_SESSION = 0x10000002
_C_ALIVE_CHECK = 0x10000004
_C_TERMINATE = 0x10000005
_C_OPEN_FWD = 0x10000006
_C_CLOSE_FWD = 0x10000007
_C_NEW_STDIO_FWD = 0x10000008
_FWD_LOCAL = 1
_FWD_REMOTE = 2


class MuxError(ValueError):
    """The other end does not speak the protocol."""


class Kind(enum.IntEnum):
    """What a reply is."""

    HELLO = 0x00000001
    OK = 0x80000001
    PERMISSION_DENIED = 0x80000002
    FAILURE = 0x80000003
    EXIT_MESSAGE = 0x80000004
    ALIVE = 0x80000005
    SESSION_OPENED = 0x80000006
    REMOTE_PORT = 0x80000007
    TTY_ALLOC_FAIL = 0x80000008


_KINDS = {int(kind): kind for kind in Kind}  # a third of the time of Kind(number)
_FAILURES = (Kind.FAILURE, Kind.PERMISSION_DENIED)


class Reply(NamedTuple):
    """One message from the master.

    Attributes:
        kind: what it is.
        request: the request that it answers; of EXIT_MESSAGE and TTY_ALLOC_FAIL the session; of HELLO the version.
        number: exit status, session, process id or port, by the kind.
        text: why something failed, as the master says it.
    """

    kind: Kind
    request: int
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """A listener at one end whose connections go on at the other; at this end it is a unix socket.

    Attributes:
        host: the far host, a path where `port` is None.
        port: 0 lets the server pick one.
        near_path: the socket here.
        reverse: whether the far end listens.
    """

    host: str
    port: int | None
    near_path: str
    reverse: bool = True


def _packet(kind: int, *fields: int | bytes) -> bytes:
    body = _NUMBER.pack(kind) + b"".join(
        _NUMBER.pack(field) if isinstance(field, int) else _NUMBER.pack(len(field)) + field for field in fields
    )
    _check_size(len(body))
    return _NUMBER.pack(len(body)) + body


def _check_size(body_bytes: int) -> None:
    if body_bytes > MAX_PACKET_BYTES:
        raise ValueError(f"the command is longer than the {MAX_PACKET_BYTES} bytes that OpenSSH's master takes at once")


HELLO = _packet(Kind.HELLO, VERSION)


def new_session(request: int, line: bytes, *, term: str | None = None) -> bytes:
    """Ask for a session; three descriptors (standard input, output and error) are to follow, each with one byte.

    Args:
        request: comes back in the reply.
        line: the command line.
        term: the terminal's kind; None for none. Its size and modes are those of the standard input given.

    Raises:
        ValueError: the line is too long.
    """
    kind = (term or "").encode()
    size = _SESSION.size + len(kind) + 4 + len(line)
    _check_size(size - 4)
    head = _SESSION.pack(size - 4, _C_NEW_SESSION, request, 0, term is not None, 0, 0, 0, _NO_ESCAPE, len(kind))
    return head + kind + _NUMBER.pack(len(line)) + line


def stdio_forward(request: int, host: str, port: int) -> bytes:
    """Ask for a connection from the far end; two descriptors (input, output) are to follow."""
    return _packet(_C_NEW_STDIO_FWD, request, b"", host.encode(), port)


def _forward(kind: int, request: int, forward: Forward) -> bytes:
    far = (forward.host.encode(), UNIX_PORT if forward.port is None else forward.port)
    near = (forward.near_path.encode(), UNIX_PORT)
    if forward.reverse:
        return _packet(kind, request, _FWD_REMOTE, *far, *near)
    return _packet(kind, request, _FWD_LOCAL, *near, *far)


def open_forward(request: int, forward: Forward) -> bytes:
    """Ask for a listener; answered by OK, or by REMOTE_PORT where the server has picked the port."""
    return _forward(_C_OPEN_FWD, request, forward)


def close_forward(request: int, forward: Forward) -> bytes:
    """Ask for the end of a listener, with the words of `open_forward`."""
    return _forward(_C_CLOSE_FWD, request, forward)


def alive_check(request: int) -> bytes:
    """Ask whether the master lives; answered by ALIVE with its process id."""
    return _packet(_C_ALIVE_CHECK, request)


def terminate(request: int) -> bytes:
    """Ask the master to end; the answer may be the end of the stream."""
    return _packet(_C_TERMINATE, request)


class Reader:
    """Finds replies in what the master sends, however it is split."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that are complete now.

        Raises:
            MuxError: this is no master of a version that is known here.
        """
        held = self._held + data if self._held else data
        found: list[Reply] = []
        at, end = 0, len(held)
        while end - at >= 4:
            (size,) = _NUMBER.unpack_from(held, at)
            if not 8 <= size <= MAX_PACKET_BYTES:
                raise MuxError(f"a packet of {size} bytes")
            if end - at < 4 + size:
                break
            found.append(_reply(held, at + 4, at := at + 4 + size))
        self._held = held[at:] if at < end else b""
        return found


def _reply(held: bytes, start: int, end: int) -> Reply:
    """Read the packet that lies between two places."""
    if end - start >= 12:
        number, request, value = _THREE.unpack_from(held, start)
    else:
        (number, request), value = _TWO.unpack_from(held, start), 0
    kind = _KINDS.get(number)
    if kind is None:
        raise MuxError(f"an unknown message {held[start:end][:16].hex()}")
    if kind is Kind.HELLO:
        if request != VERSION:
            raise MuxError(f"version {request} of the protocol, where {VERSION} is spoken here")
        value = 0  # what follows are extensions
    if kind in _FAILURES:
        return Reply(kind, request, text=held[start + 12 : min(end, start + 12 + value)].decode("utf-8", "replace"))
    return Reply(kind, request, value)
