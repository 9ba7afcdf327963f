"""Turns of the loop for many who send at once."""

import asyncio
import gc
import weakref

from aioremote._core.turns import next_turn


async def test_few_at_once_and_everyone_in_the_end() -> None:
    """Whoever else is on the loop is heard between them."""
    passed: list[int] = []
    in_turn: list[int] = []

    async def send(number: int) -> None:
        for _ in range(3):
            await next_turn()
            passed.append(number)

    async def watch() -> None:
        while True:
            before = len(passed)
            await asyncio.sleep(0)
            in_turn.append(len(passed) - before)

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        senders = [group.create_task(send(number)) for number in range(50)]
        await asyncio.wait(senders)
        watcher.cancel()
    assert max(in_turn) <= 4
    assert sorted(passed) == sorted([*range(50)] * 3)
    assert {*passed[:54]} == {*range(50)}  # but for what goes at once, nobody twice before everyone once


async def test_who_is_cancelled_holds_nobody_up() -> None:
    passed: list[int] = []

    async def send(number: int) -> None:
        await next_turn()
        passed.append(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(number)) for number in range(30)]
        await asyncio.sleep(0)
        for task in tasks[5:20]:  # which wait
            task.cancel()
    assert passed == [*range(5), *range(20, 30)]


def test_a_loop_is_not_kept() -> None:
    async def once() -> "weakref.ref[asyncio.AbstractEventLoop]":
        await next_turn()
        return weakref.ref(asyncio.get_running_loop())

    known = asyncio.run(once())
    gc.collect()
    assert known() is None
