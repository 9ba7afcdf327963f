"""How many small files a second go up and down?

5,000 files of 1 to 16 KiB in 50 directories, over one connection that is opened for it: aioremote, with every file
beside its target first, against asyncssh's own SFTP, scp, rsync and tar through ssh.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._copying import PLACE, count, plant, ssh_words
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import ticking
from benchmarks._server import servers

__all__ = ["aioremote_down", "aioremote_up", "asyncssh_down", "asyncssh_up", "program", "run"]

SIZES = (1024, 16 * 1024)


def _aioremote(site: Site, source: str, *, down: bool) -> Measured:

    machine = site.machine()

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with machine, ticking() as stall:
                began = time.perf_counter()
                report = await (machine.download if down else machine.upload)(source, f"{folder}/tree")
                elapsed = time.perf_counter() - began
            assert count(folder) == report.files
        return {"files_per_s": report.files / elapsed, **stall.as_ms()}

    return asyncio.run(work())


def aioremote_up(site: Site, source: str) -> Measured:
    """Upload the tree."""
    return _aioremote(site, source, down=False)


def aioremote_down(site: Site, source: str) -> Measured:
    """Download the tree."""
    return _aioremote(site, source, down=True)


def _asyncssh(site: Site, source: str, *, down: bool) -> Measured:
    import asyncssh

    async def work() -> Measured:
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            async with asyncssh.connect(
                site.hosts[0],
                site.port,
                username=site.user,
                client_keys=[site.keyfile],
                known_hosts=site.known_hosts,
                config=None,
            ) as connection:
                began = time.perf_counter()
                async with connection.start_sftp_client() as sftp:
                    await (sftp.get if down else sftp.put)(source, f"{folder}/tree", recurse=True)
                elapsed = time.perf_counter() - began
            return {"files_per_s": count(folder) / elapsed}

    return asyncio.run(work())


def asyncssh_up(site: Site, source: str) -> Measured:
    """Put the tree."""
    return _asyncssh(site, source, down=False)


def asyncssh_down(site: Site, source: str) -> Measured:
    """Get the tree."""
    return _asyncssh(site, source, down=True)


def program(site: Site, source: str, argv: Sequence[str], stdin: Sequence[str] = ()) -> Measured:
    """Run a program that copies; "{source}", "{target}", "{host}" and "{ssh}" in its arguments are filled in."""
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        target = f"{folder}/tree"
        Path(target).mkdir()
        names = {
            "source": source,
            "target": target,
            "host": f"{site.user}@{site.hosts[0]}",
            "ssh": " ".join(ssh_words(site)),
        }

        def filled(words: Sequence[str]) -> str:
            return " ".join(word.format(**names) for word in words)

        line = filled(argv) if not stdin else f"{filled(stdin)} | {filled(argv)}"
        began = time.perf_counter()
        subprocess.run(["/bin/sh", "-c", line], check=True)
        elapsed = time.perf_counter() - began
        return {"files_per_s": count(target) / elapsed}


def _programs(site: Site, source: str, *, down: bool) -> list[Entry]:
    far, near = "{host}:", ""
    ends = (far + "{source}", near + "{target}") if down else (near + "{source}", far + "{target}")
    options = f"-q -r -F none -P {site.port} -i {site.keyfile} -o UserKnownHostsFile={site.known_hosts}"
    pack, unpack = ["tar -C {source} -cf - ."], ["tar -C {target} -xf -"]
    tar = (unpack, ["{ssh} {host} ", *pack]) if down else (["{ssh} {host} ", *unpack], pack)
    entries = [
        Entry("scp", program, site, {"source": source, "argv": ["scp", options, *ends]}),
        Entry("tar | ssh tar", program, site, {"source": source, "argv": tar[0], "stdin": tar[1]}),
    ]
    if shutil.which("rsync"):
        slashed = [end.replace("{source}", "{source}/") for end in ends]
        rsync = ["rsync", "-rlp", "-e", "'{ssh}'", *slashed]
        entries.append(Entry("rsync", program, site, {"source": source, "argv": rsync}))
    return entries


def run(run: Run) -> Answer:
    """Both ways, all in the same run."""
    files = run.pick(5000, 500)
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    raw: dict[str, list[Measured]] = {}
    with servers() as site, tempfile.TemporaryDirectory(dir=PLACE) as folder:
        plant(Path(folder), files, SIZES)
        for way, mine, theirs in (("up", aioremote_up, asyncssh_up), ("down", aioremote_down, asyncssh_down)):
            entries = [
                Entry("aioremote", mine, site, {"source": folder}, note="each file in one step"),
                Entry("asyncssh", theirs, site, {"source": folder}),
                *_programs(site, folder, down=way == "down"),
            ]
            values = compete(entries, run.pick(3, 1), run.say)
            found = figures_of(values, "files_per_s", "files/s")
            figures += [replace(figure, contestant=f"{figure.contestant}, {way}") for figure in found]
            ratio = values.ratio("aioremote", "asyncssh", "files_per_s")
            verdicts.append(Verdict(f"asyncssh, {way}", 10, ratio, at_least=True))
            if "rsync" in values.rounds:
                ratio = values.ratio("aioremote", "rsync", "files_per_s")
                verdicts.append(Verdict(f"rsync, {way}", 1.5, ratio, at_least=True))
            verdicts.append(Verdict(f"loop stall, {way}", 50, values.spread("aioremote", "stall_ms"), unit="ms"))
            raw |= {f"{way}: {name}": rounds for name, rounds in values.rounds.items()}
    return Answer("small_files", f"{files:,} files of 1 to 16 KiB", figures, verdicts, raw=raw)
