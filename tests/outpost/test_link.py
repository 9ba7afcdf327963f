"""A link to a real outpost on this machine, on every Python of the floor."""

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from pathlib import Path

import anyio
import pytest
from tests.outpost.links import FLOOR, Reader, argv, linked, python_path, resident_bytes, started
from tests.pace import in_time

from aioremote.errors import BusyError, ClosedError, ConnectionLost, RemoteError
from aioremote.outpost.channel import Channel, ChannelReset
from aioremote.outpost.far import frames
from aioremote.outpost.far.handlers import UNKNOWN, Handler
from aioremote.outpost.link import Link
from aioremote.testing.checks import cancel_everywhere, no_leaks, until
from aioremote.transports.local import LocalTransport

GIB = 2**30
MIB = 2**20


@pytest.mark.parametrize("version", FLOOR)
async def test_each_python_of_the_floor_serves_a_link(version: str) -> None:
    async with linked(python_path(version)) as link:
        async with Channel(link, "echo", b"hello") as channel:
            assert await channel.accepted() == b"hello"
            await channel.send_message(bytes(3 * MIB))
            assert await channel.receive_message() == bytes(3 * MIB)
            channel.signal(b"INT")
            await channel.send(b"abc", end=True)
            assert await channel.receive() == b"abc"
            with pytest.raises(anyio.EndOfStream):
                await channel.receive()
        async with Channel(link, "source", str(5 * MIB).encode()) as channel:
            assert hashlib.sha256(await everything(channel)).hexdigest() == sha256(5 * MIB)
        async with Channel(link, "discard") as channel:
            await channel.send(pattern(5 * MIB), end=True)
            assert await channel.receive_message() == f"{5 * MIB} {sha256(5 * MIB)}".encode()
        assert 0 < await link.ping() < 5


