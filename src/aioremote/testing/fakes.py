"""Transports for tests: one that answers by script, one that breaks another's streams on purpose.

Both stand at the byte seam and pass the conformance checks of real transports. Where the real thing can run in a test,
run that: `aioremote.testing.embedded` needs nothing installed.
"""

# ruff: noqa: D102  # the protocols' docstrings are the specification of what implements them

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from anyio.abc import ByteSendStream

from aioremote._core.streams import Feed
from aioremote.errors import ClosedError, CommandNotFound, ConnectionLost, UnsupportedError
from aioremote.protocols import FarProcess, FileSystem, Transport
from aioremote.types import Address, Capability, Endpoint, ExitStatus, ProcessSpec

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

__all__ = ["FakeTransport", "Fault", "FaultyTransport"]


@dataclass(frozen=True, slots=True)
class _Answer:
    stdout: bytes
    stderr: bytes
    status: ExitStatus


class _Taking(ByteSendStream):
    """A standard input that keeps what it is given."""

    def __init__(self, taken: bytearray) -> None:
        self._taken = taken

    async def send(self, item: bytes) -> None:
        self._taken += item

    async def aclose(self) -> None:
        return None


class _Scripted(FarProcess):
    """A process whose whole life is known beforehand."""

    def __init__(self, answer: _Answer, spec: ProcessSpec, taken: bytearray) -> None:
        self.pid = 1
        self.stdin = _Taking(taken) if spec.stdin else None
        self.stdout = _said(answer.stdout)
        self.stderr = _said(answer.stderr) if spec.terminal is None else None
        self.status: ExitStatus | None = None
        self.output_held = False
        self.noise = b""
        self._answer = answer

    async def started(self) -> None:
        return None

    async def wait(self) -> ExitStatus:
        await asyncio.sleep(0)
        self.status = self._answer.status
        return self.status

    def send_signal(self, name: str) -> None:
        return None

    def end(self) -> None:
        return None

    def resize(self, columns: int, rows: int) -> None:
        return None

    async def aclose(self) -> None:
        self.status = self._answer.status


def _said(data: bytes) -> Feed:
    feed = Feed()
    feed.feed(data)
    feed.end()
    return feed


