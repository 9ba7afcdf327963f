"""The guard's loop as another user: takes orders without waiting, though only streams stand underneath."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioremote.errors import RemoteError
from aioremote.transports.guard import GuardProcess

if TYPE_CHECKING:
    from aioremote._core.lifetime import Owner
    from aioremote.protocols import OutputStream
    from aioremote.transports.sudo.entry import Entry

__all__ = ["GuardLoop"]


class GuardLoop(GuardProcess):
    """Orders are written by a task of `owner`."""

    def __init__(self, entry: Entry, owner: Owner) -> None:
        self._stdout = entry.stdout
        self._entry = entry
        self._orders = bytearray()
        self._more = asyncio.Event()
        self._last = False
        self._writing = owner.spawn(self._write(), "orders to the guard")

    @property
    def stdout(self) -> OutputStream:
        return self._stdout

    @property
    def lost(self) -> bool:
        """Whether, once it has ended, that was because of the link."""
        return self._entry.process.status is None

    def write_now(self, data: bytes) -> None:
        self._orders += data
        self._more.set()

    def write_eof(self) -> None:
        self._last = True
        self._more.set()

    async def _write(self) -> None:
        stdin = self._entry.process.stdin
        assert stdin is not None
        while self._orders or not self._last:
            await self._more.wait()
            self._more.clear()
            orders = bytes(self._orders)
            self._orders.clear()
            try:
                await stdin.send(orders)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
        await stdin.aclose()

    async def aclose(self) -> None:
        """End the loop, and wait until it has ended."""
        self.write_eof()
        await asyncio.wait({self._writing})
        with suppress(RemoteError):
            await self._entry.process.wait()
        await self._entry.process.aclose()
