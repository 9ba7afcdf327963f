"""Connections and listeners of the far side: bytes exact, many at once, refusals typed, nothing left at the end."""

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
import pytest_asyncio
from anyio.abc import ByteStream, SocketAttribute
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker

from aioremote import ConnectionLost, Machine, SshMachine, TunnelError, TunnelRefused
from aioremote.testing.checks import until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Over = Callable[..., SshMachine]


@pytest_asyncio.fixture
async def machine(aioremote_no_leaks: None, make: MachineMaker) -> AsyncIterator[SshMachine]:
    async with make() as made:
        yield made


async def echo(stream: ByteStream) -> None:
    """Send everything back, then say goodbye."""
    async with stream:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.send(await stream.receive())
        with contextlib.suppress(anyio.BrokenResourceError):
            await stream.send(b"bye")


async def read_all(stream: ByteStream) -> bytes:
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive()
    return bytes(data)


@contextlib.asynccontextmanager
async def serving(handler: Callable[[ByteStream], object]) -> AsyncIterator[int]:
    """Serve a port of this computer, which is the far one too; returns the port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handler)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    """Send and receive at once; returns what came back."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_all(stream))
        await stream.send(data)
        await stream.send_eof()
    return reading.result()


# --- connections ------------------------------------------------------------------------------------------------------


async def test_bytes_are_exact_both_ways(machine: Machine) -> None:
    """Promise 70, 8 MB each way at once."""
    data = os.urandom(1 << 20) * 8
    async with serving(echo) as port, await machine.open_connection("127.0.0.1", port) as stream:
        back = await exchange(stream, data)
    assert hashlib.sha256(back).digest() == hashlib.sha256(data + b"bye").digest()


async def test_a_half_closed_far_side_still_reads(machine: Machine) -> None:
    """Promise 70: half close in the other direction."""
    got: list[bytes] = []

    async def close_first(stream: ByteStream) -> None:
        await stream.send(b"all I have")
        await stream.send_eof()
        got.append(await read_all(stream))
        await stream.aclose()

    async with serving(close_first) as port, await machine.open_connection("127.0.0.1", port) as stream:
        assert await read_all(stream) == b"all I have"
        await stream.send(b"still mine")
        await stream.send_eof()
        await until(lambda: got)
    assert got == [b"still mine"]


async def test_a_unix_socket_of_the_far_side(machine: Machine, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        async with await machine.open_connection(path=path) as stream:
            assert await exchange(stream, b"hello") == b"hellobye"
        group.cancel_scope.cancel()


async def test_many_connections_at_once(machine: Machine) -> None:
    """Promise 70: 300 at once over one link, each with its own bytes."""

    async def one(port: int, number: int) -> bytes:
        async with await machine.open_connection("127.0.0.1", port) as stream:
            return await exchange(stream, b"%d" % number * 500)

    async with serving(echo) as port, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(port, number)) for number in range(300)]
        await asyncio.wait(tasks)
    assert [task.result() for task in tasks] == [b"%d" % number * 500 + b"bye" for number in range(300)]
    assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_a_reset_is_no_end_of_stream(machine: Machine) -> None:
    """Promise 70: sshd tells a reset as an end without more; it must at least end, and soon."""

    async def reset(stream: ByteStream) -> None:
        await stream.receive()  # a reset before that may be the answer to sshd's connect, which is then refused
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with serving(reset) as port, await machine.open_connection("127.0.0.1", port) as stream:
        async with asyncio.timeout(5):
            await stream.send(b"reset me")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await send_on(stream)


