import asyncio
import os
import time

from tests.pace import in_time

from aioremote.cli.outlet import Outlet


async def test_a_reader_that_does_not_read_holds_back_but_never_blocks_the_loop() -> None:
    reader, writer = os.pipe()
    failures: list[OSError] = []
    outlet = Outlet(writer, failures.append)
    began = time.monotonic()
    for _ in range(64):
        outlet.put(b"x" * 65536)
    assert in_time(time.monotonic() - began, 1)
    assert outlet.full
    room = asyncio.Event()
    outlet.when_room(room.set)
    assert not room.is_set()
    read = await asyncio.to_thread(_drain, reader, 64 * 65536)
    await room.wait()
    await outlet.drain()
    assert read == 64 * 65536
    assert failures == []
    os.close(reader)
    os.close(writer)


def _drain(descriptor: int, count: int) -> int:
    total = 0
    while total < count:
        total += len(os.read(descriptor, 65536))
    return total


async def test_bytes_come_in_the_order_in_which_they_were_put() -> None:
    reader, writer = os.pipe()
    outlet = Outlet(writer, lambda error: None)
    for number in range(1000):
        outlet.put(b"%d\n" % number)
    await outlet.drain()
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == b"".join(b"%d\n" % number for number in range(1000))


async def test_a_closed_reader_is_told_of_once_and_the_rest_is_dropped() -> None:
    """Promise 113."""
    reader, writer = os.pipe()
    os.close(reader)
    failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
    outlet = Outlet(writer, failed.set_result)
    outlet.put(b"x" * 1_000_000)
    assert isinstance(await failed, BrokenPipeError)
    outlet.put(b"more")
    await outlet.drain()
    assert not outlet.full
    os.close(writer)


async def test_a_descriptor_made_non_blocking_by_others_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outlet = Outlet(writer, lambda error: None)
    outlet.put(b"x" * 1_000_000)
    assert await asyncio.to_thread(_drain, reader, 1_000_000) == 1_000_000
    await outlet.drain()
    os.close(reader)
    os.close(writer)


async def test_draining_ends_after_its_time_when_nobody_reads() -> None:
    """Promise 93: Ctrl-C does not wait for a pager that nobody scrolls."""
    reader, writer = os.pipe()
    failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
    outlet = Outlet(writer, failed.set_result)
    outlet.put(b"x" * 1_000_000)
    began = time.monotonic()
    await outlet.drain(0.1)
    assert in_time(time.monotonic() - began, 1)
    os.close(reader)
    assert isinstance(await failed, BrokenPipeError)  # before its number is somebody else's
    os.close(writer)
