"""The bytes of big files over a plain channel beside SFTP, which costs both ends a request for each block.

SFTP opens, names and judges the file; where no channel can be had, or it ends early, SFTP goes on from there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from aioremote._core.turns import next_turn
from aioremote.errors import UnsupportedError
from aioremote.transports.shell_calls import operand, program, said_error

if TYPE_CHECKING:
    from aioremote.protocols import FarProcess
    from aioremote.types import ProcessSpec

__all__ = ["STREAM_BYTES", "Start", "WriteStream", "read_stream"]

Start = Callable[["ProcessSpec"], Awaitable["FarProcess | None"]]
"""Starts a program where a session is free now; None where there is none."""

STREAM_BYTES = 32 * 1024 * 1024  # of a file that is worth a far program
_READ = b'exec cat <"$1"'
_WRITE = b'exec cat >>"$1"'
_PART_BYTES = 1024 * 1024
_SENT_BYTES = 128 * 1024  # at once: many hosts share a loop, and each holds so much
_AHEAD_BYTES = 4 * 1024 * 1024
_SAID_BYTES = 64 * 1024


async def _started(start: Start, script: bytes, path: bytes, *, stdin: bool) -> FarProcess | None:
    try:
        return await start(program(script, operand(path), stdin=stdin))
    except UnsupportedError:  # a server for files only
        return None


async def read_stream(start: Start, path: bytes, size: int) -> AsyncGenerator[bytes]:
    """Yield a file from its beginning, `size` bytes or as many as come. Close it where left early.

    Args:
        start: starts a program where a session is free now.
        path: the file.
        size: its bytes.
    """
    far = await _started(start, _READ, path, stdin=False)
    if far is None:
        return
    try:
        if far.stderr is not None:
            far.stderr.divert(lambda chunk: None)  # SFTP meets the same trouble, and tells it better
        far.stdout.raise_limit(_AHEAD_BYTES)
        parts: list[bytes] = []
        have = 0
        while size:
            try:
                data = (await far.stdout.receive(_PART_BYTES))[:size]
            except anyio.EndOfStream:
                break
            parts.append(data)
            have, size = have + len(data), size - len(data)
            if have >= _PART_BYTES:
                yield b"".join(parts)
                parts, have = [], 0
        if parts:
            yield b"".join(parts)
    finally:
        await far.aclose()


class WriteStream:
    """What is appended to a far file. Close it in any case.

    Args:
        far: the program that writes.
        host: its machine, for errors.

    Attributes:
        at: how many bytes were sent.
    """

    def __init__(self, far: FarProcess, host: str) -> None:
        self.at: int = 0
        self._far = far
        self._host = host
        self._said = bytearray()
        if far.stderr is not None:
            far.stderr.divert(self._hear)

    @classmethod
    async def open(cls, start: Start, path: bytes, host: str) -> WriteStream | None:
        """Return one for an empty file; None where there is no channel for it."""
        far = await _started(start, _WRITE, path, stdin=True)
        return None if far is None else cls(far, host)

    def _hear(self, chunk: bytes) -> None:
        self._said += chunk
        del self._said[:-_SAID_BYTES]

    async def send(self, data: bytes, path: bytes) -> None:
        """Send more; raises as `finish`."""
        assert self._far.stdin is not None  # it was asked for
        try:
            for start in range(0, len(data), _SENT_BYTES):
                await next_turn()  # where the far sides are quick nothing else would let others have the loop
                await self._far.stdin.send(data[start : start + _SENT_BYTES])
        except anyio.BrokenResourceError:  # it ended early, and says why
            await self.finish(path)
        self.at += len(data)

    async def finish(self, path: bytes) -> None:
        """Wait until all of it is written.

        Raises:
            FileError: what the far system said, about `path`.
        """
        assert self._far.stdin is not None
        try:
            await self._far.stdin.aclose()
        except anyio.BrokenResourceError:
            pass
        status = await self._far.wait()
        await self._far.aclose()
        if status.returncode:
            said = self._said.decode(errors="surrogateescape").strip()
            raise said_error(self._host, path, status, said)

    async def aclose(self) -> None:
        """End it."""
        await self._far.aclose()
