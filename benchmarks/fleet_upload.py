"""What does it cost to bring one file to many hosts?

100 MiB to 50 hosts (one sshd on 50 loopback addresses, each told another target): `fleet.upload`, which reads the file
once, against an scp for each host, all at once. Bytes read of files and growth of memory are the client's own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import come_first, metered, peak_bytes, reset_peak, resident_bytes, ticking
from benchmarks._server import addresses, servers

__all__ = ["ours", "run", "scp"]

PLACE = "/dev/shm"  # where no disk decides
_OWN = "it gets a core when it wants one (SCHED_RR), as it does where the servers run elsewhere"


def _read_bytes() -> int:
    """What this process has read of files, not of sockets."""
    return int(Path("/proc/self/io").read_text().split()[1])


def ours(site: Site, source: str, *, own_core: bool = False) -> Measured:
    """Upload by a fleet, over connections that are opened for it."""
    came_first = own_core and come_first()
    from aioremote import Fleet, HostKeys

    keys = HostKeys.strict(site.known_hosts)
    size = os.path.getsize(source)

    async def work(folder: str) -> Measured:
        fleet = Fleet(site.hosts, user=site.user, port=site.port, keyfile=site.keyfile, host_keys=keys, config=None)
        async with fleet:
            (await fleet.run("true")).raise_for_failures()
            await fleet.upload(__file__, f"{folder}/small")  # what is loaded once is not this file's
            before, read = resident_bytes(), _read_bytes()
            reset_peak()
            async with ticking() as stall:
                with metered() as used:
                    report = await fleet.upload(source, f"{folder}/target", timeout=600)
            grown, read = peak_bytes() - before, _read_bytes() - read
        report.raise_for_failures()
        assert os.path.getsize(f"{folder}/target") == size
        return {
            "mb_per_s": size * len(site.hosts) / used.wall_seconds / 1e6,
            "cpu_s": used.cpu_seconds,
            "growth_mib": grown / 2**20,
            "readings": read / size,
            "came_first": float(came_first),
            **stall.as_ms(),
        }

    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        return asyncio.run(work(folder))


def scp(site: Site, source: str) -> Measured:
    """Start an scp for every host."""
    options = [
        "-q",
        "-F",
        "none",
        "-P",
        str(site.port),
        "-i",
        site.keyfile,
        "-o",
        f"UserKnownHostsFile={site.known_hosts}",
    ]
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        began = time.perf_counter()
        with metered() as used:
            running = [
                subprocess.Popen(["scp", *options, source, f"{site.user}@{host}:{folder}/{host}"])
                for host in site.hosts
            ]
            assert [process.wait() for process in running] == [0] * len(running)
        elapsed = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"mb_per_s": size / elapsed / 1e6, "cpu_s": used.cpu_seconds}


def run(run: Run) -> Answer:
    """Both, in the same run."""
    hosts, size = run.pick(50, 10), run.pick(100, 10) * 2**20
    with servers(addresses(hosts)) as site, tempfile.NamedTemporaryFile(dir=PLACE) as source:
        source.write(os.urandom(size))
        source.flush()
        entries = [
            Entry("aioremote", ours, site, {"source": source.name}, note="one reading for all"),
            Entry("aioremote, own core", ours, site, {"source": source.name, "own_core": True}, note=_OWN),
            Entry("scp", scp, site, {"source": source.name}, note="one process a host"),
        ]
        values = compete(entries, run.pick(3, 1), run.say)
    figures = [*figures_of(values, "mb_per_s", "MB/s"), *figures_of(values, "cpu_s", "CPU s")]
    verdicts = [
        Verdict("growth of memory", 64, values.spread("aioremote", "growth_mib"), unit="MiB"),
        Verdict("readings of the source", 1.1, values.spread("aioremote", "readings")),
        Verdict("loop stall, sharing the cores", 50, values.spread("aioremote", "stall_ms"), unit="ms"),
    ]
    if values.spread("aioremote, own core", "came_first").low:
        stall = values.spread("aioremote, own core", "stall_ms")
        verdicts.append(Verdict("loop stall, with a core when it wants one", 50, stall, unit="ms"))
    return Answer("fleet_upload", f"{size >> 20} MiB to {hosts} hosts", figures, verdicts, raw=values.rounds)
