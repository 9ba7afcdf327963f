"""What a caller asks for, checked and turned into what a transport is asked: nothing here is sent yet."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

from aioremote._core.deadline import check_seconds
from aioremote._core.quoting import ONLY_PROGRAMS
from aioremote.types import ProcessSpec, Result, Terminal

__all__ = [
    "Argument",
    "EnvValue",
    "FarPath",
    "Order",
    "PathEdit",
    "argument_bytes",
    "environment",
    "folder_bytes",
    "make_order",
    "with_path_edits",
]

DEFAULT_OUTPUT_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@runtime_checkable
class FarPath(Protocol):
    """A path at the far end, as `aioremote.RemotePath` is."""

    def as_posix(self) -> str:
        """Return the path with slashes."""
        ...


Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes] | FarPath | int | float
"""One argument of a far program: text goes as UTF-8 (surrogate escapes as bytes), numbers as Python writes them."""

EnvValue = str | bytes | int | float | os.PathLike[str] | FarPath | None
"""The value of a far environment variable; None unsets it."""


def argument_bytes(value: object, what: str, number: int | None = None) -> bytes:
    """Return one argument, value or path as the bytes that travel; `what` and `number` name it in errors.

    Raises:
        ValueError: it holds a NUL, which no program can be given.
        TypeError: it is no text, path or number.
    """
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        data = str(value).encode()
    elif isinstance(value, os.PathLike):
        data = os.fsencode(cast("os.PathLike[str]", value))
    elif isinstance(value, FarPath):
        data = value.as_posix().encode("utf-8", "surrogateescape")
    else:
        raise TypeError(f"{_named(what, number)} is {value!r}: give str, bytes, a path or a number")
    if b"\0" in data:
        name = _named(what, number)
        raise ValueError(f"{name} holds a NUL byte, which cannot be passed to a program; send it through input=")
    return data


def _named(what: str, number: int | None) -> str:
    return what if number is None else f"{what} {number}"


def folder_bytes(value: object, what: str = "cwd") -> bytes:
    """Return a directory as it travels; otherwise as `argument_bytes`, but a number is none."""
    if isinstance(value, (int, float)):
        raise TypeError(f"{what} is {value!r}: give str, bytes or a path")
    return argument_bytes(value, what)


def environment(values: Mapping[str, EnvValue]) -> dict[str, bytes | None]:
    """Return variables as they travel.

    Raises:
        ValueError: a name that no shell can hold, or a NUL in a value.
        TypeError: what is no mapping, no name or no value.
    """
    if not isinstance(cast(object, values), Mapping):
        raise TypeError(f"env is {type(values).__name__}: give a mapping of names to values")
    checked: dict[str, bytes | None] = {}
    for name, value in values.items():
        if not isinstance(cast(object, name), str):
            raise TypeError(f"environment variable name {name!r}: give str")
        if not _NAME.match(name):
            raise ValueError(f"environment variable name {name!r}: give letters, digits and _, no digit first")
        text = str(value) if isinstance(value, bool) else value
        checked[name] = None if text is None else argument_bytes(text, f"environment variable {name}")
    return checked


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for each command, in a third of the time
class Order:
    """One command as it was asked for. Never changed: `dataclasses.replace` makes another.

    Attributes:
        spec: what the transport gets.
        args: the far argv, as text.
        path: changes of the far PATH, which are in the spec's argv already.
        input: bytes for its standard input, None for an empty one.
        check: whether a status outside `ok_codes` is an error.
        timeout: seconds for all phases, None for no limit.
        ok_codes: the statuses that count as success, None for all.
        max_output_bytes: limit for stdout and stderr together, None for none.
        encoding, errors: how text is made of output.
        conclude: adds to a result what whoever started the command knows of it.
    """

    spec: ProcessSpec
    args: tuple[str, ...]
    path: tuple[PathEdit, ...] = ()
    input: bytes | None = field(default=None, repr=False)
    check: bool = True
    timeout: float | None = None
    ok_codes: tuple[int, ...] | None = (0,)
    max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES
    encoding: str = "utf-8"
    errors: str = "replace"
    conclude: Callable[[Result], Result] | None = None

    def wants(self, returncode: int) -> bool:
        """Whether a status counts as success."""
        return self.ok_codes is None or returncode in self.ok_codes


PathEdit = tuple[int | None, bytes]
"""A change of the far PATH: a directory and where it is put in, -1 for the end, None to take it out everywhere."""

# Pairs of edits come first, then "." and the program, which the shell becomes. Variables have long names: one that the
# environment exports already would be lost to the program.
_EDIT_PATH = rb"""
aioremote_path=${PATH:+$PATH:}
while [ "$1" != . ]; do
 aioremote_head= aioremote_at=$1
 case $1 in
 x)
  while [ "$aioremote_path" ]; do
   [ "${aioremote_path%%:*}" = "$2" ] || aioremote_head=$aioremote_head${aioremote_path%%:*}:
   aioremote_path=${aioremote_path#*:}
  done
  aioremote_path=$aioremote_head ;;
 -1) aioremote_path=$aioremote_path$2: ;;
 *)
  while [ "$aioremote_at" -gt 0 ] && [ "$aioremote_path" ]; do
   aioremote_head=$aioremote_head${aioremote_path%%:*}: aioremote_path=${aioremote_path#*:}
   aioremote_at=$((aioremote_at-1))
  done
  aioremote_path=$aioremote_head$2:$aioremote_path ;;
 esac
 shift 2
done
shift
PATH=${aioremote_path%:}
export PATH
unset aioremote_path aioremote_head aioremote_at
"""


def with_path_edits(argv: tuple[bytes, ...], edits: Sequence[PathEdit]) -> tuple[bytes, ...]:
    """Return the argv of a program that changes the PATH that it finds and becomes `argv`."""
    if not edits:
        return argv
    words = [word for index, folder in edits for word in (b"x" if index is None else b"%d" % index, folder)]
    return b"/bin/sh", b"-c", _EDIT_PATH + b'exec %s"$@"' % ONLY_PROGRAMS, b"sh", *words, b".", *argv


def _check_codec(encoding: str, errors: str) -> None:
    if not isinstance(cast(object, errors), str):
        raise TypeError(f"errors={errors!r}: give the name of an error policy of Python's codecs module")
    try:
        codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except LookupError as error:
        raise ValueError(f"{error}: give a codec and an error policy of Python's codecs module") from None


def _check_limit(max_output_bytes: int | None) -> None:
    if max_output_bytes is None:
        return
    if not isinstance(cast(object, max_output_bytes), int):
        raise TypeError(f"max_output_bytes={max_output_bytes!r}: give a whole number of bytes, or None for no limit")
    if max_output_bytes < 0:
        raise ValueError(f"max_output_bytes={max_output_bytes!r}: give a number of bytes, or None for no limit")


def _statuses(ok_codes: Iterable[int] | int | None) -> tuple[int, ...] | None:
    """Return the statuses that count as success; one number is one status, None every one."""
    if ok_codes is None:
        return None
    if isinstance(ok_codes, int):
        return (ok_codes,)
    codes: tuple[object, ...] = ok_codes if isinstance(ok_codes, tuple) else _gathered(ok_codes)
    for code in codes:
        if not isinstance(code, int):
            raise TypeError(f"ok_codes={ok_codes!r}: give exit statuses, as (0, 1)")
    return cast("tuple[int, ...]", codes)


def _gathered(ok_codes: object) -> tuple[object, ...]:
    return tuple(cast("Iterable[object]", ok_codes)) if isinstance(ok_codes, Iterable) else (None,)


def _input_bytes(data: str | bytes) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    if not isinstance(cast(object, data), bytes):
        raise TypeError(f"input is {type(data).__name__}: give str or bytes")
    return data


def make_order(
    argv: Sequence[Argument],
    *,
    cwd: bytes | None,
    env: Mapping[str, bytes | None],
    path: tuple[PathEdit, ...] = (),
    input: str | bytes | None = None,  # noqa: A002  # subprocess's name for it
    stdin: bool = False,
    check: bool = True,
    timeout: float | None = None,
    pty: bool | Terminal = False,
    ok_codes: Iterable[int] | int | None = (0,),
    max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
    encoding: str = "utf-8",
    errors: str = "replace",
) -> Order:
    """Check everything and return the order.

    Args:
        argv: program and arguments.
        cwd: as it travels.
        env: as it travels.
        path: changes of the far PATH.
        input: for standard input; str is sent as UTF-8.
        stdin: whether standard input stays open for the caller to write to.
        check, timeout, ok_codes, max_output_bytes, encoding, errors: as in `Order`.
        pty: True for a terminal of 80 by 24, or a Terminal.

    Raises:
        ValueError, TypeError: what is wrong, and what was expected.
    """
    if not argv:
        raise ValueError("no program was given: the first argument is the program's name or path")
    words = tuple([argument_bytes(word, "argument", number) for number, word in enumerate(argv)])
    if not words[0]:
        raise ValueError("the program's name is empty")
    if timeout is not None:
        check_seconds(timeout)
    if max_output_bytes != DEFAULT_OUTPUT_BYTES:
        _check_limit(max_output_bytes)
    if encoding != "utf-8" or errors != "replace":
        _check_codec(encoding, errors)
    data = None if input is None else _input_bytes(input)
    terminal = (pty if isinstance(pty, Terminal) else Terminal()) if pty else None
    return Order(
        spec=ProcessSpec(with_path_edits(words, path), cwd, env, terminal, stdin or data is not None),
        args=tuple([word.decode("utf-8", "surrogateescape") for word in words]),
        path=path,
        input=data,
        check=check,
        timeout=timeout,
        ok_codes=_statuses(ok_codes),
        max_output_bytes=max_output_bytes,
        encoding=encoding,
        errors=errors,
    )
