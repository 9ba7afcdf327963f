"""Connections and listeners through an outpost: what is particular to that road. The rest is in tests/conformance."""

import asyncio
import contextlib
import errno
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketStream
from tests.outpost.links import FAR, FLOOR, Reader, python_path, resident_bytes, started
from tests.pace import in_time
from tests.transports.test_linked import here, over

from aioremote import ConnectionLost, Machine, TunnelError, TunnelRefused
from aioremote._core.splice import Spliceable
from aioremote._core.streams import StreamAttribute
from aioremote.outpost.channel import Channel, ChannelReset
from aioremote.outpost.link import Link
from aioremote.outpost.listeners import open_listener
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport
from aioremote.types import Capability, Endpoint

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

MIB = 1024 * 1024
Handler = Callable[[ByteStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, path: str = "") -> AsyncIterator[int]:
    listener = await (anyio.create_unix_listener(path) if path else anyio.create_tcp_listener(local_host="127.0.0.1"))
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handler)
        yield 0 if path else listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    """Send everything back, then say goodbye."""
    with contextlib.suppress(anyio.BrokenResourceError):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)
            await stream.send(b"bye")


async def read_all(stream: ByteStream) -> bytes:
    return b"".join([part async for part in stream])


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_all(stream))
        await stream.send(data)
        await stream.send_eof()
    return reading.result()


@contextlib.asynccontextmanager
async def listening(machine: Machine, handler: Handler, **where: object) -> AsyncIterator[Listener[ByteStream]]:
    async with await machine.open_listener(**where) as listener, anyio.create_task_group() as group:  # type: ignore[arg-type]
        group.start_soon(listener.serve, handler)
        yield listener
        group.cancel_scope.cancel()


def port_of(listener: Listener[ByteStream]) -> int:
    return listener.extra(SocketAttribute.local_port)


def reset(stream: ByteStream) -> None:
    """Close a plain connection with RST."""
    assert isinstance(stream, SocketStream)
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream._transport.abort()  # type: ignore[attr-defined]  # anyio has no such thing


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("version", FLOOR)
async def test_every_far_python_connects_and_listens(version: str, tmp_path: Path) -> None:
    """Promises 70, 72: the same on 3.6 to 3.13; ports and unix sockets, a name that has to be looked up."""
    data = os.urandom(300_000)
    async with here(python=python_path(version)) as (machine, _):
        for path in ("", str(tmp_path / "far")):
            async with serving(echo, path) as port:
                target = {"path": path} if path else {"host": "127.0.0.1", "port": port}
                async with await machine.open_connection(**target) as stream:  # type: ignore[arg-type]
                    assert await exchange(stream, data) == data + b"bye"
        async with listening(machine, echo) as listener:
            for host in ("127.0.0.1", "::1"):
                async with await anyio.connect_tcp(host, port_of(listener)) as client:
                    assert await exchange(client, data) == data + b"bye"
        path = str(tmp_path / "listener")
        async with listening(machine, echo, path=path):
            assert os.stat(path).st_mode & 0o777 == 0o600
            async with await anyio.connect_unix(path) as client:
                assert await exchange(client, data) == data + b"bye"
            with pytest.raises(TunnelError, match="in use"):
                await machine.open_listener(path=path)
        assert not os.path.exists(path)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            for host in ("127.0.0.1", "localhost", socket.gethostname()):
                with pytest.raises(TunnelRefused) as caught:
                    await machine.open_connection(host, unused.getsockname()[1])
                assert caught.value.errno == errno.ECONNREFUSED
        with pytest.raises(TunnelRefused) as caught:
            await machine.open_connection(path=path)
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(TunnelError, match="no-such-host"):
            await machine.open_connection("no-such-host.invalid", 80)
        with pytest.raises(TunnelError, match="no-such-host"):
            await machine.open_listener(host="no-such-host.invalid")


