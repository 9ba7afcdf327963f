"""Tunnels over every transport that can carry them."""

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from tests.conformance.conftest import STREAM_KINDS

from aioremote import Machine, TunnelError, TunnelPortError
from aioremote.testing.checks import until

pytestmark = pytest.mark.parametrize("machine", STREAM_KINDS, indirect=True)

Handler = Callable[[ByteStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, path: str = "") -> AsyncIterator[int]:
    """Serve on loopback, which is near and far in these tests; gives the port."""
    listener = await (anyio.create_unix_listener(path) if path else anyio.create_tcp_listener(local_host="127.0.0.1"))
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handler)
        yield 0 if path else listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    """Say everything again, and "bye" after its end."""
    with contextlib.suppress(anyio.BrokenResourceError):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)
            await stream.send(b"bye")


async def read_all(stream: ByteStream) -> bytes:
    parts = [part async for part in stream]
    return b"".join(parts)


async def exchange(port: int | str, data: bytes) -> bytes:
    opening = anyio.connect_unix(port) if isinstance(port, str) else anyio.connect_tcp("127.0.0.1", port)
    async with await opening as stream, anyio.create_task_group() as group:

        async def send() -> None:
            await stream.send(data)
            await stream.send_eof()

        group.start_soon(send)
        return await read_all(stream)
    raise AssertionError


async def test_connections_go_on_from_the_machine(machine: Machine) -> None:
    """Promise 70, 131: half-close each way, exact bytes, counters, a port picked for 0."""
    data = os.urandom(3_000_000)
    async with serving(echo) as port, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
        assert tunnel.state == "open"
        assert tunnel.lport > 0
        assert tunnel.dport == port
        assert await exchange(tunnel.lport, data) == data + b"bye"
        await until(lambda: tunnel.active == 0)
        assert (tunnel.connections, tunnel.bytes_sent, tunnel.bytes_received) == (1, len(data), len(data) + 3)
    assert tunnel.state == "closed"
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp("127.0.0.1", tunnel.lport)
    await tunnel.wait_closed()


async def test_what_a_client_says_at_once_arrives(machine: Machine) -> None:
    """Promise 70: before the far side is connected, on every loop. It closes unread, an RST: no matter."""
    async with serving(echo) as port, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
        for number in range(20):
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream:
                await stream.send(b"%d" % number)
                assert await stream.receive() == b"%d" % number


async def test_clients_that_reset_their_connections_harm_nobody(machine: Machine) -> None:
    """Promise 70: RST while the far side sends, and just when it ends; the machine and the tunnel live on."""
    async with serving(echo) as port, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
        for number in range(30):
            stream = await anyio.connect_tcp("127.0.0.1", tunnel.lport)
            await stream.send(b"x" * 1000 * number or b"x")
            if number % 3 == 0:
                await stream.send_eof()  # "bye" is on its way
            elif number % 3 == 1:
                await stream.receive()
            reset(stream)
        await until(lambda: tunnel.active == 0)
        assert await exchange(tunnel.lport, b"hello") == b"hellobye"
        assert tunnel.state == "open"
    assert machine.state == "connected"


def reset(stream: SocketStream) -> None:
    """Close a connection with RST."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream._transport.abort()  # type: ignore[attr-defined]  # anyio has no such thing


async def test_targets_that_reset_their_connections_harm_nobody(machine: Machine) -> None:
    """Promise 70: RST the other way; the client sees an end, soon."""

    async def rude(stream: ByteStream) -> None:
        assert isinstance(stream, SocketStream)
        await stream.receive()
        reset(stream)

    async with serving(rude) as port, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
        for _ in range(10):
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream:
                await stream.send(b"x")
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), anyio.fail_after(5):
                    await stream.receive()
        await until(lambda: tunnel.active == 0)
        assert tunnel.state == "open"
    assert machine.state == "connected"


async def test_connections_come_back_from_the_machine(machine: Machine) -> None:
    """Promise 131: reverse, with the far port picked."""
    async with serving(echo) as port, machine.tunnel(port, 0, lhost="127.0.0.1", reverse=True) as tunnel:
        assert tunnel.dport > 0
        assert await exchange(tunnel.dport, b"hello" * 50_000) == b"hello" * 50_000 + b"bye"
        await until(lambda: tunnel.active == 0)
        assert tunnel.bytes_received == 250_000


async def test_unix_sockets_at_either_end(machine: Machine) -> None:
    with tempfile.TemporaryDirectory(prefix="aioremote-") as folder:
        os.chmod(folder, 0o755)
        await unix_sockets(machine, os.path.join(folder, "near"), os.path.join(folder, "far"))


async def unix_sockets(machine: Machine, near: str, far: str) -> None:
    async with serving(echo, far), machine.tunnel(near, far) as tunnel:
        os.chmod(far, 0o777)
        assert tunnel.lport == 0
        assert os.stat(near).st_mode & 0o777 == 0o600
        assert await exchange(near, b"x") == b"xbye"
        with pytest.raises(TunnelError, match="something is there already"):
            await machine.tunnel(near, far).open()
    assert not os.path.exists(near)


async def test_what_is_wrong_is_told_before_anything_listens(machine: Machine) -> None:
    """Promise 72."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TunnelError, match="it is taken"):
            await machine.tunnel(port, 22, lhost="127.0.0.1").open()
        with pytest.raises(TunnelError):
            await machine.tunnel(22, port, dhost="127.0.0.1", reverse=True).open()
    with pytest.raises(TunnelError, match="no-such-host"):
        await machine.tunnel(0, 80, dhost="no-such-host.invalid").open()
    with pytest.raises(TunnelError, match="no-such-host"):
        await machine.tunnel(80, 0, lhost="no-such-host.invalid", reverse=True).open()
    for bad in (65536, -1, ""):
        with pytest.raises(TunnelPortError):
            machine.tunnel(bad, 80)
    with pytest.raises(TunnelPortError):
        machine.tunnel(80, 0)
    with pytest.raises(TypeError):
        machine.tunnel(8.0, 80)  # type: ignore[arg-type]


