"""A server that allows one session: no room for the guard, and still nothing survives its command."""

import asyncio
import time

import pytest
from tests.pace import in_time

from aioremote import CommandTimeout, HostKeys, SshMachine
from aioremote.testing.checks import marked_processes
from aioremote.testing.sshd import Sshd, TestUser

STUBBORN = "trap '' TERM HUP; (trap '' TERM; sleep 600) & echo up; sleep 600"


@pytest.mark.parametrize("login", ["root", "user"])
async def test_a_timeout_ends_the_tree_over_a_second_connection(aioremote_user: TestUser, login: str) -> None:
    mark = f"aioremote-mark-one-session-{login}"
    async with Sshd(max_sessions=1) as server:
        machine = SshMachine(
            server.host,
            port=server.port,
            user=None if login == "root" else aioremote_user.name,
            keyfile=server.keyfile,
            host_keys=HostKeys.strict(server.known_hosts),
            config=None,
        )
        async with machine:
            began = time.monotonic()
            with pytest.raises(CommandTimeout):
                await machine.shell(STUBBORN, env={"MARK": mark}, timeout=1.5)
            assert (await machine.run("echo", "next", timeout=20)).stdout == "next\n"
            assert in_time(time.monotonic() - began, 10)
            assert not marked_processes(mark)


async def test_200_commands_at_once_take_turns() -> None:
    """Promise 57, without an outpost: one after the other."""
    async with Sshd(max_sessions=1) as server:
        host_keys = HostKeys.strict(server.known_hosts)
        machine = SshMachine(server.host, port=server.port, keyfile=server.keyfile, host_keys=host_keys, config=None)
        async with machine, asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run("echo", number)) for number in range(200)]
            await asyncio.wait(tasks)
    assert [task.result().stdout for task in tasks] == [f"{number}\n" for number in range(200)]
