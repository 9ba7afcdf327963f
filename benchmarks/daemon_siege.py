"""What do 1,000 connections that never log in cost a daemon, and how long does an authorised client wait meanwhile?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._measure import Entry, Measured, Site, Spread, compete
from benchmarks.daemon_calls import daemon, machine, nowhere

__all__ = ["ours", "run"]

SOURCES = 200  # addresses: from one, only eight are held
MOST_MIB = 40.0
MOST_SECONDS = 1.0


def ours(site: Site, sockets: int, port: int, keyfile: str, pin: str, pid: int) -> Measured:
    """Hold so many sockets open and connect."""

    async def work() -> Measured:
        server = psutil.Process(pid)
        async with machine(port, keyfile, pin) as first:
            await first.ping()
        before = server.memory_info().rss
        with contextlib.ExitStack() as stack:
            for number in range(sockets):
                source = (f"127.0.{1 + number % SOURCES}.1", 0)
                stack.enter_context(socket.create_connection(("127.0.0.1", port), source_address=source))
            began = time.perf_counter()
            async with machine(port, keyfile, pin) as late:
                took = time.perf_counter() - began
                await late.run("true")
            grown = server.memory_info().rss - before
        return {"mib": max(grown, 0) / 2**20, "seconds": took}

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Measure the daemon's process, and a client beside them."""
    with tempfile.TemporaryDirectory() as name, daemon(Path(name)) as given:
        entry = Entry("aioremote", ours, nowhere(), {"sockets": 1000, **given})
        values = compete([entry], run.pick(5, 2), run.say)
    grown, took = values.spread("aioremote", "mib"), values.spread("aioremote", "seconds")
    return Answer(
        "daemon_siege",
        "1,000 idle connections that have not logged in, and one client that does",
        [Figure("memory of the daemon", grown, "MiB more"), Figure("an authorised client connects", took, "s")],
        [
            Verdict("MiB that the daemon grows", MOST_MIB, grown, at_least=False),
            Verdict("seconds to connect", MOST_SECONDS, Spread.of([took.median]), at_least=False),
        ],
        raw=values.rounds,
    )
