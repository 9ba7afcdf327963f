"""What both ends of a road to a daemon know: its first line, and how a certificate is called. Not for either end."""

from __future__ import annotations

import hashlib

__all__ = ["GREETING", "REFUSAL", "fingerprint_of"]

GREETING = "aioremote-daemon-1"
REFUSAL = b"refused: "


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 fingerprint of a DER certificate, as "sha256:" and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(certificate).hexdigest()
