"""Contestants of the fan-outs: connect to every host, run ``true``, close. Client CPU per host, without the imports.

Each opens one connection before the measurement, to the first host and with another known_hosts file: what a library
loads or sets up once is not the fan-out's cost, what it does with the known_hosts file is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks._measure import Measured, Site
from benchmarks._meters import Used, metered, peak_bytes

__all__ = ["WINDOW", "clush", "ours", "parallel_ssh", "plain_asyncssh", "shared_asyncssh"]

WINDOW = 50
"""Hosts at once, for everybody."""


def _measured(used: Used, hosts: int) -> Measured:
    return {"cpu_ms": used.cpu_seconds / hosts * 1e3, "wall_s": used.wall_seconds, "peak_mib": peak_bytes() / 2**20}


def _fan_out(site: Site, work: Callable[[Site], Awaitable[None]]) -> Measured:
    async def measure() -> Measured:
        await work(replace(site, hosts=site.hosts[:1], known_hosts=site.warm_known_hosts))
        with metered() as used:
            await work(site)
        return _measured(used, len(site.hosts))

    return asyncio.run(measure())


async def _windowed(hosts: Sequence[str], work: Callable[[str], Awaitable[None]]) -> None:
    window = asyncio.Semaphore(WINDOW)

    async def one(host: str) -> None:
        async with window:
            await work(host)

    async with asyncio.TaskGroup() as group:
        for host in hosts:
            group.create_task(one(host))


def ours(site: Site) -> Measured:
    """Run a Fleet."""
    from aioremote import Fleet, HostKeys

    async def work(site: Site) -> None:
        keys = HostKeys.strict(site.known_hosts)
        fleet = Fleet(
            site.hosts, limit=WINDOW, user=site.user, port=site.port, keyfile=site.keyfile, host_keys=keys, config=None
        )
        async with fleet:
            report = await fleet.run("true")
            report.raise_for_failures()
            assert len(report.ok) == len(site.hosts)

    return _fan_out(site, work)


def plain_asyncssh(site: Site) -> Measured:
    """Do what most people write: everything given to every connect."""
    import asyncssh

    async def work(site: Site) -> None:
        async def one(host: str) -> None:
            connecting = asyncssh.connect(
                host,
                port=site.port,
                username=site.user,
                client_keys=[site.keyfile],
                known_hosts=site.known_hosts,
                config=None,
            )
            async with connecting as connection:
                await connection.run("true", check=True)

        await _windowed(site.hosts, one)

    return _fan_out(site, work)


def shared_asyncssh(site: Site) -> Measured:
    """Do what a careful user can: options built once, known_hosts parsed once."""
    import asyncssh

    async def work(site: Site) -> None:
        options = asyncssh.SSHClientConnectionOptions(
            username=site.user,
            port=site.port,
            client_keys=[asyncssh.read_private_key(site.keyfile)],
            known_hosts=asyncssh.read_known_hosts(site.known_hosts),
            agent_path=None,
            config=None,
        )

        async def one(host: str) -> None:
            async with asyncssh.connect(host, port=site.port, options=options) as connection:
                await connection.run("true", check=True)

        await _windowed(site.hosts, one)

    return _fan_out(site, work)


def parallel_ssh(site: Site) -> Measured:
    """Use its own pool; it has no way to check host keys."""
    from pssh.clients import ParallelSSHClient  # type: ignore[import-untyped]

    def work(hosts: Sequence[str]) -> None:
        client: Any = ParallelSSHClient(
            list(hosts), user=site.user, port=site.port, pkey=site.keyfile, pool_size=WINDOW, allow_agent=False
        )
        output: list[Any] = client.run_command("true")  # Any: untyped
        client.join()
        assert [host.exit_code for host in output] == [0] * len(hosts)

    work(site.hosts[:1])
    with metered() as used:
        work(site.hosts)
    return _measured(used, len(site.hosts))


def clush(site: Site) -> Measured:
    """Use ClusterShell's command, which starts an ssh for every host; its own start counts too."""
    options = f"-F /dev/null -p {site.port} -i {site.keyfile} -o UserKnownHostsFile={site.known_hosts}"
    command = [sys.executable, "-m", "ClusterShell.CLI.Clush", "-S", "-f", str(WINDOW), "-l", site.user]
    command += ["-o", f"{options} -o StrictHostKeyChecking=yes"]
    with metered() as used:
        subprocess.run([*command, "-w", ",".join(site.hosts), "true"], check=True)
    return _measured(used, len(site.hosts))
