"""A machine that a command leads to: ``docker exec -i web``, ``kubectl exec -i pod --``, ``chroot /r``, ``env X=y``.

Where there is a Python, one run of the command carries an outpost, and everything goes through that. Without, every
program is a run of the command (`within`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from aioremote.errors import BootstrapError
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.sudo.transport import SILENCE_SECONDS
from aioremote.transports.views import add_view, close_views
from aioremote.transports.within import Joins, WithinTransport, check_prefix, shown_prefix
from aioremote.types import Address, Capability

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.errors import ConnectionLost
    from aioremote.protocols import FarProcess, FileSystem, Transport
    from aioremote.types import Endpoint, ProcessSpec

__all__ = ["CommandTransport"]


class CommandTransport(LinkedTransport):
    """What a command leads to.

    Args:
        inner: where the command runs.
        prefix: its words.
        joins: "exec" appends the far argv to them, "shell" one line of shell syntax.
        outpost: "auto" uses a Python where there is one, "always" requires it, "never" leaves it alone.
        owns_inner: whether `inner` is this transport's to close.
        keepalive: as for `LinkedTransport`.
        keepalive_count: as for `LinkedTransport`.

    Raises:
        ValueError, TypeError: a prefix that is no list of words, another `joins` or `outpost`.
    """

    def __init__(
        self,
        inner: Transport,
        prefix: Sequence[str],
        *,
        joins: Joins = "exec",
        outpost: Literal["auto", "always", "never"] = "auto",
        owns_inner: bool = False,
        keepalive: float = 15.0,
        keepalive_count: int = 3,
    ) -> None:
        if outpost not in ("auto", "always", "never"):
            raise ValueError(f'outpost={outpost!r}: give "auto", "always" or "never"')
        address = _address(inner.address, check_prefix(prefix), owns_inner=owns_inner)
        silence = 2 * keepalive * keepalive_count or SILENCE_SECONDS
        self._within = WithinTransport(inner, prefix, joins=joins, address=address, silence=silence)
        super().__init__(self._within, keepalive=keepalive, keepalive_count=keepalive_count)
        self.host: str = self._within.host
        self._inner = inner
        self._owns_inner = owns_inner
        self._outpost = outpost
        self._plain = outpost == "never"
        if self._plain:
            self._be_plain()
        if not owns_inner:
            add_view(inner, self)

    @property
    def state(self) -> str:  # type: ignore[override]  # the plain road has the states of what is below
        """Whether it can be used."""
        return self._within.state if self._plain and not self._closed else super().state

    async def connect(self) -> None:
        if not await self._is_plain():
            return
        self._check_open()
        await self._within.connect()

    def _be_plain(self) -> None:
        self._plain = True
        self.capabilities: frozenset[Capability] = self._within.capabilities

    async def _is_plain(self) -> bool:
        """Bring the outpost up, or find out that there is none to be had."""
        if not self._plain:
            try:
                await super().connect()
            except BootstrapError:
                if self._outpost == "always":
                    raise
                self._be_plain()
        return self._plain

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        if await self._is_plain():
            return await self._within.start_process(spec)
        return await super().start_process(spec)

    async def open_files(self, engine: str = "auto") -> FileSystem:
        if await self._is_plain():
            return await self._within.open_files(engine)
        return await super().open_files(engine)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        if await self._is_plain():
            return await self._within.open_connection(target)
        return await super().open_connection(target)

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        if await self._is_plain():
            return await self._within.open_listener(bind)
        return await super().open_listener(bind)

    async def ping(self) -> float:
        return await (self._within.ping() if await self._is_plain() else super().ping())

    async def wait_lost(self) -> ConnectionLost | None:
        return await (self._within.wait_lost() if self._plain else super().wait_lost())

    async def reconnect(self) -> None:
        await (self._within.reconnect() if self._plain else super().reconnect())

    async def aclose(self) -> None:
        await close_views(self)
        try:
            await super().aclose()
        finally:
            if self._owns_inner:
                await self._inner.aclose()

    def abort(self) -> None:
        super().abort()
        if self._owns_inner:
            self._inner.abort()


def _address(inner: Address, prefix: tuple[str, ...], *, owns_inner: bool) -> Address:
    if owns_inner:
        return Address("exec", path=shown_prefix(prefix))
    return replace(inner, path=f"{inner.path}#within:{shown_prefix(prefix)}")
