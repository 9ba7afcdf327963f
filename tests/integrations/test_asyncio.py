"""asyncio's shapes through a machine: reader and writer, transport and protocol."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.integrations.conftest import Certificate

from aioremote import Machine, SshMachine, TunnelRefused
from aioremote.integrations.asyncio import create_connection, open_connection
from aioremote.testing.checks import cancel_everywhere, no_leaks, until
from aioremote.testing.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, and "bye" after its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")
    writer.close()


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_reader_and_writer_with_half_close(machine: Machine, port: int) -> None:
    """Promise 70: bytes exact, the end passed on each way."""
    reader, writer = await open_connection(machine, "127.0.0.1", port)
    data = b"0123456789" * 300_000

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        assert await reader.read() == data + b"bye"
    writer.close()
    await writer.wait_closed()


async def test_the_machine_refuses(machine: Machine, unused_tcp_port: int) -> None:
    with pytest.raises(TunnelRefused):
        await open_connection(machine, "127.0.0.1", unused_tcp_port)


async def test_tls_and_what_is_known_of_it(machine: Machine, certificate: Certificate) -> None:
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.server) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await open_connection(machine, "localhost", port, ssl=certificate.client)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert writer.get_extra_info("peercert")["subjectAltName"] == (("DNS", "localhost"),)
        assert not writer.can_write_eof()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_connection(machine, "127.0.0.1", port, ssl=certificate.client)


async def test_a_lost_link_is_an_error_and_no_end(lossy: tuple[SshMachine, TcpProxy], port: int) -> None:
    """Promise 131."""
    machine, link = lossy
    reader, writer = await open_connection(machine, "127.0.0.1", port)
    link.cut()
    with pytest.raises(ConnectionResetError, match=rf"connection to 127\.0\.0\.1:{port} through ssh://.* broke"):
        await reader.read()
    writer.close()


async def test_a_slow_reader_holds_the_writer_back(machine: Machine) -> None:
    """STYLE 35."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        _, writer = await open_connection(machine, "127.0.0.1", server.sockets[0].getsockname()[1])
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(400):
                writer.write(b"x" * 100_000)
                sent += 100_000
                await writer.drain()
            writer.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            await until(lambda: sent > 100_000)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)  # nothing tells that nothing happens
            assert sent < 30_000_000
            release.set()
        await writer.wait_closed()


async def test_a_cancelled_connect_leaves_nothing(machine: Machine, port: int) -> None:
    async def whole() -> None:
        transport, _ = await create_connection(machine, asyncio.Protocol, "127.0.0.1", port)
        transport.abort()

    async def check() -> None:
        async with no_leaks():
            pass

    await machine.connect()
    assert await cancel_everywhere(whole, check) > 0
