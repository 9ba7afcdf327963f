"""How long does it take to see that nothing has changed?

A tree of 5,000 files of 1 to 16 KiB in 50 directories that is there already: `Machine.sync` against rsync, both over a
connection that is open, and over one that they open for it.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._copying import PLACE, plant, shared_ssh, ssh_words
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import metered, ticking
from benchmarks._server import servers

__all__ = ["aioremote", "rsync", "run"]

SIZES = (1024, 16 * 1024)


def aioremote(site: Site, source: str) -> Measured:
    """Sync to a copy that is the same, over an open connection and over a new one."""
    from aioremote import SshMachine

    def machine() -> SshMachine:
        return site.machine()

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with machine() as first:
                await first.sync(source, folder)
            async with machine() as near:
                await near.python.version()  # the outpost belongs to a connection that is in use, and so do imports
                async with ticking() as stall:
                    with metered() as used:
                        report = await near.sync(source, folder)
            assert not report.sent
            began = time.perf_counter()
            async with machine() as another:
                await another.sync(source, folder)
            whole = time.perf_counter() - began
        return {"open_s": used.wall_seconds, "whole_s": whole, "cpu_s": used.cpu_seconds, **stall.as_ms()}

    return asyncio.run(work())


def rsync(site: Site, source: str) -> Measured:
    """Let rsync do the same."""
    with tempfile.TemporaryDirectory(dir=PLACE) as folder, shared_ssh(site) as shared:

        def once(ssh: list[str]) -> float:
            target = f"{site.user}@{site.hosts[0]}:{folder}"
            began = time.perf_counter()
            subprocess.run(["rsync", "-rlpt", "-e", " ".join(ssh), f"{source}/", target], check=True)
            return time.perf_counter() - began

        once(shared)
        return {"open_s": once(shared), "whole_s": once(ssh_words(site))}


def run(run: Run) -> Answer:
    """Both, in the same run."""
    files = run.pick(5000, 500)
    with servers() as site, tempfile.TemporaryDirectory(dir=PLACE) as folder:
        plant(Path(folder), files, SIZES)
        entries = [
            Entry("aioremote", aioremote, site, {"source": folder}, note="over an open connection"),
            Entry("rsync", rsync, site, {"source": folder}, note="over a shared connection"),
        ]
        values = compete(entries, run.pick(5, 1), run.say)
    verdicts = [
        Verdict("rsync, connection open", 1.0, values.ratio("aioremote", "rsync", "open_s")),
        Verdict("rsync, connection made for it", 1.0, values.ratio("aioremote", "rsync", "whole_s")),
        Verdict("loop stall", 50, values.spread("aioremote", "stall_ms"), unit="ms"),
    ]
    figures = [*figures_of(values, "open_s", "ms", scale=1000)]
    return Answer("sync_unchanged", f"an unchanged tree of {files:,} files", figures, verdicts, raw=values.rounds)
