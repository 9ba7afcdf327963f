"""What came of a fleet's run: one outcome a host, and the report of them all, in the order given."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Generic, Literal, TypeAlias, TypeVar, cast, overload

from aioremote.errors import ConnectError, ConnectionLost, FleetError, RemoteError
from aioremote.fleet.gather import fold_hosts, gather
from aioremote.types import PartialResult, Result

__all__ = ["Json", "Outcome", "Report", "ReportBuilder", "State", "Stream"]

T = TypeVar("T")
D = TypeVar("D")

State = Literal["ok", "failed", "unreachable", "skipped"]
Stream = Literal["stdout", "stderr", "both"]
Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_STATES: tuple[State, ...] = ("ok", "failed", "unreachable", "skipped")
_MAX_SHOWN = 200  # characters of host names in a message


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of one host.

    Attributes:
        host: the host as given, a machine's ``str(address)``.
        index: its place in the order given, from 0.
        state: "ok", "failed" (by what it did, or lost after the start), "unreachable" (never connected, nothing ran) or
            "skipped" (not started).
        value: the Result of a command, whatever its status, or what a mapped function returned; None where there is
            none.
        error: what went wrong; None when all went well.
        elapsed: seconds from leaving the window.
    """

    host: str
    index: int
    _: KW_ONLY
    state: State
    value: T | None = None
    error: Exception | None = None
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        if (self.state == "ok") != (self.error is None):
            raise ValueError(f"outcome of {self.host}: state {self.state!r} with error {self.error!r}")

    @classmethod
    def of_value(cls, host: str, index: int, *, value: T, elapsed: float = 0.0) -> Outcome[T]:
        """Return the outcome of a host where all went well."""
        return cls(host, index, state="ok", value=value, elapsed=elapsed)

    @classmethod
    def of_error(
        cls,
        host: str,
        index: int,
        *,
        error: Exception,
        value: T | None = None,
        connected: bool | None = None,
        elapsed: float = 0.0,
    ) -> Outcome[T]:
        """Return the outcome of a host with a trouble.

        Args:
            host: the host as given.
            index: its place.
            error: the trouble.
            value: what there is nevertheless, as the Result of a CommandFailed.
            connected: whether the machine was connected when it was used: True makes it "failed", False "unreachable".
                None leaves that to the error: a ConnectError, and a ConnectionLost before the start, are "unreachable".
            elapsed: seconds from leaving the window.
        """
        if connected is None:
            before = isinstance(error, ConnectError)
            connected = not (before or (isinstance(error, ConnectionLost) and error.outcome == "not_started"))
        state: State = "failed" if connected else "unreachable"
        return cls(host, index, state=state, value=value, error=error, elapsed=elapsed)

    @classmethod
    def of_skipped(cls, host: str, index: int, *, reason: str) -> Outcome[T]:
        """Return the outcome of a host that was not started, and why."""
        return cls(host, index, state="skipped", error=RemoteError(f"{host}: not started: {reason}", host=host))

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return self.state == "ok"

    @property
    def result(self) -> T | None:
        """The same as `value`: of a command, its Result."""
        return self.value

    @property
    def has_value(self) -> bool:
        """Whether there is a value: all went well, or a command ended with another status."""
        return self.error is None or self.value is not None

    def get(self) -> T:
        """Return the value, or raise the error where there is none."""
        if self.error is not None and self.value is None:
            raise self.error
        return cast("T", self.value)  # None is a value where T allows it

    def to_json(self) -> dict[str, Json]:
        """Return it as plain values that ``json.dumps`` writes, whatever bytes a command wrote.

        Returns:
            host, index, state, elapsed; of a Result args, returncode, signal, stdout, stderr, and stdout_base64 or
            stderr_base64 with the exact bytes where these are not UTF-8; of other values "value" (its repr where JSON
            has no such thing); of an error "error", with type, message, and the output so far where there is some.
        """
        entry: dict[str, Json] = {"host": _clean(self.host), "index": self.index, "state": self.state}
        entry["elapsed"] = round(self.elapsed, 6)
        if isinstance(self.value, PartialResult):
            entry |= _result_json(self.value)
        elif self.ok:
            entry["value"] = _value_json(self.value)
        if self.error is not None:
            error: dict[str, Json] = {"type": type(self.error).__name__, "message": _clean(str(self.error))}
            partial: object = getattr(self.error, "result", None)
            if self.value is None and isinstance(partial, PartialResult):
                error |= _result_json(partial)
            entry["error"] = error
        return entry


