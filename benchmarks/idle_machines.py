"""How much memory do 1,000 connected machines take that do nothing?"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import replace

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._measure import Entry, Measured, Site, Values, compete
from benchmarks._meters import resident_bytes
from benchmarks._server import addresses, servers

__all__ = ["asyncssh", "ours", "run"]

WINDOW = 50
STEPS = 4
ADDRESSES = 200


async def _measure(hosts: list[str], connect: Callable[[str], Awaitable[None]]) -> Measured:
    """Connect all hosts, a window at a time; measure before and after each quarter."""
    measured: Measured = {}
    before = _settled()
    quarter = len(hosts) // STEPS
    for step in range(STEPS):
        for at in range(step * quarter, (step + 1) * quarter, WINDOW):
            async with asyncio.TaskGroup() as group:
                for host in hosts[at : min(at + WINDOW, (step + 1) * quarter)]:
                    group.create_task(_ignore(connect(host)))
        measured[f"mib_{(step + 1) * quarter}"] = (_settled() - before) / 2**20
    measured["kb_each"] = (_settled() - before) / (quarter * STEPS) / 1000
    return measured


async def _ignore(work: Awaitable[object]) -> None:
    await work


def _settled() -> int:
    gc.collect()
    return resident_bytes()


def ours(site: Site, count: int) -> Measured:
    """Hold SshMachines."""
    from aioremote import HostKeys, SshMachine

    async def work() -> Measured:
        machines: list[SshMachine] = []

        async def connect(host: str, known_hosts: str = site.known_hosts) -> None:
            machine = SshMachine(
                host,
                port=site.port,
                user=site.user,
                keyfile=site.keyfile,
                host_keys=HostKeys.strict(known_hosts),
                config=None,
            )
            machines.append(await machine.connect())

        await connect(site.hosts[0], site.warm_known_hosts)
        measured = await _measure(_repeated(site, count), connect)
        assert all(machine.state == machines[0].state for machine in machines)
        for machine in machines:
            await machine.aclose()
        return measured

    return asyncio.run(work())


def asyncssh(site: Site, count: int) -> Measured:
    """Hold connections, their options shared."""
    import asyncssh as peer

    async def work() -> Measured:
        connections: list[peer.SSHClientConnection] = []
        options = peer.SSHClientConnectionOptions(
            username=site.user,
            port=site.port,
            client_keys=[peer.read_private_key(site.keyfile)],
            known_hosts=peer.read_known_hosts(site.known_hosts),
            agent_path=None,
            config=None,
        )

        async def connect(host: str) -> None:
            connections.append(await peer.connect(host, port=site.port, options=options))

        await connect(site.hosts[0])
        measured = await _measure(_repeated(site, count), connect)
        for connection in connections:
            connection.abort()
        return measured

    return asyncio.run(work())


def _repeated(site: Site, count: int) -> list[str]:
    """Return so many hosts; several machines share an address."""
    return [site.hosts[index % len(site.hosts)] for index in range(count)]


def run(run: Run) -> Answer:
    """Compare resident memory, after a collection."""
    count = run.pick(1000, 200)
    with servers(addresses(run.pick(ADDRESSES, 50))) as site:
        load = {"count": count}
        entries = [
            Entry("aioremote", ours, site, load),
            Entry("asyncssh, shared options", asyncssh, replace(site), load),
        ]
        values = compete(entries, run.pick(3, 1), run.say)
    return Answer(
        "idle_machines",
        f"{count:,} idle machines: client memory each",
        [Figure(name, values.spread(name, "kb_each"), "kB") for name in values.rounds],
        [Verdict("each", 60, values.spread("aioremote", "kb_each"), unit="kB")],
        raw=values.rounds,
        curves={name: _curve(values, name, count) for name in values.rounds},
    )


def _curve(values: Values, name: str, count: int) -> list[tuple[float, float]]:
    counts = [count // STEPS * step for step in range(1, STEPS + 1)]
    return [(0.0, 0.0), *((float(n), values.spread(name, f"mib_{n}").median) for n in counts)]
