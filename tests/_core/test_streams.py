"""Feeds, captures and line splitters: every byte once, in order, whatever the split, within bounds."""

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from aioremote._core.streams import CHUNK_BYTES, HIGH_WATER_BYTES, Capture, Feed, LineSplitter, pump
from aioremote.errors import BusyError, ConnectionLost

LOST = ConnectionLost("the link was lost", outcome="unknown")


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut `data` at the places given, in any order and beyond its end."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


async def read_pieces(feed: Feed, max_bytes: int = 65536) -> list[bytes]:
    pieces = []
    try:
        while True:
            pieces.append(await feed.receive(max_bytes))
    except anyio.EndOfStream:
        return pieces


async def waiting(feed: Feed) -> asyncio.Task[bytes]:
    """Return a task that waits in `receive`."""
    task = asyncio.get_running_loop().create_task(feed.receive())
    await asyncio.sleep(0)
    return task


# --- Feed: reading ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50))
def test_any_split_of_the_bytes_is_read_whole_and_in_order(data: bytes, cuts: list[int], max_bytes: int) -> None:
    async def run() -> None:
        feed = Feed()
        for piece in split(data, cuts):
            feed.feed(piece)
        feed.end()
        pieces = await read_pieces(feed, max_bytes)
        assert b"".join(pieces) == data
        assert all(1 <= len(piece) <= max_bytes for piece in pieces)

    asyncio.run(run())


async def test_a_reader_wakes_when_bytes_come() -> None:
    feed = Feed()
    reader = await waiting(feed)
    feed.feed(b"")
    await asyncio.sleep(0)
    assert not reader.done()
    feed.feed(b"now")
    assert await reader == b"now"


async def test_the_end_comes_after_the_last_byte_and_again() -> None:
    feed = Feed()
    feed.feed(b"last")
    feed.end()
    feed.end(LOST)
    assert await feed.receive() == b"last"
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await feed.receive()


async def test_a_feed_is_an_anyio_stream() -> None:
    feed = Feed()
    for piece in (b"a", b"b"):
        feed.feed(piece)
    feed.end()
    assert [piece async for piece in feed] == [b"a", b"b"]


async def test_an_end_with_an_error_raises_it_after_the_last_byte_and_again() -> None:
    feed = Feed()
    feed.feed(b"last")
    feed.end(LOST)
    assert await feed.receive() == b"last"
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="the link was lost"):
            await feed.receive()


@pytest.mark.parametrize(("error", "kind"), [(None, anyio.EndOfStream), (LOST, ConnectionLost)])
async def test_an_end_wakes_the_reader(error: Exception | None, kind: type[Exception]) -> None:
    feed = Feed()
    reader = await waiting(feed)
    feed.end(error)
    with pytest.raises(kind):
        await reader


async def test_a_cancelled_reader_loses_nothing() -> None:
    feed = Feed()
    reader = await waiting(feed)
    feed.feed(b"kept")
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    assert await feed.receive() == b"kept"


async def test_two_readers_are_one_too_many() -> None:
    feed = Feed()
    reader = await waiting(feed)
    with pytest.raises(BusyError):
        await feed.receive()
    with pytest.raises(BusyError):
        feed.divert(lambda data: None)
    feed.feed(b"first")
    assert await reader == b"first"


async def test_a_closed_feed_drops_everything_and_says_so() -> None:
    holds: list[bool] = []
    feed = Feed(holds.append)
    feed.feed(bytes(HIGH_WATER_BYTES + 1))
    await feed.aclose()
    await feed.aclose()
    assert holds == [True, False]
    feed.feed(bytes(2 * HIGH_WATER_BYTES))
    assert not feed.holding
    with pytest.raises(anyio.ClosedResourceError):
        await feed.receive()


async def test_closing_wakes_the_reader() -> None:
    feed = Feed()
    reader = await waiting(feed)
    await feed.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await reader


# --- Feed: diverting --------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.lists(st.integers(0, 200), max_size=10), st.integers(0, 11), st.booleans())
def test_divert_passes_what_waits_and_what_comes_and_then_the_end(
    data: bytes, cuts: list[int], at: int, lost: bool
) -> None:
    feed, taken, ends = Feed(), [], []
    pieces = split(data, cuts)
    for piece in pieces[:at]:
        feed.feed(piece)
    if at > len(pieces):
        feed.end(LOST if lost else None)
    feed.divert(taken.append, lambda: ends.append(b"".join(taken)))
    for piece in pieces[at:]:
        feed.feed(piece)
    feed.end(LOST if lost else None)
    feed.end()
    assert b"".join(taken) == data
    assert ends == [data]


