"""An ssh server, or a fleet of them, inside this event loop: for tests and demonstrations where there is no sshd.

    async with EmbeddedServer(hosts=20, name="web") as server:
        host_keys = HostKeys.strict(server.known_hosts)
        for host in server.hosts:
            async with SshMachine(host.host, port=host.port, keyfile=server.keyfile, host_keys=host_keys) as machine:
                ...

Commands are real: ``/bin/sh -c COMMAND`` as the user who runs the tests, each in a session of its own, with pipes or a
terminal. Files go over sftp, ports and unix sockets can be forwarded. Linux. Not for production: it shares its loop
with what is tested, file operations of sftp block that loop, and whoever logs in can do what you can do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncssh

from aioremote.testing._embedded_files import ClientFiles, ServerKeys
from aioremote.testing._ports import bind_all
from aioremote.testing._sessions import Connection
from aioremote.testing._state import EmbeddedHost, Faults, ServerState, Settings, default_users
from aioremote.testing._threads import run_in_thread

__all__ = ["EmbeddedHost", "EmbeddedServer", "Faults", "ServerKeys"]

BACKLOG = 1024
FIRST_ADDRESS = ipaddress.IPv4Address("127.0.0.1")
MAX_SESSIONS = 10  # OpenSSH's default
# The cheapest, and one for clients that do not know it; a DH group exchange would cost a client 0.5 s of CPU.
KEY_EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")


class EmbeddedServer:
    """One or many ssh hosts on loopback addresses, as ``async with`` block.

    Thousands are cheap: a host costs a listening socket until somebody connects. Prefer one server with many hosts to
    many servers.

    Args:
        hosts: How many, on 127.0.0.1, 127.0.0.2 and so on, all on one free port.
        name: The only host's HOSTNAME; of several, ``name01``, ``name02`` and so on.
        listen: The addresses instead of `hosts`.
        users: Who may log in: a password, or None for keys only. Default: you, by key. Commands run as you.
        authorized_keys: Public keys beside `keyfile`'s, one line each as in ``id_ed25519.pub``.
        keys: Host and client key; default: new ones.
        shell: The login shell.
        home: Where commands and relative sftp paths start; default: yours.
        environment: Variables of every command. The others are as sshd makes them, save PATH, which is this process's.
        accept_environment: Patterns of the variables that clients may send (AcceptEnv).
        max_sessions: Sessions per connection; the next one is refused with "open failed".
        allow_forwarding: Whether ports and unix sockets are forwarded.
        allow_signals: False ignores the "signal" request, as OpenSSH does for root.
        kill_on_disconnect: End a command (TERM, KILL after 0.5 s) when its channel or connection ends. False is what
            OpenSSH does: it lives on, save with a terminal, where it gets HUP.
        banner: Shown before authentication.
        faults: What goes wrong on every host at first; see `EmbeddedHost.faults` for one host.

    Raises:
        OSError: at the start: an address is not ours, or no descriptors are left.
    """

    def __init__(
        self,
        *,
        hosts: int = 1,
        name: str = "embedded",
        listen: Sequence[str] | None = None,
        users: Mapping[str, str | None] | None = None,
        authorized_keys: Sequence[str] = (),
        keys: ServerKeys | None = None,
        shell: str = "/bin/sh",
        home: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        accept_environment: Sequence[str] = (),
        max_sessions: int = MAX_SESSIONS,
        allow_forwarding: bool = True,
        allow_signals: bool = True,
        kill_on_disconnect: bool = False,
        banner: str | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._addresses = tuple(listen) if listen is not None else _loopback(hosts)
        if not self._addresses:
            raise ValueError("a server needs a host")
        self._name = name
        self._faults = faults or Faults()
        settings = Settings(
            users=dict(users) if users is not None else default_users(),
            shell=shell,
            home=Path(home) if home is not None else Path.home(),
            environment=dict(environment or {}),
            accept_environment=tuple(accept_environment),
            max_sessions=max_sessions,
            allow_forwarding=allow_forwarding,
            allow_signals=allow_signals,
            kill_on_disconnect=kill_on_disconnect,
            banner=banner,
        )
        self.keys: ServerKeys = keys or ServerKeys.generate()
        self._state = ServerState(settings, secrets.token_hex(8))
        self._silent: set[asyncio.BaseTransport] = set()
        self._servers: list[asyncio.Server] = []
        self._files: ClientFiles | None = None
        self.authorize(self.keys.client_key.export_public_key().decode())
        for line in authorized_keys:
            self.authorize(line)

    # --- what a client needs ------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> tuple[EmbeddedHost, ...]:
        """The hosts, in order; empty while the server does not run."""
        return tuple(self._state.hosts.values())

    @property
    def host(self) -> str:
        """The first host's address."""
        return self._addresses[0]

    @property
    def port(self) -> int:
        """The port of every host; RuntimeError while the server does not run."""
        if not self._state.hosts:
            raise RuntimeError("this server does not run")
        return self.hosts[0].port

    @property
    def _running_files(self) -> ClientFiles:
        """The directory of what a client needs; RuntimeError while the server does not run."""
        if self._files is None:
            raise RuntimeError("this server does not run")
        return self._files

    @property
    def keyfile(self) -> Path:
        """A private key (ed25519, no passphrase) for every account; the public one is beside it (``.pub``)."""
        return self._running_files.keyfile

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with every host."""
        return self._running_files.known_hosts

    @property
    def ssh_config(self) -> Path:
        """A client configuration: every host by its name, with port, user, key and known hosts."""
        return self._running_files.ssh_config

    @property
    def host_key_fingerprint(self) -> str:
        """``SHA256:…``, the same on every host."""
        return self.keys.host_key.get_fingerprint()

    def authorize(self, public_key: str) -> None:
        """Let another key open every account: one line as in ``id_ed25519.pub``.

        Raises:
            ValueError: it is no public key.
        """
        self._state.authorized.add(asyncssh.import_public_key(public_key).get_fingerprint())

    # --- what a test looks at -----------------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self._state.accepted

    @property
    def requests(self) -> tuple[str, ...]:
        """The last 1,000 command lines, in order; also "sftp" and "login shell"."""
        return tuple(self._state.requests)

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._state.connections) + len(self._silent)

    @property
    def running(self) -> tuple[int, ...]:
        """Process numbers (also group and session) of the commands that run now."""
        return tuple(self._state.running)

    def drop_connections(self) -> None:
        """Drop every connection without a word; new ones are served."""
        for connection in list(self._state.connections):
            connection.connection.abort()
        for transport in list(self._silent):
            transport.close()

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Drop every connection and end every process that commands started (TERM, KILL after 0.5 s).

        Cancellation: waits for the processes all the same, at most that half second, and passes the cancel on.
        """
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        connections = [connection.connection for connection in self._state.connections]
        self.drop_connections()
        try:
            for connection in connections:
                await connection.wait_closed()
        finally:
            try:
                if self._state.ever_started:
                    await run_in_thread(self._state.end_processes)
            finally:
                self._state.reap()
                self._state.hosts.clear()
                files, self._files = self._files, None
                if files is not None:
                    files.remove()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: Connection(self._state),
            server_host_keys=[self.keys.host_key],
            kex_algs=KEY_EXCHANGES,
            config=None,
            proxy_command=None,
            gss_host=None,
            kbdint_auth=False,
            encoding=None,
            line_editor=False,
            x11_forwarding=False,
            agent_forwarding=False,
        )
        width = max(2, len(str(len(self._addresses))))
        sockets = bind_all(self._addresses)
        try:
            for number, (address, listener) in enumerate(zip(self._addresses, sockets, strict=True), 1):
                name = self._name if len(sockets) == 1 else f"{self._name}{number:0{width}}"
                host = EmbeddedHost(name, address, listener.getsockname()[1], self._faults)
                self._state.hosts[host.host, host.port] = host
                accept = self._acceptor(host, loop, options)
                self._servers.append(await loop.create_server(accept, sock=listener, backlog=BACKLOG))
        except BaseException:
            for listener in sockets[len(self._servers) :]:
                listener.close()
            raise
        self._files = ClientFiles(self.keys, self.hosts, next(iter(self._state.settings.users), ""))

    def _acceptor(
        self, host: EmbeddedHost, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHServerConnectionOptions
    ) -> Callable[[], asyncio.BaseProtocol]:
        def accept() -> asyncio.BaseProtocol:
            self._state.accepted += 1
            if host.faults.silent:
                return _SilentProtocol(self._silent)
            return asyncssh.SSHServerConnection(loop, options)

        return accept


class _SilentProtocol(asyncio.Protocol):
    """Takes everything and says nothing."""

    def __init__(self, transports: set[asyncio.BaseTransport]) -> None:
        self._transports = transports
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transports.discard(self._transport)


def _loopback(count: int) -> tuple[str, ...]:
    return tuple(str(FIRST_ADDRESS + number) for number in range(count))
