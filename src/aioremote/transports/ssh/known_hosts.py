"""known_hosts files: read once per version for the whole process, looked up by key, added to safely.

A connection asks whether *this key* is trusted for *this host*. So hashed lines and patterns are found by the key that
they hold, and a hashed file costs one HMAC a connection instead of one a line. All lines are looked through only when
the answer is no, to tell a changed key from an unknown host. One thread for the whole process parses and searches:
never on a loop, never two at once, as each further busy thread makes the loops wait longer for the interpreter.
Long, since reading, finding and adding have to agree on one format.
Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT; the behaviour of ``ssh`` and ``ssh-keygen -F`` where that is silent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import hmac
import io
import itertools
import os
import re
import shlex
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from aioremote.errors import HostKeyError
from aioremote.host_keys import HostKey, HostKeys, decide

__all__ = ["Entry", "KnownFile", "KnownHosts", "Verdict", "load", "parse", "verify", "verify_certificate"]

_T = TypeVar("_T")
_SSH_PORT = 22
_PATTERN_LIMIT = 200  # lines with wildcards that are tried for a mere preference of algorithms
_FILE_LIMIT = 32  # files whose index is kept; the one read longest ago goes first
_MARKERS = {b"", b"@revoked", b"@cert-authority"}
_KEY_START = b"AAAA"  # a key starts with a length below 2**8
_UNWRITABLE = re.compile(r"[\s,*?!|#@\x00]")  # what would mean something else in a line that we write

_Signature = tuple[int, int, int, int, int]
_Status = Literal["trusted", "revoked", "unlisted", "unknown", "changed", "other_type"]


class Entry(NamedTuple):
    """One line of a known_hosts file.

    Attributes:
        names: host patterns joined by commas, lower-cased; or one ``|1|salt|hash``.
        algorithm: the key type that the line claims.
        text: the key in base64, not decoded yet.
        path, line: where it stands; lines count from 1.
    """

    names: bytes
    algorithm: bytes
    text: bytes
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def key(self) -> HostKey | None:
        """Decode the key; None where the line is damaged."""
        try:
            return HostKey(self.algorithm.decode("ascii"), binascii.a2b_base64(self.text, strict_mode=True))
        except ValueError:
            return None

    def matches(self, name: bytes) -> bool:
        """Tell whether the line is about this lower-case name: some pattern matches, and no negated one."""
        if self.names.startswith(b"|"):
            return _hash_matches(self.names, name)
        patterns = self.names.split(b",")
        if any(_glob(pattern[1:], name) for pattern in patterns if pattern.startswith(b"!")):
            return False
        return any(_glob(pattern, name) for pattern in patterns)


def _hash_matches(names: bytes, name: bytes) -> bool:
    """Compare with |1|salt|HMAC-SHA1; OpenSSH takes no other length of salt."""
    parts = names.split(b"|")
    if len(parts) != 4 or parts[1] != b"1":
        return False
    try:
        salt, digest = (binascii.a2b_base64(part, strict_mode=True) for part in parts[2:])
    except ValueError:
        return False
    return len(salt) == 20 and hmac.compare_digest(hmac.digest(salt, name, "sha1"), digest)


def _glob(pattern: bytes, name: bytes) -> bool:
    if b"*" not in pattern and b"?" not in pattern:
        return pattern == name
    return _compiled(pattern).fullmatch(name) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    """Return the pattern as an expression without backtracking: what is between two stars is matched once."""
    first, *rest = [re.escape(part).replace(rb"\?", b".") for part in pattern.split(b"*")]
    between = b"".join(b"(?>.*?" + part + b")" for part in rest[:-1])
    return re.compile(first + between + (b".*" + rest[-1] if rest else b""), re.DOTALL)


class _Table:
    """Line numbers by a key; no list for each, as thousands of these make the garbage collector stop the loops."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._more: dict[bytes, list[int]] = {}

    def add(self, key: bytes, number: int) -> None:
        if self._first.setdefault(key, number) != number:
            self._more.setdefault(key, []).append(number)

    def get(self, key: bytes) -> list[int]:
        return [self._first[key], *self._more.get(key, ())] if key in self._first else []


