"""The wire's states and rules, both ends in one process."""

import random
import re
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote.outpost.far import frames
from aioremote.outpost.far.frames import Event, Limits, WireError
from aioremote.outpost.far.wire import Wire

SMALL = 4096


def drain(wire: Wire, now: float = 0.0) -> bytes:
    parts: list[bytes | memoryview] = []
    while some := wire.take(now):
        parts += some
    return b"".join(parts)


class Ends:
    """Both ends, and the bytes that pass between them when told to."""

    def __init__(self, window: int = SMALL, **limits: int) -> None:
        self.near = Wire(Limits(window=window, **limits), near=True)
        self.far = Wire(Limits(window=window, **limits), near=False)
        self.now = 0.0
        self.seen: dict[str, list[Event]] = {"near": [], "far": []}
        self.exchange()
        self.seen["near"].clear()
        self.seen["far"].clear()

    def exchange(self) -> None:
        """Pass bytes until nobody has any."""
        while True:
            there, back = drain(self.near, self.now), drain(self.far, self.now)
            if not there and not back:
                return
            self.seen["far"] += self.far.receive(there, self.now)
            self.seen["near"] += self.near.receive(back, self.now)

    def taken(self, side: str) -> list[Event]:
        events = self.seen[side]
        self.seen[side] = []
        return events


def greeted(*, near: bool = True, **limits: int) -> Wire:
    wire = Wire(Limits(**limits), near=near)
    wire.take(0.0)
    wire.receive(frames.hello(Limits()), 0.0)
    return wire


@pytest.mark.parametrize("missing", [(), ("process",), ("process", "files", "listen")])
def test_a_greeting_tells_what_is_not_served(missing: tuple[str, ...]) -> None:
    said = frames.hello(Limits(missing=missing))
    wire = Wire(Limits(), near=True)
    assert [event.kind for event in wire.receive(said, 0.0)] == [frames.HELLO]
    assert wire.missing == frozenset(missing)
    assert (said == frames.hello(Limits())) is (missing == ())


def test_a_greeting_may_have_fields_that_are_not_known_yet() -> None:
    payload = frames.hello(Limits(missing=("files",)))[12:]
    wire = Wire(Limits(), near=True)
    wire.receive(frames.frame(frames.HELLO, 0, payload + b"more"), 0.0)
    assert (wire.greeted, wire.missing) == (True, {"files"})


def test_both_greet_first_and_a_channel_goes_through_its_life() -> None:
    ends = Ends()
    number = ends.near.open("echo", b"how")
    ends.near.send(number, b"abc")
    ends.near.send_message(number, b"", end=True)
    ends.exchange()
    assert ends.taken("far") == [
        Event(frames.OPEN, number, b"how", 0, "echo"),
        Event(frames.DATA, number, b"abc"),
        Event(frames.MSG, number, b""),
        Event(frames.EOF, number),
    ]
    ends.far.accept(number, b"well")
    ends.far.signal(number, b"first")
    ends.far.send(number, b"", end=True)
    ends.exchange()
    assert ends.taken("near") == [
        Event(frames.SIGNAL, number, b"first"),
        Event(frames.ACCEPT, number, b"well"),
        Event(frames.EOF, number),
    ]
    ends.near.signal(number, b"late")  # to nobody: both ends have ended it
    ends.near.send(number, b"late")
    ends.exchange()
    assert ends.taken("far") == []


def test_numbers_are_odd_near_and_even_far() -> None:
    ends = Ends()
    assert [ends.near.open("a"), ends.near.open("a")] == [1, 3]
    assert [ends.far.open("a"), ends.far.open("a")] == [2, 4]


