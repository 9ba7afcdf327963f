"""What far text looks like on a terminal: all that could move the cursor, ring, hide or reorder is written out.

Pure functions and small decoders; what goes into files and pipes does not pass here.
"""

from __future__ import annotations

import codecs
import re

__all__ = ["Escaper", "escaped", "one_line"]

# Control characters but tab and newline, DEL, C1; marks that reorder or hide text; surrogates, which stand for bytes of
# file names. Joiners (U+200C, U+200D) stay: words of many languages and emoji need them, and they move nothing.
# Source: Unicode 15.0, categories Cc, Cf, Zl, Zp, Cs; UAX #9, section 2 (bidirectional marks).
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_NAMED = {"\r": "\\r", "\n": "\\n", "\t": "\\t"}
_SHOWN_CHARACTERS = 2000  # of a message in one line


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped(text: str) -> str:
    r"""Return the text with every dangerous character written out, as ``\x1b``; tabs and newlines stay."""
    return _DANGEROUS.sub(_escape, text)


def one_line(text: str) -> str:
    """Return the text as one harmless line: newlines become blanks, and it ends after 2,000 characters."""
    line = " ".join(part for part in (piece.strip() for piece in text.split("\n")) if part)
    line = line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"
    return escaped(line)


class Escaper:
    r"""Turns bytes, in any pieces, into harmless text. Bytes that are no UTF-8 are written out, as ``\xff``."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, data: bytes) -> str:
        """Return the text of the next piece; a character cut in two comes with its rest."""
        return escaped(self._decoder.decode(data))

    def finish(self) -> str:
        """Return what was left of a character whose rest never came."""
        return escaped(self._decoder.decode(b"", True))
