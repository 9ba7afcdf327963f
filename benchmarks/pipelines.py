"""How long do three far stages take that write 5,000 lines each to both streams?"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import tempfile
from pathlib import Path

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import Used, metered
from benchmarks._server import servers

__all__ = ["control_master", "openssh", "ours", "run"]

LINES = 5000
STAGES = [
    f"{'cat; ' if stage else ''}awk 'BEGIN {{ for (i = 0; i < {LINES}; i++) "
    f'{{ print "stage {stage} line " i; print "stage {stage} trouble " i > "/dev/stderr" }} }}\''
    for stage in range(3)
]


def _measured(used: Used) -> Measured:
    return {"ms": used.wall_seconds * 1e3, "cpu_ms": used.cpu_seconds * 1e3}


def ours(site: Site, warm: bool) -> Measured:
    """Run the pipeline; connecting counts unless `warm`. Each stage's standard error is told apart."""

    async def work() -> Measured:
        far = site.machine()
        one, two, three = (far["sh"]["-c", stage] for stage in STAGES)
        async with site.machine() as first:  # pays for the imports
            await first["true"]()
        if warm:
            await (one | two).run()
        with metered() as used:
            result = await (one | two | three).run()
            if not warm:
                await far.aclose()
        await far.aclose()
        assert result.stdout.count("\n") == 3 * LINES
        assert [end.stderr.count("\n") for end in result.stages] == [LINES] * 3
        return _measured(used)

    return asyncio.run(work())


def _ssh(site: Site, *options: str) -> list[str]:
    base = ["ssh", "-F", "/dev/null", "-o", f"UserKnownHostsFile={site.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
    return [*base, *options, "-p", str(site.port), "-i", site.keyfile, "-l", site.user]


def _line() -> str:
    return " | ".join(f"sh -c {shlex.quote(stage)}" for stage in STAGES)


def _run_line(command: list[str]) -> Used:
    with metered() as used:
        done = subprocess.run([*command, _line()], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert (done.stdout.count(b"\n"), done.stderr.count(b"\n")) == (3 * LINES, 3 * LINES)
    return used


def openssh(site: Site) -> Measured:
    """Let one ssh run the same as a line of shell; the standard errors come mixed."""
    return _measured(_run_line([*_ssh(site), site.hosts[0]]))


def control_master(site: Site) -> Measured:
    """Do the same over a connection that stands."""
    with tempfile.TemporaryDirectory() as name:
        base = _ssh(site, "-S", str(Path(name) / "master"))
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*base, "-M", "-N", "-f", site.hosts[0]], check=True, **quiet)
        try:
            return _measured(_run_line([*base, site.hosts[0]]))
        finally:
            subprocess.run([*base, "-O", "exit", site.hosts[0]], check=True, **quiet)


def run(run: Run) -> Answer:
    """Compare elapsed time."""
    with servers() as site:
        entries = [
            Entry("aioremote", ours, site, {"warm": False}, note="connecting included"),
            Entry("aioremote, connected", ours, site, {"warm": True}),
            Entry("ssh", openssh, site, note="connecting included"),
            Entry("ssh, ControlMaster", control_master, site),
        ]
        values = compete(entries, run.pick(11, 3), run.say)
    return Answer(
        "pipelines",
        f"three far stages with {LINES:,} lines each on both streams",
        figures_of(values, "ms", "ms"),
        [
            Verdict("ssh", 1.5, values.ratio("aioremote", "ssh", "ms")),
            Verdict("ssh, ControlMaster", 1.5, values.ratio("aioremote, connected", "ssh, ControlMaster", "ms")),
        ],
        raw=values.rounds,
    )
