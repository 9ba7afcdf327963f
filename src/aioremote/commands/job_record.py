"""The near view of a job's far record: what it is asked, and what its answers mean.

Not for users, who have `aioremote.commands.jobs.Job`; the other end is `aioremote.commands.job_script`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from aioremote.commands.job_script import RUN, SCRIPT
from aioremote.commands.orders import Order, argument_bytes, make_order
from aioremote.commands.running import run_order
from aioremote.errors import RemoteError, UnsupportedError, file_error
from aioremote.types import JobStatus

if TYPE_CHECKING:
    from aioremote.files.path import RemotePath
    from aioremote.protocols import Transport

__all__ = ["JobRecord", "errno_of"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ANSWER_BYTES = 64 * 1024
_STATES: dict[str, Literal["running", "exited", "lost"]] = {name: name for name in ("running", "exited", "lost")}
_ADVICE = "give records= a directory that the login can write to, or set HOME for it"


class JobRecord:
    """Where a job is kept, and the way there.

    Raises:
        ValueError: an id that no job has, or a place for records that is not absolute.
    """

    def __init__(self, transport: Transport, host: str, job_id: str, records: str | RemotePath | None) -> None:
        if not _ID.fullmatch(job_id):
            raise ValueError(f"job id {job_id!r}: give one that detach() gave, as its letters and digits")
        folder = b"" if records is None else argument_bytes(records, "records")
        if records is not None and not folder.startswith(b"/"):
            raise ValueError(f"records={str(records)!r}: give an absolute far path")
        self.transport = transport
        self.host = host
        self.id = job_id
        self._folder = folder

    def order(
        self, verb: str, *words: bytes, timeout: float | None = None, max_output_bytes: int = _ANSWER_BYTES
    ) -> Order:
        """Return what one verb of the script is ordered with; no scope of the calling task has a part in it."""
        argv = (*RUN, SCRIPT, verb.encode(), self._folder, self.id.encode(), *words)
        order = make_order(argv, cwd=None, env={}, check=False, timeout=timeout, max_output_bytes=max_output_bytes)
        return replace(order, args=("job", self.id, verb))

    async def ask(
        self, verb: str, *words: bytes, timeout: float | None = None, max_output_bytes: int = _ANSWER_BYTES
    ) -> tuple[bytes, bytes]:
        """Return the first line of the answer, and what follows it."""
        order = self.order(verb, *words, timeout=timeout, max_output_bytes=max_output_bytes)
        first, _, rest = (await run_order(order, self.transport, self.host)).stdout_bytes.partition(b"\n")
        return first, rest

    async def ask_status(self, verb: str, *words: bytes, timeout: float | None = None) -> JobStatus:
        """Return how the job stands when the verb is done."""
        first, rest = await self.ask(verb, *words, timeout=timeout)
        told = first.decode(errors="replace").split()
        if len(told) != 5 or told[0] not in _STATES:
            raise self.refusal(first, rest)
        began, code, name, ended = told[1:]
        returncode, killer = _ending(int(code), name) if code != "-" else (None, None)
        return JobStatus(
            state=_STATES[told[0]],
            returncode=returncode,
            signal=killer,
            started=_seconds(began),
            ended=_seconds(ended),
        )

    def refusal(self, first: bytes, rest: bytes) -> RemoteError:
        """Return the error for an answer that is not what was asked for."""
        text = os.fsdecode(rest)
        if first == b"unknown":
            what = "no such job: it was forgotten, or belongs to another login or machine"
            return file_error(errno.ENOENT, text, host=self.host, text=what)
        if first == b"homeless":
            what = f"the login has no HOME to keep jobs in: {_ADVICE}"
            return file_error(errno.ENOENT, "$HOME", host=self.host, text=what)
        if first == b"record":
            folder, _, said = text.partition("\n")
            what = f"cannot keep or remove the record of a job there ({said.strip()}): {_ADVICE}"
            return file_error(errno_of(said), folder, host=self.host, text=what)
        if first == b"unsupported":
            return UnsupportedError(f"{self.host}: no detached jobs here: {text}", host=self.host)
        return UnsupportedError(
            f"{self.host}: job {self.id}: /bin/sh answered {first[:200]!r}, not as a POSIX shell does", host=self.host
        )


def _ending(code: int, name: str) -> tuple[int, str | None]:
    """Return exit status and signal name as near code knows them; ksh93 counts signals from 256."""
    if name == "-":
        return code, None
    known = signal.Signals.__members__.get(f"SIG{name}")
    if known is None:
        return -(code - (256 if code > 256 else 128)), name
    return -known.value, known.name.removeprefix("SIG")


def _seconds(word: str) -> float | None:
    return float(word) if word.isdigit() else None


def errno_of(said: str) -> int:
    """Guess from what a far tool or shell says; its text belongs into the error's message."""
    known = (
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.ENOENT),
    )
    lower = said.lower()
    number = next((number for number in known if os.strerror(number).lower() in lower), None)
    return number or (errno.ENOENT if "nonexistent" in lower else errno.EIO)
