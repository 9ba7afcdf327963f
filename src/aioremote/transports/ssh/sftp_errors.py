"""What an error of SFTP means.

Version 3, which OpenSSH speaks, knows four kinds: no such file, forbidden, bad message, failure. The rest is found out
by asking more, on the failure path only.

Source: draft-ietf-secsh-filexfer-02 section 7; OpenSSH sftp-server.c, errno_to_portable; OpenSSH PROTOCOL section 4.4
(statvfs@openssh.com).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress

import asyncssh

from aioremote.errors import RemoteError, UnsupportedError, file_error

__all__ = ["is_end", "meaning"]

_NAME_BYTES = 255  # Source: NAME_MAX of Linux; asked of the server where it tells
_PATH_BYTES = 4095
_READ_ONLY = 1  # Source: OpenSSH PROTOCOL section 4.4, SSH_FXE_STATVFS_ST_RDONLY
_EXACT: dict[type[BaseException], int] = {  # what servers of later versions tell
    asyncssh.SFTPPermissionDenied: errno.EACCES,
    asyncssh.SFTPFileAlreadyExists: errno.EEXIST,
    asyncssh.SFTPWriteProtect: errno.EROFS,
    asyncssh.SFTPNoSpaceOnFilesystem: errno.ENOSPC,
    asyncssh.SFTPQuotaExceeded: errno.EDQUOT,
    asyncssh.SFTPDirNotEmpty: errno.ENOTEMPTY,
    asyncssh.SFTPNotADirectory: errno.ENOTDIR,
    asyncssh.SFTPLinkLoop: errno.ELOOP,
    asyncssh.SFTPFileIsADirectory: errno.EISDIR,
    asyncssh.SFTPInvalidFilename: errno.EINVAL,
    asyncssh.SFTPInvalidParameter: errno.EINVAL,
    asyncssh.SFTPNoSuchPath: errno.ENOENT,
}
_Ends = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ConnectionLost, ConnectionError)


def is_end(error: BaseException) -> bool:
    """Whether it is the end of the session and not an answer."""
    return isinstance(error, _Ends)


async def meaning(
    error: BaseException, client: asyncssh.SFTPClient, path: bytes, *, host: str, doing: str
) -> RemoteError:
    """Return our error for the server's answer.

    Args:
        error: the answer.
        client: for further questions.
        path: what was asked about.
        host: the machine's name.
        doing: "open", "create", "write", "mkdir", "rmdir", "unlink", "rename", "symlink", "link", "readlink" or
            "opendir" help to find out.
    """
    if isinstance(error, asyncssh.SFTPOpUnsupported):
        return UnsupportedError(f"{host}: the sftp server cannot do that: {doing or error.reason}", host=host)
    number = _EXACT.get(type(error))
    if number is None:
        try:
            number = await _found_out(error, client, path, doing)
        except (asyncssh.Error, OSError):
            number = errno.ENOENT if isinstance(error, asyncssh.SFTPNoSuchFile) else errno.EIO
    said = error.reason if isinstance(error, asyncssh.SFTPError) else str(error)
    text = os.strerror(number) if number != errno.EIO else f"the sftp server only says {said!r}"
    return file_error(number, os.fsdecode(path), host=host, text=text)


async def _found_out(error: BaseException, client: asyncssh.SFTPClient, path: bytes, doing: str) -> int:
    if isinstance(error, asyncssh.SFTPNoSuchFile):
        return await _why_missing(client, path, doing)
    if max(map(len, path.split(b"/"))) > _NAME_BYTES or len(path) > _PATH_BYTES:
        return errno.ENAMETOOLONG
    if isinstance(error, asyncssh.SFTPBadMessage):
        return errno.EINVAL
    return await _why_there(client, path, doing) or await _why_disk(client, path, doing) or errno.EIO


async def _mode(client: asyncssh.SFTPClient, path: bytes, *, follow: bool = True) -> int | None:
    """Return the mode, None where there is nothing."""
    with suppress(asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory):
        attrs = await (client.stat(path) if follow else client.lstat(path))
        return attrs.permissions or 0
    return None


async def _why_missing(client: asyncssh.SFTPClient, path: bytes, doing: str) -> int:
    """Tell a missing file from a file where a directory is needed; a server says the same of both."""
    mode = await _mode(client, path, follow=False)
    if mode is not None:
        if stat.S_ISLNK(mode):
            return errno.ENOENT
        return errno.ENOTDIR if doing in ("opendir", "rmdir", "rename") and not stat.S_ISDIR(mode) else errno.ENOENT
    while (above := posixpath.dirname(path.rstrip(b"/"))) not in (b"", path):
        path = above
        mode = await _mode(client, path)
        if mode is not None:
            return errno.ENOENT if stat.S_ISDIR(mode) else errno.ENOTDIR
    return errno.ENOENT


async def _why_there(client: asyncssh.SFTPClient, path: bytes, doing: str) -> int | None:
    """Judge by what stands at the path."""
    mode = await _mode(client, path, follow=False)
    if mode is None:
        return None
    if stat.S_ISLNK(mode) and doing == "open" and await _mode(client, path) is None:
        return errno.ENOENT
    if doing in ("mkdir", "symlink", "link", "create"):
        return errno.EEXIST
    if doing in ("rmdir", "opendir"):
        return errno.ENOTDIR if not stat.S_ISDIR(mode) else errno.ENOTEMPTY if doing == "rmdir" else None
    if doing == "rename" and stat.S_ISDIR(mode):
        return errno.EISDIR
    return errno.EISDIR if doing in ("open", "unlink", "read") and stat.S_ISDIR(mode) else None


async def _why_disk(client: asyncssh.SFTPClient, path: bytes, doing: str) -> int | None:
    """Judge by the state of the file system."""
    if doing in ("", "read", "opendir", "readlink"):
        return None
    folder = path if await _mode(client, path) is not None else posixpath.dirname(path) or b"."
    disk = await client.statvfs(folder)
    if disk.flags & _READ_ONLY:
        return errno.EROFS
    if disk.bavail == 0 or (disk.favail == 0 and disk.files > 0):
        return errno.ENOSPC
    return None
