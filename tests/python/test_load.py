"""Many outposts at once, and one for a long time."""

import asyncio
import contextlib
import gc
import os
import time
from collections import Counter

import pytest
from tests.outpost.links import descriptors, resident_bytes, settled, workers_of
from tests.python import far_functions as far
from tests.transports.ssh.conftest import (
    MachineMaker,
    make,  # noqa: F401  # a fixture
)

from aioremote import CommandTimeout, Machine, RemoteException
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

OUTPOSTS, CALLS = 50, 200
WARM_SECONDS, SOAK_SECONDS = 15, 60


@pytest.mark.timeout(180)
async def test_fifty_outposts_serve_two_hundred_calls_each() -> None:
    """Promise 114: 10,000 calls without an error, 99 % of them within 0.1 s."""
    times: list[float] = []

    async def work(machine: Machine) -> None:
        for number in range(CALLS):
            began = time.perf_counter()
            assert await machine.python.call(far.add, number, 1) == number + 1
            times.append(time.perf_counter() - began)

    async with contextlib.AsyncExitStack() as stack:
        machines = [Machine(LinkedTransport(LocalTransport()), host=f"outpost{n}") for n in range(OUTPOSTS)]
        for machine in machines:
            stack.push_async_callback(machine.aclose)
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(machine.python.call(far.add, 0, 0))
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(work(machine))
        async with asyncio.TaskGroup() as group:  # at once, since each waits for its far processes
            for machine in machines:
                group.create_task(machine.aclose())
    assert len(times) == OUTPOSTS * CALLS
    assert sorted(times)[len(times) * 99 // 100] < 0.1


@pytest.mark.timeout(180)
async def test_a_minute_of_everything_leaves_nothing(make: MachineMaker) -> None:  # noqa: F811
    """Promise 115: memory and descriptors, near and in the outpost, are what they were when all was warm."""
    async with make(outpost="always") as machine:
        outpost = int((await machine.shell("ps -o ppid= -p $$")).stdout)

        def held() -> Counter[str]:
            return descriptors(os.getpid()) + descriptors(outpost, workers=workers_of(outpost))

        def memory() -> tuple[int, int]:
            gc.collect()
            return resident_bytes(os.getpid()), resident_bytes(outpost)

        async def some(until: float) -> int:
            rounds = 0
            while time.monotonic() < until:
                async with asyncio.TaskGroup() as group:
                    for number in range(8):
                        group.create_task(machine.python.call(far.add, number, 1))
                        group.create_task(machine.run("echo", number))
                assert [line.text async for line in machine.lines("seq", 100)][-1] == "100"
                assert len(await machine.python.call(far.give_back, bytes(300_000))) == 300_000
                with pytest.raises(ZeroDivisionError) as caught:
                    await machine.python.eval("1 / 0")
                assert isinstance(caught.value, RemoteException)
                with pytest.raises(CommandTimeout):
                    await machine.run("sleep", "60", timeout=0.01)
                rounds += 1
            return rounds

        began = time.monotonic()
        await some(began + WARM_SECONDS)
        before, (near, there) = await settled(held), memory()
        assert await some(began + SOAK_SECONDS) > 20
        await settled(held, most=before)
        near_after, there_after = memory()
        assert near_after - near < 2 * 2**20
        assert there_after - there < 2 * 2**20