class FakeTransport(Transport):
    """Answers commands by script: ``FakeTransport().on("uptime", stdout=b"up 3 days")``.

    Args:
        base: a real transport for what is not scripted; None makes that CommandNotFound.
        host: the name in its address.

    Attributes:
        orders: what was started, in order.
        inputs: what each of them was given on standard input, in the same order.
    """

    def __init__(self, base: Transport | None = None, *, host: str = "fake") -> None:
        self.address: Address = Address("fake", host)
        self.capabilities: frozenset[Capability] = (
            frozenset({Capability.COMMANDS}) if base is None else base.capabilities
        )
        self.orders: list[ProcessSpec] = []
        self.inputs: list[bytearray] = []
        self._base = base
        self._answers: list[tuple[tuple[bytes, ...], _Answer]] = []
        self._closed = False

    def on(
        self,
        *argv: str | bytes,
        stdout: bytes = b"",
        stderr: bytes = b"",
        returncode: int = 0,
        signal: str | None = None,
    ) -> Self:
        """Script the answer to commands whose argv begins so; the last fitting script answers. Returns itself."""
        words = tuple(os.fsencode(word) for word in argv)
        self._answers.append((words, _Answer(stdout, stderr, ExitStatus(returncode, signal))))
        return self

    def _find(self, argv: Sequence[bytes]) -> _Answer | None:
        fitting = (answer for words, answer in reversed(self._answers) if tuple(argv[: len(words)]) == words)
        return next(fitting, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.address.host}: this machine was closed", host=self.address.host)

    async def connect(self) -> None:
        self._check_open()
        if self._base is not None:
            await self._base.connect()

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        self._check_open()
        answer = self._find(spec.argv)
        self.orders.append(spec)
        self.inputs.append(bytearray())
        if answer is not None:
            return _Scripted(answer, spec, self.inputs[-1])
        if self._base is not None:
            return await self._base.start_process(spec)
        args = [os.fsdecode(word) for word in spec.argv]
        raise CommandNotFound(args[:1], host=self.address.host, cmd=args)

    def _real(self) -> Transport:
        self._check_open()
        if self._base is None:
            raise UnsupportedError(f"{self.address.host}: a FakeTransport without a base only answers commands")
        return self._base

    async def open_connection(self, target: Endpoint) -> ByteStream:
        return await self._real().open_connection(target)

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        return await self._real().open_listener(bind)

    async def open_files(self, engine: str = "auto") -> FileSystem:
        return await self._real().open_files(engine)

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        await self._real().getfile(remote_path, local_path)

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await self._real().putfile(local_path, remote_path)

    async def ping(self) -> float:
        self._check_open()
        return 0.0 if self._base is None else await self._base.ping()

    async def wait_lost(self) -> ConnectionLost | None:
        if self._base is None:
            await asyncio.Event().wait()
        return None if self._base is None else await self._base.wait_lost()

    async def reconnect(self) -> None:
        self._check_open()
        if self._base is not None:
            await self._base.reconnect()

    async def aclose(self) -> None:
        self._closed = True
        if self._base is not None:
            await self._base.aclose()

    def abort(self) -> None:
        self._closed = True
        if self._base is not None:
            self._base.abort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with each process.

    Attributes:
        piece_bytes: the largest piece in which standard output arrives; None as it comes.
        cut_after: after so many bytes of standard output the link counts as lost; None never.
        stall_after: after so many bytes of standard output nothing more arrives, not even the end; None never.
        before_start: whether starting a process already fails with ConnectionLost ("not_started").
    """

    piece_bytes: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    before_start: bool = False


class _FaultyProcess(FarProcess):
    """A process whose standard output goes through a fault."""

    def __init__(self, real: FarProcess, fault: Fault, host: str) -> None:
        self._real = real
        self._piece = fault.piece_bytes
        self._host = host
        self._cut = fault.cut_after is not None and (fault.stall_after is None or fault.cut_after <= fault.stall_after)
        self._left = fault.cut_after if self._cut else fault.stall_after  # bytes until the break; None for none
        self._verdict = asyncio.Event()  # the output has ended, or the link is lost; never, where it stalls
        self._near = Feed(real.stdout.set_hold)
        self.stdin = real.stdin
        self.stdout = self._near
        self.stderr = real.stderr
        real.stdout.divert(self._take, self._end)
        self._take(b"")

    @property
    def pid(self) -> int | None:  # type: ignore[override]  # read only here
        return self._real.pid

    @property
    def status(self) -> ExitStatus | None:  # type: ignore[override]
        return None if self._left == 0 else self._real.status

    @property
    def output_held(self) -> bool:  # type: ignore[override]
        return self._real.output_held

    @property
    def escaped(self) -> tuple[int, ...]:  # type: ignore[override]
        return self._real.escaped

    @property
    def noise(self) -> bytes:  # type: ignore[override]
        return self._real.noise

    def _take(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        step = self._piece or max(1, len(data))
        for start in range(0, len(data), step):
            self._near.feed(data[start : start + step])
        if self._left == 0 and self._cut:
            self._verdict.set()
            self._near.end(_lost(self._host, "unknown"))

    def _end(self) -> None:
        if self._left != 0:
            self._verdict.set()
            self._near.end()

    async def started(self) -> None:
        await self._real.started()

    async def wait(self) -> ExitStatus:
        if self._left is not None:
            await self._verdict.wait()
        if self._left == 0:
            raise _lost(self._host, "unknown")
        return await self._real.wait()

    def send_signal(self, name: str) -> None:
        self._real.send_signal(name)

    def end(self) -> None:
        self._real.end()

    def resize(self, columns: int, rows: int) -> None:
        self._real.resize(columns, rows)

    async def aclose(self) -> None:
        await self._real.aclose()


class FaultyTransport(FakeTransport):
    """A real transport with a fault: what each process writes is cut, stalled or cut to pieces.

    Args:
        base: the real transport.
        fault: what goes wrong.
    """

    def __init__(self, base: Transport, fault: Fault) -> None:
        super().__init__(base)
        self.address: Address = base.address
        self.fault = fault
        self._host = base.address.host or "localhost"

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        if self.fault.before_start:
            raise _lost(self._host, "not_started")
        return _FaultyProcess(await super().start_process(spec), self.fault, self._host)


def _lost(host: str, outcome: Literal["not_started", "unknown"]) -> ConnectionLost:
    return ConnectionLost(f"{host}: cut by a test", host=host, outcome=outcome, reason="reset")
