"""Bringing a Python up at the far end, over any transport that starts processes, and explaining where it does not.

Not for what is spoken afterwards (`link`), nor for what is sent (`stages`).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import (
    BootstrapError,
    CommandNotFound,
    PythonNotFound,
    PythonTooOld,
    RemoteError,
    UnsupportedError,
)
from aioremote.outpost.stages import (
    EXIT_CUT,
    EXIT_DAMAGED,
    EXIT_NOT_FOUND,
    EXIT_TOO_OLD,
    OWN_VERSION,
    Payload,
    find_and_run,
    outpost_payload,
    tried,
)
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote._core.deadline import Deadline
    from aioremote.protocols import FarProcess, OutputStream
    from aioremote.types import Address

__all__ = ["Launched", "Launcher", "Tail", "launch"]

MAX_NOISE_BYTES = 64 * 1024  # before READY
SHOWN_BYTES = 4096  # of the noise in an error
SHOWN_STDERR_CHARS = 800  # of stderr in a message; all of what is kept is on the error
MAX_ANSWER_BYTES = 16 * 1024  # a path has at most 4 KiB, in hexadecimal twice as much
CLEANUP_SECONDS = 2.0

_ANSWER = re.compile(rb" (\d+)\.(\d+)\.(\d+) (\d+) ([0-9a-f]*)")
_MEANINGS = {
    EXIT_CUT: "its input ended early",
    EXIT_DAMAGED: "what arrived is not what was sent: something on the way changes bytes",
}
_INSTALL = "install Python 3.6 or later there, or name one with python="


class Launcher(Protocol):
    """What starts the far Python: any transport does."""

    @property
    def address(self) -> Address:
        """Where it starts it."""
        ...

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        """Start a program, as `Transport.start_process`."""
        ...


class Tail:
    """The last 64 KiB of a stream that nobody reads: far standard error, for the text of errors.

    Attributes:
        data: what is kept.
    """

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data: bytearray = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more."""
        self.data += data
        del self.data[:-MAX_NOISE_BYTES]

    @property
    def text(self) -> str:
        """What is kept, as text."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A far Python that has answered. Whoever has it closes `process`.

    Attributes:
        process: its process at the transport; ending it ends everything in its group.
        stdin: what it reads.
        stdout: what it writes, from the first byte after its answer.
        stderr: what it writes on standard error, the last of it.
        version: as (3, 11, 7).
        pid: its far process id.
        executable: the far path of the interpreter.
        noise: what login files printed before, at most 64 KiB.
    """

    process: FarProcess
    stdin: ByteSendStream
    stdout: OutputStream
    stderr: Tail
    version: tuple[int, int, int]
    pid: int
    executable: str
    noise: bytes


async def launch(
    transport: Launcher,
    payload: Payload | None = None,
    *,
    deadline: Deadline,
    python: str | None = None,
    isolated: bool = False,
    options: Mapping[str, object] | None = None,
) -> Launched:
    """Start a far Python and ship the outpost into it.

    Args:
        transport: what starts its process.
        payload: the modules to ship; None for the outpost's own.
        deadline: for everything until the far end has answered.
        python: a path, or a name on the far PATH; None looks for one of 3.6 or later.
        isolated: whether Python ignores PYTHON* variables and the user's own site-packages.
        options: handed to the entry module; names to plain values.

    Raises:
        PythonNotFound, PythonTooOld: there is none that can be used; nothing of the outpost was sent.
        BootstrapError: it did not come up; says at which step, with the far stderr and what login files printed.
        ConnectError, ConnectionLost, ClosedError: there is no connection, or no longer.
        ValueError: a `python` that cannot be a program's name.

    Cancellation: nothing is left behind, near or far.
    """
    attempt = _Attempt(transport.address.host or str(transport.address).rstrip(":"))
    # Not guarded: it ends with its input, after what it has started.
    spec = ProcessSpec(find_and_run(attempt.mark, python=python, isolated=isolated), guarded=False)
    try:
        async with deadline.scope():
            return await attempt.run(transport, spec, payload, options or {})
    except (CommandNotFound, UnsupportedError) as error:  # no /bin/sh, or a login that runs something else
        raise attempt.error(str(error)) from error
    except RemoteError:
        raise
    except TimeoutError as error:
        raise attempt.error(f"{attempt.awaited} within {deadline.seconds:g} s") from error


async def _shipped(version: bytes) -> Payload:
    """Return the outpost for a Python that is of that version; packed once, in a thread."""
    return await asyncio.to_thread(outpost_payload, same_version=version == OWN_VERSION)


