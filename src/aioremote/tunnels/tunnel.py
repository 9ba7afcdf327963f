"""`Tunnel`: a listener at one end whose connections go on from the other, watched over.

Each connection is joined by callbacks (`_core.splice`), without a task that copies. Not for a single connection from
near to far: that is `Machine.open_connection`, which needs no port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import anyio
from anyio.abc import SocketAttribute

from aioremote._core.backoff import may_pass, pauses
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.splice import Pumped, Relay, Spliceable, SplicingListener
from aioremote.errors import ConnectError, ConnectionLost, RemoteError, TunnelError
from aioremote.tunnels.checks import check_target
from aioremote.tunnels.sockets import NearListener, NearSocket, connect_near, resolve_near
from aioremote.tunnels.socks import SocksGreeting, SocksHandshake
from aioremote.types import Endpoint, Reconnect

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.protocols import Transport

__all__ = ["Tunnel", "TunnelState"]

TunnelState = Literal["opening", "open", "lost", "reconnecting", "closed"]

_CLOSE_SECONDS = 2.0


class Tunnel:
    """A tunnel: ``async with m.tunnel(6666, 8888) as t: ...``.

    Without a reconnect policy a lost link closes it, and `wait_closed` raises ConnectionLost. With one the listener is
    closed while there is no link, so that nobody takes it for alive, and opened again on the same port.

    Attributes:
        state: "opening", "open", "lost", "reconnecting" or "closed".
        connections: carried since it was opened, those that run included.
        refused: connections that were turned away because the other end could not be reached.
        bytes_sent, bytes_received: from near to far, and back.
        last_error: why the last connection was refused, or what the last reconnect met.
    """

    def __init__(
        self,
        transport: Transport,
        host: str,
        *,
        near: Endpoint,
        far: Endpoint | None,
        reverse: bool = False,
        reconnect: Reconnect | None = None,
    ) -> None:
        self._transport = transport
        self._host = host
        self._near = near
        self._far = far
        self._reverse = reverse
        self._reconnect = reconnect
        self._owner: Owner | None = None
        self._relays: set[Relay] = set()
        self._pending: set[Spliceable] = set()
        self._near_listener: NearListener | None = None
        self._far_listener: Listener[ByteStream] | None = None
        self._changed: asyncio.Event | None = None
        self._error: BaseException | None = None
        self.state: TunnelState = "opening"
        self.connections: int = 0
        self.refused: int = 0
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.last_error: BaseException | None = None

    @property
    def lport(self) -> int:
        """The near port, the real one once it is open; 0 for a unix socket."""
        return self._near.port

    @property
    def dport(self) -> int:
        """The far port, the real one once it is open; 0 for a unix socket and for a SOCKS proxy."""
        return 0 if self._far is None else self._far.port

    @property
    def active(self) -> int:
        """How many connections run now."""
        return len(self._relays)

    def __repr__(self) -> str:
        arrow = "<-" if self._reverse else "->"
        return f"<Tunnel {self._near} {arrow} {self._host} {self._far or 'SOCKS'} {self.state}>"

    # opening and closing

    async def open(self) -> Self:
        """Open it; ``async with`` does the same.

        Raises:
            TunnelError: the port is taken, the target's name is not known, or the server forbids it; nothing listens.
            ConnectError, ConnectionLost: there is no connection.
        """
        self._owner = self._owner or Owner(f"tunnel {self._near}")
        try:
            await self._transport.connect()
            await self._check_target()
            await self._listen()
        except BaseException as error:
            await self._close("closed", error)
            raise
        self._set("open")
        self._owner.spawn(self._watch(), "watch")
        return self

    async def aclose(self) -> None:
        """Close the listener and every connection. May be called twice."""
        if self.state != "closed":
            await self._close("closed", None)
        if self._owner is not None:
            await self._owner.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait_closed(self) -> None:
        """Wait until it is closed.

        Raises:
            ConnectionLost: the link was lost, and there is no reconnect policy.
            ConnectError, TunnelError: it could not be opened again.
        """
        async for _ in self.states():
            pass
        if self._error is not None:
            raise self._error

    async def states(self) -> AsyncGenerator[TunnelState, None]:
        """Iterate over its states, the present one first, "closed" last. Who is slow misses what lies between."""
        told: TunnelState | None = None
        while told != "closed":
            if self.state != told:
                told = self.state
                yield told
                continue
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _set(self, state: TunnelState) -> None:
        self.state = state
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def _close(self, state: TunnelState, error: BaseException | None) -> None:
        """Stop listening at once, then end what runs."""
        listener, self._far_listener = self._far_listener, None
        if self._near_listener is not None:
            self._near_listener.close()
            self._near_listener = None
        for waiting in list(self._pending):
            waiting.abort()
        for relay in list(self._relays):
            relay.abort()
        try:
            if listener is not None:
                with suppress(RemoteError, anyio.ClosedResourceError):
                    await bounded_cleanup(listener.aclose(), _CLOSE_SECONDS)
        finally:
            self._error = error
            self._set(state)

    # the listener

    async def _listen(self) -> None:
        assert self._owner is not None
        if self._reverse:
            assert self._far is not None
            self._far_listener = await self._transport.open_listener(self._far)
            if not self._far.path:
                port: int = self._far_listener.extra(SocketAttribute.local_port)  # noqa: S610  # no Django
                self._far = Endpoint(self._far.host, port)
            self._owner.spawn(self._serve_far(self._far_listener), "far listener")
            return
        self._near_listener = NearListener(self._accept)
        await self._near_listener.open(self._near)
        if not self._near.path:
            self._near = Endpoint(self._near.host, self._near_listener.port)

    async def _check_target(self) -> None:
        """Find out what would make every connection fail, before anything is exposed."""
        if self._reverse and not self._near.path:
            await resolve_near(self._near)
        elif not self._reverse and self._far is not None and not self._far.path:
            await check_target(self._transport, self._host, self._far)

    # connections

    def _accept(self, near: NearSocket) -> None:
        assert self._owner is not None
        self._pending.add(near)
        if self._far is not None:
            self._owner.spawn(self._carry(near, self._far), "connection")
            return
        greeting = SocksGreeting(near, self._greeted)
        near.splice(greeting)

    def _greeted(self, near: NearSocket, said: SocksHandshake | None) -> None:
        if said is None or said.target is None or self._owner is None:
            self._pending.discard(near)
            return
        self._owner.spawn(self._carry(near, said.target, said), "connection")

    async def _carry(self, near: NearSocket, target: Endpoint, said: SocksHandshake | None = None) -> None:
        try:
            stream = await self._transport.open_connection(target)
        except (RemoteError, ValueError) as error:
            self.refused += 1
            self.last_error = error
            if said is None:
                near.abort()
            else:
                near.put(said.reply(error))
                near.finish()
            return
        except BaseException:
            near.abort()
            raise
        finally:
            self._pending.discard(near)
        if said is not None:
            near.put(said.reply(None))
        await self._join(near, stream, said.rest if said is not None else b"")

    async def _join(self, near: NearSocket, stream: ByteStream | Spliceable, first: bytes = b"") -> Relay:
        """Let the two streams be one connection; returns at its end, or earlier where no task is needed for it."""
        far = stream if isinstance(stream, Spliceable) else Pumped(stream)
        relay = Relay(near, far, sent=self._count_sent, received=self._count_received, done=self._relays.discard)
        self.connections += 1
        self._relays.add(relay)
        if first:
            self._count_sent(len(first))
            far.put(first)
        relay.start()
        if isinstance(far, Pumped):
            await far.run()
        return relay

    def _count_sent(self, size: int) -> None:
        self.bytes_sent += size

    def _count_received(self, size: int) -> None:
        self.bytes_received += size

    async def _serve_far(self, listener: Listener[ByteStream]) -> None:
        with suppress(RemoteError, anyio.ClosedResourceError):
            await (listener.give(self._take) if isinstance(listener, SplicingListener) else listener.serve(self._serve))

    async def _serve(self, stream: ByteStream) -> None:
        near = await self._reach()
        if near is None:
            await anyio.aclose_forcefully(stream)
        else:
            await (await self._join(near, stream)).wait_closed()

    def _take(self, stream: Spliceable) -> None:
        assert self._owner is not None
        self._pending.add(stream)
        self._owner.spawn(self._carry_back(stream), "connection")

    async def _carry_back(self, stream: Spliceable) -> None:
        try:
            near = await self._reach()
        except BaseException:
            stream.abort()
            raise
        finally:
            self._pending.discard(stream)
        if near is None:
            stream.abort()
        else:
            await self._join(near, stream)

    async def _reach(self) -> NearSocket | None:
        """Return a connection to the near end; None where it is refused."""
        try:
            return await connect_near(self._near)
        except OSError as error:
            self.refused += 1
            self.last_error = error
            return None

    # supervision

    async def _watch(self) -> None:
        while True:
            error = await self._transport.wait_lost()
            if error is None or self._reconnect is None:
                await self._close("lost" if error is not None else "closed", error)
                self._set("closed")
                return
            self.last_error = error
            await self._close("reconnecting", None)
            try:
                await self._open_again(self._reconnect, error)
            except (RemoteError, OSError) as failure:
                await self._close("closed", failure)
                return
            self._set("open")

    async def _open_again(self, policy: Reconnect, lost: ConnectionLost) -> None:
        error: BaseException = lost
        for pause in pauses(policy):
            await asyncio.sleep(pause)
            try:
                await self._transport.reconnect()
                await self._listen()
                return
            except (ConnectError, ConnectionLost, TunnelError) as failure:  # the port, too, may be taken for a while
                if not may_pass(failure):
                    raise
                error = self.last_error = failure
        raise error
