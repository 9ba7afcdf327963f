"""Links over roads that are slow, narrow, silent or rekeyed, and ends that are stopped."""

import asyncio
import hashlib
import os
import signal
import statistics
import time

import pytest
from tests.outpost.links import Reader, Started, Tail, argv, linked, linked_through_proxy, started
from tests.pace import in_time

from aioremote import HostKeys, SshMachine
from aioremote.errors import ConnectionLost
from aioremote.outpost.channel import Channel
from aioremote.outpost.far import frames
from aioremote.outpost.link import Link
from aioremote.testing.checks import until
from aioremote.testing.sshd import Sshd
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec

MIB = 2**20
MB = 10**6
INTERVAL = 1.0  # a test that shares its cores is late by tenths of a second
COUNT = 3


async def silence_of(link: Link, began: float) -> tuple[float, ConnectionLost]:
    """Wait for a channel's loss; returns the seconds since `began` and the error."""
    with pytest.raises(ConnectionLost) as caught:
        async with Channel(link, "discard", b"stall") as channel:
            await channel.receive_message()
    return time.monotonic() - began, caught.value


async def test_a_black_hole_is_a_loss_within_the_keepalive_time_for_every_channel() -> None:
    """Promise 81; and promise 73: the far end, which hears nothing either, ends itself."""
    far = {"keepalive": INTERVAL, "keepalive_count": COUNT}
    async with linked_through_proxy(far=far, keepalive=INTERVAL, keepalive_count=COUNT) as (link, road):
        waiting = Reader(link, "discard", b"stall")
        await link.ping()
        end = link._far.process
        road.freeze()
        began = time.monotonic()
        took, error = await silence_of(link, began)
        assert error.reason == "keepalive"
        assert took > INTERVAL * (COUNT - 1)
        assert in_time(took, INTERVAL * COUNT * 1.1 + 0.05)
        await waiting.done.wait()
        assert f"nothing came for {INTERVAL * COUNT:g} s" in waiting.lost
        await end.wait()
        assert in_time(time.monotonic() - began, INTERVAL * COUNT + 2)


async def test_a_header_without_its_payload_is_judged_by_the_keepalive() -> None:
    """Promise 18."""
    said = frames.hello(frames.Limits()) + frames.frame(frames.OPEN, 2, bytes(1000))[:12]
    code = f"import os, sys; os.write(1, {said!r}); sys.stdin.read()"
    transport = LocalTransport()
    far = await started(transport, (b"python3", b"-c", code.encode()))
    link = Link(far, host="there", keepalive=INTERVAL, keepalive_count=COUNT)
    await link.start(timeout=20)
    took, error = await silence_of(link, time.monotonic())
    assert error.reason == "keepalive"
    assert in_time(took, INTERVAL * COUNT * 1.1 + 0.05)
    await link.aclose()
    await transport.aclose()


async def test_a_stopped_outpost_is_detected() -> None:
    """Promise 84."""
    async with linked(keepalive=INTERVAL, keepalive_count=COUNT) as link:
        await link.ping()
        pid = link._far.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        took, error = await silence_of(link, time.monotonic())
        assert error.reason == "keepalive"
        assert in_time(took, INTERVAL * COUNT * 1.1 + 0.05)
        os.kill(pid, signal.SIGCONT)


async def test_a_blocked_loop_does_not_take_its_own_silence_for_the_far_ends() -> None:
    """Promise 83, at a scale of seconds: more than twice the time after which a silent link is lost."""
    far = {"keepalive": 0.0}
    async with linked(far=far, keepalive=INTERVAL, keepalive_count=2) as link:
        await link.ping()
        for _ in range(2):
            time.sleep(INTERVAL * 2 * 2)
            await asyncio.sleep(INTERVAL / 2)
            assert link.state == "up"
        assert await link.ping() < INTERVAL