async def send_on(stream: ByteStream) -> None:
    """Send until that fails."""
    while True:
        await stream.send(b"x" * 65536)
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_where_nothing_listens(machine: Machine, tmp_path: Path, kind: str) -> None:
    """API: TunnelError that is also a ConnectionRefusedError."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = (
            {"host": "127.0.0.1", "port": unused.getsockname()[1]} if kind == "tcp" else {"path": str(tmp_path / "no")}
        )
        with pytest.raises(TunnelRefused) as caught:
            await machine.open_connection(**target)
    assert isinstance(caught.value, ConnectionRefusedError)
    assert caught.value.host == machine.host
    assert "\n" not in str(caught.value)


async def test_a_name_that_the_far_side_does_not_know(machine: Machine) -> None:
    with pytest.raises(TunnelError, match="no-such-host"):
        await machine.open_connection("no-such-host.invalid", 80)


async def test_a_server_that_forbids_forwarding(make: MachineMaker, tmp_path: Path) -> None:
    """OpenSSH tells of unix sockets only that it did not open them."""
    forbidden = "AllowTcpForwarding no\nAllowStreamLocalForwarding no\n"
    with Sshd(extra_config=forbidden) as server:
        async with make(server) as machine, serving(echo) as port:
            for call in (
                machine.open_connection("127.0.0.1", port),
                machine.open_connection(path=str(tmp_path / "socket")),
                machine.open_listener(),
                machine.open_listener(path=str(tmp_path / "socket")),
            ):
                with pytest.raises(TunnelError) as caught:
                    await call
                assert "\n" not in str(caught.value)
            with pytest.raises(TunnelError, match="forbids") as caught:
                await machine.open_connection("127.0.0.1", port)
            assert not isinstance(caught.value, TunnelRefused)
            assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_a_slow_reader_holds_the_sender_back(machine: Machine) -> None:
    """Promise 19's likeness for streams: what nobody reads stays within the windows."""
    sent = 0

    async def pour(stream: ByteStream) -> None:
        nonlocal sent
        with contextlib.suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(b"x" * 65536)
                sent += 65536

    async with serving(pour) as port, await machine.open_connection("127.0.0.1", port) as stream:
        await stream.receive()
        before = -1
        while before != sent:  # until it does not grow any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 << 20
        total, wanted = 0, sent + (1 << 20)
        while total < wanted:
            total += len(await stream.receive())


