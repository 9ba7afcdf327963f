"""Peers that call functions in a far Python over the system's ssh: mitogen, execnet, rpyc; each as its users would."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from benchmarks._measure import Site

__all__ = ["Caller", "double", "execnet", "mitogen", "over_channel", "over_connection", "rpyc", "ssh_options"]

Caller = tuple[Callable[[object], object], Callable[[Iterable[object]], Sequence[object]]]
"""Call the far function with a value and wait; call it with each of many values, 64 under way at once."""

AT_ONCE = 64
_RPYC = (
    "import sys, rpyc; from rpyc.core.stream import PipeStream; from rpyc.core.service import ClassicService; "
    "rpyc.utils.factory.connect_stream(PipeStream(sys.stdin.buffer, sys.stdout.buffer), ClassicService).serve_all()"
)
_EXECNET = "for value in channel: channel.send(value)"


def double(value: object) -> object:
    """What every contestant calls: gives its argument back."""
    return value


def ssh_options(site: Site) -> list[str]:
    """Return the arguments of ssh up to the host's name."""
    return [
        *("-F", "/dev/null", "-o", f"UserKnownHostsFile={site.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
        *("-o", "BatchMode=yes", "-p", str(site.port), "-i", site.keyfile, "-l", site.user),
    ]


@contextlib.contextmanager
def mitogen(site: Site, function: Callable[[object], object] = double) -> Generator[Caller]:
    """Connect with mitogen's own bootstrap."""
    from mitogen.core import Receiver  # type: ignore[import-untyped]
    from mitogen.master import Broker, Router  # type: ignore[import-untyped]

    broker: Any = Broker()
    try:
        router: Any = Router(broker)
        context: Any = router.ssh(
            hostname=site.hosts[0],
            port=site.port,
            username=site.user,
            identity_file=site.keyfile,
            check_host_keys="enforce",
            ssh_args=["-F", "/dev/null", "-o", f"UserKnownHostsFile={site.known_hosts}"],
            python_path=sys.executable,
        )

        def many(values: Iterable[object]) -> list[object]:
            waiting: list[Receiver] = []
            done: list[object] = []
            for value in values:
                if len(waiting) == AT_ONCE:
                    done.append(waiting.pop(0).get().unpickle())
                waiting.append(context.call_async(function, value))
            return done + [receiver.get().unpickle() for receiver in waiting]

        yield lambda value: context.call(function, value), many
    finally:
        broker.shutdown()
        broker.join()


@contextlib.contextmanager
def execnet(site: Site) -> Generator[Caller]:
    """Connect with execnet's own bootstrap; one channel, on which values go and come back in order."""
    import execnet as peer  # type: ignore[import-untyped]

    spec = f"ssh={' '.join(ssh_options(site))} {site.hosts[0]}//python={sys.executable}"
    group: Any = peer.Group()
    try:
        yield over_channel(group.makegateway(spec))
    finally:
        group.terminate(timeout=5)


def over_channel(gateway: Any) -> Caller:
    """Return the ways to call over one channel of execnet's gateway."""
    channel: Any = gateway.remote_exec(_EXECNET)

    def call(value: object) -> object:
        channel.send(value)
        return channel.receive()

    def many(values: Iterable[object]) -> list[object]:
        done: list[object] = []
        waiting = 0
        for value in values:
            if waiting == AT_ONCE:
                done.append(channel.receive())
                waiting -= 1
            channel.send(value)
            waiting += 1
        return done + [channel.receive() for _ in range(waiting)]

    return call, many


@contextlib.contextmanager
def rpyc(site: Site) -> Generator[Caller]:
    """Start rpyc's own server on the far side's stdin and stdout; it has to be installed there."""
    import rpyc as peer  # type: ignore[import-untyped]

    argv = ["ssh", *ssh_options(site), site.hosts[0], f"{sys.executable} -c '{_RPYC}'"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        connection: Any = peer.utils.factory.connect_pipes(
            process.stdout, process.stdin, service=peer.core.service.ClassicService, config={"sync_request_timeout": 60}
        )
        try:
            yield over_connection(connection)
        finally:
            connection.close()


def over_connection(connection: Any) -> Caller:
    """Return the ways to call over a connection of rpyc's classic service."""
    import rpyc as peer

    connection.execute("def double(value): return value")
    far: Any = connection.namespace["double"]
    later: Any = peer.async_(far)

    def many(values: Iterable[object]) -> list[object]:
        waiting: list[Any] = []
        done: list[object] = []
        for value in values:
            if len(waiting) == AT_ONCE:
                done.append(waiting.pop(0).value)
            waiting.append(later(value))
        return done + [result.value for result in waiting]

    return far, many