def test_a_long_message_goes_in_pieces_and_waits_for_credit() -> None:
    ends = Ends()
    number = ends.near.open("echo")
    ends.near.send_message(number, bytes(10_000), end=True)
    ends.exchange()
    _, *pieces = ends.taken("far")
    assert sum(frames.cost(piece.data) for piece in pieces) == SMALL
    last = pieces
    while pieces:
        assert {piece.number for piece in pieces if piece.kind == frames.MSG} <= {frames.MORE, 0}
        ends.far.grant(number, sum(frames.cost(piece.data) for piece in pieces if piece.kind == frames.MSG))
        ends.exchange()
        last, pieces = pieces, ends.taken("far")
    assert last[-1].kind == frames.EOF
    assert last[-2].number == 0


def test_a_writer_is_told_when_to_stop_and_when_to_go_on() -> None:
    ends = Ends(window=1024 * 1024)
    number = ends.near.open("echo")
    assert ends.near.send(number, bytes(200_000))
    assert not ends.near.send(number, bytes(200_000))
    assert ends.near.drained() == []
    ends.exchange()
    assert ends.near.drained() == [number]
    assert ends.near.drained() == []
    assert not ends.near.send(number, bytes(5 * 65_536), end=True)  # whose last turn ends the channel as well
    ends.exchange()
    assert ends.near.drained() == [number]


def test_small_pieces_are_not_cut_to_fill_a_turn() -> None:
    ends = Ends(window=1024 * 1024)
    number = ends.near.open("echo")
    for _ in range(3):
        ends.near.send(number, bytes(65_500))
    ends.exchange()
    assert [len(event.data) for event in ends.taken("far")[1:]] == [65_500] * 3


def test_a_rejected_channel_is_over_at_both_ends_whatever_was_under_way() -> None:
    ends = Ends()
    number = ends.near.open("nonsense")
    ends.near.send(number, b"early")
    there = drain(ends.near)
    ends.far.receive(there, 0.0)
    ends.far.reject(number, 7, "no such service")
    ends.near.send(number, b"more")
    ends.exchange()
    assert ends.taken("near") == [Event(frames.REJECT, number, b"", 7, "no such service")]
    assert ends.near.send(number, b"too late")
    ends.exchange()
    assert ends.taken("far") == []


def test_nothing_is_delivered_after_a_reset_and_a_reset_is_answered() -> None:
    """Promise 15: what was under way when this end gave a channel up is dropped."""
    ends = Ends()
    number = ends.near.open("source")
    ends.exchange()
    ends.taken("far")
    ends.far.send(number, b"under way")
    ends.near.reset(number, 3, "enough")
    ends.exchange()
    assert ends.taken("near") == []
    assert ends.taken("far") == [Event(frames.RESET, number, b"", 3, "enough")]
    assert not ends.near._channels
    assert not ends.far._channels


def test_a_channel_that_was_never_sent_is_given_up_silently() -> None:
    ends = Ends()
    number = ends.near.open("echo")
    ends.near.signal(number, b"x")
    ends.near.reset(number)
    ends.exchange()
    assert ends.taken("far") == []
    other = ends.near.open("echo")
    ends.near.signal(other, b"x")
    ends.exchange()
    assert [event.kind for event in ends.taken("far")] == [frames.OPEN, frames.SIGNAL]


def test_goodbye_is_acknowledged_and_drops_what_is_under_way() -> None:
    ends = Ends()
    number = ends.near.open("echo")
    ends.near.goaway(0, "done")
    ends.exchange()
    assert ends.taken("far") == [Event(frames.GOAWAY, 0, b"", 0, "done")]
    ends.far.goaway(0, "and thanks")
    ends.far.send(number, b"nobody")
    ends.exchange()
    assert ends.taken("near") == [Event(frames.GOAWAY, 0, b"", 0, "and thanks")]
    assert ends.near.closed
    assert ends.far.closed
    with pytest.raises(WireError, match="over"):
        ends.near.open("echo")


