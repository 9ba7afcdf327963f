"""How long does a message take beside bulk on a link of 10 MB/s with a buffer of 1 MiB?"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import cast

from anyio.abc import ByteSendStream

from aioremote._core.streams import Feed
from aioremote.outpost.channel import Channel
from aioremote.outpost.link import Link
from aioremote.protocols import FarProcess
from aioremote.testing.proxy import TcpProxy
from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._measure import ROOT, Entry, Measured, compete
from benchmarks._meters import come_first
from benchmarks._outposts import HERE, Reader, outpost_code, piped

__all__ = ["over_a_narrow_link", "run"]

RATE = 10e6
BUFFER = 2**20
DELAY = 0.005
SOCKET = "import socket; s = socket.create_connection(('127.0.0.1', {})); s.setsockopt(6, 1, 1)"


class _Socket(asyncio.Protocol):
    """The near end's side of the socket, as a link's streams."""

    def __init__(self) -> None:
        self.stdout = Feed()
        self.stdin = _Input(self)
        self.stderr = _Said()
        self.writable = asyncio.Event()
        self.writable.set()
        self.connected = asyncio.Event()
        self.process: FarProcess

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.connected.set()

    def data_received(self, data: bytes) -> None:
        self.stdout.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stdout.end()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class _Input(ByteSendStream):
    def __init__(self, end: _Socket) -> None:
        self._end = end

    async def send(self, item: bytes) -> None:
        self._end.transport.write(item)
        await self._end.writable.wait()

    async def aclose(self) -> None:
        self._end.transport.close()


@dataclass
class _Said:
    text: str = field(default="")


@contextlib.contextmanager
def _road(port: int) -> Generator[int]:
    """Put the narrow link, in a process of its own, in front of a port; yields its own port."""
    command = [sys.executable, "-m", "benchmarks.link_latency", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.communicate()


@contextlib.asynccontextmanager
async def _linked() -> AsyncGenerator[Link]:
    end = _Socket()
    server = await asyncio.get_running_loop().create_server(lambda: end, "127.0.0.1", 0)
    with _road(server.sockets[0].getsockname()[1]) as port:
        async with piped(outpost_code("s.fileno(), s.fileno()", SOCKET.format(port))) as end.process:
            await end.connected.wait()
            link = Link(end, host="here")
            await link.start(timeout=30)
            yield link
            await link.aclose()
            server.close()


async def _ask(channel: Channel, count: int) -> list[float]:
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await channel.send_message(bytes(64))
        await channel.receive_message()
        took.append(time.perf_counter() - began)
    return sorted(took)


def over_a_narrow_link(site: object, count: int) -> Measured:
    """Ask one message after another, first alone, then beside bulk towards us."""

    async def work() -> Measured:
        first = come_first()
        async with _linked() as link, Channel(link, "echo") as channel:
            idle = await _ask(channel, 50)
            reader = Reader(link, str(10**12).encode(), 4 * 2**20)
            await asyncio.sleep(1.0)
            began, before = time.perf_counter(), reader.got
            busy = await _ask(channel, count)
            rate = (reader.got - before) / (time.perf_counter() - began)
        return {
            "idle_ms": statistics.median(idle) * 1e3,
            "p50_ms": statistics.median(busy) * 1e3,
            "p99_ms": busy[int(0.99 * (count - 1))] * 1e3,
            "more_ms": (busy[int(0.99 * (count - 1))] - statistics.median(idle)) * 1e3,
            "share": rate / RATE,
            "came_first": first,
        }

    return asyncio.run(work())


def run(run: Run) -> Answer:
    """Compare the p99 beside bulk with the idle link."""
    values = compete(
        [Entry("aioremote", over_a_narrow_link, HERE, {"count": run.pick(400, 100)})], run.pick(5, 2), run.say
    )
    return Answer(
        "link_latency",
        "64-byte messages beside bulk on a link of 10 MB/s, 10 ms a round trip, 1 MiB buffer",
        [
            Figure("aioremote, idle", values.spread("aioremote", "idle_ms"), "ms"),
            Figure("aioremote, beside bulk", values.spread("aioremote", "p50_ms"), "ms"),
            Figure("aioremote, beside bulk, p99", values.spread("aioremote", "p99_ms"), "ms"),
        ],
        [
            Verdict("p99 over idle", 50, values.spread("aioremote", "more_ms"), unit="ms"),
            Verdict("bulk of the link's rate", 0.9, values.spread("aioremote", "share"), at_least=True),
        ],
        ["without a window such a message waits for the whole buffer: 100 ms and more"],
        values.rounds,
    )


async def _serve(port: int) -> None:
    come_first()
    async with TcpProxy("127.0.0.1", port, delay=DELAY, rate_bytes=RATE, buffer_bytes=BUFFER) as proxy:
        print(proxy.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