async def test_a_diverted_feed_has_its_reader() -> None:
    feed = Feed()
    feed.divert(lambda data: None)
    with pytest.raises(BusyError):
        await feed.receive()
    with pytest.raises(BusyError):
        feed.divert(lambda data: None)


def test_diverting_lets_a_source_go_on_that_was_held_back() -> None:
    holds: list[bool] = []
    feed, taken = Feed(holds.append), bytearray()
    feed.feed(bytes(HIGH_WATER_BYTES + 1))
    assert holds == [True]
    feed.divert(taken.extend)
    assert holds == [True, False]
    assert len(taken) == HIGH_WATER_BYTES + 1
    feed.feed(bytes(HIGH_WATER_BYTES * 3))
    assert holds == [True, False]


def test_a_diverting_reader_holds_the_source_back_itself() -> None:
    holds: list[bool] = []
    feed = Feed(holds.append)
    feed.divert(lambda data: None)
    for held in (True, True, False, False, True):
        feed.set_hold(held)
    assert holds == [True, False, True]
    assert feed.holding


def test_a_reader_that_asks_for_a_hold_while_it_takes_what_waits_gets_it() -> None:
    """Else the source would flow on unbounded into a reader that is full from the start."""
    holds: list[bool] = []
    feed = Feed(holds.append)
    for _ in range(3):
        feed.feed(bytes(HIGH_WATER_BYTES))
    feed.divert(lambda data: feed.set_hold(True))
    assert feed.holding
    assert holds == [True]
    feed.set_hold(False)
    assert holds == [True, False]


def test_bytes_that_come_the_moment_a_source_is_let_go_come_in_order() -> None:
    """A transport may deliver from within the call that lets it go on."""
    taken = bytearray()
    late = [b"3"]

    def hold(held: bool) -> None:
        if not held and late:
            feed.feed(late.pop())

    feed = Feed(hold)
    feed.feed(b"1" * HIGH_WATER_BYTES)
    feed.feed(b"2")
    feed.divert(taken.extend)
    assert taken == b"1" * HIGH_WATER_BYTES + b"23"


# --- Feed: bounds -----------------------------------------------------------------------------------------------------


