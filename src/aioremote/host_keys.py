"""Which server keys are accepted: the policy a caller names, and the key that a policy is asked about.

Nothing here reads a file or knows an SSH library. `decide` carries out what a policy can say without files; the rest
is the business of ``transports.ssh.known_hosts``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import inspect
import os
import re
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aioremote.errors import HostKeyError

__all__ = ["DEFAULT_PATHS", "HostKey", "HostKeyCallback", "HostKeys", "InsecureHostKeyWarning", "decide"]

DEFAULT_PATHS = (
    "~/.ssh/known_hosts",
    "~/.ssh/known_hosts2",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
)  # Source: ssh_config(5), UserKnownHostsFile and GlobalKnownHostsFile
_ALGORITHM = re.compile(rb"[!-+\--~]{1,64}")  # Source: RFC 4251, section 6: printable ASCII without blank and comma
_FINGERPRINT_FORM = "'SHA256:' and 43 base64 characters, as `ssh-keygen -lf key.pub` shows it"

_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class InsecureHostKeyWarning(UserWarning):
    """A connection was made whose server could be anybody: `HostKeys.insecure_no_check()`."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """The public key that a server shows.

    Attributes:
        algorithm: the key's type, as "ssh-ed25519"; "ssh-rsa" for every RSA key, whatever signs.
        blob: the key in SSH wire form, which starts with `algorithm`.

    Raises:
        ValueError: the two do not belong together, or are no key.

    Source: RFC 4253, section 6.6 (wire form).
    """

    algorithm: str
    blob: bytes

    def __post_init__(self) -> None:
        name = _first_string(self.blob)
        if not _ALGORITHM.fullmatch(name):
            raise ValueError("a host key is the public key in SSH wire form (RFC 4253, section 6.6), as bytes")
        if name != self.algorithm.encode():
            raise ValueError(f"the key's type is given as {self.algorithm!r}, and the key says {name.decode()!r}")

    @classmethod
    def from_openssh(cls, text: str) -> HostKey:
        """Return the key of one line as in an ``id_*.pub`` file: ``"ssh-ed25519 AAAA… comment"``.

        Args:
            text: algorithm and base64, with or without a comment, which is dropped.

        Raises:
            ValueError: the text is no such line, or its algorithm is not the one of the key in it.
        """
        fields = text.split(None, 2)
        try:
            blob = base64.b64decode(fields[1], validate=True)
        except (IndexError, ValueError) as exc:
            raise ValueError("a public key reads 'ssh-ed25519 AAAA…': an algorithm, then base64") from exc
        return cls(fields[0], blob)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of `blob` as ``ssh-keygen -lf`` shows it: "SHA256:…", 43 characters of unpadded base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")

    @property
    def openssh(self) -> str:
        """The key as text: "ssh-ed25519 AAAA…", without a comment."""
        return f"{self.algorithm} {base64.b64encode(self.blob).decode('ascii')}"

    def __str__(self) -> str:
        return f"{self.fingerprint} ({self.algorithm})"


HostKeyCallback = Callable[[str, int, HostKey], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class HostKeys:
    """Which server keys are accepted. Made by the constructors below; ``HostKeys()`` is `strict`.

    A key that a ``@revoked`` line of the files names is refused by every policy but `insecure_no_check`.

    Attributes:
        kind: which constructor made it.
        given_paths: the files that the caller named, a leading ``~`` not expanded yet; empty for the default.
        fingerprints: what `pinned` accepts, in the order given.
        function: what `callback` asks, else None.
    """

    kind: Literal["strict", "accept_new", "pinned", "callback", "insecure_no_check"] = "strict"
    given_paths: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    function: HostKeyCallback | None = None

    @classmethod
    def strict(cls, path: _Paths | None = None) -> HostKeys:
        """Accept only keys that known_hosts files have for the host, or certificates of their authorities.

        Args:
            path: one file or several in order; None for `DEFAULT_PATHS`.

        Raises:
            ValueError: no path, or an empty one.
        """
        return cls("strict", _paths(path))

    @classmethod
    def accept_new(cls, path: _Paths | None = None) -> HostKeys:
        """Accept and write down the key of a host that is not known yet; a changed key is still refused.

        A host that is known with keys of other types only counts as known: its new key is refused.

        Args:
            path: one file or several in order, of which the first is written; None for `DEFAULT_PATHS`.

        Raises:
            ValueError: no path, or an empty one.
        """
        return cls("accept_new", _paths(path))

    @classmethod
    def pinned(cls, *fingerprints: str) -> HostKeys:
        """Accept these keys, for any host and port, and no others.

        Args:
            fingerprints: one or more, as "SHA256:…" (``ssh-keygen -lf``).

        Raises:
            ValueError: none given, or one that has another form.
        """
        if not fingerprints:
            raise ValueError(f"pinned() needs a fingerprint: {_FINGERPRINT_FORM}")
        return cls("pinned", fingerprints=tuple(_fingerprint(text) for text in fingerprints))

    @classmethod
    def callback(cls, f: HostKeyCallback) -> HostKeys:
        """Ask ``f(host, port, key)`` each time, plain or async; only True accepts.

        Args:
            f: gets the host as it was given, the port and a `HostKey`. What it raises ends the connect as HostKeyError.

        Raises:
            TypeError: `f` cannot be called.
        """
        if not callable(f):
            raise TypeError(f"callback() needs a function f(host, port, key) -> bool, not {type(f).__name__}")
        return cls("callback", function=f)

    @classmethod
    def insecure_no_check(cls) -> HostKeys:
        """Accept any key. Whoever stands between can read and change everything, passwords too.

        Each connection issues an `InsecureHostKeyWarning`.
        """
        return cls("insecure_no_check")

    @property
    def paths(self) -> tuple[str, ...]:
        """The known_hosts files in order, `DEFAULT_PATHS` where none were given; missing ones count as empty."""
        return self.given_paths or DEFAULT_PATHS

    @property
    def uses_files(self) -> bool:
        """Whether known_hosts files decide what is accepted; where not, they may still revoke."""
        return self.kind in {"strict", "accept_new"}

    def with_paths(self, paths: Iterable[str | os.PathLike[str]]) -> HostKeys:
        """Return the same policy over these files, at least one, in order.

        Raises:
            ValueError: no path, or an empty one.
        """
        return replace(self, given_paths=_paths(list(paths)))


async def decide(policy: HostKeys, host: str, port: int, key: HostKey) -> None:
    """Return when a policy that needs no files accepts the key: ``pinned``, ``callback`` or ``insecure_no_check``.

    Args:
        policy: the caller's.
        host: name or address, as it was given.
        port: of the SSH server.
        key: what the server showed.

    Raises:
        HostKeyError: it is not a pinned one, or the callback refused it, or raised (which is the cause then).

    Warns:
        InsecureHostKeyWarning: each time, for ``insecure_no_check``.
    """
    if policy.kind == "insecure_no_check":
        text = f"{host}:{port}: the host key is not checked; anybody may be at the other end"
        warnings.warn(text, InsecureHostKeyWarning, stacklevel=2)
    elif policy.function is not None:
        await _ask(policy.function, host, port, key)
    elif key.fingerprint not in policy.fingerprints:
        text = f"{host}: the host key is not a pinned one: presented {key}, pinned {' or '.join(policy.fingerprints)}"
        raise HostKeyError(text, host=host, presented=key.fingerprint, expected=policy.fingerprints)


async def _ask(function: HostKeyCallback, host: str, port: int, key: HostKey) -> None:
    try:
        answer = function(host, port, key)
        answer = await answer if inspect.isawaitable(answer) else answer
    except Exception as exc:
        text = f"{host}: the host-key callback raised {type(exc).__name__} for {key}"
        raise HostKeyError(text, host=host, presented=key.fingerprint) from exc
    if answer is not True:
        text = f"{host}: the host-key callback refused {key}: it returned {answer!r}, and only True accepts"
        raise HostKeyError(text, host=host, presented=key.fingerprint)


def _first_string(blob: bytes) -> bytes:
    end = 4 + int.from_bytes(blob[:4], "big")
    return blob[4:end] if end <= len(blob) else b""


def _paths(path: _Paths | None) -> tuple[str, ...]:
    if path is None:
        return ()
    several = [path] if isinstance(path, str | os.PathLike) else path
    paths = tuple(os.fspath(one) for one in several)
    if not paths or not all(paths):
        raise ValueError("a host-key policy needs the path of a known_hosts file; insecure_no_check() is without")
    return paths


def _fingerprint(text: str) -> str:
    """Return the fingerprint as ssh-keygen writes it; padding, as other programs add, is dropped."""
    digest = text.removeprefix("SHA256:").rstrip("=")
    try:
        raw = base64.b64decode(digest + "=", validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        raw = b""
    canonical = base64.b64encode(raw).decode("ascii").rstrip("=")
    if not text.startswith("SHA256:") or len(raw) != hashlib.sha256().digest_size or canonical != digest:
        raise ValueError(f"not a host-key fingerprint: {text!r}; it should be {_FINGERPRINT_FORM}")
    return text.rstrip("=")
