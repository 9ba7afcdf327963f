"""How many short commands a second go over one ssh connection through the outpost, 64 at once?"""

from __future__ import annotations

import asyncio
import subprocess

from benchmarks import _callers, warm_commands
from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._meters import metered
from benchmarks._server import servers

__all__ = ["local", "mitogen", "run"]

AT_ONCE = 64


def local(site: Site, commands: int, at_once: int) -> Measured:
    """Start the program here, without any host."""

    async def work() -> Measured:
        async def one() -> None:
            pipe = subprocess.PIPE
            process = await asyncio.create_subprocess_exec("/bin/true", stdin=pipe, stdout=pipe, stderr=pipe)
            await process.communicate()

        return await warm_commands.measure(commands, at_once, one)

    return asyncio.run(work())


def _true(_: object) -> int:
    return subprocess.call(["/bin/true"])


def mitogen(site: Site, commands: int, at_once: int) -> Measured:
    """Have the far Python start the program, one after another there, so many under way."""
    with _callers.mitogen(site, _true) as (_, many):
        many(range(warm_commands.WARM))
        with metered() as used:
            many(range(commands))
    return {"per_s": commands / used.wall_seconds, "cpu_ms": used.cpu_seconds / commands * 1e3}


def run(run: Run) -> Answer:
    """Compare commands a second and CPU a command; the server's MaxSessions is 1 for ours, raised for the others."""
    load = {"commands": run.pick(2000, 200), "at_once": AT_ONCE}
    with servers(max_sessions=1) as single, servers(max_sessions=200) as raised:
        ours = {**load, "outpost": "always"}
        entries = [
            Entry("aioremote", warm_commands.ours, single, ours, note="MaxSessions 1"),
            Entry("asyncssh", warm_commands.asyncssh, raised, load, note="MaxSessions raised"),
            Entry("ControlMaster", warm_commands.control_master, raised, load, note="MaxSessions raised"),
            Entry("mitogen", mitogen, raised, load),
            Entry("asyncio subprocess", local, raised, load, note="on this machine, no host"),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    return Answer(
        "outpost_commands",
        f"commands over one ssh connection through the outpost, {AT_ONCE} at once",
        [
            *figures_of(values, "per_s", "commands/s"),
            *(
                Figure(name, values.spread(name, "cpu_ms"), "ms of client CPU each")
                for name in ("aioremote", "asyncssh")
            ),
        ],
        [
            Verdict("asyncssh", 3.5, values.ratio("aioremote", "asyncssh", "per_s"), at_least=True),
            Verdict("mitogen", 1.8, values.ratio("aioremote", "mitogen", "per_s"), at_least=True),
            Verdict("asyncio subprocess", 1.5, values.ratio("aioremote", "asyncio subprocess", "per_s"), at_least=True),
            Verdict("asyncssh's client CPU", 0.05, values.ratio("aioremote", "asyncssh", "cpu_ms")),
        ],
        raw=values.rounds,
    )
