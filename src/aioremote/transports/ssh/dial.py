"""From an address to a connection: gate, socket, handshake, host key, authentication; and what can go wrong.

The only place where asyncssh's connect errors are read.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import re
import socket
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import asyncssh

from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.limits import connect_gate, retry_delays
from aioremote.errors import (
    AddressError,
    AuthenticationError,
    ClosedError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HostKeyError,
    RemoteError,
    TunnelError,
)
from aioremote.host_keys import HostKey, HostKeyCallback, HostKeys
from aioremote.protocols import PasswordRequest
from aioremote.transports.ssh import known_hosts
from aioremote.transports.ssh.client import Client, Connection, Judge
from aioremote.transports.ssh.link import Link
from aioremote.transports.ssh.options import host_key_algorithms, options_for
from aioremote.transports.ssh.roads import CommandRoad, DirectRoad, MachineRoad, Road
from aioremote.types import Address, Endpoint

if TYPE_CHECKING:
    from aioremote.protocols import Transport
    from aioremote.transports.ssh.settings import SshSettings

__all__ = ["dial"]

_MAX_JUMPS = 8
_GLOBAL_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")  # ssh_config(5), GlobalKnownHostsFile


async def dial(address: Address, settings: SshSettings, via: Transport | None) -> Link:
    """Connect, authenticate and return what lives on the connection.

    Raises:
        ConnectError: one of its kinds; nothing has run.
    """
    options = await options_for(settings, address.host, address.user, address.port)
    policy = _effective_policy(settings, options, address.host)
    keys = None if policy.kind == "insecure_no_check" else await known_hosts.load(policy.paths)
    dialling = _Dialling(address, settings, policy, keys)
    async with AsyncExitStack() as stack:
        road = await _road(dialling, options, via, stack)
        connection = await dialling.connect(options, road)
        link = Link(address.host, connection, settings)
        link.jumps = stack.pop_all()
        return link


def _effective_policy(settings: SshSettings, options: asyncssh.SSHClientConnectionOptions, host: str) -> HostKeys:
    """Apply UserKnownHostsFile where the policy names no file; ``none`` is refused, as it would switch checks off."""
    policy = settings.host_keys
    if policy.function is not None:  # is asked about the host as given, not about its HostName or alias
        return replace(policy, function=_about(host, options.port, policy.function))
    named = cast("Sequence[str] | None", options.config.get("UserKnownHostsFile"))
    if policy.kind not in ("strict", "accept_new") or policy.given_paths or named is None:
        return policy
    if not named:
        raise HostKeyError(
            f"{host}: ssh config says UserKnownHostsFile none, which would switch host key checks off; "
            "give host_keys=, or HostKeys.insecure_no_check() if that is meant",
            host=host,
        )
    everyones = cast("Sequence[str]", options.config.get("GlobalKnownHostsFile", _GLOBAL_FILES))
    return replace(policy, given_paths=(*named, *everyones))


def _about(host: str, port: int, ask: HostKeyCallback) -> HostKeyCallback:
    def asked(_name: str, _port: int, key: HostKey) -> bool | Awaitable[bool]:
        return ask(host, port, key)

    return asked


async def _road(
    dialling: _Dialling, options: asyncssh.SSHClientConnectionOptions, via: Transport | None, stack: AsyncExitStack
) -> Road:
    """Decide how the bytes travel: over another machine, over the jumps or the command of the config, or straight.

    Another machine is connected here, before the connect gate: hosts that hold all its places would wait for it.
    """
    road = await _choose_road(dialling, options, via, stack)
    stack.push_async_callback(road.aclose)
    return road


async def _choose_road(
    dialling: _Dialling, options: asyncssh.SSHClientConnectionOptions, via: Transport | None, stack: AsyncExitStack
) -> Road:
    jumps = options.tunnel
    if via is None and isinstance(jumps, str) and jumps.lower() != "none":
        via = _jump(dialling, jumps, stack)
    if via is not None:
        try:
            await via.connect()
        except (ConnectionLost, ClosedError) as error:
            raise _no_way(dialling.address.host, error) from error
        except ConnectError as error:
            raise _behind(dialling.address.host, error) from error
        return MachineRoad(via)
    if options.proxy_command:
        return CommandRoad(str(options.config.get("ProxyCommand")), dialling.address.host)
    return DirectRoad(options.family, options.local_addr)


def _jump(dialling: _Dialling, jumps: str, stack: AsyncExitStack) -> Transport:
    """Put the hosts of a ProxyJump line one behind the other, under the same policy; returns the last.

    They get neither the password, which is for the one host that it was given for, nor the agent.
    """
    from aioremote._core.names import parse_host
    from aioremote.transports.ssh.transport import SshTransport

    host, settings = dialling.address.host, dialling.settings
    names = [name.strip() for name in jumps.split(",")]
    if settings.jumps + len(names) > _MAX_JUMPS:
        raise ConfigError(f"{host}: ProxyJump leads through more than {_MAX_JUMPS} hosts, or in a circle", host=host)
    settings = replace(
        settings, password=None, agent_forwarding=False, guard="never", jumps=settings.jumps + len(names)
    )
    last: SshTransport | None = None
    for name in names:
        at = parse_host(name)
        last = SshTransport(at.host, settings, user=at.user, port=at.port, via=last)
        stack.push_async_callback(last.aclose)
    assert last is not None
    return last


class _Dialling:
    """One machine's way to a connection, with as many tries as are safe."""

    def __init__(
        self, address: Address, settings: SshSettings, policy: HostKeys, keys: known_hosts.KnownHosts | None
    ) -> None:
        self.address = address
        self.settings = settings
        self.policy = policy
        self.keys = keys
        self.algorithms: Sequence[str] = ()
        self.known_types: tuple[str, ...] = ()

    async def connect(self, options: asyncssh.SSHClientConnectionOptions, road: Road) -> Connection:
        """Try, and again where nothing can have run: dropped before authentication, or another key type to ask for."""
        host, port = options.host, options.port
        name = options.host_key_alias or host
        if self.keys is not None:
            self.known_types = self.keys.algorithms(name, port)
        certified = self.keys is not None and self.policy.uses_files and bool(self.keys.authorities(name, port))
        delays = retry_delays()
        while True:
            self.algorithms = host_key_algorithms(self.known_types, certified=certified)
            try:
                async with connect_gate().passing(host, port):
                    return await self._attempt(options, road, name)
            except _OtherKeyTypes as error:
                if error.algorithms == self.known_types:
                    raise error.refusal from None
                self.known_types = error.algorithms
            except ConnectError as error:
                delay = next(delays, None)
                if not error.retryable or delay is None:
                    raise
                await asyncio.sleep(delay)
            options.waiter = asyncio.get_running_loop().create_future()

    async def _attempt(self, options: asyncssh.SSHClientConnectionOptions, road: Road, name: str) -> Connection:
        loop = asyncio.get_running_loop()
        host = self.address.host

        judge = _HostJudge(self, name, options.port)

        def make() -> Connection:
            options.protocol_factory = Client
            connection = Connection(loop, options, judge, self.algorithms)
            connection.give_password(self._password(options.username, connection))
            made.append(connection)
            return connection

        made: list[Connection] = []
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await road.travel(make, options.host, options.port)
                await made[0].established()
            made[0].watch(self.settings.keepalive, self.settings.keepalive_count)
            return made[0]
        except BaseException as error:
            for connection in made:
                connection.abort()
                await bounded_cleanup(connection.wait_closed(), 0.5)
            found = self._translate(error, made, options, host)
            if found is error:
                raise
            if isinstance(found, ConnectError) and found.retryable and (complaint := await road.complaint()):
                raise ConnectError(f"{host}: {complaint}", host=host) from error
            raise found from (None if isinstance(found, HostKeyError) else error)  # it is the cause of `error`

    def _password(self, user: str, connection: Connection) -> object:
        given = self.settings.password
        if given is None or isinstance(given, str):
            return given
        attempts = 0

        async def ask() -> str:
            nonlocal attempts
            attempts += 1
            request = PasswordRequest(host=self.address.host, user=user, prompt=connection.prompt, attempt=attempts)
            return await given(request)

        return ask

    # what went wrong

    def _translate(
        self, error: BaseException, made: list[Connection], options: asyncssh.SSHClientConnectionOptions, host: str
    ) -> BaseException:
        """Turn what asyncssh, the sockets or the clock say into an error of ours."""
        connection = made[0] if made else None
        at = str(Endpoint(options.host, options.port))
        where = f"{host} ({at})" if options.host != host else at
        if connection is not None and connection.refusal is not None:
            return connection.refusal
        if isinstance(error, (TunnelError, ConnectionLost, ClosedError)):
            return _no_way(host, error)
        if isinstance(error, RemoteError) or not isinstance(error, Exception):
            return error
        if isinstance(error, TimeoutError):
            phase = connection.phase if connection else "connecting"
            text = f"{where}: no connection within {self.settings.connect_timeout:g} s; it stopped while {phase}"
            return ConnectTimeout(text, host=host)
        if isinstance(error, asyncssh.PermissionDenied):
            return AuthenticationError(self._refused(where, connection, options.username), host=host)
        if isinstance(error, socket.gaierror):
            return AddressError(f"{where}: the name does not resolve ({error.strerror})", host=host)
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return HostKeyError(f"{where}: {error.reason}", host=host)
        return self._broken(error, where, connection)

    def _refused(self, where: str, connection: Connection | None, user: str) -> str:
        takes = ", ".join(connection.get_server_auth_methods()) if connection is not None else ""
        if self.settings.keyfiles:
            offered = "the key " + ", ".join(self.settings.keyfiles)
        else:
            offered = "the agent's and default keys" if self.settings.password is None else "the password"
        hint = f"; the server still takes {takes}" if takes else ""
        return f"{where}: user {user!r} was refused: {offered} did not do{hint}"

    def _broken(self, error: Exception, where: str, connection: Connection | None) -> ConnectError:
        host = self.address.host
        if _is_refusal(error):
            return ConnectError(f"{where}: nothing listens there (connection refused)", host=host)
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            text = "this process may open no more files: raise its limit (ulimit -n), or lower limit= of the fleet"
            return ConnectError(f"{where}: {text}", host=host)
        if connection is not None and connection.authenticating:
            detail = str(error) or type(error).__name__
            if "authentication failures" in detail:
                return AuthenticationError(f"{where}: too many keys were offered; give keyfile=", host=host)
            return ConnectError(f"{where}: dropped while authenticating: {detail}", host=host)
        if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError)):
            return ConnectError(
                f"{where}: dropped before authentication (a server that is asked by many at once does that)",
                host=host,
                retryable=True,
            )
        return ConnectError(f"{where}: {error or type(error).__name__}", host=host)


