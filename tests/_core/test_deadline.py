"""One deadline for all phases of an operation."""

import asyncio
import functools
import math

import pytest

from aioremote._core.deadline import Deadline, Reminders, check_seconds
from aioremote.testing.checks import until


async def test_the_seconds_count_from_its_making() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    deadline = Deadline(5)
    assert deadline.seconds == 5
    assert deadline.at is not None
    assert before + 5 <= deadline.at <= loop.time() + 5
    left = deadline.left()
    assert left is not None
    assert 0 < left <= 5


async def test_what_is_left_is_never_negative() -> None:
    deadline = Deadline(0)
    await asyncio.sleep(0.001)
    assert deadline.left() == 0.0


def test_no_limit_needs_no_loop() -> None:
    deadline = Deadline()
    assert deadline.at is deadline.seconds is deadline.left() is None


async def test_its_scope_ends_at_the_deadline_whenever_it_is_entered() -> None:
    loop = asyncio.get_running_loop()
    deadline = Deadline(0.05)
    began = loop.time()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with deadline.scope() as scope:
                await asyncio.Event().wait()
        assert scope.expired()
    assert loop.time() - began < 1


async def test_a_scope_without_limit_never_ends() -> None:
    async with Deadline().scope() as scope:
        await asyncio.sleep(0.001)
    assert not scope.expired()
    assert scope.when() is None


async def test_infinity_is_a_long_time() -> None:
    async with Deadline(math.inf).scope():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("own", "other", "chosen"), [(None, None, None), (5, None, 5), (None, 3, 3), (5, 3, 3), (3, 5, 3)]
)
async def test_the_sooner_of_two(own: float | None, other: float | None, chosen: float | None) -> None:
    deadline = Deadline(own)
    sooner = deadline.sooner(other)
    assert sooner.seconds == chosen
    assert (sooner is deadline) == (chosen == own)


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf])
async def test_a_negative_time_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        Deadline(seconds)
    with pytest.raises(ValueError, match=str(seconds)):
        check_seconds(seconds)


def test_what_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="line_timeout='5': give a number of seconds"):
        check_seconds("5", "line_timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [None, 0, 0.5, 10**9, math.inf])
def test_other_times_are_fine(seconds: float | None) -> None:
    check_seconds(seconds)


async def test_reminders_come_in_order_and_not_to_who_is_removed() -> None:
    heard: list[str] = []
    calls = {name: functools.partial(heard.append, name) for name in ("first", "removed", "last")}
    reminders = Reminders(0.02)
    for call in calls.values():
        reminders.add(call)
    reminders.remove(calls["removed"])
    await until(lambda: len(heard) == 2)
    reminders.add(calls["first"])  # also after it has rung for the others
    await until(lambda: len(heard) == 3)
    assert heard == ["first", "last", "first"]
