"""The stream of packets, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote.outpost.far.packets import CALL, LARGE, RESULT, Oversized, Packets, packet


@given(
    sizes=st.lists(st.sampled_from([0, 1, 20, LARGE, LARGE + 1, 3 * LARGE]), max_size=6), step=st.integers(1, 200_000)
)
def test_packets_are_the_same_however_they_are_cut(sizes: list[int], step: int) -> None:
    step = max(step, sum(sizes) // 2000 + 1)
    sent = [(RESULT if size % 2 else CALL, number, bytes([number]) * size) for number, size in enumerate(sizes)]
    stream = b"".join(packet(kind, number, body) for kind, number, body in sent)
    packets = Packets(4 * LARGE)
    found = [item for at in range(0, len(stream), step) for item in packets.feed(stream[at : at + step])]
    assert [(kind, number, bytes(body)) for kind, number, body in found] == sent
    assert not packets.waits


def test_a_packet_that_claims_too_much_is_refused_by_its_head() -> None:
    """Promise 29: nothing is allocated by a length that is only claimed."""
    with pytest.raises(Oversized):
        Packets(100).feed(packet(CALL, 1, b"x" * 101)[:20])
