"""The kinds of machines: constructors only. What a machine does is in `aioremote.machine`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from aioremote._core.backoff import reconnect_policy
from aioremote.host_keys import HostKeys
from aioremote.machine import Machine
from aioremote.transports.local import LocalTransport
from aioremote.transports.ssh.settings import DEFAULT_CONFIG, Guard, SshSettings, keyfile_names
from aioremote.transports.ssh.transport import SshTransport
from aioremote.types import Reconnect

if TYPE_CHECKING:
    from aioremote.protocols import PasswordProvider, Transport

__all__ = ["DaemonMachine", "LocalMachine", "SshKeywords", "SshMachine"]


Outpost = Literal["auto", "always", "never"]


class SshKeywords(TypedDict, total=False):
    """The keywords of `SshMachine`, for whoever makes many of them."""

    user: str | None
    port: int | None
    keyfile: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    password: str | PasswordProvider | None
    passphrase: str | None
    host_keys: HostKeys | None
    config: str | os.PathLike[str] | None
    via: Machine | None
    connect_timeout: float
    keepalive: float
    keepalive_count: int
    agent_forwarding: bool
    guard: Guard
    max_sessions: int | None
    reconnect: bool | Reconnect
    outpost: Outpost
    encoding: str


class LocalMachine(Machine):
    """This machine, with everything that a far one offers. POSIX only."""

    def __init__(self, *, encoding: str = "utf-8") -> None:
        super().__init__(LocalTransport(), host="localhost", encoding=encoding)


class SshMachine(Machine):
    """A host behind ssh. Only the host is required; ``~/.ssh/config`` and known_hosts apply as for ``ssh``.

    Args:
        host: name, address, or an alias of the ssh config.
        user: the login; None for the config's, else the near user's name.
        port: None for the config's, else 22.
        keyfile: one or several private keys to offer, and then no others; None for the agent's and the default ones.
        password: a str, or an async function that gets a PasswordRequest and returns a str. Offered to this host only.
        passphrase: opens encrypted key files.
        host_keys: how the server proves who it is; ``HostKeys.strict()`` by known_hosts.
        config: the ssh_config to read; None ignores it. ``Match exec`` and ``ProxyCommand`` in it run near programs.
        via: a machine through which the connection goes. It stays yours to close.
        connect_timeout: seconds for resolving, connecting, handshake and authentication together.
        keepalive: seconds of silence after which the server is asked for a sign of life; the link counts as lost after
            `keepalive_count` of them without an answer.
        keepalive_count: see `keepalive`.
        agent_forwarding: whether far programs may use the near ssh agent.
        guard: "auto" opens the far loop that ends process trees with the first long or second concurrent command,
            "always" at connect, "never" leaves killing to the server (which OpenSSH refuses for root).
        max_sessions: how many sessions the server allows on one connection; None learns it.
        reconnect: True, or a Reconnect policy, connects again when a lost connection is next needed. What may have run
            is never repeated: it raises ConnectionLost.
        outpost: "auto" lets a far Python run the commands once the first Python call, or a server that gives no further
            session, has brought one up; "always" from the first command on; "never" keeps to plain channels.
        encoding: of far text.

    Raises:
        AddressError: a host or user that no host name or login can be, before anything is started.
        ValueError, TypeError: an argument that cannot be used.
    """

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: int | None = None,
        keyfile: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        password: str | PasswordProvider | None = None,
        passphrase: str | None = None,
        host_keys: HostKeys | None = None,
        config: str | os.PathLike[str] | None = DEFAULT_CONFIG,
        via: Machine | None = None,
        connect_timeout: float = 15.0,
        keepalive: float = 15.0,
        keepalive_count: int = 3,
        agent_forwarding: bool = False,
        guard: Guard = "auto",
        max_sessions: int | None = None,
        reconnect: bool | Reconnect = False,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        if not isinstance(cast(object, via), Machine | None):
            raise TypeError(f"via={via!r}: give a machine, such as SshMachine({via!r})")
        settings = SshSettings(
            keyfiles=keyfile_names(keyfile),
            password=password,
            passphrase=passphrase,
            host_keys=HostKeys.strict() if host_keys is None else host_keys,
            config=None if config is None else os.fspath(config),
            connect_timeout=connect_timeout,
            keepalive=keepalive,
            keepalive_count=keepalive_count,
            agent_forwarding=agent_forwarding,
            guard=guard,
            max_sessions=max_sessions,
            reconnect=reconnect_policy(reconnect),
        )
        transport = SshTransport(host, settings, user=user, port=port, via=None if via is None else via.transport)
        super().__init__(_upgraded(transport, settings, outpost), host=host, encoding=encoding)


def _upgraded(transport: SshTransport, settings: SshSettings, outpost: Outpost) -> Transport:
    if outpost == "never":
        return transport
    if outpost not in ("auto", "always"):
        raise ValueError(f'outpost={outpost!r}: give "auto", "always" or "never"')
    from aioremote.transports.upgrading import UpgradingTransport  # 15 ms, for those who have an ssh machine

    return UpgradingTransport(
        transport, when=outpost, keepalive=settings.keepalive, keepalive_count=settings.keepalive_count
    )


class DaemonMachine(Machine):
    """A host where ``aioremote serve`` runs, over TLS 1.3 with certificates pinned at both ends, or a unix socket here.

    Args:
        host: name or address; not with `path`.
        port: of the daemon.
        keyfile: this client's key, as ``aioremote keygen`` wrote it.
        server_fingerprint: the daemon's, "sha256:…"; no other is trusted.
        path: of a unix socket on this machine, of a daemon of the same user; in place of all others.
        connect_timeout: seconds until the daemon has greeted.
        encoding: of far text.

    Raises:
        ValueError: neither a path nor a host with keyfile and fingerprint.
    """

    def __init__(
        self,
        host: str = "",
        port: int = 10101,
        *,
        keyfile: str | os.PathLike[str] | None = None,
        server_fingerprint: str = "",
        path: str | os.PathLike[str] = "",
        connect_timeout: float = 15.0,
        encoding: str = "utf-8",
    ) -> None:
        from aioremote.transports.tcp import TcpTransport  # 20 ms, for those who have a daemon

        if bool(path) == bool(host) or (host and not (keyfile and server_fingerprint)):
            raise ValueError("give path=, or a host with keyfile= and server_fingerprint=")
        transport = TcpTransport(
            host,
            port,
            keyfile=keyfile or "",
            server_fingerprint=server_fingerprint,
            path=os.fspath(path),
            connect_timeout=connect_timeout,
        )
        super().__init__(transport, host=host or "localhost", encoding=encoding)