def _no_way(host: str, error: Exception) -> ConnectError:
    return ConnectError(f"{host}: no way through the machine in between: {error}", host=host)


def _behind(host: str, error: ConnectError) -> ConnectError:
    """Return what `error` of the machine in between means for one of the many behind it: its kind, and its `host`."""
    found = copy.copy(error)
    found.args = (f"{host}: no way through the machine in between: {error}",)
    return found


def _is_refusal(error: Exception) -> bool:
    """Whether nothing listened; asyncio joins what each address of a name said into the text of one OSError."""
    if isinstance(error, ConnectionRefusedError):
        return True
    numbers = re.findall(r"\[Errno (\d+)\]", str(error)) if type(error) is OSError else []
    return bool(numbers) and all(int(number) == errno.ECONNREFUSED for number in numbers)


class _HostJudge(Judge):
    """Judges the keys of one host by the policy and the index of known hosts."""

    def __init__(self, dialling: _Dialling, name: str, port: int) -> None:
        self._dialling = dialling
        self._name = name
        self._port = port

    def at_once(self, key: HostKey, authority: HostKey | None) -> bool:
        policy, keys = self._dialling.policy, self._dialling.keys
        if authority is not None or keys is None or policy.kind not in ("strict", "accept_new"):
            return False
        return keys.trusts(self._name, self._port, key)

    async def judge(self, key: HostKey, authority: HostKey | None) -> None:
        policy = self._dialling.policy
        try:
            if authority is not None:
                await known_hosts.verify_certificate(policy, self._name, self._port, authority, key=key)
            else:
                await known_hosts.verify(policy, self._name, self._port, key)
        except HostKeyError as error:
            error.host = self._dialling.address.host
            if error.other_algorithms and key.algorithm not in error.other_algorithms:
                raise _OtherKeyTypes(error.other_algorithms, error) from error
            raise


class _OtherKeyTypes(HostKeyError):
    """The host is known, with keys of other types than the one that the server showed: ask for those."""

    def __init__(self, algorithms: Sequence[str], refusal: HostKeyError) -> None:
        super().__init__(str(refusal), host=refusal.host)
        self.algorithms = tuple(algorithms)
        self.refusal = refusal
