"""The words of the control socket, however they are split."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote.transports.openssh.mux import MAX_PACKET_BYTES, Kind, MuxError, Reader, Reply, new_session

REPLIES = [
    struct.pack(">III", 8, Kind.HELLO, 4),
    struct.pack(">IIII", 12, Kind.SESSION_OPENED, 7, 2),
    struct.pack(">IIII", 12, Kind.EXIT_MESSAGE, 2, 255),
    struct.pack(">IIII", 16, Kind.FAILURE, 7, 4) + b"why!",
]


@given(st.lists(st.integers(1, 60), max_size=6))
def test_any_split_gives_the_same_replies(cuts: list[int]) -> None:
    data = b"".join(REPLIES)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = Reader()
    found = [reply for begin, end in itertools.pairwise(edges) for reply in reader.feed(data[begin:end])]
    assert found == [
        Reply(Kind.HELLO, 4),
        Reply(Kind.SESSION_OPENED, 7, 2),
        Reply(Kind.EXIT_MESSAGE, 2, 255),
        Reply(Kind.FAILURE, 7, text="why!"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">III", 8, Kind.HELLO, 3),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">III", 8, 0x12345678, 1),
        struct.pack(">II", 4, Kind.EXIT_MESSAGE),
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_what_no_master_says_is_told(bad: bytes) -> None:
    with pytest.raises(MuxError):
        list(Reader().feed(bad))


@given(st.binary(max_size=200))
def test_garbage_is_a_mux_error_or_waits_for_more(data: bytes) -> None:
    try:
        list(Reader().feed(data))
    except MuxError:
        pass


def test_a_line_that_is_too_long_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="longer than"):
        new_session(1, b"x" * MAX_PACKET_BYTES)
