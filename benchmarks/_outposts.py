"""Outposts on this machine over plain pipes, and the plain pipes themselves as a baseline."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio.abc import ByteSendStream

import aioremote.outpost.far
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import Handler
from aioremote.outpost.link import Link
from aioremote.protocols import FarProcess, OutputStream
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec
from benchmarks._measure import Site

__all__ = ["HERE", "Reader", "linked", "outpost_code", "piped"]

HERE = Site((), 0, "", "", "", "", "")
FAR = Path(aioremote.outpost.far.__file__).parent


@dataclass
class _Said:
    text: str = ""


@dataclass
class _Started:
    """A far end without a launch: the far package on sys.path."""

    process: FarProcess
    stdin: ByteSendStream
    stdout: OutputStream
    stderr: _Said


def outpost_code(fds: str = "0, 1", before: str = "pass") -> str:
    """Return the program of an outpost."""
    imports = f"import sys; sys.path.insert(0, {str(FAR.parent)!r}); from far.serve import main"
    return f"{before}; {imports}; main({fds}, 2, '', {{}})"


@asynccontextmanager
async def piped(code: str) -> AsyncGenerator[FarProcess]:
    """A Python program on pipes."""
    transport = LocalTransport()
    argv = tuple(os.fsencode(word) for word in (sys.executable, "-c", code))
    process = await transport.start_process(ProcessSpec(argv))
    try:
        yield process
    finally:
        await process.aclose()
        await transport.aclose()


@asynccontextmanager
async def linked() -> AsyncGenerator[Link]:
    """A link to an outpost on pipes."""
    async with piped(outpost_code()) as process:
        assert process.stdin is not None
        link = Link(_Started(process, process.stdin, process.stdout, _Said()), host="here")
        await link.start(timeout=30)
        try:
            yield link
        finally:
            await link.aclose()


class Reader(Handler):
    """Takes the bytes of a channel as they come."""

    def __init__(self, link: Link, header: bytes, window: int) -> None:
        self.got = 0
        self.done = asyncio.Event()
        self._link = link
        self._number = link.open("source", self, header, window=window)

    def on_data(self, data: bytes) -> None:
        self.got += len(data)
        self._link.grant(self._number, cost(data))

    def on_eof(self) -> None:
        self.done.set()
