"""Session channels without tasks: asyncssh's own way costs two a command, and a wait that nobody needs.

Reaches into the private side of asyncssh's channels, and nothing else does. tests/transports/ssh/test_client.py holds
it.

Source: RFC 4254 sections 5.1 (opening), 6.2 (pty-req), 6.5 (exec), 7.2 (direct-tcpip); OpenSSH PROTOCOL section 2.4
(direct-streamlocal@openssh.com), auth-agent-req@openssh.com.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_OPEN
from asyncssh.packet import String, UInt32

from aioremote.transports.ssh.packets import FastConnection
from aioremote.types import Endpoint

__all__ = [
    "Channel",
    "adopt_session",
    "adopt_stream",
    "open_forward",
    "open_session",
    "request_agent",
    "request_exec",
    "request_terminal",
]

_TERMINAL_MODES_END = b"\0"


class Channel(Protocol):
    """What is used of an open channel; asyncssh's own annotations leave its data half unknown."""

    def write(self, data: bytes) -> None:
        """Queue bytes for the far side."""
        ...

    def write_eof(self) -> None:
        """Say that no more bytes come."""
        ...

    def close(self) -> None:
        """Send what is queued, then close."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def is_closing(self) -> bool:
        """Whether it is closed or being closed from here."""
        ...

    def pause_reading(self) -> None:
        """Hold the flow from the far side."""
        ...

    def resume_reading(self) -> None:
        """Let it flow again."""
        ...

    def send_signal(self, signal: str) -> None:
        """Ask the server for a signal to the program."""
        ...

    def change_terminal_size(self, width: int, height: int) -> None:
        """Tell the terminal's new size."""
        ...


Answered = Callable[[Channel, BaseException | None], None]


class _Answer:
    """Stands for a future in asyncssh's hands: tells of the answer at once, and not a turn of the loop later.

    So what is said in reply leaves together with all else that one read brings about.
    """

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[object, BaseException | None], None]) -> None:
        self._tell = tell

    def cancelled(self) -> bool:
        return False

    def set_result(self, result: object) -> None:
        self._tell(result, None)

    def set_exception(self, error: BaseException) -> None:
        self._tell(None, error)


class _Channel(asyncssh.SSHClientChannel[bytes]):
    """A channel that logs nothing, and writes with fewer copies."""

    def write(self, data: bytes, datatype: int | None = None) -> None:
        rest = data if datatype is not None else _sent_at_once(self, data)
        if rest is not None:
            cast(Any, super()).write(rest, datatype)

    def _cleanup(self, exc: Exception | None = None) -> None:
        self._request_waiters = []  # what is not answered by now never is, and nobody waits for it
        super()._cleanup(exc)

    def log_sent_packet(self, *args: object, **kwargs: object) -> None:
        return None

    def log_received_packet(self, *args: object, **kwargs: object) -> None:
        return None


class _ForwardChannel(asyncssh.SSHTCPChannel[bytes]):
    """The same for a forwarded connection, to a port or a unix socket."""

    def write(self, data: bytes, datatype: int | None = None) -> None:
        rest = data if datatype is not None else _sent_at_once(self, data)
        if rest is not None:
            cast(Any, super()).write(rest, datatype)

    def log_sent_packet(self, *args: object, **kwargs: object) -> None:
        return None

    def log_received_packet(self, *args: object, **kwargs: object) -> None:
        return None


def _sent_at_once(channel: Any, data: bytes) -> bytes | None:  # Any: private attributes of a foreign class
    """Send what the far side has room for, not through asyncssh's own buffer; return the rest, None for none."""
    connection = channel._conn
    if channel._send_buf or channel._send_state != "open" or not isinstance(connection, FastConnection):
        return data
    view, at = memoryview(bytes(data)), 0  # which nobody changes, should a key exchange hold a packet back
    with connection.burst():
        while at < len(view) and channel._send_window:
            size = min(len(view) - at, channel._send_window, channel._send_pktsize)
            channel._send_window -= size
            numbers = UInt32(channel._send_chan), UInt32(size)
            connection.send_packet(MSG_CHANNEL_DATA, *numbers, view[at : at + size], handler=channel)
            at += size
    return bytes(view[at:]) if at < len(view) else None


def open_session(
    connection: asyncssh.SSHClientConnection, window_bytes: int, packet_bytes: int, answered: Answered
) -> None:
    """Ask for a session channel and call `answered` with it, or with it and what the server said against it.

    Raises:
        asyncssh.ChannelOpenError: the connection is closed already.
    """
    inner: Any = connection  # Any: private methods of a foreign class
    inner._update_recv_pktlen(packet_bytes)
    loop = asyncio.get_running_loop()
    _open(_Channel(connection, loop, "strict", None, "strict", window_bytes, packet_bytes), inner, answered, b"session")


def open_forward(
    connection: asyncssh.SSHClientConnection, target: Endpoint, window_bytes: int, packet_bytes: int, answered: Answered
) -> None:
    """Ask for a connection from the far side to `target`; otherwise as `open_session`."""
    inner: Any = connection
    inner._update_recv_pktlen(packet_bytes)
    channel = _ForwardChannel(connection, asyncio.get_running_loop(), None, "strict", window_bytes, packet_bytes)
    nobody = (String(""), UInt32(0))  # who it is opened for
    if target.path:
        _open(channel, inner, answered, b"direct-streamlocal@openssh.com", String(target.path), *nobody)
    else:
        _open(channel, inner, answered, b"direct-tcpip", String(target.host), UInt32(target.port), *nobody)


def _open(channel: Any, connection: Any, answered: Answered, kind: bytes, *arguments: bytes) -> None:
    channel._open_waiter = _Answer(lambda _, error: answered(channel, error))
    numbers = (channel._recv_chan, channel._recv_window, channel._recv_pktsize)
    connection.send_packet(MSG_CHANNEL_OPEN, String(kind), *map(UInt32, numbers), *arguments)


def adopt_stream(channel: Channel, session: asyncssh.SSHTCPSession[bytes]) -> None:
    """Let `session` get what has arrived on a forwarded connection, and what will."""
    private: Any = channel
    private._session = session
    session.connection_made(private)
    session.session_started()


def adopt_session(channel: Channel, session: asyncssh.SSHClientSession[bytes]) -> None:
    """Let `session` get what arrives on an open channel from now on."""
    private: Any = channel
    private._session = session
    private._recv_paused = False


def _request(channel: Channel, name: bytes, *arguments: bytes, refused: Callable[[], None]) -> None:
    private: Any = channel

    def check(taken: object, error: BaseException | None) -> None:
        if not taken and error is None:
            refused()

    private._request_waiters.append(_Answer(check))
    private._send_request(name, *arguments, want_reply=True)


def request_exec(channel: Channel, line: bytes, refused: Callable[[], None]) -> None:
    """Order a command line; `refused` is called where the server does not take it."""
    _request(channel, b"exec", String(line), refused=refused)


def request_terminal(channel: Channel, term: str, size: tuple[int, int], refused: Callable[[], None]) -> None:
    """Ask for a terminal of (columns, rows); `refused` is called where the server gives none."""
    numbers = b"".join(map(UInt32, (*size, 0, 0)))
    _request(channel, b"pty-req", String(term), numbers, String(_TERMINAL_MODES_END), refused=refused)


def request_agent(channel: Channel) -> None:
    """Let far programs reach the near agent."""
    private: Any = channel
    private._send_request(b"auth-agent-req@openssh.com")
