"""asyncssh options, built once for all the machines that share them, and never on the event loop.

Preparing options reads key files and ssh_config; done anew for each host it costs more than the handshake's own Python.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import asyncssh

from aioremote.errors import ConfigError, RemoteError
from aioremote.transports.ssh.config import ConfigFile, read_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioremote.transports.ssh.settings import SshSettings

__all__ = ["host_key_algorithms", "options_for", "shallow_copy"]

T = TypeVar("T")

# Cheapest first (FACTS 14): group exchange would cost half a second of CPU a host, so it is not offered at all.
_KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha256",
)
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
# Cheapest first. Source: ssh_config(5), HostKeyAlgorithms.
_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")  # RFC 8332; the last is SHA-1, for very old servers
_OLDEST = (2, 24, 1)  # older versions of asyncssh have known security faults


def _check_version(version: str) -> None:
    """Refuse a version of asyncssh below the floor; what cannot be read as a version passes."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
    if numbers and numbers < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ImportError(
            f"asyncssh {version} is too old, it has known security faults: pip install 'asyncssh>={oldest}'"
        )


_check_version(asyncssh.__version__)

WINDOW_BYTES = 2 * 1024 * 1024  # what one channel may have in flight towards us
_KEPT = 64  # sets of options
_CHANGING = frozenset({"match", "include"})  # with these, a config may say something else each time
_DEFAULT_KEYS = tuple(f"~/.ssh/id_{kind}" for kind in ("ed25519", "ed25519_sk", "ecdsa", "ecdsa_sk", "rsa"))


class _Built(NamedTuple):
    """A set of options, and the files that it was made from as they were then."""

    options: asyncssh.SSHClientConnectionOptions
    files: tuple[str, ...]
    versions: tuple[object, ...]

    def is_fresh(self) -> bool:
        return self.versions == _versions(self.files)


_cache: OrderedDict[tuple[object, ...], _Built] = OrderedDict()
_building = threading.Lock()


async def options_for(
    settings: SshSettings, host: str, user: str | None, port: int | None
) -> asyncssh.SSHClientConnectionOptions:
    """Return options for one connection, a cheap copy of the shared ones.

    Raises:
        ConfigError: a config or key file cannot be read, parsed or unlocked.
    """
    try:
        config = read_config(settings.config)
    except OSError as error:
        raise ConfigError(f"{host}: cannot read ssh config {settings.config}: {error.strerror}", host=host) from error
    key = _key(settings, config, host, user, port)
    built = _cache.get(key)
    if built is None or not built.is_fresh():
        built = await asyncio.to_thread(_build_once, key, settings, config, host, user, port)
    base = built.options
    options = shallow_copy(base)
    if base.host == base.orig_host:  # no HostName in the config
        options.host = host
    options.orig_host = host
    options.waiter = asyncio.get_running_loop().create_future()
    return options


def shallow_copy(thing: T) -> T:
    """Do as ``copy.copy``, without its search for the right way."""
    same = object.__new__(type(thing))
    vars(same).update(vars(thing))
    return same


def host_key_algorithms(known: Sequence[str], *, certified: bool) -> tuple[str, ...]:
    """Return the order in which to ask a server for host keys: known types first, but all, so that it can show another.

    Args:
        known: key types under which the host is known, best first.
        certified: whether an authority is known for the host; its certificates go before everything.
    """
    types = dict.fromkeys((*known, *_HOST_KEYS))
    plain = [name for kind in types for name in (_RSA_SIGNATURES if kind == "ssh-rsa" else (kind,))]
    certificates = [f"{name}-cert-v01@openssh.com" for name in plain] if certified else []
    return (*certificates, *plain)


def _key(
    settings: SshSettings, config: ConfigFile | None, host: str, user: str | None, port: int | None
) -> tuple[object, ...]:
    mine = (
        settings.keyfiles,
        settings.passphrase,
        settings.agent_forwarding,
        os.environ.get("SSH_AUTH_SOCK"),
        os.environ.get("HOME"),
    )
    return (*mine, settings.config, user, port, config.signature(host) if config else ())


