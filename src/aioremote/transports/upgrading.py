"""A machine with sessions, whose commands an outpost takes over where that is better.

The plain road is there at once and needs no Python. Once the first Python call, or the first tree of files, has brought
the outpost up, or the server gives no further session, commands go through its one session, however many there are.
Whoever runs commands sees no difference; the few that remain are listed in docs/explanation/outposts.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from aioremote.errors import BootstrapError, TunnelError, TunnelRefused, UnsupportedError
from aioremote.outpost.files import OutpostFiles
from aioremote.protocols import FarProcess, FileSystem, SessionTransport, Transport
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.upgrading_files import UpgradingFiles

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.errors import ConnectionLost
    from aioremote.outpost.link import Link
    from aioremote.types import Address, Endpoint, ProcessSpec

__all__ = ["UpgradingTransport", "When"]

When = Literal["auto", "always"]

_PATIENCE_SECONDS = 1.0  # for a free session; then the outpost gets a connection of its own


class UpgradingTransport(LinkedTransport):
    """A transport whose commands an outpost takes over.

    Args:
        base: the plain road; closed with this one.
        when: "auto" as the module says; "always" from the first command on, so that a host without Python runs none.
        keepalive: as for `LinkedTransport`.
        keepalive_count: as for `LinkedTransport`.
    """

    def __init__(
        self, base: SessionTransport, *, when: When = "auto", keepalive: float = 15.0, keepalive_count: int = 3
    ) -> None:
        self._door = _Door(base)
        super().__init__(base, launcher=self._door, keepalive=keepalive, keepalive_count=keepalive_count)
        self._plain = base
        self._when: When = when
        self._without_python = False

    @property
    def state(self) -> str:  # type: ignore[override]  # a loss of the outpost alone is none of the machine
        """The connection's own."""
        return getattr(self._plain, "state", "connected")

    async def connect(self) -> None:
        await self._plain.connect()
        if self._when == "always":
            await super().connect()

    async def link(self) -> Link:
        """Return the link to the outpost; a new one where the last is lost."""
        await self._drop_lost_link()
        return await super().link()

    async def _drop_lost_link(self) -> None:
        if self._link is not None and self._link.state != "up" and not self._closed:
            link, self._link = self._link, None
            await link.aclose()

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        if self._has_outpost():
            return await super().start_process(spec)
        if self._without_python:
            return await self._plain.start_process(spec)
        process = await self._plain.start_unless_full(spec)
        if process is not None:
            return process
        try:
            return await super().start_process(spec)
        except (BootstrapError, UnsupportedError):
            self._without_python = True
            return await self._plain.start_process(spec)

    async def open_files(self, engine: str = "auto") -> FileSystem:
        if engine != "auto" or self._when == "always":
            return await super().open_files(engine)
        self._check_open()
        if (present := self._present_files()) is not None:
            return present
        if self._without_python:
            return await self._plain.open_files()
        await self._plain.connect()
        return UpgradingFiles(self._plain.open_files, self._present_files, self._bring_files)

    def _present_files(self) -> FileSystem | None:
        is_up = self._link is not None and self._link.state == "up"
        return OutpostFiles(self.link, self._file_calls) if is_up else None

    async def _bring_files(self) -> FileSystem | None:
        if not self._without_python:
            try:
                await self.link()
            except (BootstrapError, UnsupportedError):
                self._without_python = True
        return self._present_files()

    async def open_connection(self, target: Endpoint) -> ByteStream:
        """Connect by the connection's own forwarding, or by the outpost where the server forbids that."""
        try:
            return await self._plain.open_connection(target)
        except TunnelError as error:
            if isinstance(error, TunnelRefused) or not self._has_outpost():
                raise
        return await super().open_connection(target)

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        """Listen by the connection's own forwarding, or by the outpost where the server does not."""
        try:
            return await self._plain.open_listener(bind)
        except TunnelError:
            if not self._has_outpost():
                raise
        return await super().open_listener(bind)

    def _has_outpost(self) -> bool:
        return self._when == "always" or (self._link is not None and self._link.state == "up")

    async def reconnect(self) -> None:
        await self._drop_lost_link()
        await self._plain.reconnect()

    async def wait_lost(self) -> ConnectionLost | None:
        return await self._plain.wait_lost()

    async def ping(self) -> float:
        return await self._plain.ping()

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            await self._door.aclose()

    def abort(self) -> None:
        super().abort()
        self._door.abort()


class _Door:
    """Starts the outpost: on a session of the connection, or on another connection where all are taken for long."""

    def __init__(self, base: SessionTransport) -> None:
        self.address: Address = base.address
        self._base = base
        self._spare: Transport | None = None

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        spec = replace(spec, guarded=False)  # it ends with its input, and everything of it
        process = await self._base.start_unless_full(spec)
        if process is not None:
            return process
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._base.start_process(spec)
        except TimeoutError:
            self._spare = self._spare or self._base.another()
            await self._spare.reconnect()
            return await self._spare.start_process(spec)

    async def aclose(self) -> None:
        if self._spare is not None:
            await self._spare.aclose()

    def abort(self) -> None:
        if self._spare is not None:
            self._spare.abort()
