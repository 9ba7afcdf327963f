"""A process that forks: the child has no part in the connections, and does them no harm."""

import pytest
from tests.forked import in_a_child
from tests.transports.ssh.conftest import MachineMaker

from aioremote import ForkedConnection, LocalMachine, Machine
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport

pytestmark = [
    pytest.mark.usefixtures("aioremote_no_leaks"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


async def check(machine: Machine, *, close: str) -> None:
    async def child() -> None:
        with pytest.raises(ForkedConnection, match="make a machine of your own"):
            await machine.run("echo", "child")
        with pytest.raises(ForkedConnection):
            await machine.ping()
        if close == "aclose":
            await machine.aclose()
            await machine.aclose()
        elif close == "abort":
            machine.abort()
        async with LocalMachine() as own:  # what it makes itself works
            assert (await own.run("echo", "own")).stdout == "own\n"

    async with machine.start("cat") as process:
        await process.stdin.send(b"before\n")
        assert await process.stdout.receive() == b"before\n"
        await in_a_child(child)
        await process.stdin.send(b"after\n")
        assert await process.stdout.receive() == b"after\n"
    assert (await machine.run("echo", "parent")).stdout == "parent\n"


@pytest.mark.parametrize("close", ["aclose", "abort", "nothing"])
@pytest.mark.parametrize("outpost", ["never", "auto", "always"])
async def test_a_forked_child_may_not_use_a_connection_nor_harm_it(
    make: MachineMaker, outpost: str, close: str
) -> None:
    """Promise 78: the parent's stream goes on, whatever the child does with its copy."""
    async with make(outpost=outpost) as machine:
        await check(machine, close=close)


@pytest.mark.parametrize("close", ["aclose", "abort", "nothing"])
async def test_nor_an_outpost_on_pipes(close: str) -> None:
    """Promise 78."""
    async with Machine(LinkedTransport(LocalTransport()), host="linked") as machine:
        await check(machine, close=close)
