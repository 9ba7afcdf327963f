"""The far files by way of small /bin/sh programs, where a transport offers nothing better. One round trip a call.

They use what POSIX names, and `stat` and `readlink` of GNU, busybox or BSD; without `stat`, `ls` tells less.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from aioremote.errors import UnsupportedError
from aioremote.protocols import FarFile, FileSystem, Unless
from aioremote.transports.opening import read_by_opening
from aioremote.transports.shell_calls import operand, run_program, said_error
from aioremote.transports.shell_stat import LOOK, SCAN, parse_listing, parse_stat
from aioremote.transports.shell_trees import DIGESTS, LIST, is_odd, parse_digests, parse_tree

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from aioremote._core.pieces import Listed, Piece, Tally, TreeOptions
    from aioremote.protocols import Starter
    from aioremote.types import FileEntry, FileStat

__all__ = ["ShellFiles", "touch_time"]

_PRESENT = b'[ -e "$1" ] || [ -L "$1" ] || why_missing "$1"\n'
_EXISTS = b'[ -e "$1" ] && exit 0; why_missing "$1"'
_UNLINK = (
    b"""
if [ -d "$1" ] && [ ! -L "$1" ]; then exit 42; fi
"""
    + _PRESENT
    + b'exec rm -f -- "$1"'
)
_REMOVE_TREE = (
    _PRESENT
    + b"""
if [ -L "$1" ] || [ ! -d "$1" ]; then exit 43; fi
exec rm -rf -- "$1"
"""
)
# $2: letters for what is wanted, $3: the permissions in octal that a new file must not have, $4: 1 for one that may
# run. Redirections report by themselves what fails, and end the shell.
_OPEN = b"""
if [ -d "$1" ]; then exit 42; fi
if [ -p "$1" ]; then exit 46; fi
case $2 in
*x*) if [ -e "$1" ] || [ -L "$1" ]; then exit 45; fi; set -C ;;
*c*) ;;
*) [ -e "$1" ] || why_missing "$1" ;;
esac
mask=$(umask)
[ -e "$1" ] || case $2 in *c*) fresh=1; umask $(printf %o $((0$mask | $3))) ;; esac
case $2 in
*x*|*t*) : >"$1" ;;
*w*|*c*) : >>"$1" ;;
esac
case $2 in *r*) : <"$1" ;; esac
if [ "$fresh$4" = 11 ]; then umask "$mask"; exec chmod +x "$1"; fi
"""
# dd moves the offset that it shares with cat, whatever the offset's divisors are.
_WRITE = b"""
[ -e "$1" ] || why_missing "$1"
exec 1<>"$1"
[ "$2" = 0 ] || dd bs=1 seek="$2" count=0 conv=notrunc 2>/dev/null || exit 1
exec cat
"""
_READ = b'exec dd if="$1" bs="$2" skip="$3" count="$4"'
_TRUNCATE = _PRESENT + b'exec dd if=/dev/null of="$1" bs=1 seek="$2" count=0'
_SYNC = b'sync "$1" 2>/dev/null || sync'
_RENAME = (
    _PRESENT
    + b"""
[ "$1" -ef "$2" ] 2>/dev/null && [ ! -d "$1" ] && [ "$1" = "$2" ] && exit 0
if mv -fT -- "$1" "$2" 2>/dev/null; then exit 0; fi
if [ -d "$2" ] && [ ! -L "$2" ]; then
 if [ ! -d "$1" ] || [ -L "$1" ]; then exit 42; fi
 rmdir -- "$2" || exit 1
elif [ -L "$2" ] && [ -d "$2" ]; then exit 43
fi
exec mv -f -- "$1" "$2"
"""
)
_NEW_NAME = b'if [ -e "$2" ] || [ -L "$2" ]; then exit 45; fi\n'
_READLINK = _PRESENT + b'[ -L "$1" ] || exit 46; exec readlink -n -- "$1"'
_REALPATH = b'readlink -nm -- "$1" 2>/dev/null || readlink -nf -- "$1" || why_missing "$1"'
# $2, $3: seconds with a fraction, $4, $5: the same to the second, as every touch reads them.
_UTIME = (
    _PRESENT
    + b"""
