"""How many far Python calls a second go through a daemon over loopback TLS, and how many bytes there and back?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._callers import Caller, over_channel, over_connection
from benchmarks._measure import Entry, Measured, Site, compete
from benchmarks.calls import AT_ONCE, UNITS, best, play, play_machine

if TYPE_CHECKING:
    from aioremote import Machine

__all__ = ["daemon", "execnet", "nowhere", "ours", "rpyc", "run"]

PEERS = ("rpyc", "execnet")
GOAL = 2.0
START_SECONDS = 20.0
_RPYC = (
    "import sys, rpyc; from rpyc.utils.server import ThreadedServer; from rpyc.utils.authenticators import "
    "SSLAuthenticator; ThreadedServer(rpyc.SlaveService, hostname='127.0.0.1', port=int(sys.argv[1]), "
    "authenticator=SSLAuthenticator(sys.argv[2], sys.argv[2], ca_certs=sys.argv[3])).start()"
)


def nowhere() -> Site:
    """Return a site for contestants that have their servers from their options."""
    return Site(("127.0.0.1",), 0, "", "", "", "", "")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(argv: Sequence[str], port: int) -> Generator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, which begins when it listens."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise
                    time.sleep(0.05)
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def daemon(folder: Path) -> Generator[dict[str, object]]:
    """Run ``aioremote serve`` and yield what `machine` needs."""
    from aioremote.daemon import make_key

    pin, port = make_key(folder / "server"), free_port()
    make_key(folder / "client")
    files = ["--key", str(folder / "server"), "--authorized", str(folder / "client.crt")]
    with running([sys.executable, "-m", "aioremote", "serve", "--listen", f"127.0.0.1:{port}", *files], port) as server:
        yield {"port": port, "keyfile": str(folder / "client"), "pin": pin, "pid": server.pid}


def machine(port: int, keyfile: str, pin: str) -> Machine:
    """Return the machine behind the daemon."""
    from aioremote import DaemonMachine

    return DaemonMachine("127.0.0.1", port, keyfile=keyfile, server_fingerprint=pin)


def ours(site: Site, calls: int, blocks: int, port: int, keyfile: str, pin: str, pid: int) -> Measured:
    """Call with `DaemonMachine.python`: each call runs in a worker process."""
    return asyncio.run(play_machine(lambda: machine(port, keyfile, pin), calls, blocks))


def rpyc(site: Site, calls: int, blocks: int, port: int, keyfile: str, server: str) -> Measured:
    """Call rpyc's threaded server over TLS with certificates at both ends."""

    @contextlib.contextmanager
    def connected() -> Generator[Caller]:
        import rpyc as peer  # type: ignore[import-untyped]

        connection: Any = peer.ssl_connect(
            "127.0.0.1",
            port,
            keyfile=keyfile,
            certfile=keyfile,
            ca_certs=server,
            service=peer.core.service.ClassicService,
            config={"sync_request_timeout": 60},
        )
        try:
            yield over_connection(connection)
        finally:
            connection.close()

    return play(connected(), calls, blocks)


def execnet(site: Site, calls: int, blocks: int, port: int) -> Measured:
    """Call over execnet's socket server, which has neither keys nor encryption."""

    @contextlib.contextmanager
    def connected() -> Generator[Caller]:
        import execnet as peer  # type: ignore[import-untyped]

        group: Any = peer.Group()
        try:
            yield over_channel(group.makegateway(f"socket=127.0.0.1:{port}"))
        finally:
            group.terminate(timeout=5)

    return play(connected(), calls, blocks)


def run(run: Run) -> Answer:
    """Compare with rpyc over TLS and execnet over a bare socket, each with a server process of its own."""
    load = {"calls": run.pick(3000, 500), "blocks": run.pick(100, 20)}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, site = Path(name), nowhere()
        given = stack.enter_context(daemon(folder))
        rpyc_port, execnet_port = free_port(), free_port()
        files = [os.fspath(folder / "server"), os.fspath(folder / "client.crt")]
        stack.enter_context(running([sys.executable, "-c", _RPYC, str(rpyc_port), *files], rpyc_port))
        script = [sys.executable, "-m", "execnet.script.socketserver", f"127.0.0.1:{execnet_port}"]
        stack.enter_context(running(script, execnet_port))
        keys = {"keyfile": os.fspath(folder / "client"), "server": os.fspath(folder / "server.crt")}
        entries = [
            Entry("aioremote", ours, site, {**load, **given}, note="TLS, in worker processes"),
            Entry("rpyc", rpyc, site, {**load, "port": rpyc_port, **keys}, note="TLS, in the server's threads"),
            Entry("execnet", execnet, site, {**load, "port": execnet_port}, note="no TLS"),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    return Answer(
        "daemon_calls",
        "calls of a far Python function through a daemon, over loopback",
        [Figure(name, values.spread(name, key), unit) for key, unit in UNITS.items() for name in values.rounds],
        [
            Verdict("the best peer, one after another", GOAL, best(values, "one_per_s", PEERS), at_least=True),
            Verdict(f"the best peer, {AT_ONCE} at once", GOAL, best(values, "many_per_s", PEERS), at_least=True),
            Verdict("the best peer, 1 MiB there and back", GOAL, best(values, "mib_per_s", PEERS), at_least=True),
        ],
        raw=values.rounds,
    )
