"""How many round trips do bringing an outpost up, one command and 64 at once on it take over a link of 40 ms?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._link import slow_link
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers

__all__ = ["ours", "run"]

ROUND_TRIP_SECONDS = 0.04
AT_ONCE = 64
REPEATS = 5
KINDS = {
    "boot": "an outpost, after connect",
    "one": "one command",
    "many": f"{AT_ONCE} commands at once",
    "call": "one Python call",
}
GOALS = {"boot": 3.7, "one": 1.2, "many": 2.8, "call": 1.2}


async def _least(work: Callable[[], Awaitable[object]]) -> float:
    """Return the round trips that the fastest of some runs takes: the rest is this machine's other load."""
    taken: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - started) / ROUND_TRIP_SECONDS)
    return min(taken)


def _absolute(value: int) -> int:
    return abs(value)


def ours(site: Site) -> Measured:
    """Launch outposts over one connection; then run on a machine that has one."""
    from aioremote import SshMachine
    from aioremote._core.deadline import Deadline
    from aioremote.outpost.launch import Launched, launch

    async def work() -> Measured:

        def machine(outpost: str) -> SshMachine:
            return site.machine(outpost=outpost)

        launched: list[Launched] = []
        async with machine("never") as plain:

            async def boot() -> None:
                launched.append(await launch(plain.transport, deadline=Deadline(30)))

            boots = await _least(boot)
            for one in launched:
                await one.process.aclose()
        async with machine("always") as connected:

            async def many() -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(_ignore(connected.run("true")))

            await connected.run("true")
            await connected.python.call(_absolute, -1)
            return {
                "boot": boots,
                "one": await _least(lambda: connected.run("true")),
                "many": await _least(many),
                "call": await _least(lambda: connected.python.call(_absolute, -1)),
            }

    return asyncio.run(work())


async def _ignore(work: Awaitable[object]) -> None:
    await work


def run(run: Run) -> Answer:
    """Measure in units of the round trip; the server's own time, and that of the far programs, is in it."""
    with servers() as site, slow_link(site, ROUND_TRIP_SECONDS / 2) as link:
        values = compete([Entry("aioremote", ours, link)], run.pick(5, 2), run.say)
    return Answer(
        "outpost_trips",
        f"at {ROUND_TRIP_SECONDS * 1e3:.0f} ms round trip: an outpost; one command on it; {AT_ONCE} at once; one call",
        [Figure(text, values.spread("aioremote", key), "RTT") for key, text in KINDS.items()],
        [Verdict(KINDS[key], goal, values.spread("aioremote", key), unit="RTT") for key, goal in GOALS.items()],
        [f"each the least of {REPEATS} runs; READY is waited for before anything of the outpost is sent"],
        values.rounds,
    )
