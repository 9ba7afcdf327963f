"""Tokens of daemons: a shared secret in a file at each end, which is proved and never sent. Not for keys (`tcp`)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from aioremote.errors import ConfigError

__all__ = ["MAX_PROOF_BYTES", "answer", "challenge", "check_private", "read_tokens", "whose_answer"]

MAX_PROOF_BYTES = 256  # an answer has 136
_TOKEN = re.compile(rb"[!-~]{32,}")
_CHALLENGE = re.compile(rb"token\? ([0-9a-f]{64})\n")
_ANSWER = re.compile(rb"token ([0-9a-f]{64}) ([0-9a-f]{64})\n")


def read_tokens(path: str | os.PathLike[str]) -> tuple[bytes, ...]:
    """Return the tokens of a file, one a line; ConfigError where others can read it, or it has none or a short one."""
    check_private(path)
    lines, shown = Path(path).read_bytes().split(), os.fspath(path)
    if not lines or not all(map(_TOKEN.fullmatch, lines)):
        raise ConfigError(f"{shown}: a token has 32 or more printable characters: aioremote keygen --token FILE")
    return tuple(lines)


def check_private(path: str | os.PathLike[str], *, mask: int = 0o077) -> None:
    """Raise ConfigError where there is no such file, or its mode has bits of `mask`."""
    try:
        mode = Path(path).stat().st_mode
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: {error.strerror}") from error
    if mode & mask:
        raise ConfigError(f"{os.fspath(path)}: mode {stat.S_IMODE(mode):04o} lets others in: chmod 600")


def challenge() -> bytes:
    """Return what a daemon asks a client that has shown no certificate; good for one answer."""
    return b"token? %s\n" % secrets.token_hex(32).encode()


def answer(asked: bytes, token: bytes, server_certificate: bytes) -> bytes | None:
    """Return the proof for a challenge, bound to the certificate that was seen; None where it is no challenge."""
    found = _CHALLENGE.fullmatch(asked)
    if found is None:
        return None
    nonce = secrets.token_hex(32).encode()
    return b"token %s %s\n" % (nonce, _proof(token, found[1], nonce, server_certificate))


def whose_answer(asked: bytes, said: bytes, tokens: tuple[bytes, ...], server_certificate: bytes) -> bytes | None:
    """Return the token that an answer proves, or None; takes the same time whichever it is, or none."""
    question, found = _CHALLENGE.fullmatch(asked), _ANSWER.fullmatch(said)
    if question is None or found is None:
        return None
    proofs = [_proof(token, question[1], found[1], server_certificate) for token in tokens]
    right = [token for token, proof in zip(tokens, proofs, strict=True) if hmac.compare_digest(proof, found[2])]
    return right[0] if right else None


def _proof(token: bytes, server_nonce: bytes, client_nonce: bytes, server_certificate: bytes) -> bytes:
    told = b"|".join((b"aioremote-token-1", server_nonce, client_nonce, hashlib.sha256(server_certificate).digest()))
    return hmac.digest(token, told, "sha256").hex().encode()
