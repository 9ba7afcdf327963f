"""What the ends of the hosts mean for the command line: exit statuses, one line for each trouble, one line for all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioremote.errors import (
    AuthenticationError,
    CallTimeout,
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    CommandTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FileForbidden,
    HostKeyError,
    OutputLimitExceeded,
    RemoteError,
    TunnelPortError,
)
from aioremote.fleet.gather import fold_hosts

if TYPE_CHECKING:
    from aioremote.fleet import Outcome, Report
    from aioremote.types import Result

__all__ = [
    "USAGE_STATUS",
    "Counts",
    "error_line",
    "error_status",
    "exit_status",
    "interrupted_line",
    "summary_line",
    "trouble_line",
]

USAGE_STATUS = 2
_SHOWN_CHARACTERS = 120  # of the names in a summary
_BY_ERROR: tuple[tuple[type[Exception], int], ...] = (
    (CommandTimeout, 124),  # as of timeout(1)
    (CallTimeout, 124),
    (CommandNotFound, 127),  # as of a shell
    (FileForbidden, 126),
    (ConfigError, USAGE_STATUS),
    (TunnelPortError, USAGE_STATUS),
    (ConnectError, 255),  # as of ssh(1)
    (ConnectionLost, 255),
)
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (HostKeyError, "see --host-keys, --known-hosts"),
    (AuthenticationError, "see -l, -i, --ask-password"),
    (ConfigError, "see -i, --ask-passphrase, --config"),
    (ConnectTimeout, "see --connect-timeout, --timeout"),
    (OutputLimitExceeded, "there is no limit without --json and --gather"),
)


@dataclass(slots=True)
class Counts:
    """How far a run has come.

    Attributes:
        total: hosts altogether.
        running, ok, failed, unreachable: hosts; "skipped" ones are in none.
    """

    total: int
    running: int = 0
    ok: int = 0
    failed: int = 0
    unreachable: int = 0

    @property
    def done(self) -> int:
        """Hosts with an end."""
        return self.ok + self.failed + self.unreachable

    def add(self, outcome: Outcome[Result]) -> None:
        """Count one end."""
        if outcome.state != "skipped":
            setattr(self, outcome.state, getattr(self, outcome.state) + 1)


def exit_status(outcomes: Sequence[Outcome[Result]], total: int) -> int:
    """Return the status for a finished run.

    Args:
        outcomes: one a host.
        total: hosts altogether. One: its far status, or that of its error. Several: 0 where all went well; 124, 255 or
            2 where every host ended with it; else 1.
    """
    statuses = {_status(outcome) for outcome in outcomes}
    if total == 1 and statuses:
        return statuses.pop()
    if statuses <= {0}:
        return 0
    return statuses.pop() if len(statuses) == 1 and statuses <= {124, 255, 2} and not _any_ended(outcomes) else 1


def _any_ended(outcomes: Sequence[Outcome[Result]]) -> bool:
    return any(outcome.value is not None for outcome in outcomes)


def _status(outcome: Outcome[Result]) -> int:
    if outcome.value is not None:
        returncode = outcome.value.returncode
        return returncode if 0 <= returncode < 256 else min(128 - returncode, 255) if returncode < 0 else 1
    return 0 if outcome.ok else error_status(outcome.error)


def error_status(error: BaseException | None) -> int:
    """Return the status that an error stands for."""
    return next((status for kind, status in _BY_ERROR if isinstance(error, kind)), 1)


def trouble_line(outcome: Outcome[Result], *, alone: bool) -> str:
    """Return one line for a host's trouble, "" where there is none to tell of.

    Args:
        outcome: the host's.
        alone: whether it is the only host: its own words and our exit status say enough about a plain failure then.
    """
    error = outcome.error
    if error is None or outcome.state == "skipped":
        return ""
    if isinstance(error, CommandKilled):
        return f"{outcome.host}: killed by SIG{error.signal}"
    if isinstance(error, CommandFailed):
        return "" if alone else f"{outcome.host}: exit status {error.returncode}"
    if not isinstance(error, RemoteError):
        return f"{outcome.host}: {type(error).__name__}: {error}"
    return error_line(error)


def error_line(error: RemoteError) -> str:
    """Return what an error says, and which options may help."""
    hints = [hint for kind, hint in _HINTS if isinstance(error, kind)]
    return str(error) + (f" ({hints[0]})" if hints else "")


def summary_line(report: Report[Result], elapsed: float) -> str:
    """Return how all went, as ``20 hosts: 18 ok, 1 failed (web07), 1 unreachable (web09) in 1.2 s``."""
    parts = [f"{len(report.ok)} ok"] if report.ok else []
    for word, hosts in (
        ("failed", report.failed),
        ("unreachable", report.unreachable),
        ("not started", report.skipped),
    ):
        if hosts:
            parts.append(f"{len(hosts)} {word} ({_names(hosts)})")
    return f"{_hosts(len(report))}: {', '.join(parts)} in {elapsed:.1f} s"


def interrupted_line(report: Report[Result], running: Collection[str], total: int, elapsed: float) -> str:
    """Return how far an interrupted run had come, and whose commands were ended."""
    text = f"interrupted after {elapsed:.1f} s: {len(report)} of {_hosts(total)} done"
    text += f" ({report.summary().partition(': ')[2]})" if report else ""
    text += f", {len(running)} ended ({_names(running)})" if running else ""
    rest = total - len(report) - len(running)
    return text + (f", {rest} not started" if rest else "")


def _hosts(count: int) -> str:
    return f"{count} host{'' if count == 1 else 's'}"


def _names(hosts: Collection[str]) -> str:
    text = fold_hosts(hosts)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
