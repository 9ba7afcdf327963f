"""The ssh side of the embedded server: what a client may do on a connection, and how a command hangs on a channel.

As OpenSSH's sshd where that can be seen: the exit status is told when the process ends, the channel closes when its
outputs have ended too, a command without a terminal survives its connection, a session too many fails to open.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
from collections.abc import Mapping
from signal import Signals

import asyncssh
from asyncssh.constants import EXTENDED_DATA_STDERR, OPEN_CONNECT_FAILED

from aioremote.testing._channels import CommandChannel, encode_command
from aioremote.testing._commands import Command, Exit, Sink, Source
from aioremote.testing._pty import Terminal
from aioremote.testing._sftp import sftp_session
from aioremote.testing._state import EmbeddedHost, ServerState

__all__ = ["CommandSession", "Connection"]


class Connection(asyncssh.SSHServer):
    """One connection of a client."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.sessions = 0
        self._output_bytes = 0
        self._connection: asyncssh.SSHServerConnection | None = None

    @property
    def connection(self) -> asyncssh.SSHServerConnection:
        """The ssh connection; there is one from `connection_made` on."""
        if self._connection is None:
            raise RuntimeError("not connected")
        return self._connection

    @property
    def host(self) -> EmbeddedHost:
        """The host that this connection reached."""
        address, port = self.connection.get_extra_info("sockname")[:2]
        return self.state.hosts[address, port]

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self.state.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)

    def begin_auth(self, username: str) -> bool:
        if self.state.settings.banner is not None:
            self.connection.send_auth_banner(self.state.settings.banner)
        return True

    def password_auth_supported(self) -> bool:
        return any(password is not None for password in self.state.settings.users.values())

    # The two checks give the loop a turn: with eager tasks asyncssh would drop an answer that comes at once.

    async def validate_password(self, username: str, password: str) -> bool:
        await asyncio.sleep(0)
        return not self.host.faults.refuse_auth and self.state.password_is_right(username, password)

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        await asyncio.sleep(0)
        known = username in self.state.settings.users and key.get_fingerprint() in self.state.authorized
        return known and not self.host.faults.refuse_auth

    def session_requested(self) -> tuple[CommandChannel, CommandSession]:
        if self.sessions >= self.state.settings.max_sessions:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "open failed")  # OpenSSH's words past MaxSessions
        self.sessions += 1
        return CommandChannel(self.connection), CommandSession(self)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return self.state.settings.allow_forwarding

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return self.state.settings.allow_forwarding

    def unix_connection_requested(self, dest_path: str) -> bool:
        return self.state.settings.allow_forwarding

    def unix_server_requested(self, listen_path: str) -> bool:
        return self.state.settings.allow_forwarding

    def take_output(self, data: bytes) -> bytes:
        """Return what of `data` may be sent before the connection drops, as the host's faults say."""
        limit = self.host.faults.drop_after_bytes
        if limit is None:
            return data
        data = data[: max(limit - self._output_bytes, 0)]
        self._output_bytes += len(data)
        if self._output_bytes >= limit:
            asyncio.get_running_loop().call_soon(self.connection.abort)
        return data


