"""What is in a tree, on either side, less what is excluded: all that `sync` compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR
from typing import TYPE_CHECKING

from aioremote._core.pieces import TEMP_MARK, check_names, is_safe_link, kind_of_special, unsafe_path
from aioremote.errors import FileMissing
from aioremote.outpost.far.tree_lister import TreeDigest
from aioremote.outpost.far.tree_lister import list_tree as found_below
from aioremote.transports.local_calls import in_thread, local_error, named, stat_of

if TYPE_CHECKING:
    from aioremote._core.pieces import Listed
    from aioremote.files.transfer import End
    from aioremote.protocols import Unless
    from aioremote.types import FileStat

    _Found = tuple[bytes, os.stat_result, bytes]

__all__ = ["LEADS_OUT", "Excluded", "Listing", "NearTree", "excluder", "list_tree"]

LEADS_OUT = "a link that leads out of the tree"

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


class NearTree:
    """A tree of this machine as it was listed. Most are the same at the other end: little is made of each entry.

    Attributes:
        exists: whether there is a root.
        digest: of all that is in it, as `FileSystem.list_tree` tells it of the other end; b"" where that is not known.
    """

    def __init__(self, root: bytes) -> None:
        self.exists: bool = True
        self.digest: bytes = b""
        self._root = root
        self._found: list[_Found] = []
        self._failed: list[tuple[bytes, OSError]] = []

    async def read(self) -> None:
        """List it.

        Raises:
            FileError: it cannot be listed.
        """
        batches, digest = found_below(self._root), TreeDigest()
        try:
            while await named(self._root, self._take_next, batches, digest):
                pass
        except FileMissing:
            self.exists = False
            return
        if not self._failed:
            self.digest = digest.value()

    def _take_next(
        self, batches: Iterator[tuple[list[_Found], list[tuple[bytes, OSError]]]], digest: TreeDigest
    ) -> bool:
        batch = next(batches, None)
        if batch is None:
            return False
        self._found += batch[0]
        self._failed += batch[1]
        digest.add(batch[0])
        return True

    async def listing(self, excluded: Excluded) -> Listing:
        """Return it as `list_tree` does.

        Raises:
            FileError: a directory in it cannot be listed.
        """
        return await in_thread(self._listing, excluded)

    def _listing(self, excluded: Excluded) -> Listing:
        listing, left = Listing(exists=self.exists), set[bytes]()
        for path, told, target in self._kept(excluded, left, listing.guard):
            listing.entries[path] = stat_of(told)
            if target:
                listing.targets[path] = target
        for path, error in self._failed:
            if path not in left:
                raise local_error(error, os.path.join(self._root, path))
        return listing

    async def judged(self, excluded: Excluded, *, links_anywhere: bool) -> tuple[int, list[tuple[bytes, str]]]:
        """Return how many files and links it has, and what is left out, with the reasons."""
        return await in_thread(self._judged, excluded, links_anywhere)

    def _judged(self, excluded: Excluded, links_anywhere: bool) -> tuple[int, list[tuple[bytes, str]]]:  # noqa: FBT001
        count, skipped = 0, list[tuple[bytes, str]]()
        for path, told, target in self._kept(excluded, set()):
            kind = S_IFMT(told.st_mode)
            if kind == S_IFREG or (kind == S_IFLNK and (links_anywhere or is_safe_link(path, target))):
                count += 1
            elif kind == S_IFLNK:
                skipped.append((path, LEADS_OUT))
            elif kind != S_IFDIR:
                skipped.append((path, kind_of_special(stat_of(told)) or ""))
        return count, skipped

    def _kept(
        self, excluded: Excluded, left: set[bytes], guard: Callable[[bytes], None] | None = None
    ) -> Iterator[_Found]:
        """Yield what is not excluded; `left` takes the directories that are, with those in them."""
        for found in self._found:
            path, is_dir = found[0], S_ISDIR(found[1].st_mode)
            if left and path.rpartition(b"/")[0] in left:
                if is_dir:
                    left.add(path)
            elif not excluded(path, is_dir):
                yield found
            else:
                if guard is not None:
                    guard(path)
                if is_dir:
                    left.add(path)


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
