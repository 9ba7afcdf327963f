"""A server's session channel that behaves as OpenSSH's where asyncssh's differs.

The exit status can be told before the last output, a command line may be any bytes, and a close that comes while the
session reads no more is seen at once. This uses names that asyncssh keeps to its subclasses: the tests hold them.
"""

from __future__ import annotations

import asyncio
import signal

import asyncssh
from asyncssh.constants import DEFAULT_LANG
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from aioremote.testing._commands import Exit

__all__ = ["CommandChannel", "encode_command"]

WINDOW_BYTES = 2 * 1024 * 1024  # asyncssh's own defaults
PACKET_BYTES = 32 * 1024
LINE_LENGTH = 1024
# Source: RFC 4254, section 6.10: names without SIG; others carry the system's domain, as OpenSSH does it.
STANDARD_SIGNALS = frozenset(
    ["ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"]
)


class CommandChannel(asyncssh.SSHServerChannel[bytes]):
    """A channel of bytes for one command, shell or subsystem."""

    def __init__(self, connection: asyncssh.SSHServerConnection) -> None:
        super().__init__(
            connection,
            asyncio.get_running_loop(),
            allow_pty=True,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=LINE_LENGTH,
            encoding=None,
            errors="strict",
            window=WINDOW_BYTES,
            max_pktsize=PACKET_BYTES,
        )

    def report_exit(self, result: Exit) -> None:
        """Tell how the command ended; output may still follow. Does nothing on a closed channel."""
        if self._send_state in {"close_pending", "closed"}:
            return
        if result.signal is None:
            self._send_request(b"exit-status", UInt32(result.code or 0))
        else:
            core = Boolean(result.core_dumped)
            self._send_request(
                b"exit-signal", String(_signal_name(result.signal)), core, String(""), String(DEFAULT_LANG)
            )

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        command = packet.get_string()
        packet.check_end()
        return self._start_session(command=command.decode("utf-8", "surrogateescape"))

    def _close_send(self) -> None:
        super()._close_send()
        # What the client sent before its close goes to the command; kept here it would hold the close back for ever.
        waiting, self._recv_buf = self._recv_buf, []
        self._recv_paused = False
        for data, datatype in waiting:
            self._session.data_received(data, datatype)


def encode_command(command: str) -> bytes:
    """Return the command line as the client sent it."""
    return command.encode("utf-8", "surrogateescape")


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # a real-time signal
        name = f"RT{number - signal.SIGRTMIN}"
    return name if name in STANDARD_SIGNALS else f"{name}@openssh.com"
