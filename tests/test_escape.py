import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote.escape import Escaper, escaped, one_line

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[2J", "\\x1b[2J"),
        (b"\x1b]52;c;cHduZWQ=\x07", "\\x1b]52;c;cHduZWQ=\\x07"),
        (b"50%\rdone", "50%\\rdone"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        (b"\x9b31m", "\\x9b31m"),
        (b"a\xff\xfe", "a\\xff\\xfe"),
        (b"\x00\x08\x7f", "\\x00\\x08\\x7f"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        ("\U000e0041".encode(), "\\U000e0041"),
        ("tab\tné\u200dw\n😀".encode(), "tab\tné\u200dw\n😀"),
    ],
)
def test_what_moves_hides_or_rings_is_written_out(data: bytes, shown: str) -> None:
    """Promise 110."""
    escaper = Escaper()
    assert escaper.feed(data) + escaper.finish() == shown


@pytest.mark.parametrize("mark", BIDI)
def test_marks_that_reorder_text_are_written_out(mark: str) -> None:
    """Promise 110."""
    assert escaped(f"a{mark}b") == f"a\\u{ord(mark):04x}b"


@given(st.lists(st.binary(max_size=8), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_harmless_text(pieces: list[bytes]) -> None:
    """Promise 110."""
    whole, split = Escaper(), Escaper()
    text = "".join(map(split.feed, pieces)) + split.finish()
    assert text == whole.feed(b"".join(pieces)) + whole.finish()
    assert not any(
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text if character not in "\t\n"
    )
    assert not set(text) & set(BIDI)


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    """Promise 110: messages, host names and file names too."""
    assert one_line("web1: first\n  second\r\n\x1b[31m \udcff\n") == "web1: first second \\x1b[31m \\udcff"
    assert len(one_line("x" * 100_000)) < 3000