async def test_a_slow_reader_holds_the_source_back_above_256_kib_and_lets_go_at_half() -> None:
    assert HIGH_WATER_BYTES == 256 * 1024
    holds: list[bool] = []
    feed = Feed(holds.append)
    feed.feed(bytes(HIGH_WATER_BYTES))
    assert not feed.holding
    feed.feed(b"1")
    assert holds == [True]
    await feed.receive(HIGH_WATER_BYTES // 2)
    assert holds == [True]
    await feed.receive(1)
    assert holds == [True, False]


async def test_a_raised_limit_lets_more_wait_but_never_less() -> None:
    holds: list[bool] = []
    feed = Feed(holds.append)
    feed.feed(bytes(HIGH_WATER_BYTES + 1))
    feed.raise_limit(HIGH_WATER_BYTES * 4)
    assert holds == [True, False]
    feed.raise_limit(1)
    feed.feed(bytes(HIGH_WATER_BYTES * 3 - 1))
    assert holds == [True, False]
    feed.feed(b"1")
    assert holds == [True, False, True]


class FeedMachine(RuleBasedStateMachine):
    """A feed between a source that obeys `hold` and a reader, in any order of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed(self.hold)
        self.held = False
        self.sent = self.received = 0
        self.limit = HIGH_WATER_BYTES
        self.diverted = self.asked = False

    def hold(self, held: bool) -> None:
        assert held != self.held
        self.held = held

    @precondition(lambda self: not self.held)
    @rule(size=st.integers(0, HIGH_WATER_BYTES))
    def source_sends(self, size: int) -> None:
        self.sent += size
        self.feed.feed(bytes(size))

    @precondition(lambda self: not self.diverted and self.received < self.sent)
    @rule(size=st.integers(1, HIGH_WATER_BYTES))
    def reader_takes(self, size: int) -> None:
        try:
            self.feed.receive(size).send(None)
        except StopIteration as done:
            self.received += len(done.value)

    @precondition(lambda self: not self.diverted)
    @rule(asks=st.booleans())
    def reader_diverts(self, asks: bool) -> None:
        self.diverted = True

        def sink(data: bytes) -> None:
            self.received += len(data)
            if asks:
                self.asked = True
                self.feed.set_hold(True)

        self.feed.divert(sink)

    @precondition(lambda self: self.diverted)
    @rule(held=st.booleans())
    def reader_asks(self, held: bool) -> None:
        self.asked = held
        self.feed.set_hold(held)

    @rule(limit=st.integers(0, 4 * HIGH_WATER_BYTES))
    def limit_is_raised(self, limit: int) -> None:
        self.limit = max(self.limit, limit)
        self.feed.raise_limit(limit)

    @invariant()
    def nothing_is_lost_and_little_waits(self) -> None:
        waits = self.sent - self.received
        assert 0 <= waits <= self.limit + HIGH_WATER_BYTES
        assert self.feed.holding == self.held
        if self.diverted:
            assert waits == 0
            assert self.held == self.asked
        elif waits > self.limit:
            assert self.held
        elif waits <= self.limit // 2:
            assert not self.held


def test_a_feed_never_holds_without_need_nor_lets_go_without_room() -> None:
    run_state_machine_as_test(FeedMachine)


# --- Capture ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=20)), max_size=20),
    st.one_of(st.none(), st.integers(0, 100)),
)
def test_a_capture_keeps_each_stream_up_to_one_limit_for_all(
    pieces: list[tuple[int, bytes]], limit: int | None
) -> None:
    excesses: list[None] = []
    capture = Capture(2, limit, lambda: excesses.append(None))
    sinks = [capture.sink(0), capture.sink(1)]
    for index, piece in pieces:
        sinks[index](piece)
    values = [capture.value(0), capture.value(1)]
    whole = [b"".join(piece for index, piece in pieces if index == number) for number in range(2)]
    total = sum(map(len, whole))
    assert capture.exceeded == bool(excesses) == (limit is not None and total > limit)
    assert len(excesses) <= 1
    if capture.exceeded:
        assert sum(map(len, values)) == limit
        assert all(text.startswith(value) for text, value in zip(whole, values, strict=True))
    else:
        assert values == whole
    assert [capture.value(0), capture.value(1)] == values


def test_what_comes_after_the_excess_is_not_kept() -> None:
    capture = Capture(1, 4, lambda: None)
    take = capture.sink(0)
    take(b"abc")
    assert capture.value(0) == b"abc"
    assert not capture.exceeded
    take(b"def")
    take(b"x" * 1000)
    assert capture.value(0) == b"abcd"


# --- LineSplitter -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.sampled_from("ab\r\n\té€😀\x00\x85\u2028"), max_size=60)
CUTS = st.lists(st.integers(0, 300), max_size=30)


def lines_of(splitter: LineSplitter, pieces: Sequence[bytes]) -> list[str]:
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.finish()


def expected_lines(text: str, *, limit: int, strip_cr: bool) -> list[str]:
    """Say it in other words: cut at newlines, then each line into pieces, then off with the carriage return."""
    lines = []
    *ended, last = text.split("\n")
    for line in ended:
        pieces = re.findall(rf"(?s).{{1,{limit}}}", line) or [""]
        pieces[-1] = re.sub(r"\r\Z", "", pieces[-1]) if strip_cr else pieces[-1]
        lines += pieces
    return lines + re.findall(rf"(?s).{{1,{limit}}}", last)


@given(TEXT, CUTS, st.sampled_from([1, 2, 3, 7, 1000]), st.booleans(), st.sampled_from(["utf-8", "utf-16-le"]))
def test_any_split_of_the_bytes_gives_the_same_lines(
    text: str, cuts: list[int], limit: int, strip_cr: bool, encoding: str
) -> None:
    splitter = LineSplitter(encoding, "replace", limit_chars=limit, strip_cr=strip_cr)
    lines = lines_of(splitter, split(text.encode(encoding), cuts))
    assert lines == expected_lines(text, limit=limit, strip_cr=strip_cr)


@given(st.binary(max_size=60), CUTS, st.sampled_from([1, 2, 3, 1000]), st.sampled_from(["replace", "surrogateescape"]))
def test_any_split_of_bytes_that_are_no_text_gives_the_same_lines(
    data: bytes, cuts: list[int], limit: int, errors: str
) -> None:
    whole = lines_of(LineSplitter("utf-8", errors, limit_chars=limit), [data])
    assert lines_of(LineSplitter("utf-8", errors, limit_chars=limit), split(data, cuts)) == whole
    assert whole == expected_lines(data.decode("utf-8", errors), limit=limit, strip_cr=False)


def test_promise_129_lines_are_complete_at_once_and_keep_trailing_blanks() -> None:
    splitter = LineSplitter("utf-8", "replace")
    assert splitter.feed(b"one  \ntwo\t\n\nfo") == ["one  ", "two\t", ""]
    assert splitter.feed(b"ur") == []
    assert splitter.feed(b"\n") == ["four"]
    assert splitter.finish() == []


def test_a_last_line_without_newline_comes_at_the_end() -> None:
    splitter = LineSplitter("utf-8", "replace", strip_cr=True)
    assert splitter.feed(b"one\r\ntwo\r") == ["one"]
    assert splitter.finish() == ["two\r"]
    assert splitter.finish() == []


def test_a_character_in_pieces_is_one_character() -> None:
    splitter = LineSplitter("utf-8", "strict")
    assert [splitter.feed(bytes([byte])) for byte in "€\n".encode()] == [[], [], [], ["€"]]


def test_a_character_that_never_ends_is_told_at_the_end() -> None:
    splitter = LineSplitter("utf-8", "replace", limit_chars=3)
    assert splitter.feed(b"abc\xe2\x82") == []
    assert splitter.finish() == ["abc", "\ufffd"]
    strict = LineSplitter("utf-8", "strict")
    strict.feed(b"\xe2\x82")
    with pytest.raises(UnicodeDecodeError):
        strict.finish()


def test_a_line_without_end_is_given_in_pieces_of_the_limit() -> None:
    splitter = LineSplitter("utf-8", "replace", limit_chars=1000)
    lines = [line for _ in range(50) for line in splitter.feed(b"x" * 100)]
    assert [len(line) for line in lines] == [1000] * 4
    assert [len(line) for line in splitter.finish()] == [1000]


def test_an_unknown_encoding_is_told_at_once() -> None:
    with pytest.raises(LookupError):
        LineSplitter("no-such-encoding", "replace")


# --- pump -------------------------------------------------------------------------------------------------------------


class Target(anyio.abc.ByteSendStream):
    """Keeps what it is sent."""

    def __init__(self, room: int = 1000) -> None:
        self.data, self.largest, self.closed, self.room = bytearray(), 0, False, room

    async def send(self, item: bytes) -> None:
        if len(self.data) >= self.room * CHUNK_BYTES:
            raise anyio.BrokenResourceError
        self.largest = max(self.largest, len(item))
        self.data += item

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("close_target", [True, False])
async def test_a_pump_copies_all_in_chunks_and_passes_the_end_on(close_target: bool) -> None:
    feed, target = Feed(), Target()
    data = bytes(range(256)) * 2000
    feed.feed(data)
    feed.end()
    assert await pump(feed, target, close_target=close_target) == len(data)
    assert target.data == data
    assert target.largest <= CHUNK_BYTES
    assert target.closed == close_target


async def test_a_pump_reads_no_more_than_its_target_takes() -> None:
    feed, target = Feed(), Target(room=1)
    feed.feed(bytes(4 * CHUNK_BYTES))
    feed.end()
    with pytest.raises(anyio.BrokenResourceError):
        await pump(feed, target)
    assert target.closed
    assert len(b"".join(await read_pieces(feed))) == 2 * CHUNK_BYTES  # one chunk was sent, one was on its way


async def test_a_pump_whose_source_was_lost_closes_its_target_and_says_so() -> None:
    feed, target = Feed(), Target()
    feed.feed(b"some")
    feed.end(LOST)
    with pytest.raises(ConnectionLost):
        await pump(feed, target)
    assert target.data == b"some"
    assert target.closed
