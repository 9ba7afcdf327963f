"""What does a message of 64 bytes cost over an outpost link, there and back, beside the pipe itself?"""

from __future__ import annotations

import asyncio
import time

from aioremote.outpost.channel import Channel
from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, compete
from benchmarks._meters import come_first
from benchmarks._outposts import HERE, linked, piped

__all__ = ["over_a_link", "over_a_pipe", "run"]

MESSAGE = bytes(64)
ECHO = "import os\nwhile True:\n d = os.read(0, 65536)\n if not d: break\n os.write(1, d)"


def _measured(cpu: float, wall: float, count: int) -> Measured:
    return {"near_cpu_us": cpu / count * 1e6, "wall_us": wall / count * 1e6}


def over_a_link(site: object, count: int) -> Measured:
    """Send and receive on one channel, one message after another."""

    async def work() -> Measured:
        come_first()
        async with linked() as link, Channel(link, "echo") as channel:
            for warm in (200, count):
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(warm):
                    await channel.send_message(MESSAGE)
                    await channel.receive_message()
            return _measured(time.process_time() - cpu, time.perf_counter() - wall, count)

    return asyncio.run(work())


def over_a_pipe(site: object, count: int) -> Measured:
    """Write and read the same bytes without frames."""

    async def work() -> Measured:
        come_first()
        async with piped(ECHO) as process:
            assert process.stdin is not None
            for warm in (200, count):
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(warm):
                    await process.stdin.send(MESSAGE)
                    await process.stdout.receive()
            return _measured(time.process_time() - cpu, time.perf_counter() - wall, count)

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare near CPU and time."""
    load = {"count": run.pick(20_000, 3_000)}
    entries = [
        Entry("aioremote", over_a_link, HERE, load),
        Entry("plain pipe", over_a_pipe, HERE, load),
    ]
    values = compete(entries, run.pick(7, 3), run.say)
    return Answer(
        "link_round_trip",
        "near CPU of a 64-byte message over a link, there and back",
        [
            *figures_of(values, "near_cpu_us", "us"),
            Figure("aioremote, time", values.spread("aioremote", "wall_us"), "us"),
            Figure("plain pipe, time", values.spread("plain pipe", "wall_us"), "us"),
        ],
        [
            Verdict("near CPU", 60, values.spread("aioremote", "near_cpu_us"), unit="us"),
            Verdict("plain asyncio pipe, CPU", 2.5, values.ratio("aioremote", "plain pipe", "near_cpu_us")),
        ],
        raw=values.rounds,
    )
