"""A transport of somebody's own, by the protocols alone; and what the testing tools give. Checked, never run."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import assert_type

from anyio.abc import ByteSendStream, ByteStream, Listener

from aioremote import Address, Capability, Endpoint, FarProcess, Machine, Transport
from aioremote.protocols import FileSystem, OutputStream
from aioremote.testing.checks import cancel_everywhere, marked_processes, no_leaks
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.fakes import FakeTransport, Fault, FaultyTransport
from aioremote.types import ExitStatus, ProcessSpec


class Output(OutputStream):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        return b""

    def divert(self, sink: Callable[[bytes], None], on_end: Callable[[], None] | None = None) -> None:
        sink(b"")

    def raise_limit(self, max_bytes: int) -> None:
        return None

    def set_hold(self, held: bool) -> None:
        return None

    async def aclose(self) -> None:
        return None


class Process(FarProcess):
    def __init__(self) -> None:
        self.pid = 1
        self.stdin = None
        self.stdout = Output()
        self.stderr = None
        self.status = ExitStatus(0)
        self.output_held = False
        self.noise = b""

    async def started(self) -> None:
        return None

    async def wait(self) -> ExitStatus:
        return ExitStatus(0)

    def send_signal(self, name: str) -> None:
        return None

    def end(self) -> None:
        return None

    def resize(self, columns: int, rows: int) -> None:
        return None

    async def aclose(self) -> None:
        return None


class Own(Transport):
    def __init__(self) -> None:
        self.address = Address("own", "host")
        self.capabilities = frozenset({Capability.COMMANDS})

    async def connect(self) -> None:
        return None

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        assert_type(spec.argv, tuple[bytes, ...])
        return Process()

    async def open_connection(self, target: Endpoint) -> ByteStream:
        raise NotImplementedError

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        raise NotImplementedError

    async def open_files(self, engine: str = "auto") -> FileSystem:
        raise NotImplementedError

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        return None

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        return None

    async def ping(self) -> float:
        return 0.0

    async def aclose(self) -> None:
        return None

    def abort(self) -> None:
        return None


def a_machine_over_it() -> Machine:
    return Machine(Own(), host="host")


async def a_process(process: FarProcess) -> None:
    assert_type(process.pid, int | None)
    assert_type(process.stdin, ByteSendStream | None)
    assert_type(process.stdout, OutputStream)
    assert_type(process.stderr, OutputStream | None)
    assert_type(process.status, ExitStatus | None)


async def nothing() -> None:
    return None


async def testing(transport: Transport) -> None:
    assert_type(FakeTransport().on("uptime", b"-p", stdout=b"up"), FakeTransport)
    faulty = FaultyTransport(transport, Fault(cut_after=5))
    assert_type(faulty.on("uptime"), FaultyTransport)
    Machine(faulty, host="web1")
    assert_type(marked_processes("mark"), dict[int, str])
    assert_type(await cancel_everywhere(nothing, nothing), int)
    block: AbstractAsyncContextManager[None] = no_leaks()
    async with block, EmbeddedServer(hosts=2) as server:
        assert_type(server.port, int)
        assert_type(server.hosts[0].host, str)
