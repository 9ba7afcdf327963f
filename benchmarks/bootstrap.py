"""How long does it take until the outpost answers over a warm ssh connection, against a bare Python over the same?"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers

__all__ = ["outpost", "run"]

FLOOR = ("python3", "-c", "pass")
NAMES = {
    "outpost": "aioremote, until the outpost has answered",
    "run": "aioremote, run(python3 -c pass)",
    "asyncssh": "asyncssh, run(python3 -c pass)",
}


async def _milliseconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1e3


def outpost(site: Site, repeats: int) -> Measured:
    """Let all take turns in one process, so that each meets the same server and the same neighbours."""
    import asyncssh as peer

    from aioremote._core.deadline import Deadline
    from aioremote.outpost.launch import Launched, launch

    async def work() -> Measured:
        machine = site.machine()
        options = peer.SSHClientConnectionOptions(
            username=site.user,
            client_keys=[peer.read_private_key(site.keyfile)],
            known_hosts=peer.read_known_hosts(site.known_hosts),
            agent_path=None,
            config=None,
        )
        launched: list[Launched] = []

        async def start() -> None:
            launched.append(await launch(machine.transport, deadline=Deadline(30)))

        times: dict[str, list[float]] = {name: [] for name in NAMES}
        async with machine, await peer.connect(site.hosts[0], port=site.port, options=options) as connection:
            for _ in range(repeats + 1):
                times["asyncssh"].append(
                    await _milliseconds(lambda: connection.run(" ".join(FLOOR), stdin=peer.DEVNULL, check=True))
                )
                times["outpost"].append(await _milliseconds(start))
                await launched.pop().process.aclose()
                times["run"].append(await _milliseconds(lambda: machine.run(*FLOOR)))
        return {name: statistics.median(values[1:]) for name, values in times.items()}

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare in ratios of medians; the end of the outpost is in none of the figures."""
    with servers() as site:
        entry = Entry("all", outpost, site, {"repeats": run.pick(20, 8)})
        values = compete([entry], run.pick(5, 3), run.say)
    return Answer(
        "bootstrap",
        "over a warm connection to loopback: until the outpost has answered / a bare Python's start and end",
        [Figure(text, values.spread("all", key), "ms") for key, text in NAMES.items()],
        [Verdict("asyncssh's run(python3 -c pass)", 1.6, values.ratio("all", "all", "outpost", peer_key="asyncssh"))],
        ["the end of the outpost is not in its figure; `python3` is the same one for all"],
        values.rounds,
    )
