"""What does it cost to bring a changed big file up to date?

A file of 64 MiB of which 1 % changed: in 64 places, in one, or by an insertion that moves all the rest; both ways.
aioremote's sync against rsync: time from connecting to the end, the outpost's start included, and what passes on the
wire, counted by a relay in runs of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._copying import ssh_words
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers

__all__ = ["aioremote_sync", "rsync", "run"]

CHANGES = ("64 places", "one place", "put before")
MIB = 2**20
PLACE = "/dev/shm"  # where no disk decides


def _plant(folder: Path, size: int, change: str) -> None:
    chance = random.Random(5)
    old = chance.randbytes(size)
    part = size // 100
    if change == "put before":
        new = chance.randbytes(part) + old
    else:
        edited = bytearray(old)
        count = 64 if change == "64 places" else 1
        for _ in range(count):
            at = chance.randrange(size - part // count)
            edited[at : at + part // count] = chance.randbytes(part // count)
        new = bytes(edited)
    for name, data in (("old", old), ("new", new)):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(data)
    os.utime(folder / "old" / "file", (1, 1))  # not as new as the other


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "file").read_bytes()).hexdigest()


@asynccontextmanager
async def _counted(site: Site, *, relayed: bool) -> AsyncGenerator[tuple[Site, Callable[[], int]]]:
    """Give the site, and what tells the bytes that have passed; through a relay where these are wanted."""
    from aioremote.testing.proxy import TcpProxy

    if not relayed:
        yield site, lambda: 0
        return
    async with TcpProxy(site.hosts[0], site.port) as relay:
        name = f"[{relay.host}]:{relay.port}"
        known = Path(tempfile.mkstemp(dir=PLACE)[1])
        try:
            known.write_text(f"{name} {site.host_public}\n")
            through = replace(site, hosts=(relay.host,), port=relay.port, known_hosts=str(known))
            yield through, lambda: relay.bytes_sent + relay.bytes_received
        finally:
            known.unlink()


async def _measured(
    site: Site, folder: str, work: Callable[[Site, Path, Path], Awaitable[None]], *, relayed: bool
) -> Measured:
    new = Path(folder, "new")
    with tempfile.TemporaryDirectory(dir=PLACE) as place:
        target = Path(place, "tree")
        shutil.copytree(Path(folder, "old"), target)  # its times too
        async with _counted(site, relayed=relayed) as (used, passed):
            began = time.perf_counter()
            await work(used, new, target)
            elapsed = time.perf_counter() - began
            wire = passed()
        assert _digest(target) == _digest(new)
    return {"wire_kb": wire / 1e3} if relayed else {"ms": elapsed * 1e3}


def aioremote_sync(site: Site, folder: str, down: bool, relayed: bool = False) -> Measured:
    """Connect, bring the outpost up, and sync."""
    from aioremote import SshMachine

    def machine(used: Site) -> SshMachine:
        return used.machine()

    async def sync(used: Site, new: Path, target: Path) -> None:
        async with machine(used) as m:
            if down:
                await m.sync(m.path(str(new)), target)
            else:
                await m.sync(new, str(target))

    async def work() -> Measured:
        async with machine(site):  # what is imported for it, is
            pass
        return await _measured(site, folder, sync, relayed=relayed)

    return asyncio.run(work())


def rsync(site: Site, folder: str, down: bool, relayed: bool = False) -> Measured:
    """Run it with the options that keep what sync keeps."""

    async def work(used: Site, new: Path, target: Path) -> None:
        far = f"{used.user}@{used.hosts[0]}:"
        ends = (f"{far}{new}/", f"{target}/") if down else (f"{new}/", f"{far}{target}/")
        process = await asyncio.create_subprocess_exec("rsync", "-rlpt", "-e", " ".join(ssh_words(used)), *ends)
        assert await process.wait() == 0

    return asyncio.run(_measured(site, folder, work, relayed=relayed))


def run(run: Run) -> Answer:
    """Every change, both ways, all in the same run."""
    if not shutil.which("rsync"):
        raise RuntimeError("there is no rsync to compare with: install it")
    size = run.pick(64, 16) * MIB
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    raw: dict[str, list[Measured]] = {}
    for change in CHANGES:
        with servers() as site, tempfile.TemporaryDirectory(dir=PLACE) as folder:
            _plant(Path(folder), size, change)
            for way in ("up", "down"):
                what = f"{change}, {way}"
                for key, unit, rounds in (("ms", "ms", run.pick(5, 1)), ("wire_kb", "kB", 1)):
                    options = {"folder": folder, "down": way == "down", "relayed": key == "wire_kb"}
                    entries = [
                        Entry("aioremote", aioremote_sync, site, options, note="durable, each file in one step"),
                        Entry("rsync", rsync, site, options),
                    ]
                    values = compete(entries, rounds, run.say)
                    found = figures_of(values, key, unit)
                    figures += [replace(figure, contestant=f"{figure.contestant}, {what}") for figure in found]
                    goal = f"rsync's {'time' if key == 'ms' else 'bytes on the wire'}, {what}"
                    verdicts.append(Verdict(goal, 1.2, values.ratio("aioremote", "rsync", key)))
                    raw |= {f"{what}, {key}: {name}": measured for name, measured in values.rounds.items()}
    return Answer("changed_file", f"{size // MIB} MiB, 1 % changed", figures, verdicts, raw=raw)