class _Attempt:
    """One dialogue with a far end that may not be what it should.

    Attributes:
        mark: what stage 0 prints when it is ready.
        awaited: what has not happened yet, for errors.
    """

    def __init__(self, host: str) -> None:
        self.mark: str = secrets.token_hex(16)
        self.awaited: str = "no process was started"
        self._nonce = secrets.token_hex(16)
        self._host = host
        self._stderr = Tail()
        self._noise = bytearray()

    async def run(
        self, transport: Launcher, spec: ProcessSpec, payload: Payload | None, options: Mapping[str, object]
    ) -> Launched:
        """Start the process and go through the stages; where that does not succeed, nothing is left of it."""
        if payload is None:  # packed while the far Python starts; most often it is of our version
            asyncio.get_running_loop().run_in_executor(None, partial(outpost_payload, same_version=True))
        process = await transport.start_process(spec)
        try:
            return await self._talk(process, payload, options)
        except anyio.EndOfStream:
            raise await self._ended(process) from None
        finally:
            if self.awaited:
                await bounded_cleanup(process.aclose(), CLEANUP_SECONDS)

    async def _talk(self, process: FarProcess, payload: Payload | None, options: Mapping[str, object]) -> Launched:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        if process.stderr is not None:
            process.stderr.divert(self._stderr.feed)
        self.awaited = "no READY came (a login file may wait for input, or a prompt for an answer)"
        await process.started()
        self._noise += process.noise
        told, said = await self._ready(stdout)
        payload = payload or await _shipped(told)
        self.awaited = "Python was ready, but the outpost did not answer"
        with suppress(anyio.BrokenResourceError):  # it has ended, and the reader will see that
            await stdin.send(payload.line(self._nonce, options) + payload.packed)
        version, pid, executable = await self._answer(stdout, said)
        self.awaited = ""
        return Launched(
            process=process,
            stdin=stdin,
            stdout=stdout,
            stderr=self._stderr,
            version=version,
            pid=pid,
            executable=executable,
            noise=bytes(self._noise),
        )

    async def _ready(self, stdout: OutputStream) -> tuple[bytes, bytes]:
        """Read up to READY; returns the version it tells, and what came after it, where nothing should."""
        ready = re.compile(self.mark.encode() + rb"([0-9.]{0,4})\n")
        most = MAX_NOISE_BYTES + len(self.mark) + 5
        noise = self._noise
        searched = 0
        while (found := ready.search(noise, searched)) is None:
            searched = max(0, len(noise) - len(self.mark) - 5)
            if len(noise) > most:
                break
            noise += await stdout.receive()
        if found is None or found.start() > MAX_NOISE_BYTES:
            raise self.error(
                f"login files printed more than {MAX_NOISE_BYTES // 1024} KiB before it: make them print less"
            )
        version, said = found[1], bytes(noise[found.end() :])
        at = found.start()
        del found  # a bytearray that a match still looks at cannot shrink
        del noise[at:]
        return version, said

    async def _answer(self, stdout: OutputStream, said: bytes) -> tuple[tuple[int, int, int], int, str]:
        """Read the line that starts with the nonce, and not a byte more."""
        nonce = self._nonce.encode()
        while not said.endswith(b"\n"):
            if said[: len(nonce)] != nonce[: len(said)] or len(said) > MAX_ANSWER_BYTES:
                break
            said += await stdout.receive(1)
        found = _ANSWER.fullmatch(said[len(nonce) : -1]) if said.startswith(nonce) else None
        if found is None:
            raise self.error(f"Python was ready, but then came {said[:80]!r} instead of the outpost's answer")
        major, minor, micro, pid = (int(number) for number in found.groups()[:4])
        return (major, minor, micro), pid, bytes.fromhex(found[5].decode()).decode("utf-8", "surrogateescape")

    async def _ended(self, process: FarProcess) -> BootstrapError:
        """Explain why the far process has ended."""
        status = await process.wait()
        told = tried(self._stderr.text)
        if status.returncode == EXIT_NOT_FOUND and told:
            old = [line for line in told if ": Python " in line]
            if old:
                return self.error(f"too old: {', '.join(old)}; {_INSTALL}", PythonTooOld)
            names = ", ".join(line.partition(":")[0] for line in told)
            return self.error(f"found none of {names}; {_INSTALL}", PythonNotFound)
        if status.returncode == EXIT_TOO_OLD:
            return self.error(f"what was found is older than 3.6; {_INSTALL}", PythonTooOld)
        how = f"killed by SIG{status.signal}" if status.signal else f"exit status {status.returncode}"
        return self.error(f"{self.awaited}: {_MEANINGS.get(status.returncode, how)}")

    def error(self, text: str, kind: type[BootstrapError] = BootstrapError) -> BootstrapError:
        """Return an error with all that was seen."""
        stderr = self._stderr.text.strip()
        shown = f"{self._host}: no Python came up: {text}"
        if stderr and not issubclass(kind, PythonNotFound | PythonTooOld):
            shown += "\nits standard error: " + stderr[-SHOWN_STDERR_CHARS:]
        return kind(
            shown,
            host=self._host,
            stderr=stderr,
            noise=self._noise[-SHOWN_BYTES:].decode("utf-8", "replace"),
            tried=tried(stderr),
        )
