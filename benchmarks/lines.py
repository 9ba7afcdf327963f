"""How many lines a second does `lines` give, and how long does it hold up the loop?"""

from __future__ import annotations

import asyncio

from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import Stall, Used, metered, ticking
from benchmarks._server import servers

__all__ = ["asyncssh", "ours", "run"]

WARM = 1000
LINE = "2024-05-17T12:00:00 web01 app[4242]: served /index"


def _command(count: int) -> str:
    return f"yes '{LINE}' | head -n {count}"


def _measured(used: Used, count: int, stall: Stall) -> Measured:
    return {"million_per_s": count / used.wall_seconds / 1e6, "cpu_us": used.cpu_seconds / count * 1e6, **stall.as_ms()}


def ours(site: Site, count: int) -> Measured:
    """Iterate over `Machine.lines`, one line at a time."""
    from aioremote import SshMachine

    async def read(machine: SshMachine, count: int) -> None:
        got = 0
        async with machine.lines("/bin/sh", "-c", _command(count)) as lines:
            async for _line in lines:
                got += 1
        assert got == count

    async def work() -> Measured:
        machine = site.machine()
        async with machine:
            await read(machine, WARM)
            async with ticking() as stall:
                with metered() as used:
                    await read(machine, count)
        return _measured(used, count, stall)

    return asyncio.run(work())


def asyncssh(site: Site, count: int, encryption: list[str]) -> Measured:
    """Iterate over a process's stdout."""
    import asyncssh as peer

    async def read(connection: peer.SSHClientConnection, count: int) -> None:
        got = 0
        async with connection.create_process(_command(count)) as process:
            async for _line in process.stdout:
                got += 1
        assert got in (count, count + 1)  # an empty one may come at the end

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
            async with ticking() as stall:
                with metered() as used:
                    await read(connection, count)
        return _measured(used, count, stall)

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare lines a second."""
    count = run.pick(2_000_000, 200_000)
    load = {"count": count}
    with servers() as site:
        entries = [
            Entry("aioremote", ours, site, load),
            Entry("asyncssh", asyncssh, site, {**load, "encryption": []}, note="`async for`, default ciphers"),
            Entry(
                "asyncssh, AES-GCM",
                asyncssh,
                site,
                {**load, "encryption": ["aes128-gcm@openssh.com"]},
                note="`async for`",
            ),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    stalls = [Figure(f"{name}, loop stall", values.spread(name, "stall_ms"), "ms") for name in values.rounds]
    return Answer(
        "lines",
        f"lines() over {count:,} lines of {len(LINE)} characters",
        [*figures_of(values, "million_per_s", "M/s"), *stalls],
        [
            Verdict("asyncssh", 4.0, values.ratio("aioremote", "asyncssh", "million_per_s"), at_least=True),
            Verdict("loop stall", 50, values.spread("aioremote", "stall_ms"), unit="ms"),
        ],
        raw=values.rounds,
    )
