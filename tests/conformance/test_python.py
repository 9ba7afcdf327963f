"""Calling far Python over every kind of machine."""

import pytest
from tests.python import far_functions as far

from aioremote import Machine, RemoteException

pytestmark = pytest.mark.asyncio


async def test_a_function_is_called_and_raises_over_every_kind_of_machine(machine: Machine) -> None:
    """Promises 32 and 39; the outpost is launched over whatever starts processes."""
    assert await machine.python.call(far.add, 1, b=2) == 3
    data = bytes(range(256)) * 400
    assert await machine.python.call(far.give_back, data) == data
    with pytest.raises(FileNotFoundError) as caught:
        await machine.python.call(open, "/nonexistent/file")
    assert isinstance(caught.value, RemoteException)
    assert [number async for number in machine.python.stream(far.numbers, 20)] == list(range(20))
