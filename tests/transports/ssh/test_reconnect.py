"""Lost links: tunnels that say so or come back, machines that connect again, and nothing that is run twice."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import pytest_asyncio
from tests.pace import in_time
from tests.transports.ssh.test_loss import Over

from aioremote import ConnectError, ConnectionLost, Reconnect
from aioremote.testing.checks import until
from aioremote.testing.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

SOON = Reconnect(first_delay=0.02, most_delay=0.2)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest_asyncio.fixture
async def target() -> AsyncIterator[int]:
    server = await asyncio.start_server(echo, "127.0.0.1")
    yield server.sockets[0].getsockname()[1]
    server.close()


async def say(port: int, data: bytes = b"hello") -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(data)
        return await stream.receive()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_a_lost_link_closes_the_tunnel(proxy: TcpProxy, over: Over, target: int, *, reverse: bool) -> None:
    """Promise 131: and says so; the port is free within half a second."""
    async with over(proxy) as machine:
        made = machine.tunnel(target, 0, reverse=True) if reverse else machine.tunnel(0, target)
        async with made as tunnel:
            port = tunnel.dport if reverse else tunnel.lport
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"x")
                assert await stream.receive() == b"x"
                proxy.cut()
                began = time.monotonic()
                with pytest.raises(ConnectionLost, match="link was lost"):
                    await tunnel.wait_closed()
                assert tunnel.state == "closed"
                if not reverse:
                    with pytest.raises(anyio.BrokenResourceError):
                        await stream.receive()
                    with socket.socket() as again:
                        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        again.bind(("127.0.0.1", port))
                assert in_time(time.monotonic() - began, 0.5)


async def test_a_black_hole_closes_the_tunnel(proxy: TcpProxy, over: Over, target: int) -> None:
    """Promise 131, 81."""
    async with over(proxy, keepalive=0.2) as machine, machine.tunnel(0, target) as tunnel:
        assert await say(tunnel.lport) == b"hello"
        proxy.freeze()
        with pytest.raises(ConnectionLost) as caught:
            await tunnel.wait_closed()
        assert caught.value.reason == "keepalive"
        proxy.cut()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_a_tunnel_comes_back_on_its_port(proxy: TcpProxy, over: Over, target: int, *, reverse: bool) -> None:
    """Promise 131."""
    states: list[str] = []
    async with over(proxy) as machine, asyncio.TaskGroup() as group:
        made = (
            machine.tunnel(target, 0, reverse=True, reconnect=SOON)
            if reverse
            else machine.tunnel(0, target, reconnect=SOON)
        )
        async with made as tunnel:

            async def watch() -> None:
                async for state in tunnel.states():
                    states.append(state)  # noqa: PERF401  # each as it comes

            group.create_task(watch())
            port = tunnel.dport if reverse else tunnel.lport
            for _ in range(3):
                assert await say(port) == b"hello"
                seen = len(states)
                proxy.cut()
                await until(lambda seen=seen: len(states) > seen + 1 and tunnel.state == "open")
                assert port == (tunnel.dport if reverse else tunnel.lport)
                assert isinstance(tunnel.last_error, ConnectionLost)
            assert await say(port) == b"hello"
            assert machine.state == "connected"
    assert states == ["open", *["reconnecting", "open"] * 3, "closed"]


async def test_a_tunnel_that_cannot_come_back_says_why(proxy: TcpProxy, over: Over, target: int) -> None:
    policy = Reconnect(attempts=2, first_delay=0.01)
    async with over(proxy) as machine, machine.tunnel(0, target, reconnect=policy) as tunnel:
        await proxy.aclose()
        with pytest.raises(ConnectError):
            await tunnel.wait_closed()
        assert tunnel.state == "closed"


async def test_a_machine_connects_again(proxy: TcpProxy, over: Over, tmp_path: Path) -> None:
    """Promise 87: what may have run raises and is not repeated; the next command runs on a new connection."""
    log = tmp_path / "log"
    async with over(proxy, reconnect=SOON) as machine, asyncio.TaskGroup() as group:

        async def lose() -> ConnectionLost:
            with pytest.raises(ConnectionLost) as caught:
                await machine.shell(f"echo ran >> '{log}'; sleep 600")
            return caught.value

        losing = group.create_task(lose())
        await until(log.exists)
        proxy.cut()
        assert (await losing).outcome == "unknown"
        assert machine.state == "lost"
        results = await asyncio.wait({group.create_task(machine.run("echo", str(number))) for number in range(5)})
        assert sorted(task.result().stdout for task in results[0]) == [f"{number}\n" for number in range(5)]
        assert machine.state == "connected"
    assert log.read_text() == "ran\n"


async def test_a_machine_without_a_policy_stays_lost(proxy: TcpProxy, over: Over) -> None:
    async with over(proxy) as machine:
        proxy.cut()
        await until(lambda: machine.state == "lost")
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="reconnect=True") as caught:
                await machine.run("true")
            assert caught.value.outcome == "not_started"


async def test_closing_while_it_connects_again(proxy: TcpProxy, over: Over) -> None:
    async with over(proxy, reconnect=True) as machine:
        await machine.run("true")
        await proxy.aclose()
        await until(lambda: machine.state == "lost")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(fails(machine.run("true")))
            await until(lambda: machine.state == "reconnecting")
            await machine.aclose()
        assert running.result()


async def fails(command: object) -> bool:
    with pytest.raises(Exception, match="closed"):
        await command  # type: ignore[misc]
    return True


async def test_a_slow_reader_holds_up_nobody_else(proxy: TcpProxy, over: Over, target: int) -> None:
    """A connection that is not read from fills its own window and no more."""
    sent = 0
    async with (
        over(proxy) as machine,
        machine.tunnel(0, target) as tunnel,
        await anyio.connect_tcp("127.0.0.1", tunnel.lport) as slow,
    ):
        with anyio.move_on_after(1.5):
            while True:
                await slow.send(bytes(65536))
                sent += 65536
        for _ in range(20):
            assert await say(tunnel.lport) == b"hello"
    assert sent < 64 * 1024 * 1024
