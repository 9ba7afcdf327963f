"""Does client CPU per host stay the same when there are ten times as many hosts?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._fleets import ours, parallel_ssh, shared_asyncssh
from benchmarks._measure import Entry, Values, compete
from benchmarks._server import addresses, servers

__all__ = ["run"]

PEERS = {"asyncssh, shared options": shared_asyncssh, "parallel-ssh": parallel_ssh}


def run(run: Run) -> Answer:
    """Compare 200 hosts with 2,000; peers and the sizes between play once, for the plot."""
    sizes = [32, 128] if run.quick else [200, 500, 1000, 2000]
    small, large = sizes[0], sizes[-1]
    with servers(addresses(large)) as everything:
        sites = {size: replace(everything, hosts=everything.hosts[:size]) for size in sizes}
        ends = [Entry(f"aioremote, {size:,}", ours, sites[size]) for size in (small, large)]
        between = [Entry(f"aioremote, {size:,}", ours, sites[size], rounds=1) for size in sizes[1:-1]]
        peers = [Entry(f"{n}, {size:,}", f, sites[size], rounds=1) for n, f in PEERS.items() for size in sizes]
        values = compete([*ends, *between, *peers], run.pick(3, 2), run.say)
    return Answer(
        "growth",
        f"client CPU per host at {large:,} hosts / at {small:,}",
        [f for f in figures_of(values, "cpu_ms", "ms") if f.contestant.endswith((f", {small:,}", f", {large:,}"))],
        [
            Verdict(
                "our own CPU per host", 1.1, values.ratio(f"aioremote, {large:,}", f"aioremote, {small:,}", "cpu_ms")
            )
        ],
        raw=values.rounds,
        curves={name: _curve(values, name, sizes) for name in ("aioremote", *PEERS)},
    )


def _curve(values: Values, name: str, sizes: list[int]) -> list[tuple[float, float]]:
    return [(size, values.spread(f"{name}, {size:,}", "cpu_ms").median) for size in sizes]
