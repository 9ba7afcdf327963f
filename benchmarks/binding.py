"""What does it cost to bind a command of twenty arguments and to quote it?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers

__all__ = ["ours", "run", "shlex_join"]

ARGUMENTS = [f"--option-{number}=some value" if number % 3 else f"/srv/data/file-{number}" for number in range(20)]


def _measured(repeat: int, one: Callable[[], str]) -> Measured:
    """Return microseconds for one of so many, the best of ten turns."""
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(repeat):
            one()
        best = min(best, time.perf_counter() - began)
    return {"us": best / repeat * 1e6}


def ours(site: Site, repeat: int) -> Measured:
    """Bind the arguments to a command and show its far command line."""
    from aioremote import LocalMachine

    program = LocalMachine()["program"]
    assert str(program[ARGUMENTS]) == shlex.join(["program", *ARGUMENTS])
    return _measured(repeat, lambda: str(program[ARGUMENTS]))


def shlex_join(site: Site, repeat: int) -> Measured:
    """Quote the same words."""
    return _measured(repeat, lambda: shlex.join(["program", *ARGUMENTS]))


def run(run: Run) -> Answer:
    """Compare microseconds."""
    load = {"repeat": run.pick(2000, 200)}
    with servers() as site:
        entries = [Entry("aioremote", ours, site, load), Entry("shlex.join", shlex_join, site, load)]
        values = compete(entries, run.pick(7, 3), run.say)
    return Answer(
        "binding",
        "binding and quoting a command of 20 arguments",
        figures_of(values, "us", "µs"),
        [Verdict("shlex.join", 3.0, values.ratio("aioremote", "shlex.join", "us"))],
        raw=values.rounds,
    )
