"""The HOSTS word of the command line: ranges, lists and patterns of the ssh config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aioremote.errors import AddressError
from aioremote.fleet.hosts import HostSource, with_patterns
from aioremote.machine import Machine

__all__ = ["Hosts", "read_host_word", "read_hosts_word"]


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts that can be used, not resolved yet.

    Attributes:
        given: as `Fleet` takes them.
        total: how many there are.
        allow_exec: whether those of scheme ``exec:`` are among them.
    """

    given: str | list[str]
    total: int
    allow_exec: bool = False

    def __iter__(self) -> Iterator[str]:
        """Yield each host as reports call it, in the order given."""
        source: HostSource[Machine] = HostSource(self.given, allow_exec=self.allow_exec)
        return (target.key for target in source)


def read_hosts_word(word: str, config: str | None, *, allow_exec: bool = False) -> Hosts:
    """Read the word.

    Args:
        word: as "web[01-40],db1"; with ``*`` or ``?`` in a part of it, that part stands for hosts of the config.
        config: the ssh config to look patterns up in, None for none.
        allow_exec: as for `Fleet`.

    Raises:
        AddressError: a host or a range that cannot be used, or a pattern that matches nothing.
        ConfigError: the config cannot be read.
        ValueError: no hosts, or one twice.
    """
    given = with_patterns(word, config)
    source: HostSource[Machine] = HostSource(given, allow_exec=allow_exec)
    total = source.total
    return Hosts(given, total if total is not None else sum(1 for _ in source), allow_exec)


def read_host_word(word: str, *, allow_exec: bool = False) -> str:
    """Read a word that names one host, and return it.

    Args:
        word: a name or an address.
        allow_exec: as for `Fleet`.

    Raises:
        AddressError: a host that cannot be used, or several.
        ValueError: no host.
    """
    hosts = read_hosts_word(word, None, allow_exec=allow_exec)
    if hosts.total != 1:
        raise AddressError(f"{word!r} names {hosts.total} hosts; here it is one", host=word)
    return next(iter(hosts))