class KnownFile:
    """The index of one file. Lines may be added at its end, and readers need no lock for that.

    Attributes:
        path, lines: the file and its content. Below, a line stands as its number.
        by_name: plain lines (no wildcard, no hash, no marker) by each of their names.
        by_key: other lines without a marker by the base64 of their key.
        patterns, hashed, hashed_types: which of these have wildcards, which a hashed name, and the latter's key types.
        revoked, authorities: marked lines, the former by the base64 of their key.
        malformed: lines that cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.by_name: _Table = _Table()
        self.by_key: _Table = _Table()
        self.revoked: _Table = _Table()
        self.patterns: list[int] = []
        self.hashed: list[int] = []
        self.hashed_types: Counter[bytes] = Counter()
        self.authorities: list[int] = []
        self.malformed: list[int] = []

    def add(self, line: bytes) -> None:
        """Index the next line. It is only split; names and keys are decoded when they are asked for."""
        self.lines.append(line)
        number, fields = len(self.lines), line.split(None, 3)
        if not fields or fields[0].startswith(b"#"):
            return
        marker = b""
        if fields[0].startswith(b"@"):
            marker, *fields = line.split(None, 4)
        if len(fields) < 3 or not fields[2].startswith(_KEY_START) or marker not in _MARKERS:
            self.malformed.append(number)
        elif marker == b"@revoked":
            self.revoked.add(fields[2], number)
        elif marker:
            self.authorities.append(number)
        elif len(fields[0].translate(None, b"*?!|")) == len(fields[0]):
            for name in fields[0].lower().split(b","):
                self.by_name.add(name, number)
        else:
            self.by_key.add(fields[2], number)
            if fields[0].startswith(b"|"):
                self.hashed.append(number)
                self.hashed_types[fields[1]] += 1
            else:
                self.patterns.append(number)

    def entry(self, number: int) -> Entry:
        """Return a line that is not malformed."""
        fields = self.lines[number - 1].split(None, 4)
        names, algorithm, text = fields[1:4] if fields[0].startswith(b"@") else fields[:3]
        return Entry(names if names.startswith(b"|") else names.lower(), algorithm, text, self.path, number)

    def about(self, name: bytes, *, hashed: bool = True) -> list[Entry]:
        """Return the unmarked lines for a name, in the order of the file; with `hashed`, at one HMAC a hashed line."""
        numbers = self.by_name.get(name) + [number for number in self.patterns if self.entry(number).matches(name)]
        if hashed:  # without an Entry for each, which would take as long again
            numbers += [at for at in self.hashed if _hash_matches(self.lines[at - 1].split(None, 1)[0], name)]
        return [self.entry(number) for number in sorted(numbers)]

    def trusting(self, name: bytes, text: bytes) -> Iterator[Entry]:
        """Yield the unmarked lines for a name that hold exactly this key."""
        yield from (entry for entry in map(self.entry, self.by_name.get(name)) if entry.text == text)
        yield from (entry for entry in map(self.entry, self.by_key.get(text)) if entry.matches(name))


def parse(path: str, data: bytes) -> KnownFile:
    """Return the index of a file's content."""
    file = KnownFile(path)
    for line in io.BytesIO(data):
        file.add(line)
    return file


