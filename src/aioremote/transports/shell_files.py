"""The far files by way of small /bin/sh programs, where a transport offers nothing better. One round trip a call.

What these programs cannot do yet is UnsupportedError.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioremote.errors import UnsupportedError, file_error
from aioremote.protocols import FileSystem
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from aioremote._core.pieces import Piece, Tally, TreeOptions
    from aioremote.protocols import FarFile, Starter
    from aioremote.types import FileEntry, FileStat

__all__ = ["ShellFiles"]

# Exit statuses of the scripts below; 1 is a failure that only its text explains.
_STATUSES = {
    40: errno.ENOENT,
    41: errno.EACCES,
    42: errno.EISDIR,
    43: errno.ENOTDIR,
}
# A path whose folder may not be searched looks missing: find the first ancestor that exists and ask whether it may be
# entered.
_WHY_MISSING = b"""
why_missing() {
 up=$1
 while :; do
  case $up in */*) up=${up%/*}; up=${up:-/} ;; *) up=. ;; esac
  if [ -d "$up" ]; then [ -x "$up" ] && exit 40; exit 41; fi
  if [ -e "$up" ]; then exit 43; fi
  if [ "$up" = / ] || [ "$up" = . ]; then exit 40; fi
 done
}
"""
_EXISTS = _WHY_MISSING + b'[ -e "$1" ] && exit 0; why_missing "$1"'
_UNLINK = (
    _WHY_MISSING
    + b"""
if [ -d "$1" ] && [ ! -L "$1" ]; then exit 42; fi
if [ ! -e "$1" ] && [ ! -L "$1" ]; then why_missing "$1"; fi
exec rm -f -- "$1"
"""
)
_REMOVE_TREE = (
    _WHY_MISSING
    + b"""
if [ ! -e "$1" ] && [ ! -L "$1" ]; then why_missing "$1"; fi
if [ -L "$1" ] || [ ! -d "$1" ]; then exit 43; fi
exec rm -rf -- "$1"
"""
)


class ShellFiles(FileSystem):
    """Far files over `start_process` of a transport: whether one exists, and removing."""

    def __init__(self, transport: Starter, host: str) -> None:
        self.engine: str = "shell"
        self._transport = transport
        self._host = host

    async def exists(self, path: bytes) -> bool:
        try:
            await self._do(_EXISTS, path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def unlink(self, path: bytes) -> None:
        await self._do(_UNLINK, path)

    async def remove_tree(self, path: bytes) -> None:
        await self._do(_REMOVE_TREE, path)

    def _missing(self, what: str) -> UnsupportedError:
        text = f"{self._host}: cannot {what}: there is no file system but the shell's, as behind sudo; use commands"
        return UnsupportedError(text, host=self._host)

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        raise self._missing("look at files")

    def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        raise self._missing("list directories")

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        raise self._missing("open files")

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        raise self._missing("make directories")

    async def rmdir(self, path: bytes) -> None:
        raise self._missing("remove directories")

    async def rename(self, path: bytes, target: bytes) -> None:
        raise self._missing("rename files")

    async def chmod(self, path: bytes, mode: int) -> None:
        raise self._missing("change permissions")

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        raise self._missing("change owners")

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        raise self._missing("change times")

    async def symlink(self, target: bytes, path: bytes) -> None:
        raise self._missing("make links")

    async def link(self, target: bytes, path: bytes) -> None:
        raise self._missing("make links")

    async def readlink(self, path: bytes) -> bytes:
        raise self._missing("read links")

    async def realpath(self, path: bytes) -> bytes:
        raise self._missing("resolve paths")

    def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        raise self._missing("read files")

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        raise self._missing("write files")

    async def _do(self, script: bytes, path: bytes) -> None:
        operand = b"./" + path if path.startswith(b"-") else path
        spec = ProcessSpec((b"/bin/sh", b"-c", script, b"sh", operand), stdin=False)
        far = await self._transport.start_process(spec)
        said = b""
        try:
            if far.stderr is not None:
                with suppress(anyio.EndOfStream):
                    while True:
                        said = (said + await far.stderr.receive())[-4096:]
            status = await far.wait()
        finally:
            await far.aclose()
        if status.returncode:
            text = said.decode(errors="replace").strip()
            number = _STATUSES.get(status.returncode) or _errno_in(text)
            raise file_error(
                number, os.fsdecode(path), host=self._host, text="" if number in _STATUSES.values() else text
            )


def _errno_in(text: str) -> int:
    """Guess from what rm says; the text itself is in the error's message."""
    known = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY, errno.EBUSY, errno.ENAMETOOLONG)
    return next((number for number in known if os.strerror(number) in text), errno.EIO)
