"""How much client CPU does a cold fan-out cost: connect, run one command, close, on 200 hosts?"""

from __future__ import annotations

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._fleets import WINDOW, clush, ours, parallel_ssh, plain_asyncssh, shared_asyncssh
from benchmarks._measure import Entry, compete
from benchmarks._server import addresses, servers

__all__ = ["run"]


def run(run: Run) -> Answer:
    """Compare client CPU per host with everybody's."""
    count = run.pick(200, 64)
    with servers(addresses(count)) as site:
        entries = [
            Entry("aioremote", ours, site),
            Entry("asyncssh", plain_asyncssh, site, note="as most people write it"),
            Entry("asyncssh, shared options", shared_asyncssh, site),
            Entry("parallel-ssh", parallel_ssh, site, note="no host key check"),
            Entry("clush", clush, site, rounds=2),
        ]
        values = compete(entries, run.pick(7, 2), run.say)
    return Answer(
        "fan_out",
        f"cold fan-out, {count} hosts, connect + run + close, {WINDOW} at once: client CPU per host",
        figures_of(values, "cpu_ms", "ms"),
        [
            Verdict("parallel-ssh", 1.0, values.ratio("aioremote", "parallel-ssh", "cpu_ms")),
            Verdict("asyncssh", 0.3, values.ratio("aioremote", "asyncssh", "cpu_ms")),
        ],
        raw=values.rounds,
    )