def pattern(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def sha256(size: int) -> str:
    summed = hashlib.sha256()
    block = pattern(MIB)
    for _ in range(size // MIB):
        summed.update(block)
    return summed.hexdigest()


async def everything(channel: Channel) -> bytes:
    parts = []
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            parts.append(await channel.receive())
    return b"".join(parts)


async def test_a_goodbye_ends_the_far_process_in_order_and_leaves_nothing() -> None:
    async with no_leaks():
        transport = LocalTransport()
        far = await started(transport, argv())
        link = Link(far, host="there")
        await link.start(timeout=20)
        channel = Channel(link, "echo")
        await channel.accepted()
        reading = asyncio.get_running_loop().create_task(channel.receive())
        await asyncio.sleep(0)
        await link.aclose()
        await link.aclose()
        assert far.process.status is not None
        assert far.process.status.returncode == 0
        with pytest.raises(ClosedError):
            await reading
        with pytest.raises(ClosedError):
            Channel(link, "echo")
        with pytest.raises(ClosedError):
            await link.ping()
        assert link.state == "closed"
        await transport.aclose()


async def test_an_unknown_service_is_refused_and_the_link_stands() -> None:
    async with linked() as link:
        async with Channel(link, "nonsense") as channel:
            with pytest.raises(ChannelReset, match="no service 'nonsense'") as caught:
                await channel.receive()
            assert caught.value.refused
            assert caught.value.code == UNKNOWN
            with pytest.raises(ChannelReset):
                await channel.send(b"x")
        async with Channel(link, "source", b"no number") as channel:
            with pytest.raises(ChannelReset, match="ValueError"):
                await channel.receive()
        assert await link.ping() > 0


async def test_one_sender_and_one_reader_at_a_time() -> None:
    async with linked() as link, Channel(link, "discard", b"stall") as channel, asyncio.TaskGroup() as group:
        reading = group.create_task(channel.receive())
        sending = group.create_task(channel.send(bytes(4 * MIB)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await channel.receive()
        with pytest.raises(BusyError):
            await channel.send(b"x")
        reading.cancel()
        channel.signal(b"go on")
        await sending


async def test_messages_and_bytes_are_not_taken_for_each_other() -> None:
    async with linked() as link:
        async with Channel(link, "source", b"10") as channel:
            with pytest.raises(RemoteError, match="bytes came"):
                await channel.receive_message()
        async with Channel(link, "discard") as channel:
            channel.eof()
            with pytest.raises(RemoteError, match="message came"):
                await channel.receive()
        async with Channel(link, "echo") as channel:
            await channel.send_message(bytes(5000))
            with pytest.raises(RemoteError, match="more than 4096"):
                await channel.receive_message(max_bytes=4096)


async def test_what_a_handler_raises_ends_its_own_channel_only() -> None:
    class Broken(Handler):
        lost = ""

        def on_accept(self, header: bytes) -> None:
            raise ZeroDivisionError("on purpose")

        def on_lost(self, text: str) -> None:
            self.lost = text

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    async with linked() as link:
        broken = Broken()
        link.open("echo", broken)
        await until(lambda: broken.lost)
        assert "on purpose" in broken.lost
        assert await link.ping() > 0
    assert isinstance(reported[0], ZeroDivisionError)


async def test_cancelling_anywhere_leaves_a_link_that_serves() -> None:
    async with linked() as link:

        async def use() -> None:
            async with Channel(link, "echo") as channel:
                await channel.accepted()
                await channel.send_message(bytes(MIB))
                await channel.receive_message()
                await link.ping()

        async def check() -> None:
            async with Channel(link, "echo") as channel:
                await channel.send_message(b"well?")
                assert await channel.receive_message() == b"well?"

        assert await cancel_everywhere(use, check) > 3


async def test_cancelling_the_start_or_the_close_leaves_nothing() -> None:
    async with no_leaks():
        transport = LocalTransport()

        async def use() -> None:
            link = Link(await started(transport, argv()), host="there")
            try:
                await link.start(timeout=20)
            finally:
                await link.aclose()

        async def check() -> None:
            pass

        assert await cancel_everywhere(use, check) > 3
        await transport.aclose()


async def test_a_slow_consumer_holds_a_gibibyte_back_and_then_gets_it_all() -> None:
    """Promise 19, with a reader that looks only when the far end has long stopped."""
    async with linked() as link, Channel(link, "source", str(GIB).encode(), window=MIB) as channel:
        before = resident_bytes(os.getpid())
        await channel.accepted()
        await until(lambda: sum(len(piece) for piece, _ in channel._pieces) > MIB - 80_000)
        for _ in range(20):  # whatever the far end would still send has come when its answer has
            await link.ping()
        assert sum(len(piece) for piece, _ in channel._pieces) <= MIB
        assert resident_bytes(os.getpid()) - before < MIB + 2 * MIB
        summed = hashlib.sha256()
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                summed.update(await channel.receive())
        assert summed.hexdigest() == sha256(GIB)
        assert resident_bytes(os.getpid()) - before < MIB + 2 * MIB


async def test_a_far_end_that_does_not_read_holds_the_sender_back() -> None:
    """Promise 20: neither end keeps more than a window and its queue."""
    async with linked(far={"window": MIB}) as link, Channel(link, "discard", b"stall") as channel:
        await channel.accepted()
        pid = link._far.process.pid
        assert pid is not None
        before = resident_bytes(pid)
        block, sent = pattern(MIB), 0

        async def send_all() -> None:
            nonlocal sent
            while sent < 256 * MIB:
                await channel.send(block)
                sent += len(block)
            channel.eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            await until(lambda: link._wire.queued(channel.number) and not link._wire.waits())
            for _ in range(20):
                await link.ping()
            assert sent <= 3 * MIB
            assert resident_bytes(pid) - before < MIB + 2 * MIB
            channel.signal(b"go on")
        assert await channel.receive_message() == f"{256 * MIB} {sha256(256 * MIB)}".encode()
        assert resident_bytes(pid) - before < MIB + 2 * MIB


async def test_100_bulk_channels_share_fairly_and_control_stays_quick() -> None:
    """Promise 22."""
    async with linked() as link:
        readers = [Reader(link, "source", str(GIB).encode()) for _ in range(100)]
        await until(lambda: all(reader.got for reader in readers))
        start = [reader.got for reader in readers]
        trips = []
        while min(reader.got - first for reader, first in zip(readers, start, strict=True)) < 2 * MIB:
            trips.append(await link.ping())
        got = [reader.got - first for reader, first in zip(readers, start, strict=True)]
        share = sum(got) / len(got)
        assert max(got) < 1.2 * share
        assert min(got) > 0.8 * share
        assert in_time(sorted(trips)[int(len(trips) * 0.99)], 0.05)
        for reader in readers:
            link.reset(reader.number)


async def test_the_death_of_the_far_end_is_a_loss_for_every_channel() -> None:
    """Promise 74, the near half: ConnectionLost, never an end of the stream, with what the far end complained about."""
    async with linked() as link:
        channel = Channel(link, "echo")
        await channel.accepted()
        reader = Reader(link, "echo")
        far = link._far.process
        assert far.pid is not None
        os.kill(far.pid, signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="over") as caught:
            await channel.receive()
        assert caught.value.reason in ("closed", "reset")
        assert caught.value.outcome == "unknown"
        await reader.done.wait()
        assert reader.lost
        with pytest.raises(ConnectionLost) as caught:
            await link.ping()
        with pytest.raises(ConnectionLost) as caught:
            Channel(link, "echo")
        assert caught.value.outcome == "not_started"
        assert link.state == "lost"


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (b"Last login: yesterday\n", "unknown type"),
        (frames.hello(frames.Limits()) + frames.frame(frames.DATA, 2, b"x"), "DATA on channel 2, which is not open"),
        (frames.hello(frames.Limits()) + frames.frame(frames.GOAWAY, 0, frames.reason(1, "you erred")), "you erred"),
    ],
)
async def test_a_far_end_that_breaks_a_rule_is_let_go_with_the_rule_named(said: bytes, rule: str) -> None:
    """Promise 16: and another link on the same transport goes on."""
    transport = LocalTransport()
    code = f"import os, sys; os.write(1, {said!r}); sys.stdin.read()"
    hostile = Link(await started(transport, (b"python3", b"-c", code.encode())), host="there")
    good = Link(await started(transport, argv()), host="here")
    try:
        await good.start(timeout=20)
        with contextlib.suppress(ConnectionLost):
            await hostile.start(timeout=20)
        with pytest.raises(ConnectionLost, match=rule) as caught:
            await hostile.ping()
        assert caught.value.reason == "protocol"
        assert await good.ping() > 0
    finally:
        await hostile.aclose()
        await good.aclose()
        await transport.aclose()


async def test_a_far_end_that_opens_what_was_not_offered_is_refused() -> None:
    """Promise 71, the wire's part of it."""
    transport = LocalTransport()
    said = frames.hello(frames.Limits()) + frames.frame(frames.OPEN, 2, frames.opening("tcp", b"", 4096))
    code = f"import os; os.write(1, {said!r})\nwhile True: os.write(2, repr(os.read(0, 999)).encode())"
    far = await started(transport, (b"python3", b"-c", code.encode()))
    link = Link(far, host="there")
    try:
        await link.start(timeout=20)
        await until(lambda: "nothing here is called" in far.stderr.text)
        assert link.state == "up"
    finally:
        await far.process.aclose()
        await link.aclose()
        await transport.aclose()


async def test_what_never_greets_is_given_up_in_time() -> None:
    transport = LocalTransport()
    link = Link(await started(transport, (b"sleep", b"60")), host="there")
    with pytest.raises(TimeoutError):
        await link.start(timeout=0.1)
    await link.aclose()
    await transport.aclose()


async def test_the_outpost_ends_with_its_input() -> None:
    """Promise 73, the outpost's own part."""
    transport = LocalTransport()
    far = await started(transport, argv())
    await far.stdin.aclose()
    began = time.monotonic()
    status = await far.process.wait()
    assert in_time(time.monotonic() - began, 2)
    assert status.returncode == 0
    await transport.aclose()


async def test_a_far_end_may_open_what_is_offered(tmp_path: Path) -> None:
    class Heard(Handler):
        def __init__(self, link: Link, number: int, header: bytes) -> None:
            heard.append(header)
            link.accept(number)
            link.grant(number, 10)

        def on_message(self, data: bytes, more: bool) -> None:
            heard.append(data)

    heard: list[bytes] = []
    transport = LocalTransport()
    said = frames.hello(frames.Limits()) + frames.frame(frames.OPEN, 2, frames.opening("ear", b"pst", 4096))
    said += frames.frame(frames.MSG, 2, b"news")
    code = f"import os, sys; os.write(1, {said!r}); sys.stdin.read()"
    link = Link(await started(transport, (b"python3", b"-c", code.encode())), host="there", services={"ear": Heard})
    await link.start(timeout=20)
    await until(lambda: len(heard) == 2)
    assert heard == [b"pst", b"news"]
    link.abort()
    await link.aclose()
    await transport.aclose()