class Report(Mapping[str, T]):
    """The outcomes of all hosts, in the order given.

    ``report[host]`` is the host's value: its Result (also where the command failed), or what a mapped function
    returned. For a host without a value it raises that host's error, and so do ``values()`` and ``items()``; the other
    members never do. Pickles whole, as far as values and errors do. Two reports are equal only when they are one
    object.

    Attributes:
        outcomes: one a host.
        ok: the values of the hosts where all went well.
        failed: the errors of those that failed by what they did, or were lost after the start.
        unreachable: the errors of those that were never connected; nothing ran there.
        skipped: for those that were not started an error that says why.
    """

    __slots__ = ("_by_host", "failed", "ok", "outcomes", "skipped", "unreachable")

    def __init__(self, outcomes: Iterable[Outcome[T]]) -> None:
        self.outcomes: tuple[Outcome[T], ...] = tuple(sorted(outcomes, key=lambda outcome: outcome.index))
        self._by_host = {outcome.host: outcome for outcome in self.outcomes}
        if len(self._by_host) != len(self.outcomes):
            raise ValueError("a host has more than one outcome")
        self.ok: Mapping[str, T] = MappingProxyType({item.host: item.get() for item in self.outcomes if item.ok})
        self.failed: Mapping[str, Exception] = self._errors("failed")
        self.unreachable: Mapping[str, Exception] = self._errors("unreachable")
        self.skipped: Mapping[str, Exception] = self._errors("skipped")

    def _errors(self, state: State) -> Mapping[str, Exception]:
        found = ((item.host, item.error) for item in self.outcomes if item.state == state)
        return MappingProxyType({host: error for host, error in found if error is not None})

    def __getitem__(self, host: str) -> T:
        """Return the host's value, or raise its error; KeyError for a host that is not in the fleet."""
        return self._by_host[host].get()

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_host)

    def __len__(self) -> int:
        return len(self._by_host)

    def __contains__(self, host: object) -> bool:
        return host in self._by_host

    @overload
    def get(self, host: str, default: None = None, /) -> T | None: ...
    @overload
    def get(self, host: str, default: T | D, /) -> T | D: ...
    def get(self, host: str, default: T | D | None = None, /) -> T | D | None:
        """Return the host's value, or the default where there is none. Never raises."""
        outcome = self._by_host.get(host)
        return default if outcome is None or not outcome.has_value else outcome.get()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.summary()}>"

    def __reduce__(self) -> tuple[type[Report[T]], tuple[tuple[Outcome[T], ...]]]:
        return type(self), (self.outcomes,)

    def gathered(self, stream: Stream = "stdout") -> list[tuple[str, str]]:
        """Put hosts with the same output together.

        Args:
            stream: "stdout", "stderr" or "both" (stdout, then stderr). Values that are no results are taken as ``str``.

        Returns:
            Folded hosts and their text (``("web[01-39]", "…")``), in the order in which each text first appears.
            Outputs are the same when their bytes are. Hosts without a value (lost, timed out, skipped) are in none.
        """
        if stream not in {"stdout", "stderr", "both"}:
            raise ValueError(f"stream {stream!r}: expected 'stdout', 'stderr' or 'both'")
        found = [(item.host, item.get()) for item in self.outcomes if item.has_value]
        texts: dict[Hashable, T] = {}
        for _, value in found:
            texts.setdefault(_output_key(value, stream), value)
        groups = gather((host, _output_key(value, stream)) for host, value in found)
        return [(hosts, _output_text(texts[key], stream)) for hosts, key in groups]

    def raise_for_failures(self) -> None:
        """Raise unless all went well on every host.

        Raises:
            FleetError: holds the errors of all other hosts, skipped ones too, in the order given; ``.report`` is this
                report.
        """
        errors = [item.error for item in self.outcomes if item.error is not None]
        if errors:
            failed = [item.host for item in self.outcomes if item.state in {"failed", "unreachable"}]
            message = f"{len(failed)} of {len(self)} hosts failed" + (f": {_shown(failed)}" if failed else "")
            skipped = f"; {len(self.skipped)} not started: {_shown(self.skipped)}" if self.skipped else ""
            raise FleetError(message + skipped, errors, self)

    def summary(self) -> str:
        """Return one line: ``200 hosts: 197 ok, 2 failed, 1 unreachable``."""
        counts = Counter(item.state for item in self.outcomes)
        states = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
        return f"{len(self)} host{'' if len(self) == 1 else 's'}" + (f": {states}" if states else "")

    def to_json(self) -> list[dict[str, Json]]:
        """Return each host's `Outcome.to_json`, in the order given."""
        return [outcome.to_json() for outcome in self.outcomes]


