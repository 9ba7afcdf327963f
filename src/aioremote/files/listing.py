"""What is in a tree, on either side, less what is excluded: all that `sync` compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioremote._core.pieces import TEMP_MARK, check_names, unsafe_path
from aioremote.errors import FileMissing

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed
    from aioremote.files.transfer import End
    from aioremote.types import FileStat

__all__ = ["Excluded", "Listing", "excluder", "list_tree"]

Excluded = Callable[[bytes, bool], bool]
"""Whether a path below the root is left alone; the second argument says whether it is a directory."""


@dataclass(slots=True)
class Listing:
    """The entries of a tree, by path below its root. Links are themselves.

    Attributes:
        entries: what is there; a directory comes before what is in it.
        targets: the texts of links.
        guarded: directories that hold something excluded, at any depth.
        exists: whether there is a root.
    """

    entries: dict[bytes, FileStat] = field(default_factory=dict[bytes, "FileStat"])
    targets: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
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
    """Return what is in a tree; nothing where there is no tree.

    Raises:
        UnsafePathError: names that no directory can hold.
        FileError: a directory cannot be listed.
    """
    listing = Listing()
    judge = _Judge(end.host, excluded, listing)
    try:
        async with aclosing(end.files.list_tree(end.path)) as batches:
            async for batch in batches:
                for entry in batch:
                    judge.take(entry)
    except FileMissing:
        if listing.entries:
            raise
        listing.exists = False
    return listing


class _Judge:
    """Takes entries as the far side tells them into a listing."""

    def __init__(self, host: str, excluded: Excluded, listing: Listing) -> None:
        self._host = host
        self._excluded = excluded
        self._listing = listing
        self._names: dict[bytes, set[bytes]] = {b"": set()}  # by folder
        self._left: set[bytes] = set()  # folders that are excluded, with all that is in them

    def take(self, entry: Listed) -> None:
        path = entry.path
        if entry.error is not None:
            if path not in self._left:
                raise entry.error
            return
        folder, _, name = path.rpartition(b"/")
        is_dir = entry.stat.is_dir()
        if folder in self._left:
            if is_dir:
                self._left.add(path)
            return
        if (names := self._names.get(folder)) is None:
            raise unsafe_path(self._host, path, "not below a directory of the tree")
        check_names(self._host, folder, (name,), names)
        if self._excluded(path, is_dir):
            self._listing.guard(path)
            if is_dir:
                self._left.add(path)
            return
        self._listing.entries[path] = entry.stat
        if is_dir:
            self._names[path] = set()
        elif entry.stat.is_symlink():
            self._listing.targets[path] = entry.target
