"""One outpost for calls and commands, where the transport has one."""

import asyncio

import pytest
from tests.transports.ssh.conftest import (
    MachineMaker,
    make,  # noqa: F401  # a fixture
)

from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def test_the_first_call_brings_up_what_then_runs_commands(make: MachineMaker) -> None:  # noqa: F811
    """With MaxSessions 1 too: calls and commands share the one session."""
    with Sshd(max_sessions=1) as server:
        async with make(server, outpost="auto") as machine:
            plain = (await machine.shell("ps -o ppid= -p $$")).stdout
            assert await machine.python.call(lambda n: n + 1, 1) == 2
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(machine.python.eval(f"{n} + 1")) for n in range(20)]
                runs = [group.create_task(machine.shell(f"echo {n}")) for n in range(20)]
            assert [call.result() for call in calls] == list(range(1, 21))
            assert [run.result().stdout for run in runs] == [f"{n}\n" for n in range(20)]
            through = (await machine.shell("ps -o ppid= -p $$")).stdout
            assert int(through) != int(plain)


async def test_an_interpreter_by_name_is_another_process(make: MachineMaker) -> None:  # noqa: F811
    async with make(outpost="auto") as machine:
        assert await machine.python.pid() != await machine.python(executable="python3").pid()
