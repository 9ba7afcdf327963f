"""How fast does 1 GiB of a command's output come in, and how much memory does it take?"""

from __future__ import annotations

import asyncio
import subprocess

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import Stall, Used, metered, peak_bytes, reset_peak, resident_bytes, ticking
from benchmarks._server import servers

__all__ = ["asyncssh", "openssh", "ours", "run"]

MIB = 2**20
GCM = "aes128-gcm@openssh.com"
WARM = 2**20
READ = 2**18


def _measured(used: Used, size: int, grown: int, stall: Stall) -> Measured:
    mb = size / 1e6
    return {
        "mb_per_s": mb / used.wall_seconds,
        "cpu_s_per_gb": used.cpu_seconds / mb * 1e3,
        "grown_mib": grown / MIB,
        **stall.as_ms(),
    }


def _command(size: int) -> tuple[str, ...]:
    return ("head", "-c", str(size), "/dev/zero")


def ours(site: Site, size: int) -> Measured:
    """Read a started process's stdout as it comes."""
    from aioremote import SshMachine

    async def read(machine: SshMachine, size: int) -> None:
        got = 0
        async with machine.start(*_command(size)) as process:
            async for chunk in process.stdout:
                got += len(chunk)
            await process.wait()
        assert got == size

    async def work() -> Measured:
        machine = site.machine()
        async with machine:
            await read(machine, WARM)
            before = resident_bytes()
            reset_peak()
            async with ticking() as stall:
                with metered() as used:
                    await read(machine, size)
        return _measured(used, size, peak_bytes() - before, stall)

    return asyncio.run(work())


def asyncssh(site: Site, size: int, encryption: list[str]) -> Measured:
    """Read a process's stdout in large pieces."""
    import asyncssh as peer

    async def read(connection: peer.SSHClientConnection, size: int) -> None:
        got = 0
        async with connection.create_process(" ".join(_command(size)), encoding=None) as process:
            while chunk := await process.stdout.read(READ):
                got += len(chunk)
        assert got == size

    async def work() -> Measured:
        connecting = peer.connect(
            site.hosts[0],
            port=site.port,
            username=site.user,
            client_keys=[site.keyfile],
            known_hosts=site.known_hosts,
            config=None,
            encryption_algs=encryption or (),
        )
        async with connecting as connection:
            await read(connection, WARM)
            before = resident_bytes()
            reset_peak()
            async with ticking() as stall:
                with metered() as used:
                    await read(connection, size)
        return _measured(used, size, peak_bytes() - before, stall)

    return asyncio.run(work())


def openssh(site: Site, size: int, ciphers: str) -> Measured:
    """Let ssh write to a pipe which is read and dropped; connecting counts."""
    command = [
        "ssh",
        "-n",
        "-F",
        "/dev/null",
        "-o",
        f"UserKnownHostsFile={site.known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
    ]
    command += [
        "-p",
        str(site.port),
        "-i",
        site.keyfile,
        "-l",
        site.user,
        "-c",
        ciphers,
        site.hosts[0],
        *_command(size),
    ]
    got = 0
    with metered() as used:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        while chunk := process.stdout.read(READ):
            got += len(chunk)
        process.wait()
    assert got == size
    mb = size / 1e6
    return {"mb_per_s": mb / used.wall_seconds, "cpu_s_per_gb": used.cpu_seconds / mb * 1e3}


def run(run: Run) -> Answer:
    """Compare throughput and growth."""
    mib = run.pick(1024, 128)
    load = {"size": mib * MIB}
    with servers() as site:
        entries = [
            Entry("aioremote", ours, site, load),
            Entry("asyncssh", asyncssh, site, {**load, "encryption": []}, note="default ciphers"),
            Entry("asyncssh, AES-GCM", asyncssh, site, {**load, "encryption": [GCM]}),
            Entry(
                "OpenSSH", openssh, site, {**load, "ciphers": "chacha20-poly1305@openssh.com"}, note="default cipher"
            ),
            Entry("OpenSSH, AES-GCM", openssh, site, {**load, "ciphers": GCM}),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    growth = values.spread("aioremote", "grown_mib")
    stall = values.spread("aioremote", "stall_ms")
    figures = figures_of(values, "mb_per_s", "MB/s")
    figures += [Figure("aioremote, RSS growth", growth, "MiB"), Figure("aioremote, loop stall", stall, "ms")]
    return Answer(
        "reading",
        f"reading {mib:,} MiB of output",
        figures,
        [
            Verdict(
                "asyncssh, AES-GCM", 0.95, values.ratio("aioremote", "asyncssh, AES-GCM", "mb_per_s"), at_least=True
            ),
            Verdict("client RSS growth", 16, growth, unit="MiB"),
            Verdict("loop stall", 50, stall, unit="ms"),
        ],
        raw=values.rounds,
    )
