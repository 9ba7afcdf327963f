"""How much goes through a tunnel, how fast do connections come about, and what does it add to a round trip?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import time

from benchmarks._answers import Answer, Run, Verdict, figures_of
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks._server import servers
from benchmarks._traffic import load, target

__all__ = ["asyncssh", "nothing", "openssh", "ours", "run"]

GCM = "aes128-gcm@openssh.com"
MIB = 2**20


def _loads(mib: int, connects: int, trips: int) -> dict[str, tuple[str, int]]:
    return {
        "up_mb_per_s": ("up", mib * MIB),
        "down_mb_per_s": ("down", mib * MIB),
        "connects_per_s": ("connects", connects),
        "round_trip_us": ("round_trip", trips),
    }


async def _measure(port: int, sizes: list[int]) -> Measured:
    measured: Measured = {}
    for name, (kind, amount) in _loads(*sizes).items():
        process = await asyncio.create_subprocess_exec(*load(port, kind, amount), stdout=subprocess.PIPE)
        said, _ = await process.communicate()
        measured[name] = json.loads(said)
    return measured


def nothing(site: Site, sizes: list[int]) -> Measured:
    """Connect to the target itself: the floor."""
    with target() as port:
        return asyncio.run(_measure(port, sizes))


def ours(site: Site, sizes: list[int], *, reverse: bool = False, link: bool = False) -> Measured:
    """`Machine.tunnel`, with `link` over an outpost's link, which is one session of the connection."""
    from aioremote import Machine
    from aioremote.transports.linked import LinkedTransport

    async def work(port: int) -> Measured:
        login = site.machine()
        machine = Machine(LinkedTransport(login.transport), host=login.host) if link else login
        async with machine:
            if reverse:
                async with machine.tunnel(port, 0, lhost="127.0.0.1", dhost="127.0.0.1", reverse=True) as tunnel:
                    return await _measure(tunnel.dport, sizes)
            async with machine.tunnel(0, port, lhost="127.0.0.1", dhost="127.0.0.1") as tunnel:
                return await _measure(tunnel.lport, sizes)

    with target() as port:
        return asyncio.run(work(port))


def asyncssh(site: Site, sizes: list[int], *, reverse: bool = False) -> Measured:
    """Its own port forwarding."""
    import asyncssh as peer

    async def work(port: int) -> Measured:
        connecting = peer.connect(
            site.hosts[0],
            port=site.port,
            username=site.user,
            client_keys=[site.keyfile],
            known_hosts=site.known_hosts,
            config=None,
            encryption_algs=[GCM],
        )
        async with connecting as connection:
            if reverse:
                listener = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)
            else:
                listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port)
            return await _measure(listener.get_port(), sizes)

    with target() as port:
        return asyncio.run(work(port))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def openssh(site: Site, sizes: list[int], *, reverse: bool = False) -> Measured:
    """``ssh -L`` or ``ssh -R``."""
    with target() as port:
        free = _free_port()
        options = [f"UserKnownHostsFile={site.known_hosts}", "StrictHostKeyChecking=yes", "ExitOnForwardFailure=yes"]
        command = ["ssh", "-N", "-F", "/dev/null", *(word for option in options for word in ("-o", option))]
        command += ["-R" if reverse else "-L", f"127.0.0.1:{free}:127.0.0.1:{port}", "-c", GCM]
        command += ["-p", str(site.port), "-i", site.keyfile, "-l", site.user, site.hosts[0]]
        with subprocess.Popen(command) as process:
            try:
                _wait_for(free)
                return asyncio.run(_measure(free, sizes))
            finally:
                process.kill()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def run(run: Run) -> Answer:
    """Compare both directions of a tunnel."""
    load = {"sizes": [run.pick(512, 64), run.pick(2000, 300), run.pick(2000, 300)]}
    back = {**load, "reverse": True}
    with servers() as site:
        entries = [
            Entry("aioremote", ours, site, load),
            Entry("asyncssh, AES-GCM", asyncssh, site, load),
            Entry("ssh -L, AES-GCM", openssh, site, load),
            Entry("no tunnel", nothing, site, load, note="the floor"),
            Entry("aioremote, reverse", ours, site, back),
            Entry("asyncssh, reverse", asyncssh, site, back),
            Entry("aioremote, outpost", ours, site, {**load, "link": True}),
            Entry("aioremote, outpost, reverse", ours, site, {**back, "link": True}),
            Entry("ssh -R, AES-GCM", openssh, site, back),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    names = ("up_mb_per_s", "down_mb_per_s", "connects_per_s", "round_trip_us")
    figures = [figure for name in names for figure in figures_of(values, name, name.replace("_per_", "/"))]
    verdicts = []
    for name, goal in zip(names, (1.0, 1.0, 1.2, 1.05), strict=True):
        for mine, peer in (("aioremote", "asyncssh, AES-GCM"), ("aioremote, reverse", "asyncssh, reverse")):
            least = 1.0 if "reverse" in mine and name == "connects_per_s" else goal
            ratio = values.ratio(mine, peer, name)
            verdicts.append(Verdict(f"{peer}: {name}", least, ratio, at_least=name != "round_trip_us"))
    return Answer("tunnels", "tunnels", figures, verdicts, raw=values.rounds)
