"""The hosts of a fleet: ranges, lists, generators, machines, ~/.ssh/config; checked first, read as they are needed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast, runtime_checkable

from aioremote._core.names import HostName, check_host_name
from aioremote.addresses import scheme_of
from aioremote.errors import AddressError, ConfigError
from aioremote.fleet.gather import EXAMPLE, NamePattern, check_host, read_hosts
from aioremote.types import Address

__all__ = ["HasAddress", "HostSource", "Target", "config_hosts", "with_patterns"]

_CHECKED_AHEAD = 10_000  # hosts that are compared with each other before anything starts
_MAX_INCLUDE_DEPTH = 16  # as in ssh(1), readconf.c READCONF_MAX_DEPTH
_CONFIG_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)", re.DOTALL)
_CONFIG_WORD = re.compile(r"\s*((?:\"[^\"]*\"|'[^']*'|[^\s\"'])+)")


@runtime_checkable
class HasAddress(Protocol):
    """What a fleet needs to know of a machine."""

    @property
    def host(self) -> str:
        """The machine's name, as it was given."""
        ...

    @property
    def address(self) -> Address:
        """Where it is."""
        ...


M = TypeVar("M", bound=HasAddress)


@dataclass(frozen=True, slots=True)
class Target(Generic[M]):
    """One host of a fleet, not yet connected.

    Attributes:
        index: its place in the order given, from 0.
        key: what reports call it: the host as given, a machine's ``str(address)``.
        name: the key taken apart; None for a machine, and for an address of another scheme than ssh.
        machine: the machine; None for a host that was given by name or address.
    """

    index: int
    key: str
    _: KW_ONLY
    name: HostName | None = None
    machine: M | None = None


class HostSource(Generic[M]):
    """The hosts of a fleet, in the order given; may be iterated many times and by several tasks.

    A string is one host or several: ``web[01-40],db1``, ``rack[1-2]n[01-16]``, ``web[1-9/2]``, with user and port
    (``deploy@web[1-3]:2222``), IPv6 (``[::1]:22``), ClusterShell's groups and set operations (``@db``,
    ``web[1-9]!web3``; their hosts come in NodeSet's order), or an address as `connect` takes it. A collection or an
    iterator holds such strings, and machines. An iterator is read as far as hosts are asked for, and what was read is
    kept.

    Args:
        hosts: a string, a collection or an iterator. Strings and collections are checked at once: all of their
            characters, and for duplicates the first 10,000 hosts, or as many as the collection has items (some 3 µs a
            host); hosts behind these, and those of an iterator, when they come. Groups are looked up once, at once; a
            groups.conf may run programs for that, which blocks.
        allow_exec: whether addresses of scheme ``exec:`` are hosts: they run programs on this machine.

    Attributes:
        total: how many hosts there are; None while an iterator has not been read to its end.

    Raises:
        AddressError: a host name, user, port, range or group that cannot be used. Nothing was started.
        ValueError: no hosts at all, or one twice. These two come from iterating where an iterator was given.
        TypeError: something that is neither a string nor a machine.
    """

    def __init__(self, hosts: str | Iterable[str | M], *, allow_exec: bool = False) -> None:
        self._allow_exec = allow_exec
        self.total: int | None = None
        self._distinct = False
        self._parts: Iterable[str | NamePattern | M]
        if isinstance(hosts, str):
            self._parts = read_hosts(hosts) if hosts else []
            self._check_ahead(self._parts, _CHECKED_AHEAD)
        elif isinstance(hosts, Collection):
            self._parts = [part for item in hosts for part in _read_item(item)]
            self._check_ahead(self._parts, max(_CHECKED_AHEAD, len(hosts)))
        elif isinstance(cast("object", hosts), Iterable):
            self._parts = _Remembered(part for item in hosts for part in _read_item(item))
        else:
            raise TypeError(f"hosts are a string or an iterable of strings and machines, not {type(hosts).__name__}")

    def _check_ahead(self, parts: Sequence[str | NamePattern | M], most: int) -> None:
        total = sum(part.count() if isinstance(part, NamePattern) else 1 for part in parts)
        if len(parts) == 1 and isinstance(parts[0], NamePattern) and parts[0].is_plain():
            self._distinct = True
        else:
            for _ in islice(self, most):
                pass
            self._distinct = total <= most
        self.total = total

    def __iter__(self) -> Iterator[Target[M]]:
        """Yield one target a host, each checked before it comes."""
        seen: set[str] = set()
        index = -1
        for index, (key, machine) in enumerate(self._keys()):
            if not self._distinct:
                if key in seen:
                    raise ValueError(f"host {key!r} is given twice; in a fleet's report every host has one place")
                seen.add(key)
            yield Target(index, key, name=None if machine is not None else self._judge(key), machine=machine)
        if index < 0:
            raise ValueError(f"a fleet needs hosts: names, ranges or machines; {EXAMPLE}")
        self.total, self._distinct = index + 1, True

    def _judge(self, key: str) -> HostName | None:
        name = check_host(key)
        if name is None and not self._allow_exec and scheme_of(key) == "exec":
            raise AddressError(
                "a host of scheme 'exec:' runs a program on this machine; allow_exec=True (--allow-exec) allows that"
            )
        return name

    def _keys(self) -> Iterator[tuple[str, M | None]]:
        for part in self._parts:
            if isinstance(part, str):
                yield part, None
            elif isinstance(part, NamePattern):
                for name in part:
                    yield name, None
            else:
                yield str(part.address), part