async def test_a_dead_target_ends_that_connection_only(machine: Machine) -> None:
    """Promise 131."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        async with machine.tunnel(0, dead, dhost="127.0.0.1") as tunnel:
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream:
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    await stream.receive()
            await until(lambda: tunnel.refused == 1)
            assert isinstance(tunnel.last_error, ConnectionRefusedError)
            unused.listen()
            async with await anyio.connect_tcp("127.0.0.1", tunnel.lport):
                await until(lambda: tunnel.connections == 1)
            assert tunnel.state == "open"


async def test_closing_ends_connections_and_frees_the_port(machine: Machine) -> None:
    """Promise 70."""
    async with serving(echo) as port:
        tunnel = await machine.tunnel(0, port, dhost="127.0.0.1").open()
        async with await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            await tunnel.aclose()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
            async with machine.tunnel(tunnel.lport, port, dhost="127.0.0.1") as again:
                assert await exchange(again.lport, b"y") == b"ybye"


async def test_closing_the_machine_closes_its_tunnels(machine: Machine) -> None:
    tunnel = await machine.tunnel(0, 22).open()
    await machine.aclose()
    async with asyncio.timeout(5):
        await tunnel.wait_closed()
    assert tunnel.state == "closed"
    await tunnel.aclose()


async def test_many_connections(machine: Machine) -> None:
    """Promise 70: 1,000 through one tunnel, 200 at a time."""
    free = asyncio.Semaphore(200)

    async def one(port: int, number: int) -> bool:
        async with free:
            return await exchange(port, b"%d," % number * 100) == b"%d," % number * 100 + b"bye"

    async with serving(echo) as port, machine.tunnel(0, port, dhost="127.0.0.1", lhost="127.0.0.1") as tunnel:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(tunnel.lport, number)) for number in range(1000)]
        assert all(task.result() for task in tasks)
        assert tunnel.connections == 1000


async def socks5(port: int, host: str, target: int, data: bytes) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"\5\1\0")
        assert await stream.receive(2) == b"\5\0"
        name = host.encode()
        await stream.send(b"\5\1\0\3" + bytes([len(name)]) + name + target.to_bytes(2, "big") + data)
        await stream.send_eof()
        answer = await read_all(stream)
        assert answer[:2] == b"\5\0"
        return answer[10:]


async def test_a_socks_proxy(machine: Machine) -> None:
    """SOCKS5 with a name that the far end resolves, and 4a; a refusal is told as one."""
    async with serving(echo) as port, machine.socks_proxy() as proxy:
        assert await socks5(proxy.lport, "127.0.0.1", port, b"hello") == b"hellobye"
        async with await anyio.connect_tcp("127.0.0.1", proxy.lport) as stream:
            await stream.send(b"\4\1" + port.to_bytes(2, "big") + b"\0\0\0\1me\0localhost\0again")
            await stream.send_eof()
            assert await read_all(stream) == b"\0\x5a" + bytes(6) + b"againbye"
    async with machine.socks_proxy() as proxy, await anyio.connect_tcp("127.0.0.1", proxy.lport) as stream:
        await stream.send(b"\5\1\0\5\1\0\1\x7f\0\0\1" + port.to_bytes(2, "big"))
        assert await read_all(stream) == b"\5\0\5\5\0\1" + bytes(6)
        assert proxy.refused == 1
