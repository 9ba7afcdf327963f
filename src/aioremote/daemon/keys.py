"""Keys of daemons and of their clients, a private key and a self-signed certificate in one file; and tokens."""

from __future__ import annotations

import datetime
import os
import secrets
from pathlib import Path

from aioremote.transports.greeting import fingerprint_of

__all__ = ["make_key", "make_token"]

VALID_DAYS = 3650


def make_key(path: str | os.PathLike[str], *, valid_days: int = VALID_DAYS) -> str:
    """Write a new key with its certificate to `path` (mode 0600), the certificate alone to ``path + ".crt"``.

    Args:
        path: must not exist.
        valid_days: until the certificate expires.

    Returns:
        str: the fingerprint, as "sha256:…".

    Raises:
        FileExistsError: there is such a file; nothing was changed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    named: str = Path(path).name
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, named[:60] or "key")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=3650))
    builder = builder.not_valid_after(now + datetime.timedelta(days=valid_days))
    certificate = builder.sign(key, None)
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(os.fspath(path), secret + shown, 0o600)
    _write(os.fspath(path) + ".crt", shown, 0o644)
    return fingerprint_of(certificate.public_bytes(serialization.Encoding.DER))


def make_token(path: str | os.PathLike[str]) -> None:
    """Write a new token to `path`, mode 0600; both ends need it. FileExistsError changes nothing."""
    _write(os.fspath(path), secrets.token_urlsafe(32).encode() + b"\n", 0o600)


def _write(path: str, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
