"""What is in a tree, on either side, less what is excluded: all that `sync` compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from aioremote._core.pieces import TEMP_MARK, check_names, unsafe_path
from aioremote.errors import FileMissing
from aioremote.outpost.far.tree_lister import TreeDigest

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed
    from aioremote.files.transfer import End
    from aioremote.protocols import Unless
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

    def digest(self) -> bytes:
        """Return the digest of what a sync compares, as `FileSystem.list_tree` tells it of the other end."""
        digest = TreeDigest()
        digest.add((path, stat, self.targets.get(path, b"")) for path, stat in self.entries.items())
        return digest.value()

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


def _folder(entry: Listed) -> bytes:
    return entry.path.rpartition(b"/")[0]


def _is_temporary(path: bytes, is_dir: bool) -> bool:  # noqa: FBT001  # as `Excluded`
    return TEMP_MARK in path and path.endswith(b".part") and path.rpartition(b"/")[2].startswith(TEMP_MARK)


async def list_tree(end: End, excluded: Excluded, *, unless: Unless | None = None) -> Listing:
    """Return what is in a tree; nothing where there is no tree, or where `unless` says so (see `FileSystem.list_tree`).

    Raises:
        UnsafePathError: names that no directory can hold.
        FileError: a directory cannot be listed.
    """
    listing = Listing()
    judge = _Judge(end.host, excluded, listing)
    try:
        async with aclosing(end.files.list_tree(end.path, unless=unless)) as batches:
            async for batch in batches:
                for folder, entries in groupby(batch, _folder):
                    judge.take(folder, list(entries))
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

    def take(self, folder: bytes, entries: list[Listed]) -> None:
        """Take entries of one directory."""
        told = [entry for entry in entries if entry.error is None]
        if folder in self._left:
            self._left.update(entry.path for entry in told if entry.stat.is_dir())
        elif told:
            if (known := self._names.get(folder)) is None:
                raise unsafe_path(self._host, told[0].path, "not below a directory of the tree")
            start = len(folder) + 1 if folder else 0
            check_names(self._host, folder, [entry.path[start:] for entry in told], known)
            for entry in told:
                self._add(entry)
        for entry in entries:
            if entry.error is not None and entry.path not in self._left:
                raise entry.error

    def _add(self, entry: Listed) -> None:
        path, is_dir = entry.path, entry.stat.is_dir()
        if self._excluded(path, is_dir):
            self._listing.guard(path)
            if is_dir:
                self._left.add(path)
            return
        self._listing.entries[path] = entry.stat
        if is_dir:
            self._names[path] = set()
        elif entry.target:
            self._listing.targets[path] = entry.target
