"""Values at this end: arguments go as a pickle, results come as JSON text beside binary sections.

No byte from the far end is ever unpickled, imported or executed; what the forms are is in `far.values`. Decoding comes
in steps of a few milliseconds, between which the loop can do other things.
"""

from __future__ import annotations

import json
import pickle
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from typing import Any, cast

from aioremote.errors import RemoteError, ShipError
from aioremote.outpost.far.sections import ARRAY, BYTES, DOUBLES, INTEGERS, JSON, PICKLE, TEXT, Lied, split
from aioremote.outpost.far.values import MAX_TEXT_BYTES

__all__ = ["MAX_STEP_BYTES", "Undecodable", "decode", "pack_down", "split_message", "unpack_up"]

MAX_STEP_BYTES = 2 * 1024 * 1024
"""Bytes of messages that may be decoded at once: less stalls nobody."""

_OUT_OF_BAND_BYTES = 32 * 1024
_MAX_SECTION_TEXT = 1024 * 1024
_MAX_EQUAL_HASHES = 8  # hashes of strings cannot be chosen from outside; those of numbers can
_MAX_DIGITS = 4300  # Python's own limit, for where that is switched off

Buffer = bytes | bytearray | memoryview


class Undecodable(RemoteError):
    """The far end sent something that is no value."""


