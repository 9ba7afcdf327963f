"""Values at the far end: arguments come as a pickle, results go as JSON text beside binary sections.

The near end never unpickles. What JSON has no form for is an object with one key that starts with "~": "t"
tuple, "e" set, "f" frozenset, "d" a mapping as pairs, "i" a large integer in hexadecimal, "c" complex, "b" and "a"
bytes as Latin-1. "~" is the value of an earlier section, "~+" and "~o" are a list and an object in several sections,
so that the near end can take a breath between two. Near: `outpost.values`.
"""

import pickle
import sys
from array import array
from json.encoder import encode_basestring_ascii as quoted

from .sections import ARRAY, BYTES, DOUBLES, INTEGERS, JSON, MAX_SECTIONS, PICKLE, TEXT, Lied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    _Sections = list[tuple[bytes, bytes | bytearray | memoryview]]

__all__ = ["MAX_TEXT_BYTES", "Unsendable", "pack_up", "unpack_down"]

MAX_TEXT_BYTES = 8388608  # of JSON in a message: decoding makes up to 25 times as much of it, and takes its time
SPILL_CHARS = 65536  # of JSON in a section, about: 1 to 3 ms at the near end
LONG_CHARS = 4096  # longer strings are sections of their own
LONG_BYTES = 1024
MANY = 64  # integers or floats in a list, from which on they are a section
ARRAY_ITEMS = 65536  # in a section
SMALLEST, LARGEST = -(2**63), 2**63 - 1

ONLY_INT, ONLY_FLOAT, ONLY_STR = {int}, {float}, {str}
INFINITY = float("inf")


class Unsendable(TypeError):
    """A value that cannot go to the near end.

    Attributes:
        place: where it stands in the result, as ``['a'][3]``.
        what: what it is, and why it cannot go.
    """

    def __init__(self, what: "str", place: "str" = "") -> "None":
        self.what = what
        self.place = place

    def __str__(self) -> "str":
        return "result%s: %s" % (self.place, self.what)


def unpack_down(sections: "list[tuple[bytes, memoryview]]") -> "object":
    """Return what the near end has pickled. Whatever its classes raise comes out here."""
    if not sections or sections[0][0] != PICKLE:
        raise Lied("no pickle comes first")
    if len(sections) == 1:
        return pickle.loads(sections[0][1])
    buffers = [bytearray(data) if kind == ARRAY else bytes(data) for kind, data in sections[1:]]
    return pickle.loads(sections[0][1], buffers=buffers)


def pack_up(value: "object", max_bytes: "int" = sys.maxsize) -> "_Sections":
    """Return the sections of a value, the last of which stands for the whole.

    Args:
        value: of None, bool, int, float, complex, str, bytes, bytearray, and tuple, list, set, frozenset and dict of
            such. Not of classes derived from these: what comes back has the type that it had.
        max_bytes: of all sections.

    Raises:
        Unsendable: something else is in there, or it is too large.
    """
    packer = _Packer(max_bytes)
    try:
        text = packer.text(value)
    except RecursionError:
        raise Unsendable("is nested too deeply, or holds itself") from None
    packer.add(JSON, text.encode())
    return packer.sections


