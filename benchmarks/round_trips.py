"""How many round trips do connecting, one command and 64 commands at once take over a link of 40 ms?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._link import slow_link
from benchmarks._measure import Entry, Measured, Site, Values, compete
from benchmarks._server import servers

__all__ = ["asyncssh", "ours", "run"]

ROUND_TRIP_SECONDS = 0.04
AT_ONCE = 64
REPEATS = 3
KINDS = {"connect": "connect", "one": "one command", "many": f"{AT_ONCE} at once"}
GOALS = {"connect": 8.3, "one": 2.2, "many": 5.2}


async def _round_trips(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) / ROUND_TRIP_SECONDS


async def _commands(one: Callable[[], Awaitable[object]]) -> Measured:
    async def many() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_ignore(one()))

    await one()
    ones = [await _round_trips(one) for _ in range(REPEATS)]
    await many()
    return {"one": min(ones), "many": min([await _round_trips(many) for _ in range(REPEATS)])}


async def _ignore(work: Awaitable[object]) -> None:
    await work


def ours(site: Site, max_sessions: int | None) -> Measured:
    """Connect twice, since the first one loads what it needs; then run."""
    from aioremote import SshMachine

    async def work() -> Measured:

        def machine() -> SshMachine:
            return site.machine(max_sessions=max_sessions)

        async with machine():
            pass
        connected = machine()
        connect = await _round_trips(connected.connect)
        async with connected:
            commands = await _commands(lambda: connected.run("true"))
        return {"connect": connect, **commands}

    return asyncio.run(work())


def asyncssh(site: Site) -> Measured:
    """Do the same with options built once."""
    import asyncssh as peer

    async def work() -> Measured:
        options = peer.SSHClientConnectionOptions(
            username=site.user,
            client_keys=[peer.read_private_key(site.keyfile)],
            known_hosts=peer.read_known_hosts(site.known_hosts),
            agent_path=None,
            config=None,
        )

        async def connect() -> peer.SSHClientConnection:
            return await peer.connect(site.hosts[0], port=site.port, options=options)

        async with await connect():
            pass
        connections: list[peer.SSHClientConnection] = []

        async def keep() -> None:
            connections.append(await connect())

        trips = await _round_trips(keep)
        (connection,) = connections
        try:
            return {"connect": trips, **await _commands(lambda: connection.run("true", check=True))}
        finally:
            connection.abort()

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare in units of the round trip; the server's own time is in it."""
    with servers(max_sessions=100) as site, slow_link(site, ROUND_TRIP_SECONDS / 2) as link:
        entries = [
            Entry("aioremote", ours, link, {"max_sessions": 100}, note="max_sessions=100 given"),
            Entry("aioremote, limit unknown", ours, link, {"max_sessions": None}),
            Entry("asyncssh", asyncssh, link),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    return Answer(
        "round_trips",
        f"at {ROUND_TRIP_SECONDS * 1e3:.0f} ms round trip, MaxSessions raised: connect; one command; {AT_ONCE} at once",
        _figures(values),
        [Verdict(KINDS[key], goal, values.spread("aioremote", key), unit="RTT") for key, goal in GOALS.items()],
        ["the proxy accepts at once: the round trip of TCP's own handshake is not in these figures"],
        values.rounds,
    )


def _figures(values: Values) -> list[Figure]:
    return [
        Figure(f"{name}, {text}", values.spread(name, key), "RTT", values.notes[name])
        for name in values.rounds
        for key, text in KINDS.items()
    ]