class ReportBuilder(Generic[T]):
    """Collects outcomes as they come; holds nothing but them."""

    __slots__ = ("_hosts", "_outcomes")

    def __init__(self) -> None:
        self._outcomes: list[Outcome[T]] = []
        self._hosts: set[str] = set()

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome[T]) -> None:
        """Take one outcome; in any order.

        The tracebacks of a RemoteError and of what led to it are dropped: their frames would keep the host's connection
        alive, and its message says which step failed. Errors of other kinds, as those of a mapped function, keep
        theirs.

        Raises:
            ValueError: there is one of that host already.
        """
        if outcome.host in self._hosts:
            raise ValueError(f"{outcome.host}: there is an outcome of that host already")
        self._hosts.add(outcome.host)
        self._outcomes.append(outcome)
        if isinstance(outcome.error, RemoteError):
            _drop_tracebacks(outcome.error)

    def build(self) -> Report[T]:
        """Return the report of the outcomes so far."""
        return Report(self._outcomes)


def _drop_tracebacks(error: BaseException) -> None:
    seen: dict[int, BaseException] = {}
    rest: list[BaseException | None] = [error]
    while rest:
        found = rest.pop()
        if found is None or id(found) in seen:
            continue
        seen[id(found)] = found
        found.__traceback__ = None
        rest += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            rest += cast("BaseExceptionGroup[BaseException]", found).exceptions


def _shown(hosts: Iterable[str]) -> str:
    text = fold_hosts(hosts)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _output_key(value: object, stream: Stream) -> Hashable:
    if not isinstance(value, PartialResult):
        return str(value)
    chosen = (value.stdout_bytes if stream != "stderr" else b"", value.stderr_bytes if stream != "stdout" else b"")
    return (*chosen, value.encoding, value.errors)


def _output_text(value: object, stream: Stream) -> str:
    if not isinstance(value, PartialResult):
        return str(value)
    return (value.stdout if stream != "stderr" else "") + (value.stderr if stream != "stdout" else "")


def _result_json(result: PartialResult) -> dict[str, Json]:
    entry: dict[str, Json] = {"args": [_clean(argument) for argument in result.args]}
    if isinstance(result, Result):
        entry |= {"returncode": result.returncode, "signal": result.signal}
    for name, text, exact in (
        ("stdout", result.stdout, result.stdout_bytes),
        ("stderr", result.stderr, result.stderr_bytes),
    ):
        entry[name] = clean = _clean(text)
        if clean.encode() != exact:
            entry[f"{name}_base64"] = base64.b64encode(exact).decode("ascii")
    return entry


def _value_json(value: object) -> Json:
    try:
        plain: Json = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError):
        return _clean(repr(value))
    return plain


def _clean(text: str) -> str:
    """Escape lone surrogates, which stand for bytes that were no text and which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()
