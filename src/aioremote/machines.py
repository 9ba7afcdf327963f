"""The kinds of machines: constructors only. What a machine does is in `aioremote.machine`.

Long by keywords and docstrings, which are the contract of each kind and are read beside each other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from aioremote._core.backoff import reconnect_policy
from aioremote._core.names import check_host_name, check_object_name
from aioremote.errors import UnsupportedError
from aioremote.host_keys import HostKeys
from aioremote.machine import Machine
from aioremote.transports.local import LocalTransport
from aioremote.transports.openssh.settings import OpenSshSettings
from aioremote.transports.ssh.settings import DEFAULT_CONFIG, Guard, SshSettings, keyfile_names
from aioremote.transports.ssh.transport import SshTransport
from aioremote.types import Reconnect

if TYPE_CHECKING:
    from aioremote.protocols import PasswordProvider, SessionTransport, Transport

__all__ = [
    "CommandMachine",
    "DaemonMachine",
    "DockerMachine",
    "KubernetesMachine",
    "LocalMachine",
    "OpenSshMachine",
    "PodmanMachine",
    "SmbMachine",
    "SshKeywords",
    "SshMachine",
]


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
    native: bool


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
        native: whether the system's OpenSSH makes the connection, as for `OpenSshMachine`.

    Raises:
        UnsupportedError: `native` with what OpenSSH cannot do: `via`, ``guard="never"``, ``HostKeys.callback``.
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
        native: bool = False,
    ) -> None:
        if native:
            if via is not None or guard == "never":
                what = "via=" if via is not None else 'guard="never"'
                raise UnsupportedError(f"{host}: {what} is not for native=True: OpenSSH has ProxyJump", host=host)
            native_settings = OpenSshSettings(
                keyfiles=keyfile_names(keyfile),
                password=password,
                passphrase=passphrase,
                host_keys=HostKeys.strict() if host_keys is None else host_keys,
                config="" if config == DEFAULT_CONFIG else None if config is None else os.fspath(config),
                connect_timeout=connect_timeout,
                keepalive=keepalive,
                keepalive_count=keepalive_count,
                agent_forwarding=agent_forwarding,
                guard=guard,
                max_sessions=max_sessions,
                reconnect=reconnect_policy(reconnect),
            )
            road = _native(host, native_settings, user, port, outpost)
            super().__init__(road, host=host, encoding=encoding)
            return
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


class OpenSshMachine(Machine):
    """A host behind the system's own ``ssh``: the user's whole ssh_config, ProxyJump, GSSAPI, FIDO keys.

    One private master holds the connection, and every command speaks to it directly: no process each. When the master
    ends the machine is lost; no command ever connects by itself. Which signal ended a far program is taken to be the
    one that was sent from here: where none or several were, ``.signal`` is "UNKNOWN".

    Args:
        host: name, address, or an alias of the ssh config.
        user, port: as for ``ssh``; None for the config's.
        keyfile: one or several private keys to offer, and then no others.
        password: a str, or an async function that gets a PasswordRequest and returns a str. ssh asks it by a helper
            program in a private directory; it stands in no argument, environment or file.
        passphrase: opens encrypted key files.
        host_keys: `strict`, `accept_new`, `pinned` or `insecure_no_check`; a pinned key is compared by its fingerprint,
            and known_hosts files, with what they revoke, are not read then.
        config: the ssh_config to read; "" for those that ssh reads, None for none.
        connect_timeout, keepalive, keepalive_count, agent_forwarding, max_sessions, reconnect: as for `SshMachine`.
        guard: "auto" or "always", as for `SshMachine`.
        program: the ssh to run, OpenSSH 8.5 or later.
        master: False starts an ssh for each program, which logs in for itself, where masters cannot be had: OpenSSH for
            Windows has none. An outpost, with "auto" at once where there is a Python, leaves one ssh for all. Without
            one there are no listeners and no far unix sockets, and it is never known which signal ended a program.
        outpost, encoding: as for `SshMachine`.

    Raises:
        AddressError: a host or user that no host name or login can be, before anything is started.
        UnsupportedError: ``HostKeys.callback``; when it connects: no ssh on this machine, or one too old.
        ConfigError: a control path that is too long for a socket.
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
        config: str | os.PathLike[str] | None = "",
        connect_timeout: float = 15.0,
        keepalive: float = 15.0,
        keepalive_count: int = 3,
        agent_forwarding: bool = False,
        guard: Literal["auto", "always"] = "auto",
        max_sessions: int | None = None,
        reconnect: bool | Reconnect = False,
        program: str = "ssh",
        master: bool = True,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        settings = OpenSshSettings(
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
            program=program,
        )
        road = _native(host, settings, user, port, outpost) if master else _plain(host, settings, user, port, outpost)
        super().__init__(road, host=host, encoding=encoding)

    @classmethod
    def attach(
        cls,
        control_path: str | os.PathLike[str],
        *,
        host: str = "localhost",
        max_sessions: int | None = None,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> Machine:
        """Return a machine over a master that is open already, whatever it took: 2FA, GSSAPI, a token.

        Closing the machine ends its own programs and leaves the master as it was.

        Args:
            control_path: of the master's socket, as in ``ssh -S``.
            host: a name for errors and results.
            max_sessions, outpost, encoding: as for `SshMachine`.

        Raises:
            ConfigError: the path is too long for a socket. When it connects: ConnectError where no master answers.
        """
        settings = OpenSshSettings(control_path=os.path.expanduser(str(control_path)), max_sessions=max_sessions)
        return Machine(_native(host, settings, None, None, outpost), host=host, encoding=encoding)


def _native(host: str, settings: OpenSshSettings, user: str | None, port: int | None, outpost: Outpost) -> Transport:
    from aioremote.transports.openssh.transport import OpenSshTransport

    return _upgraded(OpenSshTransport(host, settings, user=user, port=port), settings, outpost)


def _plain(host: str, settings: OpenSshSettings, user: str | None, port: int | None, outpost: Outpost) -> Transport:
    if settings.max_sessions is not None or settings.reconnect is not None:
        what = "max_sessions=" if settings.max_sessions is not None else "reconnect="
        raise UnsupportedError(f"{host}: {what} is not for master=False: there is no connection to keep", host=host)
    from aioremote.transports.openssh.plain import PlainOpenSshTransport

    return PlainOpenSshTransport(host, settings, user=user, port=port, outpost=outpost)


def _upgraded(transport: SessionTransport, settings: SshSettings | OpenSshSettings, outpost: Outpost) -> Transport:
    if outpost == "never":
        return transport
    if outpost not in ("auto", "always"):
        raise ValueError(f'outpost={outpost!r}: give "auto", "always" or "never"')
    from aioremote.transports.upgrading import UpgradingTransport  # 15 ms, for those who have an ssh machine

    return UpgradingTransport(
        transport, when=outpost, keepalive=settings.keepalive, keepalive_count=settings.keepalive_count
    )


class CommandMachine(Machine):
    """What a command leads to: any argv that passes standard input and output on to programs that it starts.

    With a Python behind it, everything goes through one run of the command; without, each program is a run of its own,
    and only /bin/sh is needed. Programs are ended from inside, so that none outlives ``docker exec``.

    Args:
        prefix: the command, word by word: ``["docker", "exec", "-i", "web"]``, ``["chroot", "/srv/root"]``.
        joins: "exec" appends the far argv; "shell" quotes it as one word, for a command that feeds a shell (``ssh``).
        via: a machine on which the command runs; None for this one. It stays yours to close.
        outpost: "auto" uses a Python there where there is one, "always" requires it, "never" leaves it alone.
        encoding: of far text.

    Raises:
        ValueError, TypeError: a prefix that is no list of words.
    """

    def __init__(
        self,
        prefix: Sequence[str],
        *,
        joins: Literal["exec", "shell"] = "exec",
        via: Machine | None = None,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        from aioremote.transports.command import CommandTransport  # 15 ms, for those who use it

        inner = LocalTransport() if via is None else via.transport
        transport = CommandTransport(inner, prefix, joins=joins, outpost=outpost, owns_inner=via is None)
        super().__init__(transport, host=transport.host, encoding=encoding)


class DockerMachine(CommandMachine):
    """A running container, through ``docker exec -i``. Only builds the words for `CommandMachine`.

    Args:
        container: its name or id.
        user: who runs the programs, "uid" or "name:group"; None for the container's own.
        program: what understands docker's words.
        via, outpost, encoding: as for `CommandMachine`.

    Raises:
        AddressError: no name that a container can have.
    """

    def __init__(
        self,
        container: str,
        *,
        user: str | None = None,
        program: str = "docker",
        via: Machine | None = None,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        check_object_name(container, "container")
        options = [] if user is None else [f"--user={user}"]
        super().__init__([program, "exec", "-i", *options, container], via=via, outpost=outpost, encoding=encoding)


class PodmanMachine(DockerMachine):
    """A running container, through ``podman exec -i``; otherwise as `DockerMachine`."""

    def __init__(
        self,
        container: str,
        *,
        user: str | None = None,
        program: str = "podman",
        via: Machine | None = None,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        super().__init__(container, user=user, program=program, via=via, outpost=outpost, encoding=encoding)


class KubernetesMachine(CommandMachine):
    """A running pod, through ``kubectl exec -i``. Only builds the words for `CommandMachine`.

    Args:
        pod: its name, or "deployment/NAME".
        namespace: None for kubectl's own.
        container: None for the pod's default one.
        context: of the kubeconfig; None for the current one.
        program: what understands kubectl's words.
        via, outpost, encoding: as for `CommandMachine`.

    Raises:
        AddressError: what can be no name in Kubernetes.
    """

    def __init__(
        self,
        pod: str,
        *,
        namespace: str | None = None,
        container: str | None = None,
        context: str | None = None,
        program: str = "kubectl",
        via: Machine | None = None,
        outpost: Outpost = "auto",
        encoding: str = "utf-8",
    ) -> None:
        check_object_name(pod.replace("/", ".", 1), "pod")
        named = {"namespace": namespace, "container": container}
        for what, name in named.items():
            if name is not None:
                check_object_name(name, what)
        options = [f"--{what}={name}" for what, name in {"context": context, **named}.items() if name is not None]
        super().__init__([program, "exec", "-i", *options, pod, "--"], via=via, outpost=outpost, encoding=encoding)


class DaemonMachine(Machine):
    """A host where ``aioremote serve`` runs, over TLS 1.3 with pinned certificates, or a unix socket here.

    Args:
        host: name or address; not with `path`.
        port: of the daemon.
        keyfile: this client's key, as ``aioremote keygen`` wrote it.
        tokenfile: in place of `keyfile`, a file of mode 0600 with a token of the daemon; it is proved, never sent.
        server_fingerprint: the daemon's, "sha256:…"; no other is trusted.
        path: of a unix socket on this machine, of a daemon of the same user; in place of all others.
        connect_timeout: seconds until the daemon has greeted.
        encoding: of far text.

    Raises:
        ValueError: neither a path nor a host with fingerprint and either keyfile or tokenfile.
    """

    def __init__(
        self,
        host: str = "",
        port: int = 10101,
        *,
        keyfile: str | os.PathLike[str] | None = None,
        tokenfile: str | os.PathLike[str] | None = None,
        server_fingerprint: str = "",
        path: str | os.PathLike[str] = "",
        connect_timeout: float = 15.0,
        encoding: str = "utf-8",
    ) -> None:
        from aioremote.transports.tcp import TcpTransport  # 20 ms, for those who have a daemon

        if bool(path) == bool(host) or (host and not (bool(keyfile) != bool(tokenfile) and server_fingerprint)):
            raise ValueError("give path=, or a host with server_fingerprint= and either keyfile= or tokenfile=")
        if host:
            check_host_name(host)
        transport = TcpTransport(
            host,
            port,
            keyfile=keyfile or "",
            tokenfile=tokenfile or "",
            server_fingerprint=server_fingerprint,
            path=os.fspath(path),
            connect_timeout=connect_timeout,
        )
        super().__init__(transport, host=host or "localhost", encoding=encoding)


class SmbMachine(Machine):
    r"""A host where a daemon stands behind a Windows named pipe, reached through SMB; needs the extra ``smb``.

    Only SMB 3.1.1 with encryption: an unencrypted reply, or a login as a guest, ends the connection.

    Args:
        host: name or address of the SMB server.
        username, password, domain: of the login; the password is never shown.
        pipe: its name, as in ``\\.\pipe\NAME``.
        port: of the SMB server.
        connect_timeout: seconds until the daemon has greeted.
        encoding: of far text.

    Raises:
        UnsupportedError: the extra is not installed.
        ValueError: no username, or no name that a pipe can have.
    """

    def __init__(
        self,
        host: str,
        *,
        username: str,
        password: str,
        domain: str = "",
        pipe: str = "aioremote",
        port: int = 445,
        connect_timeout: float = 15.0,
        encoding: str = "utf-8",
    ) -> None:
        try:
            from aioremote.transports.smb import SmbTransport
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("smbprotocol", "spnego"):
                raise
            raise UnsupportedError(f"{host}: SMB needs: pip install 'aioremote[smb]'", host=host) from error
        if not username or not pipe or any(letter in "\\/\0" for letter in pipe):
            raise ValueError(f"username={username!r}, pipe={pipe!r}: give a login, and a pipe's name alone")
        check_host_name(host)
        transport = SmbTransport(
            host,
            port,
            username=username,
            password=password,
            domain=domain,
            pipe=pipe,
            connect_timeout=connect_timeout,
        )
        super().__init__(transport, host=host, encoding=encoding)
