"""How long is the loop held up while 50 machines connect at once against a known_hosts file of 10,000 lines?"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, Values, compete
from benchmarks._meters import come_first, ticking
from benchmarks._server import addresses, servers, with_known_hosts

__all__ = ["ours", "plain_asyncssh", "run", "shared_asyncssh"]

LINES = 10_000
MACHINES = 50


def ours(site: Site, own_core: bool) -> Measured:
    """Connect all machines, then close them."""
    from aioremote import HostKeys, SshMachine

    async def connect_all(site: Site) -> list[SshMachine]:
        keys = HostKeys.strict(site.known_hosts)
        machines = [
            SshMachine(host, port=site.port, user=site.user, keyfile=site.keyfile, host_keys=keys, config=None)
            for host in site.hosts
        ]
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(machine.connect())
        return machines

    async def work() -> Measured:
        first = own_core and come_first()
        for machine in await connect_all(_warm(site)):
            await machine.aclose()
        async with ticking() as stall:
            machines = await connect_all(site)
        for machine in machines:
            await machine.aclose()
        return {**stall.as_ms(), "came_first": first}

    return asyncio.run(work())


def plain_asyncssh(site: Site, own_core: bool) -> Measured:
    """Connect as most people write it."""
    import asyncssh

    async def connect_all(site: Site) -> list[asyncssh.SSHClientConnection]:
        async def connect(host: str) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                host,
                port=site.port,
                username=site.user,
                client_keys=[site.keyfile],
                known_hosts=site.known_hosts,
                config=None,
            )

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(connect(host)) for host in site.hosts]
        return [task.result() for task in tasks]

    async def work() -> Measured:
        first = own_core and come_first()
        for connection in await connect_all(_warm(site)):
            connection.close()
        async with ticking() as stall:
            connections = await connect_all(site)
        for connection in connections:
            connection.close()
        return {**stall.as_ms(), "came_first": first}

    return asyncio.run(work())


def shared_asyncssh(site: Site, own_core: bool) -> Measured:
    """Connect with options built once, but on the loop, as one would."""
    import asyncssh

    async def connect_all(site: Site) -> list[asyncssh.SSHClientConnection]:
        options = asyncssh.SSHClientConnectionOptions(
            username=site.user,
            port=site.port,
            client_keys=[asyncssh.read_private_key(site.keyfile)],
            known_hosts=asyncssh.read_known_hosts(site.known_hosts),
            agent_path=None,
            config=None,
        )

        async def connect(host: str) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(host, port=site.port, options=options)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(connect(host)) for host in site.hosts]
        return [task.result() for task in tasks]

    async def work() -> Measured:
        first = own_core and come_first()
        for connection in await connect_all(_warm(site)):
            connection.close()
        async with ticking() as stall:
            connections = await connect_all(site)
        for connection in connections:
            connection.close()
        return {**stall.as_ms(), "came_first": first}

    return asyncio.run(work())


def _warm(site: Site) -> Site:
    return replace(site, hosts=site.hosts[:1], known_hosts=site.warm_known_hosts)


def run(run: Run) -> Answer:
    """Compare the worst delay of a 5 ms ticker in the connecting loop."""
    with servers(addresses(MACHINES)) as site, tempfile.TemporaryDirectory() as name:
        known = with_known_hosts(site, Path(name), lines=LINES, hashed=False)
        hashed = with_known_hosts(site, Path(name), lines=LINES, hashed=True)
        own, shared = {"own_core": True}, {"own_core": False}
        entries = [
            Entry("aioremote", ours, known, own),
            Entry("aioremote, hashed", ours, hashed, own),
            Entry("aioremote, sharing the cores", ours, known, shared),
            Entry("asyncssh", plain_asyncssh, known, own, rounds=2),
            Entry("asyncssh, shared options", shared_asyncssh, known, own),
            Entry("asyncssh, shared options, sharing the cores", shared_asyncssh, known, shared),
        ]
        values = compete(entries, run.pick(7, 2), run.say)
    return Answer(
        "loop_stall",
        f"loop stall (5 ms ticker) while {MACHINES} machines connect with {LINES:,} known hosts",
        figures_of(values, "stall_ms", "ms"),
        [
            Verdict("worst stall", 50, values.spread("aioremote", "stall_ms"), unit="ms"),
            Verdict("worst stall, hashed", 50, values.spread("aioremote, hashed", "stall_ms"), unit="ms"),
            Verdict("worst stall, sharing", 50, values.spread("aioremote, sharing the cores", "stall_ms"), unit="ms"),
            Verdict("99 of 100 ticks", 15, values.spread("aioremote", "stall_p99_ms"), unit="ms"),
        ],
        _remarks(values),
        values.rounds,
    )


def _remarks(values: Values) -> list[str]:
    if values.spread("aioremote", "came_first").low:
        first = "the client gets a core whenever it wants one (SCHED_RR), as it does where the servers run elsewhere"
        return [first, '"sharing the cores": with the 50 servers in its way']
    return [
        "this system allows no realtime priority: everybody shares the cores with the servers, and their stalls tell"
    ]
