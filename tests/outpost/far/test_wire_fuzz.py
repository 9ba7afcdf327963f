"""The wire under frames that a broken or hostile end may send. ``nox -s fuzz`` runs a million of them."""

import random

from hypothesis import given
from hypothesis import strategies as st

from aioremote.outpost.far import frames
from aioremote.outpost.far.frames import Event, Limits
from aioremote.outpost.far.wire import Wire

FRAMES_A_SEED = 200
EDGES = (0, 1, 2, 3, 4, 5, 12, 255, 256, 65_535, 65_536, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**32 - 1)


def plausible(chosen: random.Random) -> bytearray:
    """One frame that is nearly right."""
    kind = chosen.randrange(1, 14)
    number = 0 if kind in (1, 11, 12, 13) else chosen.randrange(1, 12)
    content = {
        frames.HELLO: frames.hello(Limits())[12:],
        frames.OPEN: frames.opening("echo", chosen.randbytes(5), chosen.choice(EDGES[:14])),
        frames.WINDOW: chosen.choice(EDGES).to_bytes(4, "big"),
        frames.PING: bytes(8),
        frames.PONG: chosen.randrange(1, 4).to_bytes(8, "big"),
    }.get(kind, chosen.randbytes(chosen.choice((0, 1, 2, 9, 300))))
    if kind == frames.EOF:
        content = b""
    if kind == frames.GOAWAY and chosen.random() < 0.9:
        kind, number, content = frames.DATA, 1, b"x"
    return bytearray(frames.frame(kind, number, content, chosen.choice((0, 0, 0, 1, 2))))


def mutated(chosen: random.Random, frame: bytearray) -> bytes:
    match chosen.randrange(10):
        case 0:
            frame[chosen.randrange(len(frame))] = chosen.randrange(256)
        case 1:
            frame[chosen.randrange(len(frame))] ^= 1 << chosen.randrange(8)
        case 2:
            frame[0:4] = chosen.choice(EDGES).to_bytes(4, "big")
        case 3:
            frame[8:12] = chosen.choice(EDGES).to_bytes(4, "big")
        case 4:
            del frame[chosen.randrange(len(frame)) :]
        case 5:
            frame += chosen.randbytes(chosen.randrange(1, 20))
        case _:
            pass
    return bytes(frame)


def prepared(near: bool) -> Wire:
    """An end in the middle of things."""
    wire = Wire(Limits(window=65_536, max_channels=4), near=near)
    wire.receive(frames.hello(Limits()), 0.0)
    wire.take(0.0)
    wire.send(wire.open("echo"), b"hello")
    wire.open("echo", end=True)
    wire.take(0.0)
    wire.ping(0.0)
    return wire


def answer(wire: Wire, event: Event, chosen: random.Random) -> None:
    """Do what a program at this end may do about an event."""
    if event.kind == frames.CLOSED:
        assert event.text
    elif event.kind in (frames.DATA, frames.MSG):
        wire.grant(event.channel, frames.cost(event.data))
    elif event.kind == frames.OPEN:
        match chosen.randrange(3):
            case 0:
                wire.accept(event.channel, b"yes")
            case 1:
                wire.reject(event.channel, 1, "no")
            case _:
                wire.send(event.channel, b"x", end=True)


@given(st.integers(0, 2**63), st.booleans())
def test_mutated_frames_only_ever_end_the_link_with_a_reason(seed: int, near: bool) -> None:
    """Promise 17: no exception, no hang, nothing kept; 200 frames an example."""
    chosen = random.Random(seed)
    wire = prepared(near)
    for count in range(FRAMES_A_SEED):
        for event in wire.receive(mutated(chosen, plausible(chosen)), count / 1000):
            answer(wire, event, chosen)
        assert sum(map(len, wire.take(count / 1000))) < 2**20
        if wire.over or wire._parser._held:
            wire = prepared(near)
