"""What is in a tree, on either side, less what is excluded: all that `sync` compares."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioremote._core.pieces import TEMP_MARK, check_names
from aioremote.errors import FileMissing

if TYPE_CHECKING:
    from aioremote.files.transfer import End
    from aioremote.types import FileEntry, FileStat

__all__ = ["Excluded", "Listing", "excluder", "list_tree"]

_AT_ONCE = 8  # folders asked for together
Excluded = Callable[[bytes, bool], bool]
"""Whether a path below the root is left alone; the second argument says whether it is a directory."""


@dataclass(slots=True)
class Listing:
    """The entries of a tree, by path below its root. Links are themselves.

    Attributes:
        entries: what is there; a directory comes before what is in it.
        guarded: directories that hold something excluded, at any depth.
        exists: whether there is a root.
    """

    entries: dict[bytes, FileStat] = field(default_factory=dict[bytes, "FileStat"])
    guarded: set[bytes] = field(default_factory=set[bytes])
    exists: bool = True

    def guard(self, path: bytes) -> None:
        """Note that something at this path is not to be touched."""
        while path:
            path = path.rpartition(b"/")[0]
            self.guarded.add(path)


def excluder(patterns: Iterable[str]) -> Excluded:
    """Return what judges paths by lines of a .gitignore. Temporary files of transfers are always excluded.

    Raises:
        ValueError: a pattern that is none.
    """
    lines = list(patterns)
    if not lines:
        return _is_temporary
    from pathspec import GitIgnoreSpec  # only who excludes pays for its import

    spec = GitIgnoreSpec.from_lines(lines)

    def excluded(path: bytes, is_dir: bool) -> bool:  # noqa: FBT001  # as `Excluded`
        return _is_temporary(path, is_dir) or spec.match_file(os.fsdecode(path) + ("/" if is_dir else ""))

    return excluded


def _is_temporary(path: bytes, is_dir: bool) -> bool:  # noqa: FBT001  # as `Excluded`
    name = path.rpartition(b"/")[2]
    return name.startswith(TEMP_MARK) and name.endswith(b".part")


async def list_tree(end: End, excluded: Excluded) -> Listing:
    """Return what is in a tree, several folders asked for at a time; nothing where there is no tree.

    Raises:
        UnsafePathError: names that no directory can hold.
        FileError: a directory cannot be listed.
    """
    listing = Listing()
    level = [b""]
    while level:
        below: list[bytes] = []
        for start in range(0, len(level), _AT_ONCE):
            folders = level[start : start + _AT_ONCE]
            for folder, found in zip(folders, await _scan_all(end, folders), strict=True):
                if found is None:
                    listing.exists = listing.exists and bool(folder)
                    continue
                below += _add(listing, folder, found, excluded)
        level = below
    return listing


async def _scan_all(end: End, folders: list[bytes]) -> list[list[FileEntry] | None]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_scan(end, folder)) for folder in folders]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first of them, as one folder alone would raise it
    return [task.result() for task in tasks]


async def _scan(end: End, folder: bytes) -> list[FileEntry] | None:
    """Return the entries of a folder, None where it is gone."""
    entries: list[FileEntry] = []
    known: set[bytes] = set()
    try:
        async with aclosing(end.files.scan(os.path.join(end.path, folder) if folder else end.path)) as batches:
            async for batch in batches:
                check_names(end.host, folder, [entry.name for entry in batch], known)
                entries += batch
    except FileMissing:
        return None
    return entries


def _add(listing: Listing, folder: bytes, entries: list[FileEntry], excluded: Excluded) -> list[bytes]:
    """Add what is in a folder; returns the folders in it."""
    below: list[bytes] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        path = folder + b"/" + entry.name if folder else entry.name
        if excluded(path, entry.stat.is_dir()):
            listing.guard(path)
            continue
        listing.entries[path] = entry.stat
        if entry.stat.is_dir():
            below.append(path)
    return below