async def test_a_busy_far_machine_is_not_taken_for_a_dead_one() -> None:
    """Promise 82, the outpost's part: it computes nothing itself, and load only slows it."""
    burners = [await asyncio.create_subprocess_exec("python3", "-c", "while True: pass") for _ in range(10)]
    try:
        async with linked(keepalive=INTERVAL, keepalive_count=COUNT) as link:
            end = time.monotonic() + 2 * INTERVAL * COUNT
            while time.monotonic() < end:
                await asyncio.sleep(INTERVAL)
                assert link.state == "up"
    finally:
        for burner in burners:
            burner.kill()
            await burner.wait()


NARROW = {"delay": 0.005, "rate_bytes": 10 * MB, "buffer_bytes": MIB}


async def test_calls_stay_quick_beside_bulk_on_a_narrow_link() -> None:
    """Promise 21 on a real socket, where all share the processor: the median; test_flow.py has it exactly."""
    async with linked_through_proxy(proxy=NARROW) as (link, _):
        calls = Channel(link, "echo")
        idle = await latencies(calls, 20)
        reader = Reader(link, "source", str(1000 * MIB).encode())
        await until(lambda: reader.got > MIB)
        busy = await latencies(calls, 30)
        assert statistics.median(busy) < statistics.median(idle) + 0.05


async def test_calls_stay_quick_beside_bulk_towards_the_far_end() -> None:
    """Promise 21 on a real socket, the other way."""
    async with linked_through_proxy(proxy=NARROW) as (link, proxy):
        calls = Channel(link, "echo")
        idle = await latencies(calls, 20)
        bulk = Channel(link, "discard")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send_for_ever(bulk))
            await until(lambda: proxy.bytes_received > MIB)
            busy = await latencies(calls, 30)
            sending.cancel()
        assert statistics.median(busy) < statistics.median(idle) + 0.05


async def send_for_ever(channel: Channel) -> None:
    while True:
        await channel.send(bytes(MIB))


async def latencies(channel: Channel, count: int) -> list[float]:
    """Return the seconds of calls, one after another."""
    took = []
    for _ in range(count):
        began = time.monotonic()
        await channel.send_message(bytes(64))
        await channel.receive_message()
        took.append(time.monotonic() - began)
    return took


async def test_a_cap_grows_on_a_long_road_until_it_is_used_well() -> None:
    """40 ms a round trip, no rate: more than a start of 256 KiB a round trip (6.5 MB/s) allows."""
    async with linked_through_proxy(proxy={"delay": 0.02, "buffer_bytes": 64 * MIB}) as (link, _):
        channel = Channel(link, "source", str(40 * MIB).encode(), window=16 * MIB)
        began, got = time.monotonic(), 0
        while got < 40 * MIB:
            got += len(await channel.receive())
        assert got / (time.monotonic() - began) > 10 * MB


async def test_a_rekey_in_the_middle_of_a_transfer_changes_no_byte() -> None:
    """Promise 86: over a real sshd that rekeys after each MiB, both ways."""
    with Sshd(extra_config="RekeyLimit 1M") as server:
        machine = SshMachine(
            server.host,
            port=server.port,
            keyfile=server.keyfile,
            host_keys=HostKeys.strict(server.known_hosts),
            config=None,
        )
        async with machine:
            process = await machine.transport.start_process(ProcessSpec(argv()))
            await process.started()
            assert process.stdin is not None
            tail = Tail()
            assert process.stderr is not None
            process.stderr.divert(tail.feed)
            link = Link(Started(process, process.stdin, process.stdout, tail), host="there")
            await link.start(timeout=20)
            summed = hashlib.sha256()
            async with Channel(link, "source", str(8 * MIB).encode()) as source:
                got = 0
                while got < 8 * MIB:
                    piece = await source.receive()
                    summed.update(piece)
                    got += len(piece)
            async with Channel(link, "discard") as sink:
                for _ in range(8):
                    await sink.send(bytes(range(256)) * 4096)
                sink.eof()
                assert await sink.receive_message() == f"{8 * MIB} {summed.hexdigest()}".encode()
            await link.aclose()