def pack_down(value: object, protocol: int) -> list[tuple[bytes, Buffer]]:
    """Return the sections of a value: its pickle, and large buffers beside it.

    Bytes and bytearrays of 32 KiB or more are not copied where they stand in tuples and dicts, at most two deep, and
    the far Python is 3.8 or later; nor is what pickles out of band by itself.

    Args:
        value: anything that pickles.
        protocol: of pickle, the far Python's highest.

    Raises:
        ShipError: it does not pickle.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        if protocol < 5:
            return [(PICKLE, pickle.dumps(value, protocol))]
        data = pickle.dumps(_beside(value, 2), 5, buffer_callback=buffers.append)
    except Exception as error:  # whatever a __reduce__ raises
        raise ShipError(f"the arguments cannot travel: {error}") from error
    views = [buffer.raw() for buffer in buffers]
    return [(PICKLE, data), *((BYTES if view.readonly else ARRAY, view) for view in views)]


def _beside(value: object, depth: int) -> object:
    """Wrap what is large, so that pickle leaves it out."""
    if isinstance(value, bytes | bytearray):
        return pickle.PickleBuffer(value) if len(value) >= _OUT_OF_BAND_BYTES else value
    if depth and type(value) is tuple:
        return tuple([_beside(item, depth - 1) for item in cast("tuple[object, ...]", value)])
    if depth and type(value) is dict:
        return {key: _beside(item, depth - 1) for key, item in cast("dict[object, object]", value).items()}
    return value


def unpack_up(message: Buffer) -> object:
    """Return the value in a message at once; raises `Undecodable`."""
    steps = decode(split_message(message))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def split_message(message: Buffer) -> list[tuple[bytes, memoryview]]:
    """Return the sections of a message; raises `Undecodable`."""
    try:
        return split(message)
    except Lied as error:
        raise Undecodable(str(error)) from None


def decode(sections: Sequence[tuple[bytes, Buffer]]) -> Generator[None, None, object]:
    """Return the value that sections stand for, in steps of at most a few milliseconds, or of one section.

    Raises:
        Undecodable: they stand for none.
    """
    try:
        if len(sections) == 1 and sections[0][0] == JSON and (text := _text(sections[0][1])).find('"~') < 0:
            return _plain(text)
        return (yield from _Decoder().run(sections))
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, MemoryError) as error:
        raise Undecodable(f"what came is no value: {type(error).__name__}: {str(error)[:200]}") from None


def _text(data: Buffer) -> str:
    if len(data) > _MAX_SECTION_TEXT:
        raise ValueError(f"{len(data)} bytes of text in one section, at most {_MAX_SECTION_TEXT} are allowed")
    return str(data, "ascii")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _plain(text: str) -> object:
    return cast("object", json.loads(text) if sys.get_int_max_str_digits() else json.loads(text, parse_int=_integer))


class _Decoder:
    """Decodes the sections of one message."""

    def __init__(self) -> None:
        self._values: dict[int, object] = {}
        unlimited = not sys.get_int_max_str_digits()
        self._json = json.JSONDecoder(object_hook=self._tagged, parse_int=_integer if unlimited else None)

    def run(self, sections: Sequence[tuple[bytes, Buffer]]) -> Generator[None, None, object]:
        text_room = MAX_TEXT_BYTES
        value: object = None
        for number, (kind, data) in enumerate(sections):
            if kind == JSON:
                text_room -= len(data)
                if text_room < 0:
                    raise ValueError(f"more than {MAX_TEXT_BYTES} bytes of text")
                value = cast("object", self._json.decode(_text(data)))
            else:
                value = _READERS[kind](data)
            self._values[number] = value
            yield
        if len(self._values) != 1:
            raise ValueError(f"{len(self._values) - 1} sections that nothing refers to")
        return value

    def _tagged(self, members: dict[str, Any]) -> object:
        """Return what an object with one key stands for. Inner ones have been replaced before."""
        if len(members) != 1:
            return members
        ((tag, inner),) = members.items()
        if not tag.startswith("~"):
            return members
        return self._values.pop(inner) if tag == "~" else _TAGS[tag](inner)


def _from_text(inner: str) -> bytes:
    return str.encode(inner, "latin-1")  # TypeError where it is no text


def _list(inner: object) -> list[Any]:
    if not isinstance(inner, list):
        raise TypeError("a list was expected")
    return inner  # pyright: ignore[reportUnknownVariableType]


def _large(inner: str) -> int:
    return int(inner, 16)


def _complex(inner: object) -> complex:
    real, imag = _list(inner)
    return complex(float(real), float(imag))


def _unequal(keys: Iterable[Hashable]) -> None:
    """Refuse keys that would make a table slow. Those made of strings alone are as random as their hashes."""
    counts = Counter(map(hash, keys))
    if counts and counts.most_common(1)[0][1] > _MAX_EQUAL_HASHES:
        raise ValueError("many keys have the same hash")


def _set(inner: object) -> set[Any]:
    items = _list(inner)
    _unequal(items)
    return set(items)


def _pairs(inner: object) -> dict[Any, Any]:
    pairs = [_list(pair) for pair in _list(inner)]
    _unequal(key for key, _ in pairs)
    return {key: value for key, value in pairs}  # noqa: C416  # dict() would take strings of two


def _joined_list(inner: object) -> list[Any]:
    joined: list[Any] = []
    for part in _list(inner):
        joined.extend(_list(part))
    return joined


def _joined_dict(inner: object) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for part in _list(inner):
        if not isinstance(part, dict) or not set(map(type, cast("dict[object, object]", part))) <= {str}:
            raise TypeError("an object was expected")
        joined.update(cast("dict[str, Any]", part))
    return joined


def _numbers(code: str, data: Buffer) -> list[int] | list[float]:
    numbers: array[Any] = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


_TAGS: dict[str, Callable[[Any], object]] = {
    "~t": lambda inner: tuple(_list(inner)),
    "~e": _set,
    "~f": lambda inner: frozenset(_set(inner)),
    "~d": _pairs,
    "~i": _large,
    "~c": _complex,
    "~b": _from_text,
    "~a": lambda inner: bytearray(_from_text(inner)),
    "~+": _joined_list,
    "~o": _joined_dict,
}

_READERS: dict[bytes, Callable[[Buffer], object]] = {
    BYTES: bytes,
    ARRAY: bytearray,
    TEXT: lambda data: str(data, "utf-8", "surrogatepass"),
    INTEGERS: lambda data: _numbers("q", data),
    DOUBLES: lambda data: _numbers("d", data),
}