async def test_the_seam_and_its_attributes() -> None:
    """As the streams of ssh: spliced by tunnels, with anyio's attributes."""
    async with here() as (machine, _), serving(echo) as port:
        assert machine.transport.capabilities >= set(Capability) - {Capability.FILES}
        async with await machine.open_connection("127.0.0.1", port) as stream:
            assert isinstance(stream, Spliceable)
            assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)
            assert not stream.extra(StreamAttribute.readable)
            await stream.send(b"x")
            await until(lambda: stream.extra(StreamAttribute.readable))
        seen: list[object] = []

        async def look(client: ByteStream) -> None:
            seen.append(client.extra(SocketAttribute.remote_address))

        async with listening(machine, look) as listener:
            assert listener.extra(SocketAttribute.local_address) == ("localhost", port_of(listener))
            async with await anyio.connect_tcp("127.0.0.1", port_of(listener)) as client:
                assert await read_all(client) == b""
                own = client.extra(SocketAttribute.local_address)
        assert seen == [own[:2]]


async def test_a_far_side_that_half_closes_still_reads() -> None:
    """Promise 70: half-close in the other direction."""
    got: list[bytes] = []

    async def close_first(stream: ByteStream) -> None:
        await stream.send(b"all I have")
        await stream.send_eof()
        got.append(await read_all(stream))
        await stream.aclose()

    async with (
        here() as (machine, _),
        serving(close_first) as port,
        await machine.open_connection("127.0.0.1", port) as stream,
    ):
        assert await read_all(stream) == b"all I have"
        await stream.send(b"still mine" * 100_000)
        await stream.send_eof()
        await until(lambda: got)
    assert got == [b"still mine" * 100_000]


async def test_a_reset_of_the_far_socket_comes_after_its_bytes() -> None:
    """Promise 70: RST from the far side is no end of stream."""

    async def rude(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"y" * 1000)
        await stream.receive()
        reset(stream)

    async with (
        here() as (machine, _),
        serving(rude) as port,
        await machine.open_connection("127.0.0.1", port) as stream,
    ):
        await stream.send(b"x")
        assert await stream.receive() == b"y" * 1000
        await stream.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")


async def test_a_reset_of_the_near_socket_reaches_the_far_one() -> None:
    """Promise 70: RST from the near side, so that the peer takes no part for the whole."""
    ends: list[type[BaseException]] = []

    async def listen_for(stream: ByteStream) -> None:
        async with stream:
            try:
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                ends.append(type(error))

    async with here() as (machine, _), serving(listen_for) as port:
        async with machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
            client = await anyio.connect_tcp("127.0.0.1", tunnel.lport)
            await client.send(b"x")
            await until(lambda: tunnel.bytes_sent == 1)
            reset(client)
            await until(lambda: ends)
            await until(lambda: tunnel.active == 0)
        async with machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as client:
                await client.send(b"x")
            await until(lambda: len(ends) == 2)
    assert ends == [anyio.BrokenResourceError, anyio.EndOfStream]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_200_connections_at_once(*, reverse: bool) -> None:
    """Promise 70: all of them open before the first says anything; bytes exact, each its own."""

    async def one(stream: ByteStream, number: int) -> bool:
        data = hashlib.sha512(b"%d" % number).digest() * 500
        async with stream:
            return await exchange(stream, data) == data + b"bye"

    async with here() as (machine, _), serving(echo) as port:
        made = machine.tunnel(port, 0, lhost="127.0.0.1", reverse=True) if reverse else machine.tunnel(0, port)
        async with made as tunnel:
            place = tunnel.dport if reverse else tunnel.lport
            streams = [await anyio.connect_tcp("127.0.0.1", place) for _ in range(200)]
            await until(lambda: tunnel.active == 200)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(stream, number)) for number, stream in enumerate(streams)]
            assert all(task.result() for task in tasks)
            await until(lambda: tunnel.active == 0)
            assert tunnel.refused == 0