touch -c -a -d "@$2" -- "$1" 2>/dev/null && exec touch -c -m -d "@$3" -- "$1"
TZ=UTC0; export TZ
touch -c -a -t "$4" -- "$1" && exec touch -c -m -t "$5" -- "$1"
"""
)
_BLOCKS = (65536, 4096)
_ODD = 100  # files hashed by a program each


class ShellFiles(FileSystem):
    """Far files over `start_process` of a transport: single operations. Trees are `TarFiles`'."""

    def __init__(self, transport: Starter, host: str) -> None:
        self.engine: str = "shell"
        self._transport = transport
        self._host = host

    async def _do(self, script: bytes, path: bytes, *operands: bytes, data: bytes | None = None) -> bytes:
        """Run a script on a path; returns its output."""
        status, out, said = await run_program(self._transport, script, operand(path), *operands, data=data)
        if status.returncode:
            raise said_error(self._host, path, status, said)
        return out

    async def exists(self, path: bytes) -> bool:
        try:
            await self._do(_EXISTS, path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        return parse_stat(await self._do(LOOK, path, b"-L" if follow else b""))

    async def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        yield parse_listing(await self._do(SCAN, path))

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        letters = {os.O_RDONLY: b"r", os.O_WRONLY: b"w", os.O_RDWR: b"rw"}[flags & os.O_ACCMODE]
        for flag, letter in ((os.O_CREAT, b"c"), (os.O_EXCL, b"x"), (os.O_TRUNC, b"t")):
            letters += letter if flags & flag else b""
        await self._do(_OPEN, path, letters, b"%d" % (0o777 & ~mode), b"%d" % bool(mode & 0o111))
        return _ShellFile(self, path, appends=bool(flags & os.O_APPEND))

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await self._do(b'umask $(printf %o $((0$(umask) | $2))); exec mkdir -- "$1"', path, b"%d" % (0o777 & ~mode))

    async def rmdir(self, path: bytes) -> None:
        await self._do(b'exec rmdir -- "$1"', path)

    async def unlink(self, path: bytes) -> None:
        await self._do(_UNLINK, path)

    async def remove_tree(self, path: bytes) -> None:
        await self._do(_REMOVE_TREE, path)

    async def rename(self, path: bytes, target: bytes) -> None:
        await self._pair(_RENAME, path, target)

    async def link(self, target: bytes, path: bytes) -> None:
        await self._pair(_PRESENT + _NEW_NAME + b'exec ln -- "$1" "$2"', target, path)

    async def _pair(self, script: bytes, path: bytes, target: bytes) -> None:
        """Run a script on two paths; a missing first one is an error of that, any other of the second."""
        status, _, said = await run_program(self._transport, script, operand(path), operand(target))
        if status.returncode:
            raise said_error(self._host, path if status.returncode in (40, 41) else target, status, said)

    async def chmod(self, path: bytes, mode: int) -> None:
        await self._do(b'exec chmod "$2" "$1"', path, b"%04o" % mode)

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        owner = (b"%d" % uid if uid >= 0 else b"") + (b":%d" % gid if gid >= 0 else b"")
        script = b'exec chown "$2" "$1"' if follow else b'exec chown -h "$2" "$1"'
        await self._do(script, path, owner)

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        if times_ns is None:
            await self._do(_PRESENT + b'exec touch -c "$1"', path)
            return
        exact = [b"%d.%09d" % divmod(value, 10**9) for value in times_ns]
        await self._do(_UTIME, path, *exact, *map(touch_time, times_ns))

    async def symlink(self, target: bytes, path: bytes) -> None:
        script = b'if [ -e "$1" ] || [ -L "$1" ]; then exit 45; fi; exec ln -s -- "$2" "$1"'
        await self._do(script, path, target)

    async def readlink(self, path: bytes) -> bytes:
        return await self._do(_READLINK, path)

    async def realpath(self, path: bytes) -> bytes:
        return await self._do(_REALPATH, path)

    async def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        yield list(parse_tree(await self._do(LIST, root), root, self._host))

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        named = [operand(path) for path in paths]
        odd = [path for path in named if is_odd(path)][:_ODD]
        plain = b"".join(path + b"\0" for path in named if not is_odd(path))
        _, out, _ = await run_program(self._transport, DIGESTS, *odd, data=plain)
        found = parse_digests(out, odd)
        return [found.get(path) for path in named]

    def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        raise UnsupportedError(f"{self._host}: cannot read trees: ask for another engine", host=self._host)

    def read_files(self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
        return read_by_opening(self, root, chosen, self._host)

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        raise UnsupportedError(f"{self._host}: cannot write trees: ask for another engine", host=self._host)

    # what an open file does: each time by its path

    async def read_at(self, path: bytes, offset: int, count: int) -> bytes:
        """Return part of a file."""
        block = _BLOCKS[count < _BLOCKS[0]]  # dd counts in whole blocks: the rest is cut off here
        first, skip = divmod(offset, block)
        blocks = -(-(skip + count) // block)
        data = await self._do(_READ, path, b"%d" % block, b"%d" % first, b"%d" % blocks)
        return data[skip : skip + count]

    async def write_at(self, path: bytes, offset: int | None, data: bytes) -> None:
        """Write part of a file, at its end for an offset of None."""
        if offset is None:
            await self._do(b'[ -e "$1" ] || why_missing "$1"; exec cat >>"$1"', path, data=data)
        else:
            await self._do(_WRITE, path, b"%d" % offset, data=data)

    async def resize(self, path: bytes, size: int) -> None:
        """Give a file another size."""
        await self._do(_TRUNCATE, path, b"%d" % size)

    async def sync(self, path: bytes) -> None:
        """Let the far disk have a file."""
        await self._do(_SYNC, path)


class _ShellFile(FarFile):
    """A far file that is opened anew for each operation: what is at its path then."""

    def __init__(self, files: ShellFiles, path: bytes, *, appends: bool) -> None:
        self._files = files
        self._path = path
        self._appends = appends
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise ValueError("this file was closed")

    async def read(self, offset: int, count: int) -> bytes:
        self._check()
        return await self._files.read_at(self._path, offset, count) if count else b""

    async def write(self, offset: int, data: bytes) -> None:
        self._check()
        await self._files.write_at(self._path, None if self._appends else offset, data)

    async def stat(self) -> FileStat:
        self._check()
        return await self._files.stat(self._path)

    async def truncate(self, size: int) -> None:
        self._check()
        await self._files.resize(self._path, size)

    async def sync(self) -> None:
        self._check()
        await self._files.sync(self._path)

    async def aclose(self) -> None:
        self._closed = True


def touch_time(time_ns: int) -> bytes:
    """Return a time as ``touch -t`` takes it, in UTC."""
    return time.strftime("%Y%m%d%H%M.%S", time.gmtime(time_ns // 10**9)).encode()
