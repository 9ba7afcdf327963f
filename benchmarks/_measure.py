"""Contestants: each in a process of its own, taking turns; what they measured, round by round.

A contestant is a module-level function ``(Site, **options) -> Measured`` of a benchmark module. `compete` runs it by
its name in a fresh interpreter (`benchmarks._contestant`): nobody pays for another's imports, heap or threads.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from aioremote import SshMachine

__all__ = ["ROOT", "Entry", "Measured", "Site", "Spread", "Values", "compete", "free_of_agent"]

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 900

Measured = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """Where the servers of a benchmark are and what a client needs to log in. Travels to contestants as JSON.

    Attributes:
        hosts: addresses, each a host.
        port: of every address.
        user: who logs in.
        keyfile: the private key.
        known_hosts: the file to check against.
        warm_known_hosts: another with only the first host, for a connection before the measurement.
        host_public: the servers' public key, as in known_hosts.
    """

    hosts: Sequence[str]
    port: int
    user: str
    keyfile: str
    known_hosts: str
    warm_known_hosts: str
    host_public: str

    def machine(self, **keywords: Any) -> SshMachine:  # Any: what else `SshMachine` takes
        """Return a machine on the first host, not connected. Imported here: not every contestant loads aioremote."""
        from aioremote import HostKeys, SshMachine

        keys = HostKeys.strict(self.known_hosts)
        login = {"port": self.port, "user": self.user, "keyfile": self.keyfile, "host_keys": keys, "config": None}
        return SshMachine(self.hosts[0], **{**login, **keywords})


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of several rounds: their median and both ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant: its name in the table, its function, where it plays, with which options, in how many rounds."""

    name: str
    function: Callable[..., Measured]
    site: Site
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    rounds: int | None = None
    note: str = ""


class Values:
    """What every contestant measured, by name, in the order of the rounds."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[Measured]] = {}
        self.notes: dict[str, str] = {}

    def add(self, entry: Entry, measured: Measured) -> None:
        self.rounds.setdefault(entry.name, []).append(measured)
        self.notes[entry.name] = entry.note

    def spread(self, name: str, key: str) -> Spread:
        return Spread.of([measured[key] for measured in self.rounds[name]])

    def ratio(self, name: str, peer: str, key: str, *, peer_key: str | None = None) -> Spread:
        """Return one contestant's value over another's, round by round, as far as both played."""
        pairs = zip(self.rounds[name], self.rounds[peer], strict=False)
        return Spread.of([mine[key] / theirs[peer_key or key] for mine, theirs in pairs])


MOST_ROUNDS = "BENCHMARK_ROUNDS"  # an environment variable: at most so many rounds, where time is short


def compete(entries: Sequence[Entry], rounds: int, say: Callable[[str], None]) -> Values:
    """Let every contestant play, one after another and all of them again, `rounds` times."""
    values = Values()
    rounds = min(rounds, int(os.environ.get(MOST_ROUNDS, rounds)))
    for number in range(rounds):
        for entry in _rotated(entries, number):
            if number < (entry.rounds or rounds):
                values.add(entry, measured := _play(entry))
                say(f"  round {number + 1}  {entry.name}: " + ", ".join(f"{k} {v:,.4g}" for k, v in measured.items()))
    return values


def _rotated(entries: Sequence[T], by: int) -> Iterator[T]:
    """Yield the entries with another one first in each round."""
    for index in range(len(entries)):
        yield entries[(index + by) % len(entries)]


def _play(entry: Entry) -> Measured:
    order = {
        "module": entry.function.__module__,
        "function": entry.function.__name__,
        "site": asdict(entry.site),
        "options": dict(entry.options),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._contestant"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=free_of_agent(),
        timeout=TIMEOUT_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{entry.name} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def free_of_agent() -> dict[str, str]:
    """Return this environment without an ssh agent, which nobody shall ask."""
    return {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "SSH_AGENT_PID")}