@dataclass(frozen=True, slots=True)
class Verdict:
    """What known_hosts files say about one key of one host.

    Attributes:
        status: "trusted"; "revoked"; "unlisted" (not trusted, and `KnownHosts.explain` can say why); "unknown" (no
            line about the host); "changed" (the host has another key of this type); "other_type" (the host has keys,
            none of this type).
        host, port, key: what was asked.
        files: what was looked in.
        entries: the lines that decided, in the order of the files.
    """

    status: _Status
    host: str
    port: int
    key: HostKey
    files: tuple[KnownFile, ...]
    entries: tuple[Entry, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether the key may be accepted without asking anybody."""
        return self.status == "trusted"

    @property
    def other_algorithms(self) -> tuple[str, ...]:
        """For "other_type": the key types to offer alone in a second try, in the order of the files; else empty."""
        return _algorithms(self.entries) if self.status == "other_type" else ()

    def error(self) -> HostKeyError:
        """Return the error for who was refused: both fingerprints, the lines, and what to do."""
        expected: list[str] = []
        if self.status in {"changed", "other_type"}:
            expected = list(dict.fromkeys(key.fingerprint for key in _keys(self.entries)))
            text = _changed(self, expected)
        elif self.status == "revoked":
            text = (
                f"the host key {self.key} is revoked ({', '.join(map(str, self.entries))}); the server needs a new one"
            )
        else:
            text = _unknown(self)
        text = f"{self.host}: {text}"
        error = HostKeyError(text, host=self.host, presented=self.key.fingerprint, expected=expected)
        vars(error)["other_algorithms"] = self.other_algorithms  # for who connects: worth a try with these alone
        return error


def _changed(verdict: Verdict, expected: list[str]) -> str:
    name = shlex.quote(_names(verdict.host, verdict.port)[0].decode(errors="replace"))
    paths = dict.fromkeys(entry.path for entry in verdict.entries)
    commands = " && ".join(f"ssh-keygen -R {name} -f {shlex.quote(path)}" for path in paths)
    what = "has changed" if verdict.status == "changed" else "is of another type than the known ones"
    return (
        f"the host key {what}: presented {verdict.key}, expected {' or '.join(expected)} "
        f"({', '.join(map(str, verdict.entries))}); somebody may be in between. If the change is meant: {commands}"
    )


def _unknown(verdict: Verdict) -> str:
    name = _names(verdict.host, verdict.port)[0].decode(errors="replace")
    damaged = [
        *map(str, verdict.entries),
        *(f"{file.path}:{line}" for file in verdict.files for line in file.malformed),
    ]
    note = f" (lines that cannot be read: {len(damaged)}, as {damaged[0]})" if damaged else ""
    where = ", ".join(file.path for file in verdict.files) or "any file"
    return (
        f"unknown host key {verdict.key}: nothing about {name} in {where}{note}; compare the fingerprint with the "
        "server's own, then HostKeys.accept_new() writes it down and HostKeys.pinned() accepts it alone"
    )


def _keys(entries: Iterable[Entry]) -> list[HostKey]:
    return [key for key in (entry.key() for entry in entries) if key]


def _algorithms(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.algorithm for key in _keys(entries)))


def _names(host: str, port: int) -> tuple[bytes, ...]:
    """Return what lines call the host: its name for port 22; else "[name]:port", and the bare name after it."""
    bare = host.encode("utf-8", "surrogateescape").lower()
    return (bare,) if port == _SSH_PORT else (b"[%b]:%d" % (bare, port), bare)


class KnownHosts:
    """Several known_hosts files, looked up as one.

    Where `port` is not 22 the lines about "[host]:port" count. As with ``ssh``, a host that has none of those is also
    trusted with exactly a key (or an authority) of the bare name; a key that is revoked for the bare name is refused
    on every port, which ``ssh`` does not do. Addresses are looked up only where they are what was given.
    """

    def __init__(self, files: Iterable[KnownFile]) -> None:
        self.files: tuple[KnownFile, ...] = tuple(files)

    def check(self, host: str, port: int, key: HostKey) -> Verdict:
        """Look a presented key up fast: "trusted", "revoked", or "unlisted", which `explain` looks into."""
        name, text = _names(host, port)[0], base64.b64encode(key.blob)
        return self._judge(host, port, key, (line for file in self.files for line in file.trusting(name, text)))

    def trusts(self, host: str, port: int, key: HostKey) -> bool:
        """Return whether `check` would find the key trusted, without saying why."""
        name, text = _names(host, port)[0], base64.b64encode(key.blob)
        if any(file.revoked.get(text) for file in self.files):
            return self.check(host, port, key).trusted
        return any(True for file in self.files for _ in file.trusting(name, text))

    def check_authority(self, host: str, port: int, ca_key: HostKey) -> Verdict:
        """Look the authority of a presented certificate up: "trusted", "revoked" or "unlisted", and that is final."""
        text = base64.b64encode(ca_key.blob)
        return self._judge(host, port, ca_key, (line for line in self.authorities(host, port) if line.text == text))

    def scan(self, host: str, port: int, key: HostKey, *, hashed: bool = True) -> Verdict:
        """Look all lines through, at milliseconds per thousand `hashed` ones; the status is never "unlisted"."""
        quick = self.check(host, port, key)
        if quick.status != "unlisted":
            return quick
        name, *bare = _names(host, port)
        entries = tuple(entry for file in self.files for entry in file.about(name, hashed=hashed))
        known = _algorithms(entries)
        if known:
            return replace(quick, status="changed" if key.algorithm in known else "other_type", entries=entries)
        if bare and self.check(host, _SSH_PORT, key).trusted:
            return self.check(host, _SSH_PORT, key)
        return replace(quick, status="unknown", entries=entries)

    async def explain(self, host: str, port: int, key: HostKey) -> Verdict:
        """Look all lines through as `scan` does, off the loop; one such search at a time in the whole process."""
        return await asyncio.wrap_future(_store().searches.submit(functools.partial(self.scan, host, port, key)))

    def algorithms(self, host: str, port: int) -> tuple[str, ...]:
        """Return the key types to ask the server for first: a preference, not a promise.

        They are those of the host's lines that are not hashed. Where there are none, those of all hashed lines, most
        frequent first: which of them are the host's is not looked up. Empty without either.
        """
        for name in _names(host, port):
            lines = [file.entry(number) for file in self.files for number in file.by_name.get(name)]
            wild = [file.entry(number) for file in self.files for number in file.patterns[:_PATTERN_LIMIT]]
            lines += [entry for entry in wild if entry.matches(name)]
            if lines:
                return _algorithms(lines)
        types = [name for file in self.files for name, _ in file.hashed_types.most_common()]
        return tuple(name.decode("ascii", "replace") for name in dict.fromkeys(types))

    def authorities(self, host: str, port: int) -> list[Entry]:
        """Return the lines of certificate authorities that are trusted for the host, in the order of the files."""
        entries = [file.entry(number) for file in self.files for number in file.authorities]
        return [entry for entry in entries if any(map(entry.matches, _names(host, port)))]

    def _judge(self, host: str, port: int, key: HostKey, trusting: Iterable[Entry]) -> Verdict:
        text = base64.b64encode(key.blob)
        held = (file.entry(number) for file in self.files for number in file.revoked.get(text))
        revoked = tuple(entry for entry in held if any(map(entry.matches, _names(host, port))))
        first = tuple(itertools.islice(trusting, 1))
        status: _Status = "revoked" if revoked else "trusted" if first else "unlisted"
        return Verdict(status, host, port, key, self.files, revoked or first)


class _Worker:
    """Runs jobs one after another in a thread that ends when there are none. A job that waits can be cancelled."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()  # bounded by the tasks that wait; its head is being run

    def submit(self, job: Callable[[], _T], *, shared: bool = False) -> Future[_T]:
        future: Future[_T] = Future()
        if shared:  # one waiter's cancel must not take it from the others
            future.set_running_or_notify_cancel()
        with self._lock:
            if not self._jobs:
                threading.Thread(target=self._drain, name=self._name, daemon=True).start()
            self._jobs.append(functools.partial(_run, future, job))
        return future

    def _drain(self) -> None:
        more = True
        while more:
            with self._lock:
                job = self._jobs[0]
            job()
            with self._lock:
                self._jobs.popleft()
                more = bool(self._jobs)


def _run(future: Future[_T], job: Callable[[], _T]) -> None:
    try:
        if future.running() or future.set_running_or_notify_cancel():
            future.set_result(job())
    except BaseException as exc:  # noqa: BLE001  # it belongs to whoever waits
        future.set_exception(exc)


class _Store:
    """The indexes of this process, and its two workers; another process' file lock may hold up the one that writes."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.searches = _Worker("aioremote known_hosts")
        self.writes = _Worker("aioremote known_hosts writer")
        self._lock = threading.Lock()
        self._files: dict[str, tuple[_Signature, KnownFile]] = {}
        self._pending: dict[tuple[str, _Signature], Future[KnownFile]] = {}

    def get(self, path: str) -> KnownFile | Future[KnownFile]:
        """Return the index of the file as it is now, or the future of it, shared by all who ask meanwhile."""
        path = os.path.abspath(os.path.expanduser(path))
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return KnownFile(path)
        if not stat.S_ISREG(status.st_mode):
            if os.path.samestat(status, os.stat(os.devnull)):
                return KnownFile(path)
            raise OSError("not a regular file")
        wanted = path, _signature(status)
        with self._lock:
            signature, file = self._files.get(path, (None, None))
            if file is not None and signature == wanted[1]:
                return file
            if wanted not in self._pending:
                self._pending[wanted] = self.searches.submit(functools.partial(self._read, wanted), shared=True)
            return self._pending[wanted]

    def added(self, path: str, before: _Signature, after: _Signature, line: bytes) -> None:
        """Keep up with one line that this process appended: the index that fitted before fits again."""
        with self._lock:
            signature, file = self._files.get(path, (None, None))
            if file is not None and signature == before:
                file.add(line)
                self._files[path] = after, file

    def _read(self, wanted: tuple[str, _Signature]) -> KnownFile:
        path = wanted[0]
        try:
            with open(path, "rb") as content:
                signature = _signature(os.fstat(content.fileno()))  # first, so that a change meanwhile shows later
                file = parse(path, content.read())
            with self._lock:
                self._files.pop(path, None)
                self._files[path] = signature, file
                if len(self._files) > _FILE_LIMIT:
                    del self._files[next(iter(self._files))]
            return file
        finally:
            with self._lock:
                del self._pending[wanted]


_current = _Store()


def _store() -> _Store:
    """Return this process' store; a forked child starts its own, as threads and held locks do not survive a fork."""
    global _current
    if _current.pid != os.getpid():
        _current = _Store()
    return _current


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


async def load(paths: Iterable[str], *, host: str = "") -> KnownHosts:
    """Return the index of these files as they are now; does not suspend when all of them have been read before.

    Each version of a file is parsed once per process, in a thread, however many ask at once. Missing files count as
    empty. A leading ``~`` is expanded; `host` is for the error.

    Raises:
        HostKeyError: a file is there and cannot be read. It may revoke keys, so going on without it is not safe.
    """
    files: list[KnownFile] = []
    for path in paths:
        try:
            found = _store().get(path)
            files.append(found if isinstance(found, KnownFile) else await asyncio.wrap_future(found))
        except OSError as exc:
            text = f"{host or 'host keys'}: cannot read {path}: {exc.strerror or exc}; make it readable or remove it"
            raise HostKeyError(text, host=host) from exc
    return KnownHosts(files)


async def verify(policy: HostKeys, host: str, port: int, key: HostKey) -> None:
    """Return when the policy accepts the key; for ``accept_new``, when it has been written down too.

    Args as for `decide`, but `host` is what lines are looked up by; a HostKeyAlias goes with port 22.

    Raises:
        HostKeyError: the key is unknown, changed or revoked; a file cannot be read or written; else as `decide`.

    Cancellation: the key may have been written down; the file is whole.
    """
    if policy.kind == "insecure_no_check":
        await decide(policy, host, port, key)
        return
    known = await load(policy.paths, host=host)
    verdict = known.check(host, port, key)
    if verdict.status == "revoked":
        raise verdict.error()
    if not policy.uses_files:
        await decide(policy, host, port, key)
    elif not verdict.trusted:
        verdict = await known.explain(host, port, key)
        if verdict.status == "unknown" and policy.kind == "accept_new":
            verdict = await _remember(known, verdict)
        if not verdict.trusted:
            raise verdict.error()


async def verify_certificate(
    policy: HostKeys, host: str, port: int, ca_key: HostKey, *, key: HostKey | None = None
) -> None:
    """Return when `ca_key`, which signed a presented certificate, may speak for the host.

    `key` is the key that is certified, without the certificate; None leaves its revocation unchecked. Names, times
    and signature of the certificate are not looked at. ``accept_new`` never learns an authority; the policies that
    need no files decide about the certified key (without it, the authority's).

    Raises:
        HostKeyError: the authority is not trusted for the host, or it or the key is revoked; else as `verify`.
    """
    if not policy.uses_files:
        await verify(policy, host, port, key or ca_key)
        return
    known = await load(policy.paths, host=host)
    verdicts = [known.check_authority(host, port, ca_key), *([known.check(host, port, key)] if key else [])]
    for verdict in verdicts:
        if verdict.status == "revoked":
            raise verdict.error()
    if not verdicts[0].trusted:
        text = f"{host}: the authority {ca_key} of its certificate is not trusted: add a @cert-authority line for it"
        expected = [authority.fingerprint for authority in _keys(known.authorities(host, port))]
        raise HostKeyError(text, host=host, presented=ca_key.fingerprint, expected=expected)


async def _remember(known: KnownHosts, verdict: Verdict) -> Verdict:
    try:
        return await asyncio.wrap_future(_store().writes.submit(functools.partial(_append, known, verdict)))
    except OSError as exc:
        path, why = known.files[0].path, exc.strerror or exc
        text = f"{verdict.host}: accept_new() cannot write the new host key {verdict.key} to {path}: {why}"
        raise HostKeyError(text, host=verdict.host, presented=verdict.key.fingerprint) from exc


def _append(known: KnownHosts, verdict: Verdict) -> Verdict:
    """Write the key down, unless by now the files know it or contradict it; return what holds then."""
    host, port, key, path = verdict.host, verdict.port, verdict.key, known.files[0].path
    if _UNWRITABLE.search(host):
        raise OSError(f"the name {host!r} has characters with a meaning in this file")
    with _locked(path) as fd:
        found = [_store().get(file.path) for file in known.files]
        now = KnownHosts(file if isinstance(file, KnownFile) else file.result() for file in found)
        same = now.files == known.files  # then only lines of our own came in, and these are not hashed
        latest = now.scan(host, port, key, hashed=not same)
        if latest.status != "unknown":
            return latest
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise OSError("not a regular file")
        line = _names(host, port)[0] + b" " + key.openssh.encode("ascii")
        after = _write_line(fd, line, before)
        _store().added(path, _signature(before), _signature(after), line)
        return replace(latest, status="trusted", files=now.files)


def _write_line(fd: int, line: bytes, before: os.stat_result) -> os.stat_result:
    """Append a line, whole or not at all, behind a newline where the file ends without one."""
    size = before.st_size
    gap = b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b""
    data = gap + line + b"\n"
    if os.write(fd, data) != len(data):
        os.ftruncate(fd, size)
        raise OSError("no room for the whole line")
    after = os.fstat(fd)
    return after if after.st_size == size + len(data) else before  # the latter where somebody wrote without our lock


@contextlib.contextmanager
def _locked(path: str) -> Generator[int]:
    """Open the file for appending, alone among the processes that ask for this lock; create it for its owner only."""
    import fcntl  # not there on Windows

    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        with open(path, "a+b", buffering=0, opener=functools.partial(os.open, mode=0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if Path(path).exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                yield file.fileno()
                return  # else it was replaced while we waited, and a line would be lost
