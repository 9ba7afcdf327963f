"""How fast do bytes stream near → far → near through a pipeline, and how much memory does it take?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, Spread, compete
from benchmarks._meters import Stall, Used, metered, peak_bytes, reset_peak, resident_bytes, ticking
from benchmarks._server import servers

if TYPE_CHECKING:
    from aioremote import Machine

__all__ = ["far", "near", "pipeline", "run"]

MIB = 2**20
WARM = 4 * MIB
CHUNK = 2**16


def _measured(used: Used, size: int, grown: int, stall: Stall) -> Measured:
    mb = size / 1e6
    return {
        "mb_per_s": mb / used.wall_seconds,
        "cpu_s_per_gb": used.cpu_seconds / mb * 1e3,
        "grown_mib": grown / MIB,
        **stall.as_ms(),
    }


@asynccontextmanager
async def _machines(site: Site) -> AsyncGenerator[tuple[Machine, Machine]]:
    from aioremote import LocalMachine

    far = site.machine()
    async with LocalMachine() as near, far:
        yield near, far


async def _plain(machine: Machine, size: int) -> None:
    """Send zeros through a `cat` of the machine and drop what comes back."""
    block = bytes(CHUNK)
    async with machine.start("cat") as process:

        async def write() -> None:
            assert process.stdin is not None
            for _ in range(size // CHUNK):
                await process.stdin.send(block)
            await process.stdin.aclose()

        got = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            async for chunk in process.stdout:
                got += len(chunk)
        await process.wait()
    assert got == size


async def _piped(near: Machine, far: Machine, size: int) -> None:
    pipe = near["head"]["-c", size, "/dev/zero"] | far["cat"] | near["wc"]["-c"]
    assert int(await pipe()) == size


def pipeline(site: Site, size: int) -> Measured:
    """Stream from a near program through a far one to a near one."""

    async def work() -> Measured:
        async with _machines(site) as (near, far):
            await _piped(near, far, WARM)
            before = resident_bytes()
            reset_peak()
            async with ticking() as stall:
                with metered() as used:
                    await _piped(near, far, size)
        return _measured(used, size, peak_bytes() - before, stall)

    return asyncio.run(work())


def _alone(site: Site, size: int, *, index: int) -> Measured:
    async def work() -> Measured:
        async with _machines(site) as machines:
            await _plain(machines[index], WARM)
            before = resident_bytes()
            reset_peak()
            async with ticking() as stall:
                with metered() as used:
                    await _plain(machines[index], size)
        return _measured(used, size, peak_bytes() - before, stall)

    return asyncio.run(work())


def near(site: Site, size: int) -> Measured:
    """Stream through one near program."""
    return _alone(site, size, index=0)


def far(site: Site, size: int) -> Measured:
    """Stream through one far program."""
    return _alone(site, size, index=1)


def run(run: Run) -> Answer:
    """Compare with the slower of the machines alone, round by round."""
    mib = run.pick(1024, 128)
    load = {"size": mib * MIB}
    with servers() as site:
        entries = [
            Entry("aioremote", pipeline, site, load),
            Entry("far alone", far, site, load, note="one `cat`, in and out"),
            Entry("near alone", near, site, load, note="one `cat`, in and out"),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    alone = zip(values.rounds["far alone"], values.rounds["near alone"], strict=True)
    slower = [min(far["mb_per_s"], near["mb_per_s"]) for far, near in alone]
    ratios = [mine["mb_per_s"] / other for mine, other in zip(values.rounds["aioremote"], slower, strict=True)]
    growth, stall = values.spread("aioremote", "grown_mib"), values.spread("aioremote", "stall_ms")
    figures = figures_of(values, "mb_per_s", "MB/s")
    figures += [Figure("aioremote, RSS growth", growth, "MiB"), Figure("aioremote, loop stall", stall, "ms")]
    return Answer(
        "streaming",
        f"{mib:,} MiB near → far → near",
        figures,
        [
            Verdict("the slower machine alone", 0.8, Spread.of(ratios), at_least=True),
            Verdict("client RSS growth", 16, growth, unit="MiB"),
            Verdict("loop stall", 50, stall, unit="ms"),
        ],
        raw=values.rounds,
    )