def test_misuse_by_this_side_is_an_error_and_leaves_the_link_alone() -> None:
    wire = Wire(Limits(), near=True)
    with pytest.raises(WireError, match="not greeted"):
        wire.open("echo")
    ends = Ends(max_channels=1)
    with pytest.raises(ValueError, match="kind"):
        ends.near.open("")
    with pytest.raises(ValueError, match="header"):
        ends.near.open("echo", bytes(65_537))
    number = ends.near.open("echo", end=True)
    with pytest.raises(WireError, match="takes 1 at once"):
        ends.near.open("echo")
    with pytest.raises(WireError, match="after its end"):
        ends.near.send(number, b"x")
    with pytest.raises(WireError, match="accepted"):
        ends.near.accept(number)
    with pytest.raises(WireError, match="256"):
        ends.near.signal(number, bytes(257))
    ends.exchange()
    ends.far.accept(number)
    with pytest.raises(WireError, match="rejected"):
        ends.far.reject(number, 0, "")
    ends.exchange()
    assert [event.kind for event in ends.taken("near")] == [frames.ACCEPT]


def window_frame(count: int) -> bytes:
    return struct.pack(">I", count)


def _open_frame(number: int, kind: bytes = b"echo", window: int = SMALL) -> bytes:
    return frames.frame(frames.OPEN, number, struct.pack(">IB", window, len(kind)) + kind)


ONE = _open_frame(1)
ABUSES: dict[str, tuple[bytes, str]] = {
    "too long": (struct.pack(">IBBHI", 1_048_577, frames.DATA, 0, 0, 1), "DATA of 1048577 bytes, allowed are 1048576"),
    "reserved": (struct.pack(">IBBHI", 0, frames.EOF, 0, 9, 1), "reserved"),
    "unknown type": (struct.pack(">IBBHI", 0, 99, 0, 0, 1), "unknown type 99"),
    "type 0": (struct.pack(">IBBHI", 0, 0, 0, 0, 1), "unknown type 0"),
    "unknown flags": (frames.frame(frames.EOF, 1, b"", 4), "flags 0x4"),
    "link frame on a channel": (frames.frame(frames.PING, 1, bytes(8)), "PING on channel 1"),
    "channel frame on the link": (frames.frame(frames.DATA, 0, b"x"), "DATA on channel 0"),
    "HELLO twice": (frames.hello(Limits()), "HELLO a second time"),
    "even id from the near end": (_open_frame(2), "this end's"),
    "id used again": (ONE + ONE, "must rise"),
    "no kind": (_open_frame(1, b""), "without a kind"),
    "unprintable kind": (_open_frame(1, b"a b"), "without a kind"),
    "cut OPEN": (frames.frame(frames.OPEN, 1, b"abc"), "OPEN of 3 bytes"),
    "huge opening window": (_open_frame(1, window=2**31), "window"),
    "long opening header": (
        frames.frame(frames.OPEN, 1, struct.pack(">IB", 1, 1) + b"a" + bytes(65_537)),
        "header of 65537",
    ),
    "too many channels": (b"".join(_open_frame(number) for number in range(1, 601, 2)), "allowed at once"),
    "beyond credit": (ONE + frames.frame(frames.DATA, 1, bytes(262_133)), "beyond its credit of 262144"),
    "WINDOW 0": (ONE + frames.frame(frames.WINDOW, 1, window_frame(0)), "grants 0"),
    "WINDOW 2^31": (ONE + frames.frame(frames.WINDOW, 1, window_frame(2**31)), "grants 2147483648"),
    "WINDOW sum": (ONE + frames.frame(frames.WINDOW, 1, window_frame(2**31 - 1)), "to 2147487743"),
    "cut WINDOW": (ONE + frames.frame(frames.WINDOW, 1, b"abc"), "WINDOW of 3 bytes"),
    "DATA never opened": (frames.frame(frames.DATA, 7, b"x"), "not open"),
    "WINDOW never opened": (frames.frame(frames.WINDOW, 7, window_frame(1)), "never opened"),
    "RESET of an unused number of ours": (frames.frame(frames.RESET, 4, bytes(2)), "never opened"),
    "DATA after EOF": (ONE + frames.frame(frames.EOF, 1) + frames.frame(frames.DATA, 1, b"x"), "not open"),
    "EOF with content": (ONE + frames.frame(frames.EOF, 1, b"x"), "EOF with content"),
    "empty DATA": (ONE + frames.frame(frames.DATA, 1), "DATA without bytes"),
    "empty piece": (ONE + frames.frame(frames.MSG, 1, b"", frames.MORE), "MSG without bytes"),
    "broken message": (
        ONE + frames.frame(frames.MSG, 1, b"x", frames.MORE) + frames.frame(frames.DATA, 1, b"x"),
        "breaks off a message",
    ),
    "EOF in a message": (ONE + frames.frame(frames.MSG, 1, b"x", frames.MORE) + frames.frame(frames.EOF, 1), "within"),
    "MORE and END": (ONE + frames.frame(frames.MSG, 1, b"x", frames.MORE | frames.END), "breaks off a message"),
    "ACCEPT of one's own": (ONE + frames.frame(frames.ACCEPT, 1), "waits for none"),
    "REJECT of one's own": (ONE + frames.frame(frames.REJECT, 1, bytes(2)), "waits for no answer"),
    "long signal": (ONE + frames.frame(frames.SIGNAL, 1, bytes(257)), "SIGNAL of 257"),
    "long reason": (ONE + frames.frame(frames.RESET, 1, bytes(4099)), "RESET of 4099"),
    "short reason": (frames.frame(frames.GOAWAY, 0, b"x"), "GOAWAY of 1"),
    "short PING": (frames.frame(frames.PING, 0, b"x"), "PING of 1"),
    "PONG unasked": (frames.frame(frames.PONG, 0, bytes(8)), "PONG without its PING"),
}


