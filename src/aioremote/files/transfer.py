"""Files and trees from one place to another: near to far, far to near, machine to machine.

What is done at either end is the engines'; here is where a source ends up, what is refused before anything is sent, and
the report.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioremote._core.engines import check_engine
from aioremote._core.pieces import Tally, TreeOptions, checked, with_first
from aioremote.errors import FileMissing, NotAFolder, file_error
from aioremote.files.pure import PureRemotePath
from aioremote.files.resuming import resume as resume_file
from aioremote.files.verifying import with_digests
from aioremote.transports.local_files import LocalFiles
from aioremote.types import TransferProgress, TransferReport

if TYPE_CHECKING:
    from aioremote._core.pieces import Piece
    from aioremote.machine import Machine
    from aioremote.protocols import FileSystem

__all__ = ["End", "copy", "copy_paths", "far_end", "near_end", "transfer"]


@dataclass(frozen=True, slots=True)
class End:
    """One end of a transfer.

    Attributes:
        files: the file system.
        path: as it was given.
        host: the machine's name, for errors.
        machine: whose path it is; None for this machine's.
    """

    files: FileSystem
    path: bytes
    host: str
    machine: Machine | None = None

    @property
    def is_near(self) -> bool:
        """Whether it is this machine's."""
        return self.machine is None


def near_end(path: str | os.PathLike[str]) -> End:
    """Return a path of this machine.

    Raises:
        TypeError: a far path, or none at all.
    """
    if isinstance(path, PureRemotePath):
        raise TypeError(f"{path!r} is a far path: give a str or os.PathLike for the near side, or use aioremote.copy")
    return End(LocalFiles(), _bytes(os.fspath(path)), "localhost")


async def far_end(machine: Machine, path: str | PureRemotePath, engine: str = "auto") -> End:
    """Return a path of a machine, below the calling task's directory, reached by an engine.

    Raises:
        ValueError: a path of another machine, or no engine.
        UnsupportedError: an engine that this machine does not have.
    """
    given = bytes(path) if isinstance(path, PureRemotePath) else _bytes(path)
    if isinstance(path, PureRemotePath):
        path.pure_on(machine)
        machine = path.machine
    return End(await machine.transport.open_files(engine), machine.absolute(given), machine.host, machine)


def _bytes(path: str) -> bytes:
    if not path or "\0" in path:
        raise ValueError(f"path {path!r}: give one that is not empty and holds no NUL byte")
    return os.fsencode(path)


async def copy(
    src: str | os.PathLike[str] | PureRemotePath,
    dst: str | os.PathLike[str] | PureRemotePath,
    *,
    overwrite: bool = True,
    preserve: bool = False,
    preserve_special: bool = False,
    durable: bool = True,
    verify: bool = False,
    engine: str = "auto",
    progress: Callable[[TransferProgress], None] | None = None,
) -> TransferReport:
    """Bring a file or tree from anywhere to anywhere; between machines it streams through here, without a near copy.

    Args:
        src, dst: a RemotePath of any machine, or a near path as str or os.PathLike.
        overwrite, preserve, preserve_special, durable, verify, progress: as in `Machine.upload`.
        engine: as there, for each far end.

    Raises:
        RemoteError, ValueError: as `Machine.upload` and `Machine.download`.

    Cancellation: targets are old or new; no temporary file is left.
    """
    options = TreeOptions(
        preserve=preserve, preserve_special=preserve_special, overwrite=overwrite, durable=durable, verify=verify
    )
    check_engine(engine)
    source, target = await _end(src, engine), await _end(dst, engine)
    return await transfer(source, target, options=options, progress=progress)


async def _end(path: str | os.PathLike[str] | PureRemotePath, engine: str) -> End:
    if isinstance(path, PureRemotePath):
        return await far_end(path.machine, path, engine)
    return near_end(path)


async def copy_paths(source: PureRemotePath, target: PureRemotePath) -> TransferReport:
    """Copy a file or tree from one far path to another, to exactly that path."""
    ends = await far_end(source.machine, source), await far_end(target.machine, target)
    return await transfer(*ends, options=TreeOptions(), below_folder=False)


async def transfer(
    source: End,
    target: End,
    *,
    options: TreeOptions,
    progress: Callable[[TransferProgress], None] | None = None,
    below_folder: bool = True,
    resume: bool = False,
    has_digests: bool = False,
) -> TransferReport:
    """Bring a file or tree from one end to the other.

    Args:
        source, target: the ends.
        options: how.
        progress: called after each piece.
        below_folder: whether a file given a directory lands in it.
        resume: for a file, whether to go on where an earlier call was cut off.
        has_digests: whether the source's pieces come with what is to be verified.

    Raises:
        ValueError: a tree cannot be resumed.
    """
    began = time.perf_counter()
    tally = Tally(progress)
    if resume:
        found = await source.files.stat(source.path)
        place = await _place(source, target, is_tree=found.is_dir(), below_folder=below_folder, options=options)
        if found.is_dir():
            text = f"{os.fsdecode(source.path)!r} is a directory: resume is for one file; sync() is for trees"
            raise ValueError(text)
        await resume_file(source, target, place, tally=tally, options=options)
    else:
        pieces = checked(source.files.read_tree(source.path, tally), tally, host=source.host, trusted=source.is_near)
        async with aclosing(with_digests(source, pieces) if options.verify and not has_digests else pieces) as wanted:
            if source.is_near:
                first: Sequence[Piece] = ()
                is_tree = (await source.files.stat(source.path)).is_dir()
            else:
                first = await anext(wanted, ())  # tells it too: to ask before costs a round trip
                is_tree = any(piece.stat.is_dir() for piece in first)
            place = await _place(source, target, is_tree=is_tree, below_folder=below_folder, options=options)
            await target.files.write_tree(place, with_first(first, wanted), tally, options)
    engines = [end.files.engine for end in (source, target) if not end.is_near]
    return TransferReport(
        files=tally.files_done,
        bytes=tally.bytes_done,
        elapsed=time.perf_counter() - began,
        engine="+".join(dict.fromkeys(engines)) or "local",
        skipped=tuple(tally.skipped),
    )


async def _place(source: End, target: End, *, is_tree: bool, below_folder: bool, options: TreeOptions) -> bytes:
    """Return the final path of what is brought.

    A tree's is the target as it was given, also where it exists; a file given an existing directory lands in it. A
    target with a slash at its end takes either below it.
    """
    place = target.path
    if place.endswith(b"/") and place.strip(b"/"):
        place = place.rstrip(b"/")
        try:
            await target.files.stat(place)
        except FileMissing:
            await target.files.mkdir(place)
        return os.path.join(place, await _name(source))
    if is_tree:
        return place
    try:
        found = await target.files.stat(place)
    except (FileMissing, NotAFolder):
        return place
    if found.is_dir() and below_folder:
        return os.path.join(place, await _name(source))
    if found.is_dir():
        raise file_error(errno.EISDIR, os.fsdecode(place), host=target.host)
    if not options.overwrite:
        raise file_error(errno.EEXIST, os.fsdecode(place), host=target.host)
    return place


async def _name(source: End) -> bytes:
    """Return the source's own name."""
    name = os.path.basename(source.path.rstrip(b"/"))
    if name in (b"", b".", b".."):
        name = os.path.basename(await source.files.realpath(source.path))
    return name or b"root"