async def test_a_slow_far_side_holds_us_back(machine: Machine) -> None:
    go = asyncio.Event()
    got: list[int] = []

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        got.append(len(await reader.read()))
        writer.close()

    async with await asyncio.start_server(dawdle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with await machine.open_connection("127.0.0.1", port) as stream:
            sending = asyncio.get_running_loop().create_task(send_on(stream))
            done, _ = await asyncio.wait({sending}, timeout=1)
            assert not done
            sending.cancel()
            await asyncio.wait({sending})
            go.set()
            await stream.send_eof()
            await until(lambda: got)
            assert got[0] < 32 << 20


async def test_closing_says_so(machine: Machine) -> None:
    async with serving(echo) as port:
        stream = await machine.open_connection("127.0.0.1", port)
        reading = asyncio.get_running_loop().create_task(stream.receive())
        await asyncio.sleep(0)
        await stream.aclose()
        await stream.aclose()
        await asyncio.wait({reading})
        assert isinstance(reading.exception(), anyio.ClosedResourceError)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


async def test_a_forceful_close_does_not_wait(machine: Machine) -> None:
    async with serving(echo) as port:
        stream = await machine.open_connection("127.0.0.1", port)
        began, used = time.monotonic(), time.process_time()
        await anyio.aclose_forcefully(stream)
        assert in_time(time.monotonic() - began, 1)
        assert time.process_time() - used < 0.2
    assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_streams_learn_of_a_lost_link(proxy: TcpProxy, over: Over) -> None:
    """Promise 131."""
    async with over(proxy) as machine, serving(echo) as port:
        stream = await machine.open_connection("127.0.0.1", port)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        reading = asyncio.get_running_loop().create_task(stream.receive())
        await asyncio.sleep(0)
        proxy.cut()
        await asyncio.wait({reading})
        assert isinstance(reading.exception(), anyio.BrokenResourceError)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")
        await stream.aclose()


async def test_connections_need_no_session(make: MachineMaker) -> None:
    """MaxSessions counts sessions; forwarding has none."""
    with Sshd(max_sessions=1) as server:
        async with (
            make(server) as machine,
            machine.start("cat"),
            serving(echo) as port,
            await machine.open_connection("127.0.0.1", port) as stream,
        ):
            assert await exchange(stream, b"hello") == b"hellobye"


# --- listeners --------------------------------------------------------------------------------------------------------


async def test_a_listener_is_on_loopback_and_gone_when_it_is_closed(machine: Machine) -> None:
    """Promises 70, 71, 72: port 0 tells the port."""
    async with await machine.open_listener() as listener:
        port = listener.extra(SocketAttribute.local_port)
        assert isinstance(port, int)
        listening = await machine.shell(f"ss -Htln 'sport = :{port}' | awk '{{print $4}}'")
        assert listening.stdout.split()
        assert all(line.startswith(("127.0.0.1:", "[::1]:")) for line in listening.stdout.split())
    with pytest.raises(OSError):  # noqa: PT011  # nothing listens any more
        await anyio.connect_tcp("127.0.0.1", port)


async def test_a_taken_port_is_refused_before_anything_is_exposed(machine: Machine) -> None:
    """Promises 72, 131."""
    async with serving(echo) as port:
        with pytest.raises(TunnelError, match=str(port)) as caught:
            await machine.open_listener(port, host="127.0.0.1")
        assert not isinstance(caught.value, TunnelRefused)


async def test_a_unix_listener(machine: Machine, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with await machine.open_listener(path=path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        async with await anyio.connect_unix(path) as stream:
            assert await exchange(stream, b"hello") == b"hellobye"
        group.cancel_scope.cancel()
    with pytest.raises(TunnelError):
        await machine.open_listener(path="/no/such/folder/socket")


async def test_many_far_clients_at_once(machine: Machine) -> None:
    """Promise 70."""

    async def one(port: int, number: int) -> bytes:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            return await exchange(stream, b"%d" % number * 500)

    async with await machine.open_listener() as listener, anyio.create_task_group() as serving_them:
        serving_them.start_soon(listener.serve, echo)
        port = listener.extra(SocketAttribute.local_port)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(port, number)) for number in range(100)]
        assert [task.result() for task in tasks] == [b"%d" % number * 500 + b"bye" for number in range(100)]
        serving_them.cancel_scope.cancel()


async def test_clients_that_nobody_serves_are_bounded_and_let_go(machine: Machine) -> None:
    """STYLE 35: the queue has a bound; closing turns away who waits."""
    listener = await machine.open_listener()
    port = listener.extra(SocketAttribute.local_port)
    clients = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(140)]
    async with asyncio.timeout(5):
        while sum([await ended(client) for client in clients]) < 12:  # 140 - 128
            await machine.ping()
    await listener.aclose()
    async with asyncio.timeout(5):
        for client in clients:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await client.receive()
            await client.aclose()
    assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def ended(client: ByteStream) -> bool:
    """Whether the other side has ended this connection."""
    try:
        with anyio.move_on_after(0.001):
            await client.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True
    return False


async def test_a_listener_learns_of_a_lost_link(proxy: TcpProxy, over: Over) -> None:
    """Promise 131: whoever serves is told."""
    async with over(proxy) as machine:
        listener = await machine.open_listener()
        serving_it = asyncio.get_running_loop().create_task(listener.serve(echo))
        await machine.ping()
        proxy.cut()
        await asyncio.wait({serving_it}, timeout=5)
        error = serving_it.exception()
        assert isinstance(error, (ConnectionLost, BaseExceptionGroup))
        found = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        assert isinstance(found, ConnectionLost)
        await listener.aclose()


async def test_a_closed_listener_stops_serving(machine: Machine) -> None:
    listener = await machine.open_listener()
    serving_it = asyncio.get_running_loop().create_task(listener.serve(echo))
    await machine.ping()
    await listener.aclose()
    await listener.aclose()
    await asyncio.wait({serving_it}, timeout=5)
    assert serving_it.exception() is not None