@pytest.mark.parametrize("name", ABUSES)
def test_a_broken_rule_is_named_and_ends_the_link_without_growth(name: str) -> None:
    """Promise 16."""
    data, rule = ABUSES[name]
    wire = greeted(near=False)
    tracemalloc.start()
    try:
        *_, last = wire.receive(data, 0.0)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last.kind == frames.CLOSED
    assert rule in last.text
    assert wire.closed
    assert grown < 1024 * 1024
    assert wire.receive(ONE, 0.0) == []
    farewell = b"".join(wire.take(0.0))
    assert farewell[4] == frames.GOAWAY
    assert rule.encode() in farewell
    assert wire.take(0.0) == []


@pytest.mark.parametrize(
    ("greeting", "rule"),
    [
        (ONE, "OPEN before HELLO"),
        (frames.frame(frames.HELLO, 0, b"short"), "HELLO of 5 bytes"),
        (frames.frame(frames.HELLO, 0, struct.pack(">4sHHII", b"AiRw", 2, 0, SMALL, 1)), "version 2"),
        (frames.frame(frames.HELLO, 0, struct.pack(">4sHHII", b"HTTP", 1, 0, SMALL, 1)), "HTTP"),
        (frames.frame(frames.HELLO, 0, struct.pack(">4sHHII", b"AiRw", 1, 0, 10, 1)), "windows of 10 bytes"),
        (b"Welcome to this host!\n", "unknown type"),
    ],
)
def test_a_wrong_greeting_ends_the_link(greeting: bytes, rule: str) -> None:
    """Promise 16."""
    wire = Wire(Limits(), near=True)
    (last,) = wire.receive(greeting, 0.0)
    assert last.kind == frames.CLOSED
    assert rule in last.text


def test_10_000_opens_and_resets_in_a_second_break_the_rate_limit_without_growth() -> None:
    """Promise 23."""
    wire = greeted(near=False)
    tracemalloc.start()
    try:
        events: list[Event] = []
        for count in range(10_000):
            number = 2 * count + 1
            events = wire.receive(_open_frame(number) + frames.frame(frames.RESET, number, bytes(2)), count / 10_000)
            wire.take(0.0)
            if wire.closed:
                break
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert events[-1].kind == frames.CLOSED
    assert "rate limit" in events[-1].text
    assert count > 4_000
    assert grown < 256 * 1024


