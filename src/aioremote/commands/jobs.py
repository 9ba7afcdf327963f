"""Detached jobs: programs that go on without us, and can be asked about later, from anywhere.

What a job needs stands at the far end: a watcher that waits for the program, and a directory that keeps its output and
its end (`aioremote.commands.job_script`). Here is only who asks; who starts one is
`aioremote.commands.job_start`. Not for a program that is to end with its caller:
that is `Machine.run` and `Machine.start`.
"""

from __future__ import annotations

import errno
import re
import signal as signal_module
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple

import anyio

from aioremote.commands.job_record import JobRecord
from aioremote.commands.process import Starting
from aioremote.errors import BusyError, CommandTimeout, file_error
from aioremote.types import JobStatus

if TYPE_CHECKING:
    from aioremote.files.path import RemotePath
    from aioremote.protocols import Transport

__all__ = ["Job", "JobFollowing", "JobTail"]

_SIGNAL = re.compile(r"[A-Z][A-Z0-9+-]{0,15}")
_LOOKS_PER_SECOND = 50  # of the far loop that waits for the end of a group

Stream = Literal["stdout", "stderr"]


class JobTail(NamedTuple):
    """A piece of a job's output.

    Attributes:
        data: the exact bytes; empty where there are no more yet.
        offset: where the next piece begins.
    """

    data: bytes
    offset: int


class Job:
    """A program that was started with `Machine.detach`; it outlives the connection, the machine object and us.

    Every call is one round trip, and may be made from any process that can reach the machine as the same login:
    ``m.job(id)``. A call that is cancelled or loses its link changes nothing for the job.

    Attributes:
        id: its name, good until `forget`.
        host: the machine's name, as it was given.
    """

    def __init__(
        self, transport: Transport, host: str, job_id: str, *, records: str | RemotePath | None = None
    ) -> None:
        self.id = job_id
        self.host = host
        self._record = JobRecord(transport, host, job_id, records)

    def __repr__(self) -> str:
        return f"<Job {self.id} on {self.host}>"

    async def status(self) -> JobStatus:
        """Return how it stands now.

        Raises:
            FileMissing: there is no such job: it was forgotten, or belongs to another login or machine.
        """
        return await self._record.ask_status("status")

    async def wait(self, *, timeout: float | None = None) -> JobStatus:
        """Wait for its end and return it. Nothing is sent meanwhile: the far end waits, and asks nobody either.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            CommandTimeout: it still runs after that time; it goes on.
            FileMissing: as from `status`.
            ConnectionLost: the link ended first. The job goes on: wait again once there is a connection.

        Cancellation: the job goes on.
        """
        try:
            return await self._record.ask_status("wait", timeout=timeout)
        except CommandTimeout as error:
            text = f"{self.host}: job {self.id}: still running after {error.timeout:g} s; it goes on"
            raise CommandTimeout(text, host=self.host, cmd=error.cmd, timeout=error.timeout) from error

    async def kill(self, signal: str | int = "TERM", *, grace: float | None = 0.5) -> JobStatus:
        """End its whole process group, and return how that ended.

        Does nothing where the program has ended already. What left the program's group and session on its own is not
        found.

        Args:
            signal: what to begin with, a name such as "TERM" or a near number.
            grace: seconds until KILL. None sends the one signal and does not wait for any effect.

        Raises:
            FileMissing: as from `status`.

        Cancellation: the signal may have been sent or not; a KILL that was not sent by then is not sent.
        """
        looks = b"" if grace is None else b"%d" % max(0, round(grace * _LOOKS_PER_SECOND))
        return await self._record.ask_status("kill", _signal_name(signal).encode(), looks)

    async def tail(self, offset: int = 0, *, stream: Stream = "stdout", max_bytes: int = 1024 * 1024) -> JobTail:
        """Return what it has written from `offset` on.

        Args:
            offset: bytes from the beginning; negative ones count from the end of what there is now.
            stream: "stdout" or "stderr".
            max_bytes: how much to return at most.

        Returns:
            JobTail: the bytes, and the offset to ask from next.

        Raises:
            FileMissing: there is no such job, or its output was removed.
        """
        words = (_stream_name(stream), b"%d" % offset, b"%d" % max_bytes)
        first, data = await self._record.ask("tail", *words, max_output_bytes=max_bytes + 4096)
        verb, _, start = first.partition(b" ")
        if verb == b"missing":
            raise file_error(errno.ENOENT, stream, host=self.host, text=f"the {stream} of job {self.id} was removed")
        if verb != b"from" or not start.isdigit():
            raise self._record.refusal(first, data)
        return JobTail(data, int(start) + len(data))

    def follow(self, offset: int = 0, *, stream: Stream = "stdout") -> JobFollowing:
        """Iterate over what it has written and still writes, until it has ended.

        Args:
            offset: bytes from the beginning.
            stream: "stdout" or "stderr".

        Returns:
            JobFollowing: ``async with`` it where the loop may be left early; plain ``async for`` where it runs to the
                end.
        """
        if offset < 0:
            raise ValueError(f"offset={offset}: give bytes from the beginning; tail() takes negative ones")
        return JobFollowing(self, self._record, offset, stream)

    async def forget(self) -> None:
        """Remove its record, with the output that was not sent elsewhere; the id is good no more. May be called twice.

        Raises:
            BusyError: it still runs.
            FileError: the record cannot be removed.
        """
        first, rest = await self._record.ask("forget")
        if first == b"running":
            raise BusyError(f"{self.host}: job {self.id} still runs: wait() for it or kill() it first", host=self.host)
        if first != b"done":
            raise self._record.refusal(first, rest)


class JobFollowing(AsyncIterator[bytes]):
    """A job's output as it comes: ``async with job.follow() as pieces: async for piece in pieces: ...``.

    The iteration ends when the job has ended and everything was delivered. Leaving it ends nothing but the reading.

    Attributes:
        offset: where the next piece begins; after ConnectionLost, follow again from here.
    """

    def __init__(self, job: Job, record: JobRecord, offset: int, stream: Stream) -> None:
        self.offset: int = offset
        self._job = job
        self._record = record
        self._words = (_stream_name(stream), b"%d" % offset)
        self._stream: Stream = stream
        self._iterator: AsyncGenerator[bytes, None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def __anext__(self) -> bytes:
        return await anext(aiter(self))

    async def __aenter__(self) -> JobFollowing:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._iterator is not None:
            await self._iterator.aclose()

    async def _iterate(self) -> AsyncGenerator[bytes, None]:
        record = self._record
        async with Starting(record.transport, record.order("follow", *self._words), record.host) as process:
            try:
                while True:
                    piece = await process.stdout.receive()
                    self.offset += len(piece)
                    yield piece
            except anyio.EndOfStream:
                await process.wait()
        while piece := (await self._job.tail(self.offset, stream=self._stream)).data:  # what came with its end
            self.offset += len(piece)
            yield piece


def _stream_name(stream: str) -> bytes:
    if stream not in ("stdout", "stderr"):
        raise ValueError(f"stream={stream!r}: give 'stdout' or 'stderr'")
    return stream.encode()


def _signal_name(signal: str | int) -> str:
    try:
        name = signal if isinstance(signal, str) else signal_module.Signals(signal).name
    except ValueError:
        name = ""
    name = name.removeprefix("SIG")
    if not _SIGNAL.fullmatch(name):
        raise ValueError(f"no signal {signal!r}: give a name such as 'TERM' or 'INT'")
    return name
