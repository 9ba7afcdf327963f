"""How many far Python calls a second over ssh: one after another, 64 at once; and how many bytes there and back?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from benchmarks import _callers
from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._callers import AT_ONCE, Caller, double
from benchmarks._measure import Entry, Measured, Site, Spread, Values, compete
from benchmarks._meters import metered
from benchmarks._server import servers

if TYPE_CHECKING:
    from aioremote import Machine

__all__ = ["execnet", "mitogen", "ours", "rpyc", "run"]

WARM = 50
BLOCK = bytes(range(256)) * 4096  # 1 MiB
PEERS = ("mitogen", "execnet", "rpyc")
UNITS = {
    "one_per_s": "calls/s, one after another",
    "many_per_s": f"calls/s, {AT_ONCE} at once",
    "mib_per_s": "MiB/s there and back",
}


def play(connected: AbstractContextManager[Caller], calls: int, blocks: int) -> Measured:
    """Measure a peer."""
    with connected as (call, many):
        assert list(many(range(WARM))) == list(range(WARM))
        with metered() as one:
            for number in range(calls):
                assert call(number) == number
        with metered() as at_once:
            assert len(many(range(5 * calls))) == 5 * calls
        assert call(BLOCK) == BLOCK
        with metered() as bulk:
            for _ in range(blocks):
                call(BLOCK)
    return {
        "one_per_s": calls / one.wall_seconds,
        "many_per_s": 5 * calls / at_once.wall_seconds,
        "mib_per_s": blocks / bulk.wall_seconds,
    }


async def play_machine(made: Callable[[], Machine], calls: int, blocks: int) -> Measured:
    """Measure a machine of ours."""
    async with made() as machine:
        call = machine.python.call

        async def many(count: int) -> None:
            numbers = iter(range(count))

            async def work() -> None:
                for number in numbers:
                    assert await call(double, number) == number

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())

        await many(WARM)
        with metered() as one:
            for number in range(calls):
                assert await call(double, number) == number
        with metered() as at_once:
            await many(5 * calls)
        assert await call(double, BLOCK) == BLOCK
        with metered() as bulk:
            for _ in range(blocks):
                await call(double, BLOCK)
    return {
        "one_per_s": calls / one.wall_seconds,
        "many_per_s": 5 * calls / at_once.wall_seconds,
        "mib_per_s": blocks / bulk.wall_seconds,
    }


def mitogen(site: Site, calls: int, blocks: int) -> Measured:
    """Call with mitogen."""
    return play(_callers.mitogen(site), calls, blocks)


def execnet(site: Site, calls: int, blocks: int) -> Measured:
    """Call with execnet."""
    return play(_callers.execnet(site), calls, blocks)


def rpyc(site: Site, calls: int, blocks: int) -> Measured:
    """Call with rpyc."""
    return play(_callers.rpyc(site), calls, blocks)


def ours(site: Site, calls: int, blocks: int) -> Measured:
    """Call with `Machine.python`: the function travels as source, and each call runs in a worker process."""

    def made() -> Machine:
        return site.machine()

    return asyncio.run(play_machine(made, calls, blocks))


def best(values: Values, key: str, peers: Sequence[str] = PEERS) -> Spread:
    """Return our figure over the best peer's, round by round."""
    best = [max(rounds) for rounds in zip(*([m[key] for m in values.rounds[peer]] for peer in peers), strict=True)]
    return Spread.of([mine[key] / theirs for mine, theirs in zip(values.rounds["aioremote"], best, strict=True)])


def run(run: Run) -> Answer:
    """Compare over a real sshd; every peer uses its own way over the system's ssh."""
    load = {"calls": run.pick(2000, 400), "blocks": run.pick(60, 10)}
    with servers() as site:
        entries = [Entry("aioremote", ours, site, load, note="in worker processes")]
        entries += [Entry(name, globals()[name], site, load) for name in PEERS]
        values = compete(entries, run.pick(5, 2), run.say)
    return Answer(
        "calls",
        "calls of a far Python function over ssh",
        [Figure(name, values.spread(name, key), unit) for key, unit in UNITS.items() for name in values.rounds],
        [
            Verdict("the best peer, one after another", 1.0, best(values, "one_per_s"), at_least=True),
            Verdict(f"the best peer, {AT_ONCE} at once", 1.5, best(values, "many_per_s"), at_least=True),
            Verdict("the best peer, 1 MiB there and back", 6.0, best(values, "mib_per_s"), at_least=True),
        ],
        raw=values.rounds,
    )
