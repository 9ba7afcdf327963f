"""Walking far directories: glob patterns and whole trees, each directory asked once, several at a time."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote._core.lifetime import Owner
from aioremote.errors import FileError

if TYPE_CHECKING:
    from aioremote.protocols import FileSystem
    from aioremote.types import FileStat

__all__ = ["glob_paths", "pattern_parts", "walk_tree"]

_MAGIC = re.compile(r"[*?\[]")
_Listing = list[tuple[str, "FileStat"]]


def pattern_parts(pattern: str) -> tuple[str, ...]:
    """Return the parts of a glob pattern.

    Raises:
        ValueError: an empty or absolute pattern.
    """
    parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
    if not parts or pattern.startswith("/"):
        raise ValueError(f"glob pattern {pattern!r}: give a relative one with at least one part")
    return parts


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


async def glob_paths(files: FileSystem, root: bytes, patterns: Sequence[tuple[str, ...]]) -> AsyncGenerator[str]:
    """Yield each path below `root` that matches one of the patterns, relative to it."""
    folders = _Folders(files, root)
    seen: set[str] = set()
    try:
        for parts in patterns:
            async with aclosing(_select(folders, "", parts)) as found:
                async for path in found:
                    if path not in seen:
                        seen.add(path)
                        yield path
    finally:
        await folders.aclose()


class _Folders:
    """What directories hold, each asked once; what will be wanted may be asked ahead."""

    def __init__(self, files: FileSystem, root: bytes) -> None:
        self._files = files
        self._root = root.rstrip(b"/") or root
        self._owner = Owner("glob")
        self._asked: dict[str, asyncio.Task[_Listing]] = {}
        self._turns = asyncio.Semaphore(16)

    def full(self, path: str) -> bytes:
        """Return the path for the far side."""
        return os.path.join(self._root, os.fsencode(path)) if path else self._root

    def ask(self, path: str) -> asyncio.Task[_Listing]:
        """Begin to list a directory."""
        if path not in self._asked:
            self._asked[path] = self._owner.spawn(self._list(path), "list")
        return self._asked[path]

    async def entries(self, path: str) -> _Listing:
        """Return what is in a directory; nothing where it cannot be read."""
        task = self.ask(path)
        await asyncio.wait({task})
        return task.result()

    async def _list(self, path: str) -> _Listing:
        async with self._turns:
            try:
                return await _listing(self._files, self.full(path))
            except FileError:
                return []

    async def is_folder(self, path: str, found: FileStat) -> bool:
        """Whether it is a directory or a link to one."""
        if not found.is_symlink():
            return found.is_dir()
        try:
            return (await self._files.stat(self.full(path))).is_dir()
        except FileError:
            return False

    async def exists(self, path: str) -> bool:
        """Whether there is something, be it a link that leads nowhere."""
        try:
            await self._files.stat(self.full(path), follow=False)
        except FileError:
            return False
        return True

    async def aclose(self) -> None:
        """End what is under way."""
        await self._owner.aclose()


async def _listing(files: FileSystem, path: bytes) -> _Listing:
    found: _Listing = []
    async with aclosing(files.scan(path)) as batches:
        async for batch in batches:
            found += [(os.fsdecode(name), known) for name, known in batch]
    return found


async def _select(folders: _Folders, base: str, parts: tuple[str, ...]) -> AsyncGenerator[str]:
    """Yield what matches `parts` below `base`."""
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        found = _below_any(folders, base, rest)
    elif _MAGIC.search(part) is None:
        found = _select_name(folders, _below(base, part), rest)
    else:
        found = _select_matching(folders, base, re.compile(fnmatch.translate(part)), rest)
    async with aclosing(found):
        async for path in found:
            yield path


async def _below_any(folders: _Folders, base: str, rest: tuple[str, ...]) -> AsyncGenerator[str]:
    waiting = [base]
    while waiting:
        folder = waiting.pop(0)
        async with aclosing(_select(folders, folder, rest)) as found:
            async for path in found:
                yield path
        for name, known in await folders.entries(folder):
            if known.is_dir():
                waiting.append(_below(folder, name))
                folders.ask(waiting[-1])


async def _select_name(folders: _Folders, path: str, rest: tuple[str, ...]) -> AsyncGenerator[str]:
    if rest:
        async with aclosing(_select(folders, path, rest)) as found:
            async for deeper in found:
                yield deeper
    elif await folders.exists(path):
        yield path


async def _select_matching(
    folders: _Folders, base: str, pattern: re.Pattern[str], rest: tuple[str, ...]
) -> AsyncGenerator[str]:
    for name, known in await folders.entries(base):
        path = _below(base, name)
        if not pattern.match(name) or (rest and not await folders.is_folder(path, known)):
            continue
        async with aclosing(_select(folders, path, rest)) as found:
            async for deeper in found:
                yield deeper


async def walk_tree(
    files: FileSystem, root: bytes, *, top_down: bool, on_error: Callable[[OSError], object] | None, follow: bool
) -> AsyncGenerator[tuple[str, list[str], list[str]]]:
    """Yield directories below `root`, relative to it, with the names of directories and of all else in each."""
    folders = _Folders(files, root)
    waiting: list[str | tuple[str, list[str], list[str]]] = [""]
    while waiting:
        path = waiting.pop()
        if isinstance(path, tuple):
            yield path
            continue
        try:
            entries = await _listing(files, folders.full(path))
        except FileError as error:
            if on_error is not None:
                on_error(error)
            continue
        names: list[str] = []
        others: list[str] = []
        for name, known in entries:
            is_folder = await folders.is_folder(_below(path, name), known) if follow else known.is_dir()
            (names if is_folder else others).append(name)
        if top_down:
            yield path, names, others
        else:
            waiting.append((path, names, others))
        waiting += [_below(path, name) for name in reversed(names)]
