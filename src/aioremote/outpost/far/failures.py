"""Exceptions as plain values: types by name, arguments, and formatted frames without their locals.

What a class of the far program does when it is shown cannot break this. Near: `python.failures` makes an exception of
it again.
"""

import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = ["MAX_TEXT_CHARS", "describe"]

MAX_TEXT_CHARS = 65536  # of one message, and of one traceback
MAX_RELATED = 32  # exceptions that belong to one, as its cause, its context or in its group
MAX_FRAMES = 100
MAX_ARGUMENT_CHARS = 4096
OWN_FOLDER = "aioremote/outpost/far/"
PLAIN = (type(None), bool, int, float, str, bytes)


def describe(error: "BaseException") -> "dict[str, Any]":
    """Return what is known of an exception and of those it came from, as plain values."""
    return _Describer().describe(error)


class _Describer(object):
    """Describes each exception once: causes may go round."""

    def __init__(self) -> "None":
        self._seen: "set[int]" = set()

    def describe(self, error: "BaseException") -> "dict[str, Any]":
        self._seen.add(id(error))
        kind = type(error)
        told: "dict[str, Any]" = {
            "type": _type_name(kind),
            "mro": [_type_name(base) for base in kind.__mro__[:32]],
            "text": _cut(_text(error)),
            "args": _arguments(error),
            "trace": _cut("".join(_frames(error.__traceback__))),
            "notes": [_cut(note) for note in _notes(error)],
            "suppress": bool(error.__suppress_context__),
        }
        if isinstance(error, OSError):
            told["errno"] = [_plain(value) for value in (error.errno, error.strerror, error.filename, error.filename2)]
        for name, other in (("cause", error.__cause__), ("context", error.__context__)):
            if other is not None and self._may(other):
                told[name] = self.describe(other)
        if any(base.__name__ == "BaseExceptionGroup" for base in kind.__mro__):
            members = _items(error, "exceptions")
            told["members"] = [self.describe(member) for member in members if self._may(member)]
        return told

    def _may(self, error: "object") -> "bool":
        return isinstance(error, BaseException) and id(error) not in self._seen and len(self._seen) < MAX_RELATED


def _type_name(kind: "type") -> "str":
    return "%.100s.%.200s" % (kind.__module__, kind.__qualname__)


def _text(error: "BaseException") -> "str":
    try:
        return str(error)
    except BaseException as second:  # noqa: BLE001  # a __str__ of the far program
        return "<its text raises %s>" % type(second).__name__


def _notes(error: "BaseException") -> "list[str]":
    return [note for note in _items(error, "__notes__")[:MAX_RELATED] if isinstance(note, str)]


def _items(error: "BaseException", name: "str") -> "list[Any]":
    try:
        value: "Any" = getattr(error, name, ())
    except BaseException:  # noqa: BLE001  # a property of the far program
        return []
    return list(value) if type(value) in (list, tuple) else []


def _cut(text: "str") -> "str":
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return "%s… (%d characters left out)" % (text[:MAX_TEXT_CHARS], len(text) - MAX_TEXT_CHARS)


def _arguments(error: "BaseException") -> "list[Any]":
    return [_plain(value) for value in _items(error, "args")[:16]]


def _plain(value: "Any") -> "Any":
    """Return a value that can travel, else what it looks like."""
    if type(value) in PLAIN and len(repr(value)) <= MAX_ARGUMENT_CHARS:
        return value
    if isinstance(value, str):
        return _cut(str(value))
    try:
        return "%.4096r" % (value,)
    except BaseException:  # noqa: BLE001
        return object.__repr__(value)


def _frames(trace: "TracebackType | None") -> "list[str]":
    """Return formatted frames, without those of the outpost itself at the top."""
    try:
        frames = list(traceback.extract_tb(trace))
        while frames and frames[0].filename.startswith(OWN_FOLDER):
            del frames[0]
        left_out = len(frames) - MAX_FRAMES
        if left_out > 0:
            middle = ["  … %d frames left out\n" % left_out]
            half = MAX_FRAMES // 2
            return traceback.format_list(frames[:half]) + middle + traceback.format_list(frames[-half:])
        return traceback.format_list(frames)
    except Exception:  # noqa: BLE001  # a loader's get_source, say
        return []
