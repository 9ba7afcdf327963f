"""Far exceptions as near ones: `RemoteException` together with the builtin they are, so that ``except`` finds them.

What came is plain values; nothing of the far end's classes is looked up here save the names of builtins.
"""

from __future__ import annotations

import builtins
from functools import cache
from typing import Any, cast

from aioremote.errors import RemoteException, RemoteValueError, WorkerDied

__all__ = ["RemoteTraceback", "death", "failure"]

MAX_DEPTH = 40
_CONTROL = (StopIteration, StopAsyncIteration)  # and all that is no Exception: they would steer the near program
_SHOWN_TRACE_CHARS = 20_000
_SHOWN_STDERR_CHARS = 800


class RemoteTraceback(Exception):
    """The cause of a RemoteException: what the far Python would have printed."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0] if self.args else "").rstrip()


def failure(told: object, *, host: str) -> RemoteException:
    """Return the near exception for a description from the far end, which may be anything."""
    return _failure(_dict(told), host, 0)


def _failure(told: dict[Any, Any], host: str, depth: int) -> RemoteException:
    members = _list(told.get("members"))
    if members and depth < MAX_DEPTH:
        inner = [_failure(_dict(member), host, depth + 1) for member in members]
        error: RemoteException = _RemoteGroup(_str(told.get("text")), inner)
    else:
        error = _plain(told, host)
    error.host = host
    error.type_name = _str(told.get("type")).removeprefix("builtins.")
    error.text = _str(told.get("text"))
    error.remote_traceback = _traceback(told, 0)
    error.__cause__ = RemoteTraceback(error.remote_traceback[:_SHOWN_TRACE_CHARS])
    for note in _list(told.get("notes"))[:MAX_DEPTH]:
        error.add_note(_str(note))
    return error


def _plain(told: dict[Any, Any], host: str) -> RemoteException:
    if told.get("unsendable") is True:
        return RemoteValueError(f"{host}: {_str(told.get('text'))}", host=host)
    name = _str(told.get("type")).removeprefix("builtins.")
    text = _str(told.get("text"))
    base = _base(tuple(_str(item) for item in _list(told.get("mro"))))
    kind = _mixed(base) if base else RemoteException
    error = kind(f"{host}: {name}: {text}" if text else f"{host}: {name}", host=host)
    details = _list(told.get("errno"))
    if isinstance(error, OSError) and len(details) == 4:
        number, meaning, *files = details
        error.errno = number if isinstance(number, int) else None
        error.strerror = meaning if isinstance(meaning, str) else None
        error.filename, error.filename2 = files
    error.remote_args = tuple(_list(told.get("args")))
    return error


def _base(names: tuple[str, ...]) -> str | None:
    """Return the name of the first builtin that near code may be given."""
    for name in names:
        home, _, short = name.rpartition(".")
        kind = getattr(builtins, short, None) if home == "builtins" else None
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _CONTROL):
            return short if kind is not Exception and not issubclass(kind, BaseExceptionGroup) else None
    return None


class _RemoteGroup(RemoteException, ExceptionGroup[Exception]):
    """A far ExceptionGroup; its members are `RemoteException`s too."""

    def __new__(cls, message: str, exceptions: list[RemoteException]) -> _RemoteGroup:
        return super().__new__(cls, message or "far exceptions", exceptions)

    def __init__(self, message: str, exceptions: list[RemoteException]) -> None:
        Exception.__init__(self, message, exceptions)

    def derive(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, excs: Any
    ) -> _RemoteGroup:
        """Return the same over a part of them (``split`` and ``except*`` call this)."""
        return _RemoteGroup(self.message, list(excs))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, list(self.exceptions)), {**self.__dict__, "__cause__": self.__cause__}


@cache
def _mixed(name: str) -> type[RemoteException]:
    """Return the class that is both a RemoteException and one builtin."""
    builtin = cast("type[Exception]", getattr(builtins, name))

    def reduce(self: RemoteException) -> tuple[Any, ...]:
        return _again, (name, self.args, dict(self.__dict__), _attributes(self), self.remote_traceback)

    space = {
        "__module__": __name__,
        "__doc__": f"A far {name}.",
        "__reduce__": reduce,
        "__str__": RemoteException.__str__,
    }
    return type(f"Remote{name}", (RemoteException, builtin), space)


def _attributes(error: BaseException) -> dict[str, Any]:
    """Return what the C part of an OSError holds."""
    names = ("errno", "strerror", "filename", "filename2") if isinstance(error, OSError) else ()
    return {name: getattr(error, name) for name in names}


def _again(
    name: str, args: tuple[Any, ...], state: dict[str, Any], attributes: dict[str, Any], trace: str
) -> RemoteException:
    """Unpickle one; for programs that pass near exceptions between their own processes."""
    error = _mixed(name)(*args)
    error.__dict__.update(state)
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    error.__cause__ = RemoteTraceback(trace[:_SHOWN_TRACE_CHARS])
    return error


def _traceback(told: dict[Any, Any], depth: int) -> str:
    """Return what Python would print for an exception with its causes."""
    parts: list[str] = []
    suppressed = told.get("suppress") is True
    cause, context = _dict(told.get("cause")), _dict(told.get("context"))
    if cause and depth < MAX_DEPTH:
        before = _traceback(cause, depth + 1)
        parts = [before, "\nThe above exception was the direct cause of the following exception:\n\n"]
    elif context and not suppressed and depth < MAX_DEPTH:
        before = _traceback(context, depth + 1)
        parts = [before, "\nDuring handling of the above exception, another exception occurred:\n\n"]
    trace, text = _str(told.get("trace")), _str(told.get("text"))
    name = _str(told.get("type")).removeprefix("builtins.")
    if trace:
        parts.append(f"Traceback (most recent call last):\n{trace}")
    parts.append(f"{name}: {text}\n" if text else f"{name}\n")
    parts += [f"{_str(note)}\n" for note in _list(told.get("notes"))]
    for member in _list(told.get("members"))[:MAX_DEPTH]:
        if depth < MAX_DEPTH:
            inner = _traceback(_dict(member), depth + 1)
            parts += ["  | " + line + "\n" for line in inner.splitlines()]
    return "".join(parts)


def death(told: object, *, host: str) -> WorkerDied:
    """Return the near exception for a description of a worker's end."""
    known = _dict(told)
    code, name, stderr = known.get("code"), _str(known.get("signal")), _str(known.get("stderr"))
    number = code if isinstance(code, int) else 0
    how = f"killed by SIG{name}" if name else f"exit status {number}"
    shown = f"\n{stderr.strip()[-_SHOWN_STDERR_CHARS:]}" if stderr.strip() else ""
    message = f"{host}: the worker ended in the middle of a call: {how}{shown}"
    return WorkerDied(message, host=host, returncode=number, signal=name or None, stderr=stderr)


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def _dict(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
