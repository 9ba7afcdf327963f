"""What a flood of lines costs; what lines are is in tests/conformance."""

import gc

from aioremote import Machine
from aioremote.testing.fakes import FakeTransport


async def test_a_million_bytes_of_lines_never_wake_the_garbage_collector() -> None:
    """A full collection holds the loop up for tens of milliseconds where much is loaded (benchmark: lines)."""
    count = 100_000
    machine = Machine(FakeTransport().on("log", stdout=b"some text\n" * count), host="fake")
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    got = 0
    async with machine.lines("log") as lines:
        async for _ in lines:
            got += 1
    assert got == count
    assert gc.get_stats()[0]["collections"] - before < 10  # one for each 700 lines, were they all kept
