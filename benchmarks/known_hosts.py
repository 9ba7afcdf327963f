"""What does a known_hosts file of 10,000 lines cost a cold fan-out, plain and hashed?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._fleets import ours, plain_asyncssh
from benchmarks._measure import Entry, compete
from benchmarks._server import addresses, servers, with_known_hosts

__all__ = ["run"]

LINES = 10_000
FEW = 20  # hosts for plain asyncssh, whose cost per host does not depend on their number


def run(run: Run) -> Answer:
    """Compare our fan-out with each file and without."""
    count = run.pick(200, 64)
    with servers(addresses(count)) as site, tempfile.TemporaryDirectory() as name:
        plain = with_known_hosts(site, Path(name), lines=LINES, hashed=False)
        hashed = with_known_hosts(site, Path(name), lines=LINES, hashed=True)
        few = site.hosts[:FEW]
        entries = [
            Entry("aioremote, without the file", ours, site, note=f"{count} lines: only these hosts"),
            Entry("aioremote, plain", ours, plain),
            Entry("aioremote, hashed", ours, hashed),
            Entry("asyncssh, plain", plain_asyncssh, replace(plain, hosts=few), rounds=2, note=f"{FEW} hosts"),
            Entry("asyncssh, hashed", plain_asyncssh, replace(hashed, hosts=few), rounds=2, note=f"{FEW} hosts"),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    base = "aioremote, without the file"
    return Answer(
        "known_hosts",
        f"the same with {LINES:,} lines of known_hosts: client CPU per host, reading the file included",
        figures_of(values, "cpu_ms", "ms"),
        [
            Verdict("plain, our own without the file", 1.2, values.ratio("aioremote, plain", base, "cpu_ms")),
            Verdict("hashed, our own without the file", 4.0, values.ratio("aioremote, hashed", base, "cpu_ms")),
        ],
        ["all hosts share one host key, which is the slowest case for hashed lines"],
        values.rounds,
    )
