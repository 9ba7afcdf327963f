"""What a machine does with files: the part of `Machine` that stands in this layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, cast

from aioremote._core.pieces import TreeOptions
from aioremote.files.path import RemotePath, temporary_folder
from aioremote.files.sync import sync
from aioremote.files.transfer import far_end, near_end, transfer

if TYPE_CHECKING:
    from aioremote.machine import Machine
    from aioremote.types import SyncReport, TransferProgress, TransferReport

__all__ = ["MachineFiles"]


class MachineFiles:
    """Paths and transfers of a machine."""

    def path(self, *parts: str | RemotePath) -> RemotePath:
        """Return a path on this machine."""
        return RemotePath(cast("Machine", self), *parts)

    def tempdir(self) -> AbstractAsyncContextManager[RemotePath]:
        """Return an async context manager of a far directory that is removed at the end."""
        return temporary_folder(cast("Machine", self))

    async def upload(
        self,
        src: str | os.PathLike[str],
        dst: str | RemotePath,
        *,
        overwrite: bool = True,
        resume: bool = False,
        preserve: bool = False,
        preserve_special: bool = False,
        durable: bool = True,
        verify: bool = False,
        engine: str = "auto",
        progress: Callable[[TransferProgress], None] | None = None,
    ) -> TransferReport:
        """Bring a near file or tree here. Each file is old or new at every moment, never part of it.

        A file given an existing directory lands in it; a tree's `dst` is its final path, also where it exists. A `dst`
        with a slash at its end takes either below it. Pipes, sockets and devices are left out and reported.

        Args:
            src: near path; a link there is followed, links in a tree are copied as they are.
            dst: far path, below the task's directory.
            overwrite: whether files may be replaced; FileExistsError otherwise.
            resume: for a single file: send only what an earlier call with ``resume=True`` has not brought before it was
                cut off, and compare checksums at the end. What has arrived is kept beside the target until then.
            preserve: keep permissions and times. Otherwise a new file has the source's permissions less the far umask,
                and one that is replaced keeps its own.
            preserve_special: keep set-id bits and write permission for all too.
            durable: return only when the far disk has it, where the far side can tell: a single file with its
                directory, a tree once at its end.
            verify: hash every file at both ends, each by itself, and compare before the file has its place. Both sides
                read it once more; what cannot be hashed where it is, is read from here.
            engine: how the far files are reached: "sftp", "outpost" or another of `Transport.open_files`. "auto" takes
                an outpost for trees, and brings it up for the first, where there is a Python. `TransferReport.engine`
                tells.
            progress: called with a TransferProgress after each piece, on the loop; an outpost may then have up to 3 MiB
                of it still under way.

        Raises:
            FileError: with the path, of either side; ``.host`` tells which.
            FileChanged: a near file changed while it was read.
            ChecksumMismatch: with ``verify`` or ``resume``: what has arrived is not what was sent; the file is as it
                was.
            ConnectionLost: the link ended. Temporary files that could not be removed (``.aioremote-….part``) are
                removed when this machine connects again.
            UnsupportedError: this machine has no files, or not by this engine.
            ValueError: there is no such engine, or the path is another machine's.

        Cancellation: targets are old or new; no temporary file is left but that of ``resume``.
        """
        options = TreeOptions(
            preserve=preserve, preserve_special=preserve_special, overwrite=overwrite, durable=durable, verify=verify
        )
        near = near_end(src)
        far = await far_end(cast("Machine", self), dst, engine)
        return await transfer(near, far, options=options, progress=progress, resume=resume)

    async def download(
        self,
        src: str | RemotePath,
        dst: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        resume: bool = False,
        preserve: bool = False,
        preserve_special: bool = False,
        durable: bool = True,
        verify: bool = False,
        engine: str = "auto",
        progress: Callable[[TransferProgress], None] | None = None,
    ) -> TransferReport:
        """Bring a far file or tree to this side; otherwise as `upload`.

        The far side is not trusted: nothing that it lists touches anything outside `dst`, no link below `dst` is
        followed, and links that lead out of the tree are left out and reported.

        Args:
            src: far path, below the task's directory; a link there is followed.
            dst: near path.
            overwrite, resume, preserve, preserve_special, durable, verify, engine, progress: as in `upload`.

        Raises:
            UnsafePathError: the far side lists names that no directory can hold.
            FileError, FileChanged, ChecksumMismatch, ConnectionLost, UnsupportedError: as in `upload`.

        Cancellation: targets are old or new; no temporary file is left but that of ``resume``.
        """
        options = TreeOptions(
            preserve=preserve, preserve_special=preserve_special, overwrite=overwrite, durable=durable, verify=verify
        )
        near = near_end(dst)
        far = await far_end(cast("Machine", self), src, engine)
        return await transfer(far, near, options=options, progress=progress, resume=resume)

    async def sync(
        self,
        src: str | os.PathLike[str] | RemotePath,
        dst: str | os.PathLike[str] | RemotePath,
        *,
        delete: bool = False,
        checksum: bool = False,
        delta: bool = True,
        dry_run: bool = False,
        exclude: Sequence[str] = (),
        engine: str = "auto",
        progress: Callable[[TransferProgress], None] | None = None,
    ) -> SyncReport:
        """Bring a far directory up to date with a near one, or a near one with a far one; only what differs travels.

        A file differs when its size or its time of change does; so files keep their times and permissions here. Each
        is old or new at every moment. The far side is not trusted, as in `download`.

        Args:
            src: near directory; or a RemotePath of this machine, to bring a near directory up to date.
            dst: far directory; where `src` is a RemotePath, a near one, or another RemotePath of this machine.
            delete: remove from `dst` what `src` has not, after everything was sent; and, before, what stands where
                `src` has something of another kind. Links are removed as links.
            checksum: compare the content of files of equal size by SHA-256, whatever their times.
            delta: send of a changed file of 1 MiB or more only what differs, where an outpost can compare: less to send
                than the whole, more to compute at both ends. Its SHA-256 decides; where it does not come out, the whole
                file is sent.
            dry_run: change nothing, report what would be done.
            exclude: lines of a .gitignore, relative to both directories. What matches is neither sent nor removed.
            engine, progress: as in `upload`.

        Raises:
            FileError: with the path, of either side; NotADirectoryError where one of them is no directory.
            UnsafePathError: the far side lists names that no directory can hold.
            FileChanged: a file changed meanwhile.
            ConnectionLost, UnsupportedError: as in `upload`.
            ValueError: there is no such engine, a pattern is none, or a path is another machine's.
            TypeError: `exclude` is a str.

        Cancellation: files are old or new, no temporary file is left; the next call does the rest.
        """
        if isinstance(exclude, str):
            raise TypeError("exclude is a str: give a sequence of patterns")
        machine = cast("Machine", self)
        if isinstance(src, RemotePath):
            source = await far_end(machine, src, engine)
            target = await far_end(machine, dst, engine) if isinstance(dst, RemotePath) else near_end(dst)
        else:
            source = near_end(src)
            target = await far_end(machine, dst if isinstance(dst, RemotePath) else os.fspath(dst), engine)
        return await sync(
            source,
            target,
            delete=delete,
            checksum=checksum,
            delta=delta,
            dry_run=dry_run,
            exclude=exclude,
            progress=progress,
        )