async def test_a_slow_reader_slows_nobody_else() -> None:
    """Promise 70: what it does not read stays within its own credit, near and far; the others go on at their pace."""
    asked: list[int] = []

    async def pour(stream: ByteStream) -> None:
        asked.append(1)
        with contextlib.suppress(anyio.BrokenResourceError):
            async with stream:
                while True:
                    await stream.send(b"x" * 65536)

    async with (
        here() as (machine, base),
        serving(pour) as pouring,
        serving(echo) as echoing,
        contextlib.AsyncExitStack() as slow,
    ):
        await machine.transport.connect()
        before = resident_bytes(os.getpid()), resident_bytes(base.outpost)
        for _ in range(8):
            stream = await slow.enter_async_context(await machine.open_connection("127.0.0.1", pouring))
            await stream.receive(1)
        data = os.urandom(4 * MIB)
        async with asyncio.timeout(5), await machine.open_connection("127.0.0.1", echoing) as stream:
            assert await exchange(stream, data) == data + b"bye"
        assert resident_bytes(base.outpost) - before[1] < 8 * 2 * MIB
        assert resident_bytes(os.getpid()) - before[0] < 64 * MIB


async def test_a_far_side_that_does_not_read_holds_us_back() -> None:
    """Promise 70."""
    go = asyncio.Event()
    got: list[int] = []

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        got.append(len(await reader.read()))
        writer.close()

    async with here() as (machine, base), await asyncio.start_server(dawdle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with await machine.open_connection("127.0.0.1", port) as stream:
            before = resident_bytes(base.outpost)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 64 * MIB:
                    async with asyncio.timeout(0.5):
                        await stream.send(bytes(65536))
                    sent += 65536
            assert sent < 32 * MIB
            assert resident_bytes(base.outpost) - before < 4 * MIB
            go.set()
            await stream.send_eof()
            await until(lambda: got)
    assert got == [sent + 65536]  # what was cancelled had been queued whole


async def test_what_was_sent_arrives_whole_after_a_close() -> None:
    """Though the far side is slow, and nobody waits for it."""
    go = asyncio.Event()
    got: list[int] = []

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        got.append(len(await reader.read()))
        writer.close()

    async with here() as (machine, _), await asyncio.start_server(dawdle, "127.0.0.1", 0) as server:
        stream = await machine.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        assert isinstance(stream, Spliceable)
        stream.put(bytes(12 * MIB))
        await anyio.aclose_forcefully(stream)
        go.set()
        await until(lambda: got)
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
    assert got == [12 * MIB]


async def test_a_far_side_that_sends_on_after_our_close_learns_of_it() -> None:
    broken = asyncio.Event()

    async def pour(stream: ByteStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b"x" * 65536)
            broken.set()

    async with here() as (machine, _), serving(pour) as port:
        for half_closed in (False, True):
            broken.clear()
            stream = await machine.open_connection("127.0.0.1", port)
            await stream.receive()
            if half_closed:
                await stream.send_eof()
            await stream.aclose()
            async with asyncio.timeout(5):
                await broken.wait()


async def test_thousands_of_refused_and_reset_connections_are_no_flood() -> None:
    """Promise 70: more of each than the link takes RESET and SIGNAL frames at once."""

    async def refused(machine: Machine, port: int) -> None:
        with pytest.raises(TunnelRefused):
            await machine.open_connection("127.0.0.1", port)

    async def broken_off(machine: Machine, port: int) -> None:
        stream = await machine.open_connection("127.0.0.1", port)
        assert isinstance(stream, Spliceable)
        stream.abort()

    async def half_closed(machine: Machine, port: int) -> None:
        async with await machine.open_connection("127.0.0.1", port) as stream:
            await stream.send_eof()

    async with here() as (machine, _), serving(echo) as port:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            for one, place in ((refused, unused.getsockname()[1]), (broken_off, port), (half_closed, port)):

                async def many(one: Callable[..., Awaitable[None]] = one, place: int = place) -> None:
                    for _ in range(200):
                        await one(machine, place)

                async with asyncio.TaskGroup() as group:
                    for _ in range(32):
                        group.create_task(many())
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


# --- listeners --------------------------------------------------------------------------------------------------------


async def test_a_listener_is_on_loopback_and_gone_soon_after_it_is_closed() -> None:
    """Promise 71, and part 5: within 0.5 s, though its connections are open."""
    async with here() as (machine, _), serving(echo) as port:
        tunnel = await machine.tunnel(port, 0, lhost="127.0.0.1", reverse=True).open()
        taken = tunnel.dport
        places = [
            line.split()[3] for line in (await machine.run("ss", "-Hltn", f"sport = :{taken}")).stdout.splitlines()
        ]
        assert sorted(places) == [f"127.0.0.1:{taken}", f"[::1]:{taken}"]
        with pytest.raises(TunnelError, match="in use"):
            await machine.open_listener(taken, host="127.0.0.1")
        clients = [await anyio.connect_tcp("127.0.0.1", taken) for _ in range(5)]
        for client in clients:
            await client.send(b"x")
            assert await client.receive() == b"x"
        began = time.monotonic()
        await tunnel.aclose()
        await until(lambda: is_free(taken))
        assert in_time(time.monotonic() - began, 0.5)
        for client in clients:
            await anyio.aclose_forcefully(client)


async def test_clients_that_nobody_serves_are_bounded_and_let_go() -> None:
    async with here() as (machine, _):
        async with await machine.open_listener() as listener:
            clients = [await anyio.connect_tcp("127.0.0.1", port_of(listener)) for _ in range(150)]
            ended = [asyncio.get_running_loop().create_task(end_of(client)) for client in clients]
            await until(lambda: sum(task.done() for task in ended) == 150 - 128)
        await asyncio.wait(ended)
        for client in clients:
            await anyio.aclose_forcefully(client)


async def end_of(client: ByteStream) -> bool:
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        await client.receive()
    return True


ROGUE = f"""
import sys
sys.path.insert(0, {str(FAR.parent)!r})
from far.handlers import Handler
from far.serve import main
from far.services import SERVICES
from far.sockets import Connection

class Tell(Handler):
    def __init__(self, outpost, number):
        self.outpost, self.number = outpost, number
    def on_accept(self, header):
        self.outpost.send_message(self.number, b"accepted", end=True)
    def on_reset(self, code, text, refused):
        self.outpost.send_message(self.number, b"refused" if refused else b"reset", end=True)

def rogue(outpost, number, header):
    outpost.open("accepted", header, Tell(outpost, number))
    return Handler()

SERVICES["rogue"] = rogue
main(0, 1, 2, '', {{}})
"""


async def test_the_far_end_opens_nothing_that_was_not_asked_for() -> None:
    """Promise 71: not before there is a listener, not for another number, not with rubbish, not after its end."""
    transport = LocalTransport()
    link = Link(await started(transport, (sys.executable.encode(), b"-B", b"-c", ROGUE.encode())), host="there")
    try:
        await link.start(timeout=20)

        async def attempt(header: bytes) -> bytes:
            async with Channel(link, "rogue", header) as channel:
                return await channel.receive_message()

        assert await attempt(b"1 5 127.0.0.1") == b"refused"
        listener = await open_listener(link, Endpoint("127.0.0.1"))
        name = b"%d" % listener._number  # type: ignore[attr-defined]
        for header in (b"", b"0", b"999 1 x", name + b"9 1 x", b"\xff\xfe", b" ", b"x" * 60000):
            assert await attempt(header) == b"refused"
        assert await attempt(name + b" 99999999999999999 \xff") == b"accepted"
        await listener.aclose()
        assert await attempt(name + b" 5 127.0.0.1") == b"refused"
        reader = Reader(link, "echo", end=True)
        await reader.done.wait()
        assert not reader.lost
        with pytest.raises(ChannelReset):
            await Channel(link, "no-such-service").receive()
    finally:
        await link.aclose()
        await transport.aclose()


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_all_is_gone_with_the_outpost() -> None:
    """Promise 131: listeners, connections, tunnels; nobody takes a part for the whole."""
    async with here() as (machine, base), serving(echo) as port:
        back = await machine.open_listener(host="127.0.0.1")
        serve = asyncio.get_running_loop().create_task(back.serve(echo))
        tunnel = await machine.tunnel(0, port, dhost="127.0.0.1").open()
        client = await anyio.connect_tcp("127.0.0.1", tunnel.lport)
        await client.send(b"x")
        assert await client.receive() == b"x"
        taken, began = port_of(back), time.monotonic()
        os.kill(base.outpost, signal.SIGKILL)
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()
        with pytest.raises(ConnectionLost):
            await tunnel.wait_closed()
        await until(lambda: is_free(taken))
        assert in_time(time.monotonic() - began, 0.5 + 0.5)
        await asyncio.wait({serve})
        (error,) = serve.exception().exceptions  # type: ignore[union-attr]
        assert isinstance(error, ConnectionLost)
        await client.aclose()
        with pytest.raises(ConnectionLost):
            await machine.open_connection("127.0.0.1", port)


async def test_closing_the_machine_takes_everything_along(tmp_path: Path) -> None:
    ends: list[type[BaseException]] = []

    async def wait(stream: ByteStream) -> None:
        try:
            await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            ends.append(type(error))
        await anyio.aclose_forcefully(stream)

    path = str(tmp_path / "listener")
    async with here() as (machine, _), serving(wait) as port:
        stream = await machine.open_connection("127.0.0.1", port)
        listener = await machine.open_listener(path=path)
        await machine.aclose()
        await until(lambda: ends)
        assert not os.path.exists(path)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        await stream.aclose()
        await listener.aclose()
    assert ends == [anyio.BrokenResourceError]


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_a_road_that_breaks_in_mid_transfer_is_no_end(
    aioremote_sshd: Sshd, aioremote_user: TestUser, how: str
) -> None:
    """Promises 81, 131."""

    async def pour(stream: ByteStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):
            async with stream:
                while True:
                    await stream.send(bytes(65536))

    async with TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as road, serving(pour) as port:
        login = over(aioremote_sshd, host=road.host, port=road.port, user=aioremote_user.name)
        linked = LinkedTransport(login.transport, keepalive=0.3, keepalive_count=3)
        async with Machine(linked, host="there") as machine, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream:
                while tunnel.bytes_received < MIB:
                    await stream.receive()
                getattr(road, how)()
                with pytest.raises(anyio.BrokenResourceError):
                    await receive_on(stream)
            with pytest.raises(ConnectionLost):
                await tunnel.wait_closed()
            road.cut()


async def receive_on(stream: ByteStream) -> None:
    """Receive until that fails."""
    async with asyncio.timeout(10):
        while True:
            await stream.receive()


async def test_cancelled_anywhere_it_serves_on() -> None:
    """STYLE 41."""
    async with here() as (machine, _), serving(echo) as port:

        async def work() -> None:
            async with await machine.open_connection("127.0.0.1", port) as stream:
                assert await exchange(stream, b"x" * MIB) == b"x" * MIB + b"bye"
            async with await machine.open_listener(host="127.0.0.1") as listener:
                assert port_of(listener) > 0

        async def check() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"

        assert await cancel_everywhere(work, check) >= 3
        assert machine.transport.state == "connected"  # type: ignore[attr-defined]


async def test_a_server_that_forbids_forwarding_has_tunnels_by_its_outpost(aioremote_user: TestUser) -> None:
    """Where an outpost stands anyway; else the refusal is told."""
    with Sshd(extra_config="AllowTcpForwarding no\nAllowStreamLocalForwarding no\n") as server:
        async with serving(echo) as port, over(server, user=aioremote_user.name) as machine:
            with pytest.raises(TunnelError, match="forbids"):
                await machine.open_connection("127.0.0.1", port)
            assert await machine.python.eval("1 + 1") == 2
            async with machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
                stream = await anyio.connect_tcp("127.0.0.1", tunnel.lport)
                async with stream:
                    assert await exchange(stream, b"hello") == b"hellobye"
            async with machine.tunnel(port, 0, lhost="127.0.0.1", reverse=True) as tunnel:
                stream = await anyio.connect_tcp("127.0.0.1", tunnel.dport)
                async with stream:
                    assert await exchange(stream, b"hello") == b"hellobye"
