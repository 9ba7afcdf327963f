"""Where a call's output goes: a function of bytes, or a near file, text or binary."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from typing import Any, Protocol, TextIO, cast

__all__ = ["BinaryFile", "Sink", "sink_of"]


class BinaryFile(Protocol):
    """Something that bytes are written to."""

    def write(self, data: bytes, /) -> object:
        """Take more."""
        ...


Sink = Callable[[bytes], object] | BinaryFile | TextIO


def sink_of(sink: Sink | None) -> Callable[[bytes], object] | None:
    """Return a function of bytes; text files get UTF-8, with what is no text replaced.

    Raises:
        TypeError: it is neither a function nor a file.
    """
    if sink is None:
        return None
    write: Callable[[Any], object] | None = getattr(sink, "write", None)
    if write is None and not callable(sink):
        raise TypeError(f"{sink!r} takes no output: give a function of bytes, or a file")
    if write is not None and isinstance(cast("object", sink), io.TextIOBase):
        return _text_sink(write)
    return write or cast("Callable[[bytes], object]", sink)


def _text_sink(write: Callable[[str], object]) -> Callable[[bytes], object]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda data: write(decoder.decode(data))
