"""How many short commands a second go over one warm connection, 16 at once?"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import Used, metered
from benchmarks._server import servers

__all__ = ["asyncssh", "control_master", "measure", "ours", "parallel_ssh", "run"]

AT_ONCE = 16
WARM = 8


def _measured(used: Used, commands: int) -> Measured:
    return {"per_s": commands / used.wall_seconds, "cpu_ms": used.cpu_seconds / commands * 1e3}


async def _workers(commands: int, at_once: int, one: Callable[[], Awaitable[None]]) -> None:
    numbers = iter(range(commands))

    async def work() -> None:
        for _ in numbers:
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


async def measure(commands: int, at_once: int, one: Callable[[], Awaitable[None]]) -> Measured:
    """Run `one` so many times, from so many tasks, a few of them for nothing."""
    await _workers(WARM, at_once, one)
    with metered() as used:
        await _workers(commands, at_once, one)
    return _measured(used, commands)


def ours(
    site: Site,
    commands: int,
    at_once: int,
    outpost: Literal["auto", "always", "never"] = "auto",
    native: bool = False,
) -> Measured:
    """Run from many tasks at once on one machine; what the server allows is for it to find out."""

    async def work() -> Measured:
        machine = site.machine(outpost=outpost, native=native)

        async def one() -> None:
            await machine.run("/bin/true")

        async with machine:
            return await measure(commands, at_once, one)

    return asyncio.run(work())


def asyncssh(site: Site, commands: int, at_once: int) -> Measured:
    """Run from many tasks at once; the server has to allow it."""
    import asyncssh as peer

    async def work() -> Measured:
        connecting = peer.connect(
            site.hosts[0],
            port=site.port,
            username=site.user,
            client_keys=[site.keyfile],
            known_hosts=site.known_hosts,
            config=None,
        )
        async with connecting as connection:

            async def one() -> None:
                await connection.run("/bin/true", check=True)

            return await measure(commands, at_once, one)

    return asyncio.run(work())


def parallel_ssh(site: Site, commands: int, at_once: int) -> Measured:
    """Run from many greenlets on one client, opening one after another, as two openings at once break it."""
    from gevent.lock import Semaphore  # type: ignore[import-untyped]
    from gevent.pool import Pool  # type: ignore[import-untyped]
    from pssh.clients import SSHClient  # type: ignore[import-untyped]

    client: Any = SSHClient(
        site.hosts[0], user=site.user, port=site.port, pkey=site.keyfile, allow_agent=False, identity_auth=False
    )

    opening: Any = Semaphore()

    def one(_: int) -> None:
        with opening:
            output = client.run_command("/bin/true")
        client.wait_finished(output)
        assert output.exit_code == 0

    pool: Any = Pool(at_once)
    pool.map(one, range(WARM))
    with metered() as used:
        pool.map(one, range(commands))
    return _measured(used, commands)


def control_master(site: Site, commands: int, at_once: int) -> Measured:
    """Start an ssh for each command, over one master's connection."""
    with tempfile.TemporaryDirectory() as name:
        base = [
            "ssh",
            "-F",
            "/dev/null",
            "-S",
            str(Path(name) / "master"),
            "-o",
            f"UserKnownHostsFile={site.known_hosts}",
        ]
        base += ["-o", "StrictHostKeyChecking=yes", "-p", str(site.port), "-i", site.keyfile, "-l", site.user]
        subprocess.run(
            [*base, "-M", "-N", "-f", site.hosts[0]], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def one(_: int) -> None:
            subprocess.run([*base, "-n", site.hosts[0], "/bin/true"], check=True)

        try:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(one, range(WARM)))
                with metered() as used:
                    list(pool.map(one, range(commands)))
        finally:
            subprocess.run([*base, "-O", "exit", site.hosts[0]], check=True, stderr=subprocess.DEVNULL)
    return _measured(used, commands)


def run(run: Run) -> Answer:
    """Compare commands a second; only ours plays against the default MaxSessions, 10."""
    load = {"commands": run.pick(600, 100), "at_once": AT_ONCE}
    with servers() as default, servers(max_sessions=100) as raised:
        note = "MaxSessions raised"
        entries = [
            Entry("aioremote", ours, default, load, note="default MaxSessions"),
            Entry("aioremote, channels alone", ours, default, {**load, "outpost": "never"}, note="default MaxSessions"),
            Entry("asyncssh", asyncssh, raised, load, note=note),
            Entry("parallel-ssh", parallel_ssh, raised, load, note=f"{note}, no host key check, opens in turn"),
            Entry("ControlMaster", control_master, raised, load, note=note),
        ]
        values = compete(entries, run.pick(7, 2), run.say)
    return Answer(
        "warm_commands",
        f"warm commands over one connection, {AT_ONCE} at once",
        figures_of(values, "per_s", "commands/s"),
        [Verdict("asyncssh", 1.0, values.ratio("aioremote", "asyncssh", "per_s"), at_least=True)],
        raw=values.rounds,
    )
