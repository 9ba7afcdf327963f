"""How fast does one big file go up and down?

512 MiB over a connection that is open, by the same cipher (aes128-gcm): aioremote, durable off, against `ssh cat`,
asyncssh's own SFTP, scp and rsync. CPU is the client's: this process with its children.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._copying import PLACE, shared_ssh
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import metered, ticking
from benchmarks._server import servers

__all__ = ["aioremote", "asyncssh_sftp", "program", "run"]

CIPHER = "aes128-gcm@openssh.com"
WAYS = ("up", "down")


def aioremote(site: Site, source: str, down: bool, engine: str) -> Measured:
    """Upload or download it."""

    machine = site.machine()

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with machine, ticking() as stall:
                move = machine.download if down else machine.upload
                await machine.upload(__file__, f"{folder}/small", engine=engine)
                with metered() as used:
                    report = await move(source, f"{folder}/file", durable=False, engine=engine)
            assert os.path.getsize(f"{folder}/file") == report.bytes
        return {
            "mb_per_s": report.bytes / used.wall_seconds / 1e6,
            "cpu_s": used.cpu_seconds,
            **stall.as_ms(),
        }

    return asyncio.run(work())


def asyncssh_sftp(site: Site, source: str, down: bool) -> Measured:
    """Put or get it."""
    import asyncssh

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with (
                asyncssh.connect(
                    site.hosts[0],
                    site.port,
                    username=site.user,
                    client_keys=[site.keyfile],
                    known_hosts=site.known_hosts,
                    config=None,
                    encryption_algs=[CIPHER],
                ) as connection,
                connection.start_sftp_client() as sftp,
            ):
                with metered() as used:
                    await (sftp.get if down else sftp.put)(source, f"{folder}/file")
            return {"mb_per_s": os.path.getsize(f"{folder}/file") / used.wall_seconds / 1e6, "cpu_s": used.cpu_seconds}

    return asyncio.run(work())


def program(site: Site, source: str, line: str) -> Measured:
    """Run a line of shell that copies; "{source}", "{target}", "{host}" and "{ssh}" in it are filled in."""
    with tempfile.TemporaryDirectory(dir=PLACE) as folder, shared_ssh(site, "-c", CIPHER) as shared:
        names = {"source": source, "target": f"{folder}/file", "host": f"{site.user}@{site.hosts[0]}"}
        control = " ".join(shared)
        options = " ".join(shared[1:]).replace("-p ", "-P ").replace(" -S ", " -o ControlPath=")
        with metered() as used:
            subprocess.run(["/bin/sh", "-c", line.format(**names, ssh=control, scp=f"scp -q {options}")], check=True)
        return {"mb_per_s": os.path.getsize(names["target"]) / used.wall_seconds / 1e6}


def _programs(site: Site, source: str, *, down: bool) -> Sequence[Entry]:
    lines = {
        "ssh cat": ("{ssh} {host} 'cat > {target}' < {source}", "{ssh} {host} 'cat {source}' > {target}"),
        "scp": ("{scp} {source} {host}:{target}", "{scp} {host}:{source} {target}"),
        "rsync": (
            "rsync -W --inplace -e '{ssh}' {source} {host}:{target}",
            "rsync -W --inplace -e '{ssh}' {host}:{source} {target}",
        ),
    }
    return [Entry(name, program, site, {"source": source, "line": line[down]}) for name, line in lines.items()]


def run(run: Run) -> Answer:
    """Both ways, all in the same run."""
    size = run.pick(512, 64) * 2**20
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    raw: dict[str, list[Measured]] = {}
    with servers() as site, tempfile.NamedTemporaryFile(dir=PLACE) as source:
        source.write(os.urandom(size))
        source.flush()
        for way in WAYS:
            ours = {"source": source.name, "down": way == "down"}
            entries = [
                Entry("aioremote", aioremote, site, {**ours, "engine": "auto"}),
                Entry("aioremote, outpost", aioremote, site, {**ours, "engine": "outpost"}),
                *_programs(site, source.name, down=way == "down"),
                Entry("asyncssh sftp", asyncssh_sftp, site, ours),
            ]
            values = compete(entries, run.pick(3, 1), run.say)
            found = figures_of(values, "mb_per_s", "MB/s")
            figures += [replace(figure, contestant=f"{figure.contestant}, {way}") for figure in found]
            ratio = values.ratio("aioremote", "ssh cat", "mb_per_s")
            verdicts.append(Verdict(f"ssh cat, {way}", 0.95, ratio, at_least=True))
            verdicts.append(Verdict(f"loop stall, {way}", 50, values.spread("aioremote", "stall_ms"), unit="ms"))
            raw |= {f"{way}: {name}": rounds for name, rounds in values.rounds.items()}
    return Answer("big_file", f"one file of {size >> 20} MiB", figures, verdicts, raw=raw)
