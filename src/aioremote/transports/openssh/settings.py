"""What a master is asked to be: plain values, and the ssh(1) options that they mean. Nothing here starts anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from aioremote.errors import ConfigError, UnsupportedError
from aioremote.host_keys import HostKeys
from aioremote.types import Address, Reconnect

if TYPE_CHECKING:
    from aioremote.protocols import PasswordProvider

__all__ = ["OpenSshSettings", "check_control_path", "host_key_options", "master_options", "plain_options"]

MAX_CONTROL_PATH = 90  # sun_path less what a master adds while it makes the socket: 108 - 1 - 17
_MAX_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSshSettings:
    """Everything about a master but the host, user and port.

    Attributes:
        keyfiles: private keys to offer; with any given, neither the agent nor the default keys are.
        password: a str, or an async provider that is asked when the server wants one. Never shown.
        passphrase: for encrypted key files. Never shown.
        host_keys: how the server proves who it is.
        config: the ssh_config to read; "" for those that ssh reads, None for none at all.
        connect_timeout: seconds for the connect, authentication included.
        keepalive: seconds of silence after which the server is asked for a sign of life.
        keepalive_count: unanswered signs of life after which the connection is lost.
        agent_forwarding: whether far programs may use the near ssh agent.
        guard: when the loop that ends far process trees is opened: when it is first of use, or at connect.
        max_sessions: how many sessions the server allows on one connection; None learns it from the first refusal.
        reconnect: how a lost connection is tried again when it is next needed; None leaves it lost.
        program: the ssh to run.
        control_path: of a master that somebody else has opened; None for a private one.
    """

    keyfiles: tuple[str, ...] = ()
    password: str | PasswordProvider | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    host_keys: HostKeys = field(default_factory=HostKeys.strict)
    config: str | None = ""
    connect_timeout: float = 15.0
    keepalive: float = 15.0
    keepalive_count: int = 3
    agent_forwarding: bool = False
    guard: Literal["auto", "always"] = "auto"
    max_sessions: int | None = None
    reconnect: Reconnect | None = None
    program: str = "ssh"
    control_path: str | None = None

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "keepalive"):
            seconds: object = getattr(self, name)
            if not isinstance(seconds, (int, float)):
                raise TypeError(f"{name}={seconds!r}: give a number of seconds")
            if not seconds > 0:
                raise ValueError(f"{name}={seconds!r}: give a positive number of seconds")
        if not isinstance(cast(object, self.keepalive_count), int) or self.keepalive_count < 1:
            raise ValueError(f"keepalive_count={self.keepalive_count!r}: give a whole number of at least 1")
        if self.guard not in ("auto", "always"):
            raise ValueError(f"guard={self.guard!r}: over OpenSSH give 'auto' or 'always'")
        if not isinstance(cast(object, self.host_keys), HostKeys):
            raise TypeError(f"host_keys={self.host_keys!r}: give a HostKeys policy")
        if self.host_keys.kind == "callback":
            raise UnsupportedError("OpenSSH asks no function about host keys: give another policy than callback()")
        host_key_options(self.host_keys, "")
        for name in (*self.keyfiles, self.config or ""):
            _escaped(name)
        if self.control_path is not None:
            check_control_path(self.control_path, _MAX_SOCKET_PATH)


def check_control_path(path: str, longest: int = MAX_CONTROL_PATH) -> None:
    """Refuse a path that no unix socket can have.

    Raises:
        ConfigError: it is longer than `longest` bytes.
    """
    if len(os.fsencode(path)) > longest:
        raise ConfigError(f"control path too long for a unix socket: {path!r} has more than {longest} bytes")


def _escaped(path: str) -> str:
    """Write a path so that OpenSSH expands nothing in it.

    Raises:
        ValueError: there is no way to.
    """
    if any(character in path for character in '"\n\r\0\\') or "${" in path:
        raise ValueError(f"path {path!r}: OpenSSH cannot be given a path with quotes, backslashes, newlines or '${{'")
    return path.replace("%", "%%")


def _file_list(paths: tuple[str, ...]) -> str:
    return " ".join(f'"{_escaped(os.path.expanduser(path))}"' for path in paths)


def host_key_options(policy: HostKeys, directory: str) -> list[str]:
    """Return a host-key policy in OpenSSH's options.

    A pinned key is judged by a program in `directory`, since known_hosts files hold keys and no fingerprints.
    """
    if policy.kind == "pinned":
        files = ["UserKnownHostsFile=none", "GlobalKnownHostsFile=none", "CheckHostIP=no"]
        return [*files, "StrictHostKeyChecking=yes", f'KnownHostsCommand="{_escaped(directory)}/pinned" %f %t %K']
    if policy.kind == "insecure_no_check":
        return ["UserKnownHostsFile=none", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=no"]
    checking = "StrictHostKeyChecking=" + ("yes" if policy.kind == "strict" else "accept-new")
    if not policy.given_paths:
        return [checking]
    return [checking, f"UserKnownHostsFile={_file_list(policy.given_paths)}", "GlobalKnownHostsFile=none"]


def master_options(settings: OpenSshSettings, address: Address, directory: str) -> list[str]:
    """Return the arguments of ssh(1) for a private master whose socket is `directory`/m.

    What stands here goes before the user's ssh_config, as OpenSSH takes the first value that it meets.
    """
    own = [
        "ControlMaster=yes",
        "ControlPersist=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=yes",
        "LocalCommand=echo up",
        "LogLevel=INFO",
    ]
    arguments = ["-M", "-N", "-T", "-x", "-S", _escaped(f"{directory}/m")]
    return [*arguments, *_arguments(own, settings, address, directory)]


def plain_options(settings: OpenSshSettings, address: Address, directory: str, flags: Sequence[str]) -> list[str]:
    """Return the arguments of an ssh(1) for one program, which notes in `directory`/log what it does."""
    own = [
        "ControlMaster=no",
        "ControlPath=none",
        "PermitLocalCommand=no",
        "ExitOnForwardFailure=yes",
    ]
    if "-W" not in flags:
        own.append("ClearAllForwardings=yes")
    return [*flags, "-x", "-E", f"{directory}/log", *_arguments(own, settings, address, directory)]


def _arguments(own: list[str], settings: OpenSshSettings, address: Address, directory: str) -> list[str]:
    """Return what every ssh is asked, beside `own` options, and whom it is to reach."""
    asks = settings.password is not None or settings.passphrase is not None
    options = [
        *host_key_options(settings.host_keys, directory),
        f"BatchMode={'no' if asks else 'yes'}",
        "NumberOfPasswordPrompts=" + ("3" if callable(settings.password) else "1"),
        f"ConnectTimeout={max(1, round(settings.connect_timeout))}",
        f"ServerAliveInterval={max(1, round(settings.keepalive))}",
        f"ServerAliveCountMax={settings.keepalive_count}",
        f"ForwardAgent={'yes' if settings.agent_forwarding else 'no'}",
        "ForkAfterAuthentication=no",
        "UpdateHostKeys=no",
        "StreamLocalBindUnlink=no",
        "ForwardX11=no",
        "Tunnel=no",
        "EscapeChar=none",
        *own,
    ]
    if settings.keyfiles:
        options += ["IdentitiesOnly=yes", "IdentityAgent=none"]
    arguments: list[str] = []
    for option in options:
        arguments += ["-o", option]
    for name in settings.keyfiles:
        arguments += ["-i", _escaped(name)]
    if settings.config != "":
        arguments += ["-F", "none" if settings.config is None else os.path.expanduser(settings.config)]
    if address.user is not None:
        arguments += ["-l", address.user]
    if address.port is not None:
        arguments += ["-p", str(address.port)]
    return [*arguments, "--", address.host]
