"""Links to outposts on this machine, on any Python, with faults between the ends."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

from anyio.abc import ByteSendStream

import aioremote.outpost.far
from aioremote._core.streams import Feed
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import Handler
from aioremote.outpost.link import Link
from aioremote.protocols import FarProcess, OutputStream
from aioremote.testing.proxy import TcpProxy
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec

FAR = Path(aioremote.outpost.far.__file__).parent
FLOOR = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
SERVE = "import sys; sys.path.insert(0, {path!r}); from far.serve import main; main({fds}, 2, '', {options!r})"


@cache
def python_path(version: str) -> str:
    """Return the path of one Python of the floor; a missing one fails."""
    root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
    paths = sorted(Path(root, "versions").glob(f"{version}.*/bin/python"))
    assert paths, f"Python {version} is not installed: pyenv install {version}"
    return str(paths[-1])


@dataclass
class Tail:
    """What the far end complains about."""

    text: str = ""

    def feed(self, data: bytes) -> None:
        self.text = (self.text + data.decode(errors="replace"))[-4096:]


@dataclass
class Started:
    """An outpost without a launch: the far package on sys.path."""

    process: FarProcess
    stdin: ByteSendStream
    stdout: OutputStream
    stderr: Tail = field(default_factory=Tail)


def argv(
    python: str = sys.executable, options: dict[str, float] | None = None, *, fds: str = "0, 1", before: str = ""
) -> tuple[bytes, ...]:
    """Return the command line of an outpost."""
    code = before + SERVE.format(path=str(FAR.parent), fds=fds, options=options or {})
    return tuple(os.fsencode(word) for word in (python, "-B", "-c", code))


async def started(transport: LocalTransport, command: tuple[bytes, ...]) -> Started:
    """Start a command and keep what it complains about."""
    process = await transport.start_process(ProcessSpec(command))
    assert process.stdin is not None
    assert process.stderr is not None
    end = Started(process, process.stdin, process.stdout)
    process.stderr.divert(end.stderr.feed)
    return end


@asynccontextmanager
async def linked(
    python: str = sys.executable, *, far: dict[str, float] | None = None, **keywords: object
) -> AsyncGenerator[Link]:
    """A link to an outpost on this machine; `far` are its options, the keywords the near end's."""
    transport = LocalTransport()
    link = Link(await started(transport, argv(python, far)), host="there", **keywords)  # type: ignore[arg-type]
    try:
        await link.start(timeout=20)
        yield link
    finally:
        await link.aclose()
        await transport.aclose()


class Reader(Handler):
    """Takes the bytes of a channel as they come and grants them at once; `done` at the end."""

    def __init__(self, link: Link, kind: str, header: bytes = b"", *, end: bool = False) -> None:
        self.link = link
        self.got = 0
        self.lost = ""
        self.done = asyncio.Event()
        self.number = link.open(kind, self, header, end=end)

    def on_data(self, data: bytes) -> None:
        self.got += len(data)
        self.link.grant(self.number, cost(data))

    def on_eof(self) -> None:
        self.done.set()

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        self.lost = text
        self.done.set()

    def on_lost(self, text: str) -> None:
        self.lost = text
        self.done.set()


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS for {pid}")


class _SocketInput(ByteSendStream):
    """The writing half of a socket, with back-pressure."""

    def __init__(self, end: "SocketEnd") -> None:
        self._end = end

    async def send(self, item: bytes) -> None:
        self._end.transport.write(item)
        await self._end.writable.wait()

    async def aclose(self) -> None:
        self._end.transport.close()


class SocketEnd(asyncio.Protocol):
    """A far end whose streams are a socket and whose process is a local one."""

    def __init__(self, stderr: Tail) -> None:
        self.stderr = stderr
        self.stdout = Feed()
        self.stdin = _SocketInput(self)
        self.writable = asyncio.Event()
        self.writable.set()
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.process: FarProcess

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.connected.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.stdout.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.set()
        self.stdout.end()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


@asynccontextmanager
async def linked_through_proxy(
    *, far: dict[str, float] | None = None, proxy: dict[str, float] | None = None, **keywords: object
) -> AsyncGenerator[tuple[Link, TcpProxy]]:
    """A link whose bytes go through a slow or broken TCP link; `proxy` are its settings."""
    transport = LocalTransport()
    stderr = Tail()
    end = SocketEnd(stderr)
    server = await asyncio.get_running_loop().create_server(lambda: end, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with TcpProxy("127.0.0.1", port, **(proxy or {})) as road:  # type: ignore[arg-type]
        before = f"import socket; s = socket.create_connection(('127.0.0.1', {road.port})); "
        before += "s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); "
        fds = "s.fileno(), s.fileno()"
        plain = await started(transport, argv(options=far, fds=fds, before=before))
        plain.stderr = stderr
        end.process = plain.process
        await end.connected
        link = Link(end, host="there", **keywords)  # type: ignore[arg-type]
        try:
            await link.start(timeout=20)
            yield link, road
        finally:
            await link.aclose()
            end.transport.abort()  # what a frozen road holds is never written
            server.close()
            await server.wait_closed()
            await transport.aclose()


def workers_of(outpost: int) -> int:
    """Return how many workers an outpost has: the children of its zygote, its only child with children."""
    return sum(len(_children(child)) for child in _children(outpost))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def descriptors(pid: int, *, workers: int = 0) -> Counter[str]:
    """Return how many descriptors of each kind a process holds, those of so many workers left out: they come and go."""
    kinds: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this listing
            kinds[f"{os.readlink(path).partition(':')[0]} of {pid}"] += 1
    kinds.subtract({f"socket of {pid}": 3 * workers, f"pipe of {pid}": 2 * workers})  # queue, stream; stdout, stderr
    return kinds


async def settled(read: Callable[[], Counter[str]], *, most: Counter[str] | None = None) -> Counter[str]:
    """Return what `read` tells twice in a row, 0.1 s apart; of nothing more than in `most`, if that is given.

    What a command or a worker that has just ended held goes a moment later.
    """
    found = read()
    end = time.monotonic() + 10
    while True:
        await asyncio.sleep(0.1)
        last, found = found, read()
        excess = +(found - most) if most is not None else Counter[str]()
        if last == found and not excess:
            return found
        assert time.monotonic() < end, f"left over: {dict(excess)} of {dict(found)}, there were {most}"