class _Packer(object):
    """The sections of one value."""

    def __init__(self, max_bytes: "int") -> "None":
        self.sections: "_Sections" = []
        self._room = max_bytes
        self._text_room = MAX_TEXT_BYTES

    def add(self, kind: "bytes", data: "bytes | bytearray | memoryview") -> "str":
        """Add a section, and return the text that refers to it."""
        self._room -= len(data)
        if kind == JSON:
            self._text_room -= len(data)
        if self._room < 0 or self._text_room < 0 or len(self.sections) == MAX_SECTIONS:
            raise Unsendable("is too large for one message: return it in parts, or from a generator")
        self.sections.append((kind, data))
        return '{"~":%d}' % (len(self.sections) - 1)

    def text(self, value: "object") -> "str":
        """Return JSON text for a value."""
        if value is None:
            return "null"
        write = WRITERS.get(type(value))
        if write is None:
            raise Unsendable("an object of type %s cannot travel (%.80r)" % (_name(type(value)), _Shown(value)))
        return write(self, value)

    def write_bool(self, value: "bool") -> "str":
        return "true" if value else "false"

    def write_float(self, value: "float") -> "str":
        if -INFINITY < value < INFINITY:
            return repr(value)
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"

    def write_str(self, value: "str") -> "str":
        if len(value) <= LONG_CHARS:
            return quoted(value)
        return self.add(TEXT, value.encode("utf-8", "surrogatepass"))

    def write_int(self, value: "int") -> "str":
        return str(value) if SMALLEST <= value <= LARGEST else '{"~i":"%x"}' % value

    def write_complex(self, value: "complex") -> "str":
        return '{"~c":[%s,%s]}' % (self.write_float(value.real), self.write_float(value.imag))

    def write_bytes(self, value: "bytes") -> "str":
        if len(value) < LONG_BYTES:
            return '{"~b":%s}' % quoted(value.decode("latin-1"))
        return self.add(BYTES, value)

    def write_bytearray(self, value: "bytearray") -> "str":
        if len(value) < LONG_BYTES:
            return '{"~a":%s}' % quoted(value.decode("latin-1"))
        return self.add(ARRAY, bytes(value))  # as it is now

    def write_tuple(self, value: "tuple[Any, ...]") -> "str":
        return '{"~t":%s}' % self.write_list(value)

    def write_set(self, value: "set[Any]") -> "str":
        return '{"~e":%s}' % self.write_list(list(value))

    def write_frozenset(self, value: "frozenset[Any]") -> "str":
        return '{"~f":%s}' % self.write_list(list(value))

    def write_list(self, value: "list[Any] | tuple[Any, ...]") -> "str":
        kinds = set(map(type, value))
        if len(value) >= MANY and kinds in (ONLY_INT, ONLY_FLOAT):
            try:
                return self._numbers(value, kinds == ONLY_INT)
            except OverflowError:  # more than 64 bits
                pass
        if kinds == ONLY_STR and max(map(len, value)) <= LONG_CHARS:
            return self._spread(map(quoted, value), "[]", "+")
        return self._spread(self._items(value), "[]", "+")

    def _items(self, value: "Iterable[Any]") -> "Iterable[str]":
        for index, item in enumerate(value):
            try:
                text = self.text(item)
            except Unsendable as error:
                raise Unsendable(error.what, "[%d]%s" % (index, error.place)) from None
            yield text

    def _numbers(self, value: "list[Any] | tuple[Any, ...]", are_integers: "bool") -> "str":
        numbers: "array[Any]" = array("q" if are_integers else "d", value)
        if sys.byteorder == "big":
            numbers.byteswap()
        kind = INTEGERS if are_integers else DOUBLES
        starts = range(0, len(numbers), ARRAY_ITEMS)
        parts = [self.add(kind, numbers[start : start + ARRAY_ITEMS].tobytes()) for start in starts]
        return parts[0] if len(parts) == 1 else '{"~+":[%s]}' % ",".join(parts)

    def write_dict(self, value: "dict[Any, Any]") -> "str":
        if set(map(type, value)) <= ONLY_STR and not any(key[:1] == "~" for key in value):
            return self._spread(self._members(value), "{}", "o")
        return '{"~d":%s}' % self._spread(self._pairs(value), "[]", "+")

    def _members(self, value: "dict[Any, Any]") -> "Iterable[str]":
        for key, item in value.items():
            yield quoted(key) + ":" + self._member(key, item)

    def _pairs(self, value: "dict[Any, Any]") -> "Iterable[str]":
        for key, item in value.items():
            try:
                text = self.text(key)
            except Unsendable as error:
                raise Unsendable("has a key that cannot travel: %s" % error.what) from None
            yield "[%s,%s]" % (text, self._member(key, item))

    def _member(self, key: "object", item: "object") -> "str":
        try:
            return self.text(item)
        except Unsendable as error:
            raise Unsendable(error.what, "[%.80r]%s" % (key, error.place)) from None

    def _spread(self, texts: "Iterable[str]", brackets: "str", tag: "str") -> "str":
        """Put a container together, in several sections where it is long."""
        parts: "list[str]" = []
        spilt: "list[str]" = []
        size = 0
        for text in texts:
            parts.append(text)
            size += len(text) + 1
            if size > SPILL_CHARS:
                spilt.append(self.add(JSON, (brackets[0] + ",".join(parts) + brackets[1]).encode()))
                parts, size = [], 0
        rest = brackets[0] + ",".join(parts) + brackets[1]
        if not spilt:
            return rest
        return '{"~%s":[%s]}' % (tag, ",".join([*spilt, rest]))


class _Shown(object):
    """Shows a value, whatever its own repr does."""

    def __init__(self, value: "object") -> "None":
        self._value = value

    def __repr__(self) -> "str":
        try:
            return repr(self._value)
        except Exception:  # noqa: BLE001  # of a class that we do not know
            return object.__repr__(self._value)


def _name(kind: "type") -> "str":
    return kind.__name__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)


WRITERS: "dict[type, Callable[[_Packer, Any], str]]" = {
    bool: _Packer.write_bool,
    float: _Packer.write_float,
    str: _Packer.write_str,
    int: _Packer.write_int,
    complex: _Packer.write_complex,
    bytes: _Packer.write_bytes,
    bytearray: _Packer.write_bytearray,
    tuple: _Packer.write_tuple,
    list: _Packer.write_list,
    set: _Packer.write_set,
    frozenset: _Packer.write_frozenset,
    dict: _Packer.write_dict,
}
