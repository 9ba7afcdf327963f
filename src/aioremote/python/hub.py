"""The links of one machine to its outposts, and the lanes over them: each comes up when it is first needed.

A transport that goes through an outpost shares its link. Not for calls (`interpreter`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aioremote._core.deadline import Deadline
from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import ClosedError
from aioremote.outpost.launch import launch
from aioremote.outpost.link import Link
from aioremote.python.lane import Lane
from aioremote.python.shipping import Shelf
from aioremote.transports.linked import LinkedTransport

if TYPE_CHECKING:
    from aioremote.protocols import Transport

__all__ = ["Hub", "OpenLink", "launching"]

LAUNCH_SECONDS = 60.0
CLOSE_SECONDS = 5.0

OpenLink = Callable[[str | None], Awaitable[tuple[Link, tuple[int, int, int]]]]
"""Given an interpreter's path or name, or None, returns a link that stands and the far Python's version."""


def launching(transport: Transport, host: str) -> OpenLink:
    """Return what launches an outpost over a transport, or shares the transport's own."""

    async def open_link(executable: str | None) -> tuple[Link, tuple[int, int, int]]:
        if executable is None and isinstance(transport, LinkedTransport):
            return await transport.link(), transport.version
        await transport.connect()
        launched = await launch(transport, deadline=Deadline(LAUNCH_SECONDS), python=executable)
        link = Link(launched, host=host)
        try:
            await link.start(timeout=LAUNCH_SECONDS)
        except BaseException:
            await bounded_cleanup(link.aclose(), CLOSE_SECONDS)
            raise
        return link, launched.version

    return open_link


class Hub:
    """The links and lanes of one machine.

    Args:
        open_link: brings a link up.
        host: the machine's name.
        keeps_sessions: whether there are sessions by name.
    """

    def __init__(self, open_link: OpenLink, host: str, *, keeps_sessions: bool = False) -> None:
        self.host = host
        self.keeps_sessions: bool = keeps_sessions
        self._open_link = open_link
        self._links: dict[str | None, tuple[Link, tuple[int, int, int]]] = {}
        self._lanes: dict[tuple[str | None, tuple[str, ...]], Lane] = {}
        self._locks: dict[str | None, asyncio.Lock] = {}
        self._closed = False

    def ready(self, executable: str | None, packages: tuple[str, ...]) -> Lane | None:
        """Return a lane that can be used at once."""
        lane = self._lanes.get((executable, packages))
        return lane if lane is not None and lane.usable else None

    async def lane(self, executable: str | None, packages: tuple[str, ...]) -> Lane:
        """Return a lane to an interpreter for which these packages may be imported from here.

        Tasks that want the same at once share one launch.

        Raises:
            BootstrapError, ConnectError, ConnectionLost, ClosedError: there is no such interpreter to be had.
            ShipError: a package cannot go.
        """
        async with self._locks.setdefault(executable, asyncio.Lock()):
            lane = self.ready(executable, packages)
            if lane is not None:
                return lane
            if self._closed:
                raise ClosedError(f"{self.host}: the machine was closed", host=self.host)
            shelf = await asyncio.to_thread(Shelf, packages)
            link, version = await self._link(executable)
            await self._forget(executable, packages)
            lane = self._lanes[executable, packages] = Lane(link, version, shelf)
            return lane

    async def _link(self, executable: str | None) -> tuple[Link, tuple[int, int, int]]:
        known = self._links.get(executable)
        if known is not None and known[0].state == "up":
            return known
        if known is not None:
            await known[0].aclose()
        made = self._links[executable] = await self._open_link(executable)
        return made

    async def _forget(self, executable: str | None, packages: tuple[str, ...]) -> None:
        old = self._lanes.pop((executable, packages), None)
        if old is not None:
            await old.aclose()

    async def aclose(self) -> None:
        """End all that runs over these links, and the links. May be called twice."""
        self._closed = True
        lanes, self._lanes = list(self._lanes.values()), {}
        links, self._links = [link for link, _ in self._links.values()], {}
        try:
            for link in links:
                await link.aclose()
        finally:
            for lane in lanes:
                await lane.owner.aclose()

    def abort(self) -> None:
        """Drop the links at once."""
        for link, _ in self._links.values():
            link.abort()
