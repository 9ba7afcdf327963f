"""What a daemon is told, and what it refuses to start with."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from aioremote.errors import ConfigError
from aioremote.transports.greeting import fingerprint_of
from aioremote.transports.tokens import check_private

__all__ = ["DaemonConfig", "authorized_fingerprints", "check_place", "own_certificate", "tls_context"]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    r"""What a daemon is told.

    Attributes:
        listen: "HOST:PORT" (an IP address; port 0 picks one), the path of a unix socket in a directory of mode 0700, or
            on Windows, where it has to be one, a named pipe: ``\\.\pipe\NAME``.
        key: the file that ``aioremote keygen`` wrote; for TCP alone, as the next two.
        authorized: a file with the certificates of the clients, one after the other.
        tokens: a file of mode 0600 with the tokens of clients without certificates, one a line.
        allow_remote: whether another address than loopback may be listened on, or a pipe be opened through SMB.
        max_sessions: authenticated clients at once; more are refused with a text.
        max_unauthenticated: connections at once that have not authenticated; a new one takes the place of the oldest.
        max_per_address: of these, from one address.
        max_named_sessions: Python sessions by name that clients with one key have at once.
        named_idle_seconds: after which such a session ends when no client has joined it.
        login_seconds: for TLS and authentication together.
        keepalive: seconds of silence after which a client is asked whether it is there; three times make a lost one,
            and all that it runs is ended. 0 for never.
    """

    listen: str = "127.0.0.1:10101"
    key: str | os.PathLike[str] | None = None
    authorized: str | os.PathLike[str] | None = None
    tokens: str | os.PathLike[str] | None = None
    allow_remote: bool = False
    max_sessions: int = 100
    max_unauthenticated: int = 64
    max_per_address: int = 8
    max_named_sessions: int = 16
    named_idle_seconds: float = 600.0
    login_seconds: float = 10.0
    keepalive: float = 15.0

    @property
    def endpoint(self) -> tuple[str, int]:
        """Address and port; ConfigError where that cannot be listened on."""
        host, _, port = self.listen.rpartition(":")
        try:
            address, number = ipaddress.ip_address(host.strip("[]")), int(port)
        except ValueError as error:
            raise ConfigError(f"listen={self.listen!r}: give ADDRESS:PORT or an absolute path") from error
        if not address.is_loopback and not self.allow_remote:
            raise ConfigError(f"listen={self.listen!r} is not loopback: allow_remote (--allow-remote) permits that")
        return str(address), number


def tls_context(config: DaemonConfig) -> ssl.SSLContext:
    """Return what only authorised clients get through; ConfigError where keys are missing or open to others."""
    if config.key is None or (config.authorized is None and config.tokens is None):
        raise ConfigError("a daemon on TCP needs key=, and authorized= or tokens=: there is no anonymous access")
    check_private(config.key)
    if config.authorized is not None:
        check_private(config.authorized, mask=0o022)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if config.authorized is not None:
        context.verify_mode = ssl.CERT_REQUIRED if config.tokens is None else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.num_tickets = 0
    try:
        context.load_cert_chain(config.key)
        if config.authorized is not None:
            context.load_verify_locations(config.authorized)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{config.key}, {config.authorized or '-'}: no key, or no certificates: {error}") from error
    return context


def authorized_fingerprints(config: DaemonConfig) -> frozenset[str]:
    """Return the fingerprints of the clients' certificates: what these have signed is not let in."""
    text = "" if config.authorized is None else Path(config.authorized).read_text("ascii", "replace")
    return frozenset(fingerprint_of(ssl.PEM_cert_to_DER_cert(found)) for found in _CERTIFICATE.findall(text))


def own_certificate(config: DaemonConfig) -> bytes:
    """Return the daemon's certificate, which a client's proof of a token is bound to."""
    assert config.key is not None
    found = _CERTIFICATE.search(Path(config.key).read_text("ascii", "replace"))
    return b"" if found is None else ssl.PEM_cert_to_DER_cert(found[0])


def check_place(path: str) -> None:
    """Raise ConfigError where others than this user could reach a unix socket, or a daemon listens already."""
    found = Path(path).parent.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{path}: its directory has to be yours, mode 0700, not {stat.S_IMODE(found.st_mode):04o}")
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise ConfigError(f"{path}: something listens there already")
