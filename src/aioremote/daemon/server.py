"""The daemon itself: who may in, and one outpost process for each who is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import socket
import ssl
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import aioremote.outpost.far
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote.daemon.config import DaemonConfig, authorized_fingerprints, check_place, own_certificate, tls_context
from aioremote.daemon.gate import Gate
from aioremote.daemon.rooms import Door, Rooms
from aioremote.daemon.tls import ServerTls
from aioremote.transports.greeting import GREETING, REFUSAL, fingerprint_of
from aioremote.transports.tokens import MAX_PROOF_BYTES, challenge, read_tokens, whose_answer

if TYPE_CHECKING:
    from aioremote.daemon.windows import PipeListener

__all__ = ["Daemon", "serve"]

_log = logging.getLogger("aioremote.daemon")
_LOG_SECONDS = 1.0  # between two lines about who was not let in
_KEEPALIVE_COUNT = 3  # silent intervals that make a lost client
_END_SECONDS = 5.0  # for an outpost to end what it runs
_HIGH_WATER_BYTES = 1048576  # of a splice, each way: with asyncio's 64 KiB it stands still between two chunks
_BACKLOG = 128
_OUTPOST = """\
import json, os, sys
d = sys.argv[1]
sources = {n[:-3]: open(os.path.join(d, n), encoding="utf-8").read() for n in os.listdir(d) if n.endswith(".py")}
module = type(sys)("aioremote_outpost.stage1")
exec(compile(sources["stage1"], "aioremote/outpost/far/stage1.py", "exec"), module.__dict__)
module.start(sources, sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
"""


class Daemon:
    """A daemon that listens; `serve` makes one.

    Attributes:
        config: as given.
        port: where it listens, 0 for a unix socket.
        sessions: authenticated clients now.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        self.port: int = 0
        self.sessions: int = 0
        self._unix = config.listen.startswith("/")
        self._pipe = config.listen.startswith("\\\\")
        self._tls: ssl.SSLContext | None = None
        self._authorized: frozenset[str] = frozenset()
        self._tokens: tuple[bytes, ...] = ()
        self._certificate = b""
        self._server: asyncio.Server | None = None  # on a unix socket
        self._listener: socket.socket | None = None  # on TCP: who comes is no transport before a login begins
        self._pipes: PipeListener | None = None  # on Windows
        self._owner = Owner("daemon")
        per_source = config.max_unauthenticated if self._unix or self._pipe else config.max_per_address
        self._gate: Gate[_Side] = Gate(config.max_unauthenticated, per_source)
        self._rooms = Rooms(_start_room, config.max_named_sessions, config.named_idle_seconds)
        self._empty = asyncio.Event()
        self._empty.set()
        self._told = float("-inf")

    @property
    def waiting(self) -> int:
        """How many connections have not authenticated yet."""
        return len(self._gate)

    @property
    def named_sessions(self) -> int:
        """How many Python sessions by name there are."""
        return len(self._rooms)

    async def start(self) -> None:
        """Listen; ConfigError where the configuration is not safe, OSError where the address cannot be had."""
        loop = asyncio.get_running_loop()
        if self._unix:
            check_place(self.config.listen)
            self._server = await loop.create_unix_server(lambda: _Side(self._arrived_near), self.config.listen)
            return
        if self._pipe or sys.platform == "win32":
            self._listen_on_pipe()
            return
        host, port = self.config.endpoint
        self.reload()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        loop.add_reader(self._listener, self._accept, self._listener)

    def _listen_on_pipe(self) -> None:
        from aioremote.daemon.windows import PipeListener, check_name

        name, remote = self.config.listen, self.config.allow_remote
        check_name(name)
        self._pipes = PipeListener(name, lambda: _Side(self._arrived_near), remote=remote, spawn=self._owner.spawn)

    def reload(self) -> None:
        """Read key, authorised certificates and tokens again; who is in stays. ConfigError changes nothing."""
        if not self._unix and not self._pipe:
            tokens = () if self.config.tokens is None else read_tokens(self.config.tokens)
            self._tls, self._authorized = tls_context(self.config), authorized_fingerprints(self.config)
            self._tokens, self._certificate = tokens, own_certificate(self.config)

    async def drain(self, seconds: float) -> None:
        """Listen no more, and wait until all clients have left, so long at most."""
        self._stop_listening()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    async def aclose(self) -> None:
        """Listen no more, and end every session with what it runs. Ask for `drain` first to let them finish."""
        self._stop_listening()
        await self._owner.aclose()
        await self._rooms.aclose()
        if self._unix and self._server is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.config.listen)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._pipes is not None:
            self._pipes.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        """Take all who wait: with one a turn, many who only knock would hold up the others."""
        for _ in range(_BACKLOG):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, say: who waits is let in later
                _log.warning("cannot accept: %s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(_LOG_SECONDS, self._accept_again, listener)
                return
            sock.setblocking(False)
            self._arrived(_Side(_Side.hold, sock), str(address[0]))

    def _accept_again(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _arrived_near(self, side: _Side) -> None:
        side.hold()
        self._arrived(side, "pipe" if self._pipe else "unix")

    def _arrived(self, side: _Side, source: str) -> None:
        if self._owner.closing or self._gate.is_paused(source, asyncio.get_running_loop().time()):
            side.drop()
            return
        out = self._gate.enter(side, source)
        if out is not None and out.login is not None:
            self._tell(source, "too many connections that have not authenticated: the oldest is closed")
            out.login.cancel()
        side.login = self._owner.spawn(self._admit(side, source), "client")
        side.login.add_done_callback(lambda _: side.drop())

    async def _admit(self, side: _Side, source: str) -> None:
        try:
            try:
                async with asyncio.timeout(self.config.login_seconds):
                    scope = await self._log_in(side)
            finally:
                self._gate.leave(side)
            self._gate.succeeded(source)
            if self.sessions >= self.config.max_sessions:
                side.write(REFUSAL + b"%d sessions are open, the most allowed\n" % self.sessions)
                side.close()
                return
            self.sessions += 1
            self._empty.clear()
            try:
                await self._session(side, scope)
            finally:
                self.sessions -= 1
                if not self.sessions:
                    self._empty.set()
        except (OSError, ssl.SSLError) as error:
            if isinstance(error, (ssl.SSLError, PermissionError)):
                self._gate.failed(source, asyncio.get_running_loop().time())
            self._tell(source, str(error))

    async def _log_in(self, side: _Side) -> str:
        """Return who a client is, in whose name sessions are kept."""
        if self._pipe:
            return ""  # the pipe's access list has let him in
        return await (self._check_peer(side) if self._unix else self._handshake(side))

    async def _handshake(self, side: _Side) -> str:
        assert self._tls is not None
        assert side.raw is not None
        tls = await ServerTls.accept(side.raw, self._tls)
        certificate = tls.certificate
        if certificate is None and self._tokens:
            who = await self._ask_for_token(tls)
        else:
            who = "" if certificate is None else fingerprint_of(certificate)
            if who not in self._authorized:
                raise PermissionError("its certificate is not one of the authorised")
        side.tls = tls
        await asyncio.get_running_loop().connect_accepted_socket(lambda: side, side.raw)
        return who

    async def _ask_for_token(self, tls: ServerTls) -> str:
        tokens, certificate, asked = self._tokens, self._certificate, challenge()
        await tls.say(asked)
        token = whose_answer(asked, await tls.line(MAX_PROOF_BYTES), tokens, certificate)
        if token is None:
            raise PermissionError("its token is not one of the daemon's")
        return "token " + hashlib.sha256(token).hexdigest()

    async def _check_peer(self, side: _Side) -> str:
        found = side.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", found)[1]
        if uid != os.getuid():
            raise PermissionError(f"uid {uid} is not the daemon's")
        return f"uid {uid}"

    async def _session(self, side: _Side, scope: str) -> None:
        options = {"keepalive": self.config.keepalive, "keepalive_count": _KEEPALIVE_COUNT}
        if self._pipe:
            from aioremote.daemon.windows import Outpost

            await self._outpost(side, lambda far: Outpost.start(far, options))
            return
        with closing(Door(self._rooms, scope)) as door:
            await self._outpost(side, lambda far: _start("serve", far, options, sessions_fd=door.far.fileno()))

    async def _outpost(self, side: _Side, start: Callable[[socket.socket], Awaitable[_Process]]) -> None:
        near, far = socket.socketpair()
        try:
            process = await start(far)
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        other = _Side(lambda _: None)
        try:
            side.peer, other.peer = other, side
            await asyncio.get_running_loop().create_connection(lambda: other, sock=near)
            for one in (side, other):
                one.transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
            side.transport.resume_reading()
            await asyncio.wait({side.over, other.over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await bounded_cleanup(_part(side, other, near, process), 3 * _END_SECONDS)

    def _tell(self, source: str, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told >= _LOG_SECONDS:
            self._told = now
            _log.warning("%s was not let in: %r", source, text)


class _Process(Protocol):
    async def wait(self) -> object: ...
    def kill(self) -> None: ...


async def _part(side: _Side, other: _Side, near: socket.socket, process: _Process) -> None:
    """Take a client and its outpost apart; `near` is the daemon's end of what joins them, and `other` reads it."""
    if other.over.done():  # what it said last still goes out
        side.close()
        await asyncio.wait({side.over}, timeout=_END_SECONDS)
    other.transport.abort() if hasattr(other, "transport") else near.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
            return
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _start(
    entry: str, far: socket.socket, options: dict[str, float], **descriptors: int
) -> asyncio.subprocess.Process:
    """Start an entry module of `outpost.far` that speaks over `far`, and is told options and more descriptors."""
    folder = str(Path(aioremote.outpost.far.__file__).parent)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-B", "-c", _OUTPOST, folder, entry, GREETING, json.dumps({**options, **descriptors}),
        stdin=far.fileno(), stdout=far.fileno(), stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        pass_fds=list(descriptors.values()),
    )  # fmt: skip


async def _start_room(far: socket.socket, active_fd: int) -> asyncio.subprocess.Process:
    return await _start("shared", far, {}, active_fd=active_fd)


class _Side(asyncio.Protocol):
    """One end of a splice: what comes goes to `peer`, as fast as that takes it.

    Args:
        arrived: called when it has a transport.
        raw: the socket from which that is made later; closed with it.

    Attributes:
        tls: what seals what goes out and opens what comes in; None on a unix socket, and towards an outpost.
        login: the task that serves a client; it ends where the client has to give up its place.
    """

    def __init__(self, arrived: Callable[[_Side], None], raw: socket.socket | None = None) -> None:
        self._arrived = arrived
        self.raw: socket.socket | None = raw
        self.tls: ServerTls | None = None
        self.peer: _Side | None = None
        self.login: asyncio.Task[None] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._arrived(self)

    def hold(self) -> None:
        """Read nothing until told to."""
        self.transport.pause_reading()

    def drop(self) -> None:
        """Close at once, as far as it has come."""
        if hasattr(self, "transport"):
            self.transport.abort()
        elif self.raw is not None:
            self.raw.close()

    def write(self, data: bytes) -> None:
        """Send, whatever is waiting already."""
        if not self.transport.is_closing() and (sealed := data if self.tls is None else self.tls.sealed(data)):
            self.transport.write(sealed)

    def close(self) -> None:
        """Close when all has been sent; over TCP when the client has heard it too, or `drop` is called."""
        self.peer = None
        if self.tls is None or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write(self.tls.farewell())
        self.transport.write_eof()
        self.transport.resume_reading()  # what is not read would have what was sent forgotten

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            return
        if self.tls is not None:
            try:
                data = self.tls.opened(data)
            except ssl.SSLError:
                self.transport.abort()
                return
            self.write(b"")
        self.peer.write(data)
        if self.tls is not None and self.tls.ended:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.over.done():
            self.peer.transport.resume_reading()


@asynccontextmanager
async def serve(config: DaemonConfig) -> AsyncGenerator[Daemon]:
    """Run a daemon in this loop for as long as the block lasts.

    Raises:
        ConfigError: no keys, keys that others can read, an address that is not loopback without `allow_remote`.
        OSError: the address cannot be listened on.
    """
    daemon = Daemon(config)
    try:
        await daemon.start()
        yield daemon
    finally:
        await bounded_cleanup(daemon.aclose(), 2 * _END_SECONDS)