@pytest.mark.parametrize("kind", [frames.PING, frames.WINDOW, frames.SIGNAL])
def test_a_flood_of_control_frames_ends_the_link_quickly(kind: int) -> None:
    """Promise 24: within 10,000 frames and a tenth of a second of CPU."""
    wire = greeted(near=False)
    wire.receive(ONE, 0.0)
    payload = {frames.PING: bytes(8), frames.WINDOW: window_frame(1), frames.SIGNAL: b"x"}[kind]
    flood = frames.frame(kind, 0 if kind == frames.PING else 1, payload) * 10_000
    before = time.process_time()
    *_, last = wire.receive(flood, 0.0)
    assert time.process_time() - before < 0.1
    assert last.kind == frames.CLOSED
    assert "rate limit" in last.text


def test_whoever_asks_and_does_not_read_is_cut_off() -> None:
    """Promise 24: pings within the rate pile up answers that nobody takes."""
    wire = greeted(near=False, max_owed=100)
    said: list[Event] = []
    for second in range(12):
        said += wire.receive(frames.frame(frames.PING, 0, bytes(8)) * 10, float(second))
    assert "not read" in said[-1].text


def test_empty_messages_are_bounded_by_credit() -> None:
    """Promise 24: a header takes credit, so a flood of nothing ends as well."""
    wire = greeted(near=False)
    flood = ONE + frames.frame(frames.MSG, 1) * 30_000
    events = wire.receive(flood, 0.0)
    assert "beyond its credit" in events[-1].text
    assert len(events) < 262_144 / 12 + 3


def _conversation() -> bytes:
    """What a lively near end sends."""
    ends = Ends(window=65_536)
    sent = bytearray(frames.hello(Limits()))
    chosen = random.Random(5)
    for turn in range(12):
        number = ends.near.open("echo", bytes(turn))
        ends.near.send(number, chosen.randbytes(chosen.randrange(1, 3000)))
        ends.near.send_message(number, chosen.randbytes(chosen.randrange(0, 70_000)), end=turn % 3 == 0)
        ends.near.signal(number, b"WINCH")
        ends.near.ping(0.0)
        if turn % 4 == 1:
            ends.near.reset(number, 1, "enough")
        sent += drain(ends.near)
    ends.near.goaway(0, "bye")
    return bytes(sent + drain(ends.near))


CONVERSATION = _conversation()
BROKEN = CONVERSATION[:-20] + b"\xff" * 40


def events_of(data: bytes, cuts: list[int]) -> list[Event]:
    wire = Wire(Limits(), near=False)
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        events += wire.receive(data[start:end], 0.0)
    return events


@given(st.lists(st.integers(0, len(CONVERSATION))).map(sorted), st.sampled_from([CONVERSATION, BROKEN]))
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int], data: bytes) -> None:
    """Promise 14."""
    assert events_of(data, cuts) == events_of(data, [])


def test_one_byte_at_a_time_gives_the_same_events() -> None:
    """Promise 14."""
    assert events_of(CONVERSATION, list(range(1, len(CONVERSATION)))) == events_of(CONVERSATION, [])


def test_the_dump_in_the_docs_is_what_is_sent() -> None:
    page = Path(__file__).parents[3] / "docs" / "explanation" / "wire.md"
    dump = page.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    shown = [bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2,}\b", line[:72]))) for line in dump.splitlines()]
    near = Wire(Limits(), near=True)
    far = Wire(Limits(window=2**20, max_channels=4096), near=False)
    sent = [drain(near), drain(far)]
    far.receive(sent[0], 0.0)
    near.receive(sent[1], 0.0)
    number = near.open("echo", window=2**20)
    near.send_message(number, b"hi", end=True)
    sent.append(drain(near))
    far.receive(sent[2], 0.0)
    far.accept(number)
    far.send_message(number, b"hi")
    far.eof(number)
    assert b"".join([*sent, drain(far)]) == b"".join(shown)


def test_the_wire_raises_only_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule's own failure would not be hidden as the other side's."""
    wire = greeted(near=False)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(wire._rules, frames.OPEN, fail)
    with pytest.raises(ZeroDivisionError):
        wire.receive(ONE, 0.0)