class CommandSession(asyncssh.SSHServerSession[bytes]):
    """One session channel: a command, a login shell, or sftp."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._state = connection.state
        self._channel: CommandChannel | None = None
        self._terminal: Terminal | None = None
        self._command: Command | None = None
        self._sink: Sink | None = None
        self._sources: list[Source] = []
        self._open_outputs = 0
        self._exit: Exit | None = None
        self._sftp: asyncssh.SSHServerProcess[bytes] | None = None

    # --- requests of the client ---------------------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        if isinstance(chan, CommandChannel):
            self._channel = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        try:
            self._terminal = Terminal(term_type, term_size, term_modes)
        except OSError:
            return False
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None:
            self._terminal.resize((width, height, pixwidth, pixheight))

    def shell_requested(self) -> bool:
        return self._start("login shell", [self._state.settings.shell, "-l"])

    def exec_requested(self, command: str) -> bool:
        return self._start(command, [self._state.settings.shell, "-c", encode_command(command)])

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp" or self._channel is None:
            return False
        self._state.requests.append("sftp")
        self._sftp = sftp_session(self._channel, os.fsencode(self._state.settings.home))
        return True

    def session_started(self) -> None:
        if self._sftp is not None:
            self._sftp.session_started()
        for source in self._sources:
            source.resume()

    def signal_received(self, signal: str) -> None:
        number = Signals.__members__.get(f"SIG{signal}")
        if number is not None and self._command is not None and self._state.settings.allow_signals:
            self._command.send_signal(number)

    # --- from the client ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._sftp is not None:
            self._sftp.data_received(data, datatype)
        elif self._sink is not None and not self._sink.write(data) and self._channel is not None:
            self._channel.pause_reading()

    def eof_received(self) -> bool:
        if self._sftp is not None:
            return bool(self._sftp.eof_received())
        if self._sink is not None and self._terminal is None:
            self._sink.finish()
        return True  # the other direction stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        self._connection.sessions -= 1
        if self._sftp is not None:
            self._sftp.connection_lost(exc)
        for source in self._sources:
            source.close()
        if self._sink is not None:
            if exc is None and self._terminal is None:
                self._sink.finish()
            else:
                self._sink.close()
        if self._terminal is not None:
            self._terminal.close()
        if self._command is not None and self._exit is None and self._state.settings.kill_on_disconnect:
            self._state.end_soon(self._command)

    # --- to the client ------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.pause_writing()
        for source in self._sources:
            source.pause()

    def resume_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.resume_writing()
        for source in self._sources:
            source.resume()

    def _feed_stdout(self, data: bytes) -> None:
        self._feed(data, None)

    def _feed_stderr(self, data: bytes) -> None:
        self._feed(data, EXTENDED_DATA_STDERR)

    def _feed(self, data: bytes, datatype: int | None) -> None:
        if self._channel is not None and not self._channel.is_closing():
            allowed = self._connection.take_output(data)
            self._channel.write(allowed, datatype)  # pyright: ignore[reportUnknownMemberType] - its base lost the type

    def _room(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    # --- the command --------------------------------------------------------------------------------------------------

    def _start(self, what: str, argv: list[str | bytes]) -> bool:
        if self._channel is None:
            return False
        self._state.requests.append(what)
        try:
            command = Command(
                argv,
                environment=self._environment(self._channel),
                directory=str(self._state.settings.home),
                terminal=self._terminal,
                ended=self._ended,
            )
        except (OSError, ValueError):
            return False
        self._command = command
        self._state.started(command)
        stdin, *outputs = command.descriptors
        self._sink = Sink(stdin, self._room)
        feeds = (self._feed_stdout, self._feed_stderr)
        self._sources = [Source(output, feed, self._output_ended) for output, feed in zip(outputs, feeds, strict=False)]
        self._open_outputs = len(self._sources)
        return True

    def _environment(self, channel: CommandChannel) -> dict[str, str]:
        connection = self._connection.connection
        patterns = self._state.settings.accept_environment
        sent = {
            name: value
            for name, value in channel.get_environment().items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        }
        near, far = connection.get_extra_info("sockname")[:2], connection.get_extra_info("peername")[:2]
        sent["SSH_CONNECTION"] = " ".join(map(str, (*far, *near)))
        if self._terminal is not None:
            sent |= {"TERM": self._terminal.kind, "SSH_TTY": self._terminal.name}
        return self._state.command_environment(self._connection.host, connection.get_extra_info("username"), sent)

    def _output_ended(self) -> None:
        self._open_outputs -= 1
        self._close_when_done()

    def _ended(self, command: Command, result: Exit) -> None:
        self._state.running.pop(command.pid, None)
        self._exit = result
        if self._sink is not None:
            self._sink.close()
        if self._channel is not None:
            self._channel.report_exit(result)
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._channel is None or self._open_outputs:
            return
        if self._exit is not None:
            self._channel.close()
        elif not self._channel.is_closing():
            self._channel.write_eof()
