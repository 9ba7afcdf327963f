"""What was written over SFTP compared with its source before it has its place: files that wait are hashed together."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote.errors import ChecksumMismatch

if TYPE_CHECKING:
    from aioremote.protocols import FileSystem

__all__ = ["Verifier"]

_MOST = 256  # files hashed by one command
_BLOCK_BYTES = 1024 * 1024


class Verifier:
    """Compares far files with digests. While one command hashes, those that come wait for the next.

    Args:
        files: the far files.
        host: the machine's name.
        spawn: starts a task of the caller's.
    """

    def __init__(
        self, files: FileSystem, host: str, spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]]
    ) -> None:
        self._files = files
        self._host = host
        self._spawn = spawn
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._task: asyncio.Task[None] | None = None

    async def check(self, temp: bytes, digest: bytes, path: bytes) -> None:
        """Compare a temporary file.

        Raises:
            ChecksumMismatch: it is another; `path` is its final path.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((temp, future))
        if self._task is None or self._task.done():
            self._task = self._spawn(self._hash())
        if await future != digest:
            shown = os.fsdecode(path)
            text = f"{self._host}: what has arrived of {shown!r} is not what was sent; the file is as it was"
            raise ChecksumMismatch(text, host=self._host, path=shown)

    async def _hash(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            found = await self._files.digests([temp for temp, _ in some])
            for (temp, future), digest in zip(some, found, strict=True):
                told = digest or await self._read(temp)
                if not future.done():
                    future.set_result(told)

    async def _read(self, temp: bytes) -> bytes:
        """Hash a file by reading it back: the far side has no program for it."""
        sha256 = hashlib.sha256()
        file = await self._files.open(temp, os.O_RDONLY)
        async with aclosing(file):
            offset = 0
            while data := await file.read(offset, _BLOCK_BYTES):
                await asyncio.to_thread(sha256.update, data)
                offset += len(data)
        return sha256.digest()
