"""The sftp subsystem of the embedded server: asyncssh's own, as this process's user, relative paths below a home."""

from __future__ import annotations

import posixpath

import asyncssh

__all__ = ["HomeSFTPServer", "sftp_session"]

VERSION = 3  # what OpenSSH speaks


class HomeSFTPServer(asyncssh.SFTPServer):
    """Files as the user of this process sees them. Its file operations block the loop, as asyncssh's do."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: bytes) -> None:
        super().__init__(chan)  # pyright: ignore[reportUnknownMemberType] - asyncssh leaves the channel's type open
        self._home = home

    def map_path(self, path: bytes) -> bytes:
        """Return where `path` is here; an absolute path stays."""
        return posixpath.join(self._home, path)


def sftp_session(channel: asyncssh.SSHServerChannel[bytes], home: bytes) -> asyncssh.SSHServerProcess[bytes]:
    """Return a session that speaks sftp on `channel`; whoever owns the channel hands its events on."""

    def no_command(_process: asyncssh.SSHServerProcess[bytes]) -> None:
        raise AssertionError("this session was opened for sftp")

    def serve(_channel: object) -> HomeSFTPServer:
        return HomeSFTPServer(channel, home)

    session = asyncssh.SSHServerProcess[bytes](no_command, serve, VERSION, False)
    session.connection_made(channel)  # pyright: ignore[reportUnknownMemberType] - the same
    return session
