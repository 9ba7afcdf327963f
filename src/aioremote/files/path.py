"""`RemotePath`: where something is at the far end, and what can be asked of it and done with it.

It holds a machine and a pure path, and is no subclass of either: passed to something near by mistake, it fails instead
of naming a near file. Long by its docstrings; what its methods do stands in `file`, `globbing` and `transfer`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, overload

from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import FileError, FileInTheWay, FileMissing, NotAFolder, UnsupportedError, file_error
from aioremote.files.file import Opening, RemoteFile, RemoteTextFile, flags_of, opened, opened_text
from aioremote.files.globbing import glob_paths, pattern_parts, walk_tree
from aioremote.files.pure import PureRemotePath
from aioremote.files.transfer import copy_paths

if TYPE_CHECKING:
    from aioremote.machine import Machine
    from aioremote.protocols import FileSystem
    from aioremote.types import FileStat

__all__ = ["RemotePath", "temporary_folder"]

_CLEANUP_SECONDS = 30.0
_BINARY = Literal["rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b", "rb+", "wb+", "ab+", "xb+"]
_TEXT = Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt"]
_ACCESS = {os.R_OK: "r", os.W_OK: "w", os.X_OK: "x"}
_OWNER_SCRIPT = """
if [ -n "$1" ]; then id -u -- "$1" || exit 3; else echo -1; fi
if [ -n "$2" ]; then
 { getent group "$2" 2>/dev/null || grep "^$2:" /etc/group; } | { IFS=: read -r _ _ gid _ && echo "$gid"; } || exit 4
