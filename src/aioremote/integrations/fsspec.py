"""fsspec through a machine: ``pandas.read_csv("aioremote+ssh://john@web1/data.csv")``. Needs the extra ``fsspec``.

`SshFileSystem` is what the address leads to, registered by an entry point; `MachineFileSystem` is for a machine that
there is already. What fsspec names with an underscore is awaited; the same name without it blocks its thread.
"""

# fsspec says little of its own types, and its methods narrow and widen each other's:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import asyncio
import io
import os
import posixpath
import weakref
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any  # what fsspec's signatures leave open

from fsspec.asyn import get_loop, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from aioremote._core.pieces import Piece, Tally, TreeOptions
from aioremote.addresses import parse_address
from aioremote.errors import FileError
from aioremote.files.file import BULK_BYTES, flags_of
from aioremote.integrations.fsspec_files import (
    CLOSE_SECONDS,
    AwaitedFile,
    RawFile,
    Uncommitted,
    buffered,
    running_loop,
    sync,
    wait_in,
)
from aioremote.machines import SshMachine
from aioremote.types import FileStat, TransferProgress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aioremote.files.path import RemotePath
    from aioremote.machine import Machine
    from aioremote.protocols import FarFile, FileSystem
    from aioremote.types import FileEntry

    class AsyncFileSystem:
        """As much of it as is used here: fsspec ships no types."""

        loop: Any

        def __init__(self, *, loop: Any = None, asynchronous: bool = False, **options: Any) -> None: ...
        async def _isdir(self, path: str) -> bool: ...
        async def _expand_path(self, path: str | list[str]) -> list[str]: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    from fsspec.asyn import AsyncFileSystem

__all__ = ["MachineFileSystem", "SshFileSystem"]

_PROTOCOL = "aioremote+ssh"
_SCHEME = f"{_PROTOCOL}://"
_PIECE_BYTES = 1024 * 1024  # Source: Piece.data
_NEW_FILE = 0o100666