def _read_item(item: str | M) -> Iterable[str | NamePattern | M]:
    if isinstance(item, str):
        return read_hosts(item)
    if isinstance(cast("object", item), HasAddress):
        return (item,)
    raise TypeError(f"a host of a fleet is a string or a machine, not {type(item).__name__}")


T = TypeVar("T")


class _Remembered(Generic[T]):
    """An iterator that can be read again: what it gave, then what it still gives, an error too."""

    def __init__(self, rest: Iterator[T]) -> None:
        self._rest = rest
        self._given: list[T] = []
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[T]:
        index = 0
        while index < len(self._given) or self._advance():
            yield self._given[index]
            index += 1

    def _advance(self) -> bool:
        if self._error is not None:
            raise self._error
        try:
            self._given.append(next(self._rest))
        except StopIteration:
            return False
        except Exception as error:
            self._error = error
            raise
        return True


def config_hosts(path: str | Path = "~/.ssh/config", pattern: str = "*") -> list[str]:
    """List the hosts that an ssh_config names: the words of its Host lines that are no patterns.

    Included files are read too, whatever Host or Match stands above their Include. Words that `check_host_name` refuses
    are left out. Reads files: call it off the event loop where the home is slow.

    Args:
        path: the file; "~" is the home. A relative Include in it is below ~/.ssh (in /etc/ssh for files there).
        pattern: ``*`` and ``?`` as in ssh_config, upper and lower case alike.

    Returns:
        The names that match, each once, in the order of the file.

    Raises:
        ConfigError: a file cannot be read, a quote is not closed, or Includes go round in circles.
    """
    wanted = re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE | re.DOTALL)
    words = _config_host_words(Path(os.path.expanduser(path)), 0)
    return [word for word in dict.fromkeys(words) if wanted.fullmatch(word) and _is_host_name(word)]


def with_patterns(hosts: str, config: str | os.PathLike[str] | None) -> str | list[str]:
    """Put the hosts of an ssh_config in the place of patterns: parts of a list with ``*`` or ``?``.

    Ranges in other parts stay as they are; ``@web*`` is a group, not a pattern.

    Args:
        hosts: as `HostSource` takes it, with patterns.
        config: the file, None for none.

    Raises:
        AddressError: a pattern that matches nothing.
        ConfigError: the file cannot be read.
    """
    if not _is_pattern(hosts) or scheme_of(hosts) is not None:
        return hosts
    parts = [part.strip() for part in re.split(r",(?![^\[\]]*\])", hosts)]  # a comma in brackets belongs to a range
    return [host for part in parts for host in (_matches(part, config) if _is_pattern(part) else [part])]


def _is_pattern(hosts: str) -> bool:
    return not hosts.startswith("@") and any(mark in hosts for mark in "*?")


def _matches(pattern: str, config: str | os.PathLike[str] | None) -> list[str]:
    found = [] if config is None else config_hosts(os.fspath(config), pattern)
    if not found:
        where = "there is no ssh config in which a host" if config is None else f"no host in the ssh config {config}"
        raise AddressError(f"{where} matches {pattern!r}; {EXAMPLE}", host=pattern)
    return found


def _is_host_name(word: str) -> bool:
    try:
        check_host_name(word)
    except AddressError:
        return False
    return True


def _config_host_words(path: Path, depth: int) -> Iterator[str]:
    if depth > _MAX_INCLUDE_DEPTH:
        raise ConfigError(f"{path}: Include goes deeper than {_MAX_INCLUDE_DEPTH} files; does one include itself?")
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        found = _CONFIG_LINE.fullmatch(line)
        keyword = found[1].lower() if found else ""
        if found and keyword == "host":
            yield from _words(found[2], f"{path}:{number}")
        elif found and keyword == "include":
            for word in _words(found[2], f"{path}:{number}"):
                for included in _included(path, word):
                    yield from _config_host_words(included, depth + 1)


def _words(text: str, place: str) -> Iterator[str]:
    end, text = 0, text.rstrip()
    while end < len(text):
        found = _CONFIG_WORD.match(text, end)
        if not found:
            raise ConfigError(f"{place}: a quote is not closed")
        if found[1].startswith("#"):
            return
        yield re.sub(r"\"([^\"]*)\"|'([^']*)'", lambda quoted: quoted[1] or quoted[2] or "", found[1])
        end = found.end()


def _included(path: Path, word: str) -> list[Path]:
    folder = "/etc/ssh" if Path("/etc/ssh") in path.parents else os.path.expanduser("~/.ssh")
    return [Path(name) for name in sorted(glob.glob(os.path.join(folder, os.path.expanduser(word))))]
