"""The road to a daemon: TLS with pinned certificates, or a unix socket, behind which an outpost speaks.

The first line is the server's greeting, or its refusal; what follows is the outpost's wire. Not for the server's side.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from aioremote._core.streams import FarInput, Feed
from aioremote.errors import AuthenticationError, BusyError, ConfigError, ConnectError, ConnectTimeout, RemoteError
from aioremote.protocols import FarProcess, OutputStream
from aioremote.transports.bare import BareTransport
from aioremote.transports.greeting import GREETING, REFUSAL, fingerprint_of
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.tokens import answer, check_private, read_tokens
from aioremote.types import Address, ExitStatus

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote._core.deadline import Deadline

__all__ = ["DaemonEnd", "TcpTransport", "reach"]

MAX_LINE_BYTES = 4096
_GREETING = re.compile(rb"%s (\d+)\.(\d+)\.(\d+) \d+ [0-9a-f]*\n" % GREETING.encode())


class TcpTransport(LinkedTransport):
    """A host whose daemon listens on a TCP port or, with `path`, on a unix socket of this machine.

    Args:
        host, port: of the daemon.
        keyfile: private key and certificate of this client, as ``aioremote keygen`` writes them.
        tokenfile: in place of `keyfile`, a file with the daemon's token that nobody else can read.
        server_fingerprint: the daemon's, as it was printed; nothing else is trusted.
        path: a unix socket; the other arguments are then not used.
        connect_timeout: seconds for everything until the daemon has greeted.
    """

    keeps_sessions = True

    def __init__(
        self,
        host: str = "",
        port: int = 10101,
        *,
        keyfile: str | os.PathLike[str] = "",
        tokenfile: str | os.PathLike[str] = "",
        server_fingerprint: str = "",
        path: str = "",
        connect_timeout: float = 15.0,
    ) -> None:
        where = Address("unix", path=path) if path else Address("daemon", host=host, port=port)
        super().__init__(BareTransport(where), bring_up=self._reach, launch_timeout=connect_timeout)
        self._keyfile = os.fspath(keyfile)
        self._tokenfile = os.fspath(tokenfile)
        self._pin = server_fingerprint

    async def _reach(self, deadline: Deadline) -> DaemonEnd:
        return await reach(self.address, self._open, deadline)

    async def _open(self, end: DaemonEnd) -> None:
        loop = asyncio.get_running_loop()
        if self.address.path:
            await loop.create_unix_connection(lambda: end, self.address.path)
            return
        token = read_tokens(self._tokenfile)[0] if self._tokenfile else b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is what counts
        if not token:
            check_private(self._keyfile)
            try:
                context.load_cert_chain(self._keyfile)
            except (OSError, ssl.SSLError) as error:
                text = f"{self._keyfile}: no key with its certificate: {error}"
                raise ConfigError(text, host=self.host) from error
        transport, _ = await loop.create_connection(lambda: end, self.host, self.address.port or 0, ssl=context)
        certificate: bytes = transport.get_extra_info("ssl_object").getpeercert(True)
        seen = fingerprint_of(certificate)
        if not hmac.compare_digest(seen, self._pin.lower()):
            raise AuthenticationError(f"{self.address}: the daemon shows {seen}, not {self._pin}", host=self.host)
        if token:
            asked = await end.line()
            said = answer(asked, token, certificate)
            if said is None:
                raise _no_greeting(asked, self.host)
            await end.write(said)


async def reach(address: Address, open_end: Callable[[DaemonEnd], Awaitable[None]], deadline: Deadline) -> DaemonEnd:
    """Open the road to a daemon, read its greeting, and return the far end on which its outpost speaks.

    Args:
        address: of the daemon, for errors.
        open_end: joins a far end to a connection.
        deadline: for all of it.

    Raises:
        ConnectTimeout, ConnectError, AuthenticationError, BusyError: as of the road, or the daemon's refusal.
    """
    end = DaemonEnd()
    try:
        async with deadline.scope():
            await open_end(end)
            end.version = _greeted(await end.line(), address.host)
    except BaseException as error:
        end.end()
        if isinstance(error, TimeoutError):
            text = f"{address}: no greeting within {deadline.seconds:g} s"
            raise ConnectTimeout(text, host=address.host) from error
        if isinstance(error, OSError) and not isinstance(error, RemoteError):
            raise ConnectError(f"{address}: {error}", host=address.host) from error
        raise
    return end


def _greeted(line: bytes, host: str) -> tuple[int, int, int]:
    if line.startswith(REFUSAL):
        text = line[len(REFUSAL) :].decode(errors="replace").strip()
        raise BusyError(f"{host}: the daemon refuses: {text}", host=host)
    found = _GREETING.fullmatch(line)
    if found is None:
        raise _no_greeting(line, host)
    return int(found[1]), int(found[2]), int(found[3])


def _no_greeting(line: bytes, host: str) -> ConnectError:
    text = f"{host}: no daemon's greeting; it closed, does not know this client, or is none: {line[:80]!r}"
    return ConnectError(text, host=host)


class _Said:
    text = ""


class DaemonEnd(asyncio.Protocol, FarProcess):
    """The far end of a daemon's connection, which is its process."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.noise: bytes = b""
        self.version: tuple[int, int, int] = (0, 0, 0)
        self.stdin: ByteSendStream = FarInput(self)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._feed = Feed(self._hold)
        self.stdout: OutputStream = self._feed
        self.stderr: _Said = _Said()  # type: ignore[assignment]
        self._transport: asyncio.Transport | None = None
        self._over = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def process(self) -> FarProcess:
        return self

    async def line(self) -> bytes:
        """Read the first line, and not a byte more; what there was of it where the stream ends."""
        import anyio

        line = b""
        try:
            while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                line += await self._feed.receive(1)
        except anyio.EndOfStream:
            pass
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._feed.feed(data)

    def eof_received(self) -> None:
        self._feed.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()
        self._writable.set()
        self._feed.end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _hold(self, held: bool) -> None:  # noqa: FBT001
        if self._transport is not None and not self._over.is_set():
            (self._transport.pause_reading if held else self._transport.resume_reading)()

    async def write(self, data: bytes) -> None:
        if self._transport is None or self._over.is_set():
            import anyio

            raise anyio.BrokenResourceError
        self._transport.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        """Nothing: the link has said goodbye."""

    async def started(self) -> None:
        return

    async def wait(self) -> ExitStatus:
        await self._over.wait()
        return ExitStatus(0)

    def send_signal(self, name: str) -> None:
        return

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resize(self, columns: int, rows: int) -> None:
        return

    async def aclose(self) -> None:
        self.end()
        if self._transport is not None:
            await self._over.wait()