class MachineFileSystem(AsyncFileSystem):
    """The files of a machine for whatever takes a file system of fsspec.

    Errors are the builtin OSErrors, with errno and far path; ConnectionLost, a ConnectionError, where the link ended.
    Relative paths are below the login's directory. A link is told as what it leads to; in listings one to a directory
    is of type "link", so that nobody walks in circles.

    `pipe_file` and `put_file` replace a file in one step. `open` writes in place, as near files do, in any mode; in an
    fsspec transaction it writes beside the target, and ``commit`` puts it there.

    Args:
        machine: stays yours to close.
        loop: the event loop that the machine is used in; None for the running one, or fsspec's own where none runs.
        asynchronous: as for every fsspec file system: only the awaited methods will be used.
        options: further ones of ``fsspec.asyn.AsyncFileSystem``.

    Concurrency: methods that block are for other threads than the loop's, as with ``asyncio.to_thread``.
    """

    cachable: bool = False
    protocol: str | tuple[str, ...] = "aioremote"
    root_marker: str = "/"

    def __init__(
        self,
        machine: Machine,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(loop=loop or running_loop(), asynchronous=asynchronous, **options)
        self.machine: Machine = machine

    # names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:  # a list gives a list
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        name = os.fspath(path)
        scheme = f"{cls.protocol}://"
        if name.startswith(scheme):
            name = "/" + name.removeprefix(scheme).partition("/")[2]
        return name.rstrip("/") or cls.root_marker

    @classmethod
    def _parent(cls, path: Any) -> str:
        return posixpath.dirname(cls._strip_protocol(path)) or "."

    def _path(self, path: str) -> RemotePath:
        return self.machine.path(self._strip_protocol(path))

    async def _place(self, path: str) -> tuple[FileSystem, bytes]:
        """Return the far files, and the path as they take it."""
        return await self.machine.transport.open_files(), self.machine.absolute(bytes(self._path(path)))

    # what is there

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        files, place = await self._place(name)
        found = await files.stat(place, follow=False)
        return await _told(files, name, place, found, enter=True)

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002  # as fsspec
        name = self._strip_protocol(path)
        files, place = await self._place(name)
        listed: list[dict[str, Any]] = []
        try:
            async with aclosing(files.scan(place)) as batches:
                async for batch in batches:
                    listed += await _told_of_all(files, name, place, batch)
        except NotADirectoryError:
            listed = [await self._info(name)]
        return listed if detail else [one["name"] for one in listed]

    # content

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        async with self._path(path).open("rb") as file:
            first = await file.seek(*_position(start or 0))
            if end is None:
                return await file.read()
            last = await file.seek(*_position(end))
            await file.seek(first)
            return await file.read(max(last - first, 0))

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        files, place = await self._place(path)
        options = TreeOptions(overwrite=mode != "create")
        await files.write_tree(place, _pieces(value), Tally(), options)

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        if await self._isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
        else:
            await self.machine.download(self._path(rpath), lpath, durable=False, progress=_progress(callback))

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240  # a near file's
            await self._makedirs(rpath, exist_ok=True)
        else:
            target = self._path(rpath)
            await self.machine.upload(lpath, target, overwrite=mode != "create", progress=_progress(callback))

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        if await self._isdir(path1):
            await self._makedirs(path2, exist_ok=True)
        else:
            await self._path(path1).copy(self._path(path2))

    async def _touch(self, path: str, truncate: bool = True, **_: Any) -> None:  # noqa: FBT001, FBT002  # as fsspec
        await self._path(path).touch()
        if truncate:
            async with self._path(path).open("wb"):
                pass

    # directories and names

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: FBT001, FBT002  # as fsspec
        await self._path(path).mkdir(parents=create_parents)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002  # as fsspec
        await self._path(path).mkdir(parents=True, exist_ok=exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._path(path).rmdir()

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._path(path).unlink()

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,  # noqa: FBT001, FBT002  # as fsspec
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        if maxdepth is not None:
            raise ValueError(f"maxdepth={maxdepth}: rm() removes a whole directory, or one file")
        for place in await self._expand_path(path):
            target = self._path(place)
            is_folder = (await target.lstat()).is_dir()
            await (target.remove_tree() if is_folder and recursive else target.unlink())

    async def _mv(self, path1: str, path2: str, **_: Any) -> None:
        target = self._path(path2)
        if await target.is_dir():
            target = target / self._path(path1).name
        await self._path(path1).move(target)

    touch: Callable[..., Any] = sync_wrapper(_touch)
    rmdir: Callable[..., Any] = sync_wrapper(_rmdir)
    mv: Callable[..., Any] = sync_wrapper(_mv)

    # open files

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: FBT001, FBT002  # as fsspec
        **_: Any,
    ) -> io.BufferedIOBase:
        name = self._strip_protocol(path)
        if autocommit or mode == "rb":
            return buffered(self._raw(name, flags_of(mode), mode), block_size)
        if mode not in ("wb", "xb"):
            raise ValueError(f"mode {mode!r}: in a transaction a file is written anew: give 'wb' or 'xb'")
        beside = posixpath.join(posixpath.dirname(name), f".aioremote-{os.urandom(6).hex()}.part")
        raw = self._raw(beside, flags_of("xb"), mode)
        return Uncommitted(raw, block_size or BULK_BYTES, self, beside, name)

    def _raw(self, name: str, flags: int, mode: str) -> RawFile:
        raw: RawFile = sync(self.loop, self._opened, name, flags, mode)
        return raw

    async def _opened(self, name: str, flags: int, mode: str) -> RawFile:
        far, size = await self._far(name, flags)
        return RawFile(asyncio.get_running_loop(), far, name, mode, size if flags & os.O_APPEND else 0)

    async def _far(self, path: str, flags: int) -> tuple[FarFile, int]:
        """Open a file; returns its size too."""
        files, place = await self._place(path)
        far = await files.open(place, flags)
        try:
            return far, (await far.stat()).st_size
        except BaseException:
            await far.aclose()
            raise

    async def open_async(self, path: str, mode: str = "rb", **_: Any) -> AwaitedFile:
        """Open a file whose `read`, `write` and `seek` are awaited; modes are those for bytes."""
        flags = flags_of(mode)
        far, size = await self._far(path, flags)
        return AwaitedFile(far, flags, size)


class SshFileSystem(MachineFileSystem):
    """What ``aioremote+ssh://user@host:port/path`` leads to: a host behind ssh, connected with the first use.

    Nothing in the address is decoded, and no password has a place in it. As all of fsspec's, it is kept for further use
    with the same arguments, and its connection with it: until `close`, `clear_instance_cache` or the program's end.

    Args:
        host, user, port: as for `SshMachine`; fsspec takes them from the address.
        loop: None for fsspec's own, which has a thread of its own.
        asynchronous: as for `MachineFileSystem`.
        options: all else that `SshMachine` takes, as ``storage_options`` of pandas and others give it.
    """

    cachable: bool = True
    protocol: str | tuple[str, ...] = _PROTOCOL

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: int | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        machine = SshMachine(host, user=user, port=port, **options)
        if loop is None and not asynchronous:
            loop = get_loop()  # also where another loop runs, as in a notebook: whoever asks waits
        super().__init__(machine, loop=loop, asynchronous=asynchronous)
        self._closing = weakref.finalize(self, _close, self.loop, machine)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        if not path.startswith(_SCHEME):
            return {}
        found = parse_address("ssh://" + path.removeprefix(_SCHEME).partition("/")[0])
        parts = {"host": found.host, "user": found.user, "port": found.port}
        return {name: value for name, value in parts.items() if value is not None}

    def unstrip_protocol(self, name: str) -> str:
        """Return the whole address of a path."""
        address = replace(self.machine.transport.address, scheme=_PROTOCOL, path="")
        return f"{address}{self._strip_protocol(name)}"

    async def aclose(self) -> None:
        """Close the connection."""
        self._closing.detach()
        await self.machine.aclose()

    def close(self) -> None:
        """Close the connection, from another thread than the loop's."""
        self._closing()


def _close(loop: asyncio.AbstractEventLoop | None, machine: Machine) -> None:
    if loop is None or not loop.is_running():
        machine.abort()
    else:
        wait_in(loop, machine.aclose(), CLOSE_SECONDS)


async def _told(files: FileSystem, name: str, place: bytes, found: FileStat, *, enter: bool = False) -> dict[str, Any]:
    """Return what fsspec wants to know of a file; of a link, what it leads to."""
    is_link = found.is_symlink()
    if is_link:
        try:
            followed = await files.stat(place)
            found = followed if enter or not followed.is_dir() else found
        except FileError:  # it leads nowhere, or where we may not look
            pass
    kinds = {"directory": found.is_dir(), "file": found.is_file(), "link": found.is_symlink()}
    return {
        "name": name,
        "size": found.st_size,
        "type": next((kind for kind, fits in kinds.items() if fits), "other"),
        "islink": is_link,
        "mode": found.st_mode,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime": found.st_mtime_ns / 1e9,
    }


async def _told_of_all(
    files: FileSystem, folder: str, place: bytes, entries: Sequence[FileEntry]
) -> list[dict[str, Any]]:
    try:
        async with asyncio.TaskGroup() as group:  # links are asked after all at once
            tasks: list[asyncio.Task[dict[str, Any]]] = []
            for entry in entries:
                name, path = posixpath.join(folder, os.fsdecode(entry.name)), posixpath.join(place, entry.name)
                tasks.append(group.create_task(_told(files, name, path, entry.stat)))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first of them, as one alone would raise it
    return [task.result() for task in tasks]


def _position(offset: int) -> tuple[int, int]:
    """Return the arguments of `seek` for a place that may be counted from the end."""
    return (offset, os.SEEK_END) if offset < 0 else (offset, os.SEEK_SET)


async def _pieces(value: bytes) -> AsyncGenerator[Sequence[Piece]]:
    data = memoryview(value)
    found = FileStat(st_mode=_NEW_FILE, st_size=len(data))
    for start in range(0, len(data) or 1, _PIECE_BYTES):
        part = bytes(data[start : start + _PIECE_BYTES])
        yield [Piece(b"", found, part, start, start + len(part) >= len(data))]


def _progress(callback: Callback) -> Callable[[TransferProgress], None]:
    def tell(now: TransferProgress) -> None:
        callback.set_size(now.total_bytes)
        callback.absolute_update(now.done_bytes)

    return tell