def _build_once(
    key: tuple[object, ...],
    settings: SshSettings,
    config: ConfigFile | None,
    host: str,
    user: str | None,
    port: int | None,
) -> _Built:
    with _building:
        built = _cache.get(key)
        if built is None or not built.is_fresh():
            options = _build(settings, config, host, user, port)
            files = _key_files(settings, options)
            built = _Built(options, files, _versions(files))
            if config is None or not config.keywords & _CHANGING:
                _cache[key] = built
            while len(_cache) > _KEPT:
                _cache.popitem(last=False)
        return built


def _key_files(settings: SshSettings, options: asyncssh.SSHClientConnectionOptions) -> tuple[str, ...]:
    """Return the files that keys and certificates come from; they are read anew when one of them has changed."""
    named = settings.keyfiles or cast("Sequence[str]", options.config.get("IdentityFile", _DEFAULT_KEYS))
    names = [os.path.expanduser(name) for name in named]
    return (*names, *(f"{name}-cert.pub" for name in names))


def _versions(files: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(_version(name) for name in files)


def _version(name: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _build(
    settings: SshSettings, config: ConfigFile | None, host: str, user: str | None, port: int | None
) -> asyncssh.SSHClientConnectionOptions:
    try:
        options = asyncssh.SSHClientConnectionOptions(**_arguments(settings, config, host, user, port))
        options.agent_path = options.agent_path or None  # "" would be asked as well
        return options
    except (OSError, ValueError, asyncssh.Error) as error:
        raise _config_error(error, settings, host) from error


def _arguments(
    settings: SshSettings, config: ConfigFile | None, host: str, user: str | None, port: int | None
) -> dict[str, Any]:  # Any: keywords of a foreign constructor
    keywords = config.keywords if config else frozenset[str]()
    arguments: dict[str, Any] = {
        "config": [config.path] if config else None,
        "host": host,
        "login_timeout": 0,
        "connect_timeout": None,
        "keepalive_interval": 0,  # ours is `Connection.watch`
        "known_hosts": b"#",  # ours are checked in client.py
        "agent_forwarding": settings.agent_forwarding,
        "compression_algs": None,
        "encoding": None,
        "window": WINDOW_BYTES,
        "canonicalize_hostname": False,
    }
    if user is not None:
        arguments["username"] = user
    if port is not None:
        arguments["port"] = port
    if settings.keyfiles and settings.agent_forwarding:  # without the agent's keys there is no agent for asyncssh
        arguments["agent_forwarding"] = os.environ.get("SSH_AUTH_SOCK", "")
    if settings.keyfiles:
        arguments |= {"client_keys": list(settings.keyfiles), "agent_path": None, "passphrase": settings.passphrase}
    elif settings.passphrase is not None:
        arguments["passphrase"] = settings.passphrase
    if "kexalgorithms" not in keywords:
        arguments["kex_algs"] = _KEX
    if "ciphers" not in keywords:
        arguments["encryption_algs"] = _CIPHERS
    if not any(keyword.startswith("gssapi") for keyword in keywords):
        arguments["gss_host"] = None
    return arguments


def _config_error(error: Exception, settings: SshSettings, host: str) -> RemoteError:
    """Say which file is unusable and what to do about it."""
    files = ", ".join(settings.keyfiles)
    if isinstance(error, asyncssh.KeyEncryptionError) and importlib.util.find_spec("bcrypt") is None:
        text = f"key file {files} is encrypted; to open such keys, pip install bcrypt"
    elif isinstance(error, asyncssh.KeyEncryptionError):
        text = f"key file {files} is encrypted and passphrase= does not open it"
    elif isinstance(error, asyncssh.KeyImportError):
        which = files or "of the default set"
        text = f"key file {which}: {error}; give a private key file, encrypted ones with passphrase="
    elif isinstance(error, asyncssh.ConfigParseError):
        text = f"ssh config {settings.config}: {error}; mend it, or ignore it with config=None"
    elif isinstance(error, OSError):
        text = f"cannot read {error.filename or 'a file'}: {error.strerror or error}"
    elif isinstance(error, UnicodeDecodeError):
        text = f"ssh config {settings.config} is no UTF-8 text; mend it, or ignore it with config=None"
    else:
        text = f"ssh options cannot be used: {error}"
    return ConfigError(f"{host}: {text}", host=host)
