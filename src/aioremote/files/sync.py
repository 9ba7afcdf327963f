"""Bring a directory up to date with another: only what differs travels.

Both sides are listed, the difference is planned, and the plan is carried out. Not for what one side alone can do:
reading, writing and removing are the `FileSystem`'s.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aioremote._core.pieces import Piece, Tally, TreeOptions, checked, is_safe_link, kind_of_special, unsafe_path
from aioremote._core.stats import same_time
from aioremote.errors import FileMissing, file_error
from aioremote.files.delta import send_changes
from aioremote.files.listing import LEADS_OUT, Excluded, Listing, NearTree, excluder, list_tree
from aioremote.files.verifying import digests_of
from aioremote.types import SyncReport

if TYPE_CHECKING:
    from aioremote.files.transfer import End
    from aioremote.types import FileStat, TransferProgress

__all__ = ["sync"]

S = TypeVar("S")
T = TypeVar("T")
_READ_TOGETHER = 10_000  # files that are asked for at once
_TURN_ENTRIES = 1000  # compared in one turn of the loop


@dataclass(slots=True)
class _Plan:
    """What is to be done, by paths below the roots.

    Attributes:
        folders: of the source: those that something goes into, and new ones.
        files: files of the source that differ.
        links: links of the source that differ, with their text.
        in_the_way: of the target: what has to go before something of another kind can take its place.
        extra: of the target: what the source has not.
        unchanged: files and links that are as they should be.
    """

    folders: set[bytes] = field(default_factory=set[bytes])
    files: list[bytes] = field(default_factory=list[bytes])
    links: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    in_the_way: list[bytes] = field(default_factory=list[bytes])
    extra: list[bytes] = field(default_factory=list[bytes])
    unchanged: int = 0

    def send_into(self, path: bytes) -> None:
        """Note the folders above a path: a writer wants them first."""
        while path:
            path = path.rpartition(b"/")[0]
            self.folders.add(path)


async def sync(
    source: End,
    target: End,
    *,
    delete: bool,
    checksum: bool,
    delta: bool,
    dry_run: bool,
    exclude: Iterable[str],
    progress: Callable[[TransferProgress], None] | None,
) -> SyncReport:
    """Make a directory like another. See `Machine.sync`."""
    began = time.perf_counter()
    excluded = excluder(exclude)
    tally = Tally(progress)
    here, there, near = await _list_both(source, target, excluded, checksum=checksum)
    if near is None:
        plan = await _plan(source, target, here, there, tally, checksum=checksum)
    else:
        count, skipped = await near.judged(excluded, links_anywhere=source.is_near)
        plan = _Plan(unchanged=count)
        for path, why in skipped:
            tally.skip(path, why)
    removed = _removals(plan, there) if delete else []
    sent = sorted([*plan.files, *plan.links])
    if not dry_run:
        for path in [path for path in removed if path in plan.in_the_way]:
            await _remove(target, path, there.entries[path])
        if plan.folders or not there.exists:
            changed = {path: (here.entries[path], there.entries[path]) for path in plan.files if path in there.entries}
            patched = await send_changes(source, target, changed, tally) if delta else set[bytes]()
            plan.files = [path for path in plan.files if path not in patched]
            pieces = checked(_pieces(source, here, plan), tally, host=source.host, trusted=source.is_near)
            async with aclosing(pieces):
                await target.files.write_tree(target.path, pieces, tally, TreeOptions(preserve=True))
        for path in [path for path in removed if path not in plan.in_the_way]:
            await _remove(target, path, there.entries[path])
    engines = [end.files.engine for end in (source, target) if not end.is_near]
    return SyncReport(
        sent=tuple(os.fsdecode(path) for path in sent),
        deleted=tuple(os.fsdecode(path) for path in removed),
        unchanged=plan.unchanged,
        bytes=tally.bytes_done - tally.bytes_kept,
        elapsed=time.perf_counter() - began,
        engine="+".join(dict.fromkeys(engines)) or "local",
        skipped=tuple(tally.skipped),
        dry_run=dry_run,
    )


async def _list_both(
    source: End, target: End, excluded: Excluded, *, checksum: bool
) -> tuple[Listing, Listing, NearTree | None]:
    """Return what is at both ends; or the near one alone, where a digest tells that the other is the same.

    Raises:
        FileMissing: the source is not there.
    """
    near, far = (source, target) if source.is_near else (target, source)
    if not near.is_near:  # two far paths
        here, there = await _at_once(list_tree(source, excluded), list_tree(target, excluded))
        return _with_source(source, here), there, None
    tree, is_same = NearTree(near.path), False
    listed = asyncio.Event()

    async def list_near() -> None:
        await tree.read()
        listed.set()

    async def as_near(digest: bytes) -> bool:
        nonlocal is_same
        await listed.wait()
        is_same = digest == tree.digest
        return is_same

    _, theirs = await _at_once(list_near(), list_tree(far, excluded, unless=as_near))
    if is_same and not checksum:
        return theirs, theirs, tree
    ours = await tree.listing(excluded)
    theirs = ours if is_same else theirs
    here, there = (ours, theirs) if near is source else (theirs, ours)
    return _with_source(source, here), there, None


def _with_source(source: End, listing: Listing) -> Listing:
    if not listing.exists:
        raise file_error(errno.ENOENT, os.fsdecode(source.path), host=source.host)
    return listing


async def _plan(source: End, target: End, here: Listing, there: Listing, tally: Tally, *, checksum: bool) -> _Plan:
    plan = _Plan(extra=[path for path in there.entries if path not in here.entries])
    same = await _same_files(source, target, here, there, checksum=checksum)
    async for path, stat in _in_turns(here.entries):
        why = kind_of_special(stat)
        if why is not None:
            tally.skip(path, why)
            continue
        existing = there.entries.get(path)
        if stat.is_symlink():
            text = here.targets[path]
            if not source.is_near and not is_safe_link(path, text):
                tally.skip(path, LEADS_OUT)
                continue
            if there.targets.get(path) == text:
                plan.unchanged += 1
                continue
            plan.links[path] = text
        elif stat.is_dir():
            if existing is not None and existing.is_dir():
                continue
            plan.folders.add(path)
        elif path in same:
            plan.unchanged += 1
            continue
        else:
            plan.files.append(path)
            tally.found(stat)
        plan.send_into(path)
        if existing is not None and existing.is_dir() != stat.is_dir():
            plan.in_the_way.append(path)
    return plan


async def _same_files(source: End, target: End, here: Listing, there: Listing, *, checksum: bool) -> set[bytes]:
    """Return the files that are as they should be: by size and time, or by what both ends hash."""
    alike: dict[bytes, int] = {}
    async for path, stat in _in_turns(here.entries):
        existing = there.entries.get(path)
        if existing is None or not stat.is_file() or not existing.is_file() or stat.st_size != existing.st_size:
            continue
        if checksum or same_time(stat.st_mtime_ns, existing.st_mtime_ns):
            alike[path] = stat.st_size
    if not checksum or not alike:
        return set(alike)
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(digests_of(end, alike)) for end in (source, target)]
    ours, theirs = both[0].result(), both[1].result()
    return {path for path in alike if ours[path] == theirs[path]}


async def _in_turns(entries: Mapping[bytes, FileStat]) -> AsyncGenerator[tuple[bytes, FileStat]]:
    """Yield path and stat of each; a big tree does not hold the event loop up."""
    for number, item in enumerate(entries.items(), 1):
        yield item
        if number % _TURN_ENTRIES == 0:
            await asyncio.sleep(0)


def _removals(plan: _Plan, there: Listing) -> list[bytes]:
    """Return what is removed, a whole directory as one; not what holds something that is excluded."""
    removed: dict[bytes, None] = {}
    for path in sorted({*plan.extra, *plan.in_the_way}):
        above = path
        while above and above not in removed:
            above = above.rpartition(b"/")[0]
        if not above and path not in there.guarded:
            removed[path] = None
    return list(removed)


async def _remove(target: End, path: bytes, stat: FileStat) -> None:
    """Remove what the target itself was seen to have; a link as a link."""
    try:
        if stat.is_dir():
            await target.files.remove_tree(_below(target, path))
        else:
            await target.files.unlink(_below(target, path))
    except FileMissing:
        pass  # gone meanwhile: as it should be


async def _pieces(source: End, here: Listing, plan: _Plan) -> AsyncGenerator[Sequence[Piece]]:
    """Yield what is to be written: directories, links, then files."""
    folders = [Piece(path, here.entries[path]) for path in sorted(plan.folders - {b""})]
    async with aclosing(_files(source, here, plan)) as files:
        root, first = await _at_once(source.files.stat(source.path), anext(files, None))
        yield [Piece(b"", root), *folders]
        if plan.links:
            yield [Piece(path, here.entries[path], target=text) for path, text in plan.links.items()]
        if first is not None:
            yield first
        async for batch in files:
            yield batch


async def _at_once(one: Coroutine[object, object, S], other: Awaitable[T]) -> tuple[S, T]:
    """Return what both give; raises what the first that fails raises."""

    async def second() -> T:
        return await other

    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(second())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def _files(source: End, here: Listing, plan: _Plan) -> AsyncGenerator[Sequence[Piece]]:
    for start in range(0, len(plan.files), _READ_TOGETHER):
        chosen = {path: here.entries[path] for path in plan.files[start : start + _READ_TOGETHER]}
        async with aclosing(_read(source, chosen)) as batches:
            async for batch in batches:
                yield batch


async def _read(source: End, chosen: dict[bytes, FileStat]) -> AsyncGenerator[Sequence[Piece]]:
    """Yield the pieces of some files, and see to it that these are what comes: all of them and no other."""
    async with aclosing(source.files.read_files(source.path, list(chosen.items()))) as batches:
        async for batch in batches:
            for piece in batch:
                if piece.path not in chosen or not piece.stat.is_file():
                    raise unsafe_path(source.host, piece.path, "not what was asked for")
                if piece.last:
                    del chosen[piece.path]
            yield batch
    for path in chosen:
        raise unsafe_path(source.host, path, "not among what it sends")


def _below(end: End, path: bytes) -> bytes:
    return os.path.join(end.path, path)