else echo -1; fi
"""


class RemotePath(PureRemotePath):
    """A path on a machine. Immutable, hashable, equal to the same path on the same machine or a view of it.

    Arithmetic is that of `pathlib.PurePosixPath`, or of `pathlib.PureWindowsPath` on a machine that has connected to an
    outpost on Windows; what asks the far side is that of `anyio.Path`, awaited.
    Errors are FileError, which is also the matching OSError, with errno and the far path in ``filename``;
    ConnectionLost where the link ended; UnsupportedError where this machine has no files, as without sftp.

    A relative path is below the login's directory, or below the task's ``m.cwd`` scope where one is open. Bytes of
    names that are no UTF-8 are surrogates in ``str(path)``, as everywhere in Python, and exact in ``bytes(path)``.
    """

    __slots__ = ()

    async def _files(self) -> FileSystem:
        return await self._machine.transport.open_files()

    def _sent(self) -> bytes:
        return self._machine.absolute(bytes(self))

    def _of(self, path: bytes) -> RemotePath:
        return RemotePath(self._machine, os.fsdecode(path))

    def _other(self, other: str | PurePath | PureRemotePath) -> RemotePath:
        return RemotePath(self._machine, other)

    # what is there

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is something at this path; a link that leads nowhere does not count unless not followed.

        Raises:
            FileForbidden: the far user may not look there.
        """
        if follow_symlinks:
            return await (await self._files()).exists(self._sent())
        return await self._mode(follow=False) is not None

    async def _mode(self, *, follow: bool = True) -> int | None:
        try:
            return (await (await self._files()).stat(self._sent(), follow=follow)).st_mode
        except (FileMissing, NotAFolder):
            return None

    async def is_dir(self) -> bool:
        """Whether it is a directory, or a link to one."""
        return stat.S_ISDIR(await self._mode() or 0)

    async def is_file(self) -> bool:
        """Whether it is a regular file, or a link to one."""
        return stat.S_ISREG(await self._mode() or 0)

    async def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(await self._mode(follow=False) or 0)

    async def stat(self, *, follow_symlinks: bool = True) -> FileStat:
        """Return what is known of it, with the names of `os.stat_result`."""
        return await (await self._files()).stat(self._sent(), follow=follow_symlinks)

    async def lstat(self) -> FileStat:
        """Return what is known of it, of a link itself."""
        return await self.stat(follow_symlinks=False)

    async def samefile(self, other: str | PurePath | PureRemotePath) -> bool:
        """Whether both are the same file, by whatever names. FileMissing where one does not exist."""
        target = self._other(other)
        mine, its = await self.stat(), await target.stat()
        if mine.st_ino and its.st_ino:
            return (mine.st_dev, mine.st_ino) == (its.st_dev, its.st_ino)
        return await self._test("-ef", target._sent())

    async def access(self, mode: int) -> bool:
        """Whether the far user may do that: ``os.F_OK``, or ``os.R_OK``, ``os.W_OK`` and ``os.X_OK`` added up."""
        if mode & ~(os.R_OK | os.W_OK | os.X_OK):
            raise ValueError(f"mode {mode}: give os.F_OK, or a sum of os.R_OK, os.W_OK and os.X_OK")
        wanted = [letter for bit, letter in _ACCESS.items() if mode & bit] or ["e"]
        line = " && ".join(f'[ -{letter} "$1" ]' for letter in wanted)
        return (await self._run(line)) == 0

    async def _test(self, operator: str, other: bytes) -> bool:
        return (await self._run(f'[ "$1" {operator} "$2" ]', other)) == 0

    async def _run(self, line: str, *more: bytes) -> int:
        """Run a line of shell about this path; returns its status."""
        paths = [_operand(path) for path in (self._sent(), *more)]
        return (await self._login().run("/bin/sh", "-c", line, "sh", *paths, ok_codes=None)).returncode

    def _login(self) -> Machine:
        """The machine without a directory: `_sent` has that already."""
        return self._machine.with_cwd("/") if self._sent().startswith(b"/") else self._machine

    # links and names

    async def readlink(self) -> RemotePath:
        """Return where a link leads, as it is written there."""
        return self._of(await (await self._files()).readlink(self._sent()))

    async def absolute(self) -> RemotePath:
        """Return the path from the root on, links and ``..`` kept."""
        sent = self._sent()
        if sent.startswith(b"/"):
            return self._of(sent)
        return self._of(await (await self._files()).realpath(b".")) / self._of(sent)

    async def resolve(self, strict: bool = False) -> RemotePath:  # noqa: FBT001, FBT002  # as in pathlib
        """Return the path from the root on without links and ``..``.

        Args:
            strict: whether it has to exist.
        """
        if strict:
            await self.stat()
        return self._of(await _resolved(await self._files(), self._sent()))

    async def expanduser(self) -> RemotePath:
        """Return the path with a leading ``~`` or ``~user`` replaced by that far user's home.

        Raises:
            FileError: there is no such user.
        """
        return RemotePath(self._machine, await self._machine.env.expanduser(str(self._path)))

    async def symlink_to(
        self,
        target: str | PurePath | PureRemotePath,
        target_is_directory: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Make this path a link with exactly that text; `target_is_directory` is for pathlib's callers."""
        text = bytes(self._other(target)) if isinstance(target, PureRemotePath) else os.fsencode(target)
        await (await self._files()).symlink(text, self._sent())

    async def hardlink_to(self, target: str | PurePath | PureRemotePath) -> None:
        """Make this path a further name of the file `target`."""
        await (await self._files()).link(self._other(target)._sent(), self._sent())

    async def rename(self, target: str | PurePath | PureRemotePath) -> RemotePath:
        """Give it another name, replacing a file that has it already, in one step; returns the new path."""
        place = self._other(target)
        await (await self._files()).rename(self._sent(), place._sent())
        return place

    async def replace(self, target: str | PurePath | PureRemotePath) -> RemotePath:
        """Do the same as `rename`."""
        return await self.rename(target)

    # directories

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002
        """Make this directory.

        Args:
            mode: permissions, less the far umask.
            parents: make missing parents too.
            exist_ok: whether it may exist already, as a directory.
        """
        files = await self._files()
        try:
            await files.mkdir(self._sent(), mode)
        except FileMissing:
            if not parents or self.parent == self:
                raise
            await self.parent.mkdir(parents=True, exist_ok=True)
            await self.mkdir(mode, parents=False, exist_ok=exist_ok)
        except FileError:  # a server may say no more than that it failed
            if not exist_ok or not await self.is_dir():
                raise

    async def rmdir(self) -> None:
        """Remove this empty directory."""
        await (await self._files()).rmdir(self._sent())

    async def unlink(self, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002  # as in pathlib
        """Remove this file or link.

        Args:
            missing_ok: whether its absence is no error.
        """
        try:
            await (await self._files()).unlink(self._sent())
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def remove_tree(self) -> None:
        """Remove this directory with all that is in it. Links in it are removed, never followed."""
        await (await self._files()).remove_tree(self._sent())

    async def iterdir(self) -> AsyncGenerator[RemotePath]:
        """Yield what is in this directory, in no order."""
        async with aclosing((await self._files()).scan(self._sent())) as batches:
            async for batch in batches:
                for entry in batch:
                    yield self / os.fsdecode(entry.name)

    async def glob(self, *patterns: str) -> AsyncGenerator[RemotePath]:
        """Yield what matches any of the patterns, each path once, in no order.

        ``*`` and ``?`` match leading dots too, as in pathlib; ``**`` is any number of directories, and follows no
        links. Directories that may not be read are passed over.

        Raises:
            ValueError: no pattern, an empty or an absolute one.
        """
        parts = [pattern_parts(pattern) for pattern in patterns]
        if not parts:
            raise ValueError("glob() needs a pattern")
        async with aclosing(glob_paths(await self._files(), self._sent(), parts)) as found:
            async for path in found:
                yield self / path

    def rglob(self, *patterns: str) -> AsyncGenerator[RemotePath]:
        """Do the same as `glob` with ``**/`` before each pattern."""
        return self.glob(*(f"**/{pattern}" for pattern in patterns))

    async def walk(
        self,
        top_down: bool = True,  # noqa: FBT001, FBT002  # as in pathlib
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,  # noqa: FBT001, FBT002
    ) -> AsyncGenerator[tuple[RemotePath, list[str], list[str]]]:
        """Yield (directory, names of directories, names of all else) for this directory and all below, as Path.walk.

        Args:
            top_down: a directory before those in it; its list of directories may then be changed to leave some out.
            on_error: called with what a directory could not be read for; None passes over it.
            follow_symlinks: whether links to directories are entered; a cycle of them does not end.
        """
        async with aclosing(
            walk_tree(await self._files(), self._sent(), top_down=top_down, on_error=on_error, follow=follow_symlinks)
        ) as found:
            async for path, folders, others in found:
                yield self / path, folders, others

    # attributes

    async def chmod(self, mode: int) -> None:
        """Set the permissions, those of what a link leads to."""
        await (await self._files()).chmod(self._sent(), mode)

    async def chown(
        self, owner: int | str | None = None, group: int | str | None = None, *, follow_symlinks: bool = True
    ) -> None:
        """Set owner and group, by number or by far name; None leaves one as it is.

        Raises:
            FileError: a name that the far side does not know, or what may not be done.
        """
        uid, gid = await self._ids(owner, group)
        await (await self._files()).chown(self._sent(), uid, gid, follow=follow_symlinks)

    async def _ids(self, owner: int | str | None, group: int | str | None) -> tuple[int, int]:
        names = [name if isinstance(name, str) else "" for name in (owner, group)]
        found = ["-1", "-1"]
        if any(names):
            result = await self._machine.run("/bin/sh", "-c", _OWNER_SCRIPT, "sh", *names, ok_codes=None)
            found = result.stdout.split()
            if result.returncode or len(found) != 2:
                what = f"no user {owner!r}" if result.returncode == 3 else f"no group {group!r}"
                raise file_error(errno.EINVAL, str(self), host=self._machine.host, text=what)
        uid = owner if isinstance(owner, int) else int(found[0])
        return uid, group if isinstance(group, int) else int(found[1])

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:  # noqa: FBT001, FBT002  # as in pathlib
        """Make an empty file, or set the times of one to now (over SFTP: by the near clock).

        Args:
            mode: permissions of a new file, less the far umask.
            exist_ok: whether it may exist already.
        """
        files = await self._files()
        try:
            await (await files.open(self._sent(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)).aclose()
        except FileInTheWay:
            if not exist_ok:
                raise
            await files.utime(self._sent())

    # content

    @overload
    def open(self, mode: _BINARY) -> Opening[RemoteFile]: ...
    @overload
    def open(
        self, mode: _TEXT = "r", *, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None
    ) -> Opening[RemoteTextFile]: ...
    def open(
        self, mode: str = "r", *, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None
    ) -> Opening[RemoteFile] | Opening[RemoteTextFile]:
        r"""Open this file: ``async with p.open("rb") as f: await f.read(100)``; or ``f = await p.open(...)``.

        Args:
            mode: as for `open`; text unless it holds "b". Writing is not atomic: "w" empties the file first, as near
                files do. `Machine.upload` replaces a file in one step.
            encoding, errors: of text; UTF-8, whatever the locale.
            newline: for text: None reads every kind of newline as ``\n``, "" leaves them. Writing changes none.
        """
        flags = flags_of(mode)

        async def far() -> RemoteFile:
            return await opened(await self._files(), self._sent(), flags)

        if "b" in mode:
            return Opening(far)

        async def text() -> RemoteTextFile:
            return opened_text(await far(), encoding=encoding, errors=errors, newline=newline)

        return Opening(text)

    async def read_bytes(self) -> bytes:
        """Return the whole content."""
        async with self.open("rb") as file:
            return await file.read()

    async def read_text(self, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None) -> str:
        """Return the whole content as text; UTF-8 unless told otherwise. `newline` as in `open`."""
        async with self.open("r", encoding=encoding, errors=errors, newline=newline) as file:
            return await file.read()

    async def write_bytes(self, data: bytes) -> int:
        """Replace the content, not atomically (see `open`); returns the number of bytes."""
        async with self.open("wb") as file:
            return await file.write(data)

    async def write_text(self, data: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Replace the content by text, not atomically (see `open`); returns the number of characters."""
        await self.write_bytes(data.encode(encoding, errors))
        return len(data)

    async def sha256(self) -> str:
        """Return the SHA-256 of the content in hexadecimal digits, computed there where a program can do it."""
        argv = ("/bin/sh", "-c", 'exec sha256sum <"$1"', "sh", _operand(self._sent()))
        try:
            result = await self._login().run(*argv, ok_codes=None)
        except UnsupportedError:  # a server for files only
            result = None
        if result is not None and result.returncode == 0 and len(digest := result.stdout[:64]) == 64:
            return digest
        async with self.open("rb") as file:
            return await file.sha256()

    # elsewhere

    async def copy(self, target: str | PurePath | PureRemotePath) -> RemotePath:
        """Copy this file or tree, each file in one step, through here; returns the new path.

        Args:
            target: the final path, on any machine.
        """
        place = target if isinstance(target, RemotePath) else self._other(target)
        await copy_paths(self, place)
        return place

    async def move(self, target: str | PurePath | PureRemotePath) -> RemotePath:
        """Move this file or tree, by renaming where possible, else by copying and removing; returns the new path."""
        place = target if isinstance(target, RemotePath) else self._other(target)
        if place._machine.transport is self._machine.transport:
            try:
                return await self.rename(place)
            except FileError as error:
                if type(error) is not FileError:  # another file system has no class of its own
                    raise
        is_tree = (await self.lstat()).is_dir()
        await copy_paths(self, place)
        await (self.remove_tree() if is_tree else self.unlink())
        return place


def _operand(path: bytes) -> bytes:
    return b"./" + path if path.startswith(b"-") else path


async def _resolved(files: FileSystem, path: bytes) -> bytes:
    """Resolve as far as the path exists, and leave the rest as it is."""
    try:
        return await files.realpath(path)
    except FileMissing:
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        if not name:
            raise
    upper = await _resolved(files, above or (b"/" if path.startswith(b"/") else b"."))
    return upper.rpartition(b"/")[0] or b"/" if name == b".." else upper.rstrip(b"/") + b"/" + name


@asynccontextmanager
async def temporary_folder(machine: Machine) -> AsyncGenerator[RemotePath]:
    """Make a far directory that only the login can enter, and remove it at the end with all that is in it."""
    result = await machine.run("mktemp", "-d")
    folder = RemotePath(machine, result.stdout_bytes.decode("utf-8", "surrogateescape").removesuffix("\n"))
    try:
        yield folder
    finally:
        await bounded_cleanup(folder.remove_tree(), _CLEANUP_SECONDS)
