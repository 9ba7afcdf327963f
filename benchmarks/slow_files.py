"""What do small files cost where a round trip takes 40 ms?

200 files of 1 to 16 KiB up and down over a connection that is in use: aioremote with its outpost against rsync over
ssh's shared connection; and the first tree of a connection, for which the outpost is brought up.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._copying import PLACE, count, plant, shared_ssh
from benchmarks._link import slow_link
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers

__all__ = ["aioremote", "rsync", "run"]

DELAY = 0.02  # each way
SIZES = (1024, 16 * 1024)


def aioremote(site: Site, source: str, files: int, down: bool, how: str) -> Measured:
    """Copy the tree, or sync it to an empty directory; or copy it where an outpost is to be brought up first."""

    machine = site.machine()

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with machine:
                if how != "first":
                    await machine.python.version()  # the outpost belongs to a connection that is in use
                began = time.perf_counter()
                if how == "sync":
                    far = machine.path(source if down else f"{folder}/tree")
                    await machine.sync(*((far, f"{folder}/tree") if down else (source, far)))
                else:
                    await (machine.download if down else machine.upload)(source, f"{folder}/tree")
                elapsed = time.perf_counter() - began
            assert count(folder) == files
        return {"seconds": elapsed}

    return asyncio.run(work())


def rsync(site: Site, source: str, files: int, down: bool) -> Measured:
    """Let rsync do the same."""
    with tempfile.TemporaryDirectory(dir=PLACE) as folder, shared_ssh(site) as shared:
        host = f"{site.user}@{site.hosts[0]}:"
        ends = (f"{host}{source}/", f"{folder}/tree") if down else (f"{source}/", f"{host}{folder}/tree")
        began = time.perf_counter()
        subprocess.run(["rsync", "-rlpt", "-e", " ".join(shared), *ends], check=True)
        elapsed = time.perf_counter() - began
        assert count(folder) == files
    return {"seconds": elapsed}


def run(run: Run) -> Answer:
    """Both ways, all in the same run."""
    files = 200
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    raw: dict[str, list[Measured]] = {}
    with servers() as near, slow_link(near, DELAY) as site, tempfile.TemporaryDirectory(dir=PLACE) as folder:
        plant(Path(folder), files, SIZES)
        for way in ("up", "down"):
            options = {"source": folder, "files": files, "down": way == "down"}
            entries = [
                Entry("aioremote", aioremote, site, {**options, "how": "copy"}),
                Entry("aioremote sync", aioremote, site, {**options, "how": "sync"}),
                Entry("aioremote, first", aioremote, site, {**options, "how": "first"}, note="brings the outpost up"),
                Entry("rsync", rsync, site, options),
            ]
            values = compete(entries, run.pick(5, 1), run.say)
            found = figures_of(values, "seconds", "ms", scale=1000)
            figures += [replace(figure, contestant=f"{figure.contestant}, {way}") for figure in found]
            verdicts.append(Verdict(f"rsync, {way}", 0.5, values.ratio("aioremote", "rsync", "seconds")))
            raw |= {f"{way}: {name}": rounds for name, rounds in values.rounds.items()}
    return Answer("slow_files", f"{files} files of 1 to 16 KiB at 40 ms", figures, verdicts, raw=raw)
