"""How fast is one bulk channel of an outpost link on a local pipe, beside the pipe itself?"""

from __future__ import annotations

import asyncio

from aioremote.outpost.channel import Channel
from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, compete
from benchmarks._meters import Used, metered
from benchmarks._outposts import HERE, Reader, linked, piped

__all__ = ["pipe_in", "pipe_out", "run", "towards_far", "towards_near"]

MIB = 2**20
BLOCK = MIB // 4
WRITES = "import os, sys; n = int(sys.stdin.readline()); b = bytes(65536)\nfor _ in range(n // 65536): os.write(1, b)"
READS = "import os\nwhile os.read(0, 262144): pass"


def _measured(used: Used, size: int) -> Measured:
    return {"mb_per_s": size / 1e6 / used.wall_seconds}


def towards_near(site: object, size: int) -> Measured:
    """Read a channel by a handler."""

    async def work() -> Measured:
        async with linked() as link:
            await Reader(link, str(32 * MIB).encode(), 4 * MIB).done.wait()
            with metered() as used:
                await Reader(link, str(size).encode(), 4 * MIB).done.wait()
        return _measured(used, size)

    return asyncio.run(work())


def towards_far(site: object, size: int) -> Measured:
    """Send over a channel until the far end has told its count and checksum."""

    async def work() -> Measured:
        block = bytes(BLOCK)
        async with linked() as link, Channel(link, "discard") as channel:
            with metered() as used:
                for _ in range(size // BLOCK):
                    await channel.send(block)
                channel.eof()
                await channel.receive_message()
        return _measured(used, size)

    return asyncio.run(work())


def pipe_in(site: object, size: int) -> Measured:
    """Read a plain pipe by a callback."""

    async def work() -> Measured:
        done, got = asyncio.Event(), 0

        def count(data: bytes) -> None:
            nonlocal got
            got += len(data)

        async with piped(WRITES) as process:
            process.stdout.divert(count, done.set)
            assert process.stdin is not None
            with metered() as used:
                await process.stdin.send(f"{size}\n".encode())
                await done.wait()
        assert got == size
        return _measured(used, size)

    return asyncio.run(work())


def pipe_out(site: object, size: int) -> Measured:
    """Write to a plain pipe until its reader has ended."""

    async def work() -> Measured:
        block = bytes(BLOCK)
        async with piped(READS) as process:
            assert process.stdin is not None
            with metered() as used:
                for _ in range(size // BLOCK):
                    await process.stdin.send(block)
                await process.stdin.aclose()
                await process.wait()
        return _measured(used, size)

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare throughput both ways."""
    mib = run.pick(1024, 256)
    load = {"size": mib * MIB}
    entries = [
        Entry("aioremote, towards us", towards_near, HERE, load),
        Entry("aioremote, away from us", towards_far, HERE, load, note="with a checksum at the far end"),
        Entry("plain pipe, towards us", pipe_in, HERE, load),
        Entry("plain pipe, away from us", pipe_out, HERE, load),
    ]
    values = compete(entries, run.pick(5, 2), run.say)
    towards = values.ratio("aioremote, towards us", "plain pipe, towards us", "mb_per_s")
    away = values.ratio("aioremote, away from us", "plain pipe, away from us", "mb_per_s")
    return Answer(
        "link_bulk",
        f"{mib:,} MiB over one channel of a link on a local pipe",
        figures_of(values, "mb_per_s", "MB/s"),
        [
            Verdict("plain asyncio pipe, towards us", 0.5, towards, at_least=True),
            Verdict("plain asyncio pipe, away from us", 0.4, away, at_least=True),
        ],
        raw=values.rounds,
    )
