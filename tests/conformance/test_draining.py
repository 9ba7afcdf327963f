"""What a program has written before its end is all there, however slow or late it is read."""

import asyncio
import time
from typing import Any

from aioremote import HostKeys, Machine, SshMachine
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser

BYTES = 1_100_000
STANDSTILL_SECONDS = 0.6  # longer than output is waited for that another process may hold open


def stand_still() -> None:
    end = time.monotonic() + STANDSTILL_SECONDS
    while time.monotonic() < end:
        pass


async def stand_still_often(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)
        stand_still()


async def test_a_loop_that_stands_still_loses_no_output(machine: Machine) -> None:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(machine.shell(f"sleep 1; head -c {BYTES} /dev/zero", timeout=60))
        await asyncio.sleep(0.7)
        group.create_task(stand_still_often(8))
    result = running.result()
    assert len(result.stdout_bytes) == BYTES
    assert not result.output_truncated


async def test_a_reader_that_pauses_loses_no_output(machine: Machine) -> None:
    async with machine.start("head", "-c", str(BYTES), "/dev/zero") as process:
        assert process.stdout is not None
        size = pauses = 0
        async for data in process.stdout:
            size += len(data)
            if size > pauses * BYTES // 4:
                pauses += 1
                await asyncio.sleep(STANDSTILL_SECONDS)
    assert size == BYTES


async def test_a_long_road_loses_no_output(aioremote_sshd: Sshd, aioremote_user: TestUser) -> None:
    """What is on its way when the program's end is told, for longer than output is waited for that others may hold."""
    server, user = aioremote_sshd, aioremote_user
    keys = HostKeys.pinned(server.host_key_fingerprint)
    login: dict[str, Any] = {"user": user.name, "keyfile": server.keyfile, "host_keys": keys, "config": None}
    async with (
        TcpProxy(server.host, server.port, delay=0.3) as road,
        SshMachine(server.host, port=road.port, outpost="never", **login) as machine,
    ):
        result = await machine.run("head", "-c", str(3 * BYTES), "/dev/zero", timeout=60)
        assert (len(result.stdout_bytes), result.output_truncated) == (3 * BYTES, False)
        started = await machine.shell("sleep 60 & echo started", timeout=20)
        assert (started.stdout, started.output_truncated) == ("started\n", True)
