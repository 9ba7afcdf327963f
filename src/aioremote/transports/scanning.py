"""What is in a tree, for an engine that can only list one directory after another: many at a time."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from aioremote._core.pieces import Listed, check_names
from aioremote.errors import FileError, FileMissing

if TYPE_CHECKING:
    from aioremote.protocols import FileSystem
    from aioremote.types import FileEntry

__all__ = ["list_by_scans"]

T = TypeVar("T")
_AT_ONCE = 32  # directories, or links


async def list_by_scans(files: FileSystem, root: bytes, host: str) -> AsyncGenerator[Sequence[Listed]]:
    """Yield what is in a tree. See `FileSystem.list_tree`.

    Raises:
        UnsafePathError: names that no directory can hold, which would lead elsewhere.
    """
    waiting = deque([b""])
    while waiting:
        folders = [waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting)))]
        for folder, entries in zip(folders, await _together(_scan(files, root, one) for one in folders), strict=True):
            if isinstance(entries, FileError):
                if not folder:
                    raise entries
                yield [Listed(folder, await files.stat(os.path.join(root, folder)), error=entries)]
                continue
            check_names(host, folder, [entry.name for entry in entries], set())
            listed = await _with_targets(files, root, folder, entries)
            waiting += [one.path for one in listed if one.stat.is_dir()]
            yield listed


async def _scan(files: FileSystem, root: bytes, folder: bytes) -> list[FileEntry] | FileError:
    entries: list[FileEntry] = []
    try:
        async with aclosing(files.scan(os.path.join(root, folder) if folder else root)) as batches:
            async for batch in batches:
                entries += batch
    except FileError as error:
        return [] if folder and isinstance(error, FileMissing) else error  # gone meanwhile
    return sorted(entries, key=lambda entry: entry.name)


async def _with_targets(files: FileSystem, root: bytes, folder: bytes, entries: list[FileEntry]) -> list[Listed]:
    async def target(entry: FileEntry) -> bytes | None:
        try:
            return await files.readlink(os.path.join(root, folder, entry.name))
        except FileMissing:
            return None  # gone meanwhile

    links = [entry for entry in entries if entry.stat.is_symlink()]
    targets: dict[bytes, bytes | None] = {}
    for start in range(0, len(links), _AT_ONCE):
        some = links[start : start + _AT_ONCE]
        targets |= zip((entry.name for entry in some), await _together(map(target, some)), strict=True)
    return [
        Listed(os.path.join(folder, entry.name), entry.stat, told)
        for entry in entries
        if (told := targets.get(entry.name, b"")) is not None
    ]


async def _together(questions: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Return the answers in the order asked; raises the first error, as one question alone would."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
