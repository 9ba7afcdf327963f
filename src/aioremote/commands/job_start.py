"""Starting a detached job, and undoing a start that nobody waits for any more.

Not for what can be asked of a job later: that is `aioremote.commands.jobs`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from aioremote._core.lifetime import bounded_cleanup
from aioremote.commands.job_record import JobRecord, errno_of
from aioremote.commands.jobs import Job
from aioremote.commands.orders import Order, argument_bytes
from aioremote.commands.running import CANCEL_SECONDS, run_order, too_late
from aioremote.errors import CommandNotFound, ConnectionLost, RemoteError, file_error
from aioremote.files.path import RemotePath
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote.protocols import Transport
    from aioremote.types import Result

__all__ = ["start_job"]

_NO_PATH = b"/bin:/usr/bin"  # where programs are looked for without a PATH, as execvp does


async def start_job(
    transport: Transport,
    host: str,
    order: Order,
    *,
    stdout: str | RemotePath | None,
    stderr: str | RemotePath | None,
    records: str | RemotePath | None,
) -> Job:
    """Start the ordered program as a job, or raise what `Machine.detach` documents."""
    if order.spec.argv[0].startswith(b"-"):
        raise ValueError(f"program {order.args[0]!r} starts with '-', which reads as an option: give its path")
    record = JobRecord(transport, host, secrets.token_hex(16), records)
    outputs = (_output(stdout, host, "stdout"), _output(stderr, host, "stderr"))
    words = (*outputs, *_environment(order.spec), b"--", *order.spec.argv)
    launch = record.order("launch", *words)
    launch = replace(launch, args=order.args, spec=replace(launch.spec, cwd=order.spec.cwd))
    result = await _launch(record, launch, order.timeout)
    first, _, rest = result.stdout_bytes.partition(b"\n")
    if first != b"begun":
        raise _not_begun(record, order, outputs, first, rest)
    return Job(transport, host, record.id, records=records)


async def _launch(record: JobRecord, launch: Order, timeout: float | None) -> Result:
    connected = False
    try:
        async with asyncio.timeout(timeout):
            try:
                await record.transport.connect()
                connected = True
                return await run_order(launch, record.transport, record.host)
            except asyncio.CancelledError as error:
                if connected:
                    await _undo(record, error)
                raise
    except TimeoutError as error:
        if isinstance(error, RemoteError):
            raise
        raise too_late(replace(launch, timeout=timeout), record.host, connected=connected) from error
    except ConnectionLost as error:
        if error.outcome != "not_started":
            error.add_note(f"job {record.id} may have begun: job({record.id!r}).status() tells, once connected again")
        raise


async def _undo(record: JobRecord, error: BaseException) -> None:
    """End and remove what may have begun of a job that nobody will get."""
    try:
        undone = await bounded_cleanup(record.ask("undo"), CANCEL_SECONDS)
    except RemoteError:
        undone = False
    if not undone:
        error.add_note(f"job {record.id} may have begun and could not be undone: job({record.id!r}).kill() ends it")


def _not_begun(record: JobRecord, order: Order, outputs: tuple[bytes, bytes], first: bytes, rest: bytes) -> RemoteError:
    """Return the error for a program that was not started."""
    text, program, host = os.fsdecode(rest), order.args[0], record.host
    if first == b"absent":
        path = () if "/" in program else text.split(":")
        return CommandNotFound([program], host=host, cmd=order.args, path=path)
    if first == b"forbidden":
        return file_error(errno.EACCES, text, host=host, text="it is there and may not be executed")
    if first in (b"file stdout", b"file stderr"):
        place = os.fsdecode(outputs[first == b"file stderr"])
        return file_error(errno_of(text), place, host=host, text=f"cannot be written to: {text.strip()}")
    return record.refusal(first, rest)


def _environment(spec: ProcessSpec) -> list[bytes]:
    """Return the PATH to look in, where it is not the login's, and the variables as the script reads them."""
    path = b""
    if "PATH" in spec.env:
        path = spec.env["PATH"] or _NO_PATH
    words = [path]
    for name, value in spec.env.items():
        words += [b"-" + name.encode()] if value is None else [b"=" + name.encode(), value]
    return words


def _output(path: str | RemotePath | None, host: str, what: str) -> bytes:
    if path is None:
        return b""
    if isinstance(path, RemotePath) and path.machine.host != host:
        raise ValueError(f"{what}={path!r} is on another machine than {host}")
    if not isinstance(cast(object, path), (str, RemotePath)):
        raise TypeError(f"{what}={path!r}: give a RemotePath, or None for a file in the job's record")
    place = argument_bytes(path, what)
    if not place:
        raise ValueError(f"{what} is empty: give a far path, or None for a file in the job's record")
    return place if place.startswith(b"/") else b"./" + place
