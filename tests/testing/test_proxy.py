import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from tests.pace import in_time

from aioremote.testing.proxy import Direction, TcpProxy


class Peer:
    """A server that echoes, and remembers how its connections ended."""

    def __init__(self) -> None:
        self.port = 0
        self.ends: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            self.ends.put_nowait("end")
            writer.write(b"bye")
        except OSError:
            self.ends.put_nowait("reset")
        finally:
            writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    async with server:
        yield peer


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def write_for(writer: asyncio.StreamWriter, seconds: float) -> None:
    """Write 64 MiB, more than the buffers of the kernel and of a proxy; TimeoutError when that is not taken in time."""
    async with asyncio.timeout(seconds):
        for _ in range(64):
            writer.write(bytes(1024 * 1024))
            await writer.drain()


async def test_bytes_pass_both_ways_and_are_counted(peer: Peer) -> None:
    data = bytes(range(256)) * 4096
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        async with asyncio.TaskGroup() as group:
            echo = group.create_task(reader.readexactly(len(data)))
            writer.write(data)
            await writer.drain()
        assert echo.result() == data
        assert (link.accepted, link.active) == (1, 1)
        assert (link.bytes_sent, link.bytes_received) == (len(data), len(data))


async def test_the_end_of_one_direction_leaves_the_other_open(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port, delay=0.001) as link, client(link.port) as (reader, writer):
        writer.write(b"last words, ")
        writer.write_eof()
        assert await reader.read() == b"last words, bye"
        assert await peer.ends.get() == "end"


async def test_a_reset_of_the_client_reaches_the_target(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        assert await peer.ends.get() == "reset"


async def test_a_round_trip_takes_the_delay_twice(peer: Peer) -> None:
    loop = asyncio.get_running_loop()
    async with TcpProxy("127.0.0.1", peer.port, delay=0.02) as link, client(link.port) as (reader, writer):
        trips = []
        for _ in range(5):
            start = loop.time()
            writer.write(b"x")
            await reader.readexactly(1)
            trips.append(loop.time() - start)
    assert 0.039 < min(trips) < 0.045


async def test_messages_under_way_do_not_wait_for_each_other(peer: Peer) -> None:
    """Fifty messages sent at once take one round trip, not fifty."""
    loop = asyncio.get_running_loop()
    async with TcpProxy("127.0.0.1", peer.port, delay=0.05) as link, client(link.port) as (reader, writer):
        start = loop.time()
        for _ in range(50):
            writer.write(b"x")
            await asyncio.sleep(0)
        await reader.readexactly(50)
    assert 0.099 < loop.time() - start < 0.3


async def test_the_rate_bounds_all_connections_together(peer: Peer) -> None:
    loop = asyncio.get_running_loop()
    async with (
        TcpProxy("127.0.0.1", peer.port, rate_bytes=1e6) as link,
        client(link.port) as one,
        client(link.port) as two,
    ):
        start = loop.time()
        async with asyncio.TaskGroup() as group:
            for reader, writer in (one, two):
                writer.write(bytes(100_000))
                group.create_task(reader.readexactly(100_000))
        elapsed = loop.time() - start
    assert elapsed >= 0.2
    assert in_time(elapsed, 0.6)


async def test_a_full_buffer_holds_the_sender_back(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port, buffer_bytes=65536) as link, client(link.port) as (_reader, writer):
        link.freeze()
        writer.transport.set_write_buffer_limits(0)
        with pytest.raises(TimeoutError):
            await write_for(writer, 0.5)
        writer.transport.abort()


async def test_freeze_is_a_black_hole_until_the_thaw(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        link.freeze()
        assert link.frozen
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        async with client(link.port) as (late, _):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await late.read(1)
            assert link.accepted == 2
        assert peer.ends.empty()
        link.thaw()
        assert await reader.readexactly(6) == b"during"


@pytest.mark.parametrize("frozen", [False, True])
async def test_cut_resets_both_sides_and_new_connections_are_served(peer: Peer, frozen: bool) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link:
        async with client(link.port) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            if frozen:
                link.freeze()
            link.cut()
            with pytest.raises(ConnectionResetError) as caught:
                await reader.read(1)
            assert caught.value.errno == errno.ECONNRESET
            assert await peer.ends.get() == "reset"
        link.thaw()
        async with client(link.port) as (reader, writer):
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"


async def test_cut_without_reset_is_an_orderly_end(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        link.cut(reset=False)
        assert await reader.read() == b""
        assert await peer.ends.get() == "end"


@pytest.mark.parametrize("count", [1, 1000, 100_000])
@pytest.mark.parametrize("direction", ["sent", "received"])
async def test_cut_after_lets_exactly_so_many_bytes_through(peer: Peer, direction: Direction, count: int) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        link.cut_after(count, direction)
        writer.write(bytes(200_000))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                received += data
        assert await peer.ends.get() == "reset"
        assert (link.bytes_sent if direction == "sent" else link.bytes_received) == 1 + count
        if direction == "received":
            assert len(received) == count


async def test_cut_after_nothing_cuts_at_once(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        link.cut_after(0, "received")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


async def test_accept_silently_says_nothing(peer: Peer) -> None:
    async with TcpProxy("127.0.0.1", peer.port) as link:
        link.accept_silently = True
        async with client(link.port) as (reader, writer):
            writer.write(b"hello?")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(1)
            assert (link.accepted, link.bytes_sent) == (1, 0)
        assert peer.ends.empty()


async def test_an_unreachable_target_is_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with TcpProxy("127.0.0.1", nobody.getsockname()[1]) as link, client(link.port) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)


async def test_both_ends_are_told_not_to_wait_for_more(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delayed small packet would count as the link's latency (FACTS 18)."""
    options = []
    original = asyncio.StreamWriter.get_extra_info

    def remember(writer: asyncio.StreamWriter, name: str, default: object = None) -> object:
        found = original(writer, name, default)
        options.append(found)
        return found

    monkeypatch.setattr(asyncio.StreamWriter, "get_extra_info", remember)
    async with TcpProxy("127.0.0.1", peer.port) as link, client(link.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        assert [found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for found in options] == [1, 1]


async def test_nothing_remains_after_the_block(peer: Peer) -> None:
    link = TcpProxy("127.0.0.1", peer.port, delay=10)
    async with link:
        connections = [await asyncio.open_connection("127.0.0.1", link.port) for _ in range(20)]
        for _, writer in connections:
            writer.write(b"x")
        link.freeze()
    assert link.active == 0
    for reader, writer in connections:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    await link.aclose()
    with pytest.raises(RuntimeError, match="does not listen"):
        link.port  # noqa: B018


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"rate_bytes": 0}, {"buffer_bytes": 0}])
def test_wrong_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TcpProxy("127.0.0.1", 1, **wrong)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["reset", "fin", "left"])
def test_a_connection_cut_in_full_flow_is_no_error_of_the_proxy(
    loop: Callable[[], asyncio.AbstractEventLoop], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut() -> None:
        peer = Peer()
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, TcpProxy("127.0.0.1", port) as link, client(link.port) as (_, writer):
            with contextlib.suppress(TimeoutError):
                await write_for(writer, 0.1)  # nobody reads the echo
            if how == "left":
                writer.transport.abort()
            else:
                link.cut(reset=how == "reset")
            async with asyncio.timeout(5):
                await peer.ends.get()

    with asyncio.Runner(loop_factory=loop) as runner:
        for _ in range(5):
            runner.run(cut())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
