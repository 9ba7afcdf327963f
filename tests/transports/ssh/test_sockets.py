"""The transport of our own: bytes, ends and what can go wrong, against real sockets."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from aioremote.transports.ssh.sockets import SocketTransport, connect_address, family_of

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Heard(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.changed = asyncio.Event()
        self.made = 0
        self.ends: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made += 1

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def connected(host: str = "127.0.0.1") -> AsyncIterator[tuple[SocketTransport, Heard, Peer]]:
    accepted: asyncio.Queue[Peer] = asyncio.Queue()
    family = family_of(host)
    assert family is not None

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    async with await asyncio.start_server(accept, host, 0) as server:
        heard = Heard()
        address = (host, server.sockets[0].getsockname()[1])
        transport = await connect_address(lambda: heard, family, address)
        assert transport.get_extra_info("peername") == address
        peer = await accepted.get()
        try:
            yield transport, heard, peer
        finally:
            transport.abort()
            await heard.until(lambda: heard.ends)
            assert transport.is_closing()
            assert (heard.made, len(heard.ends)) == (1, 1)
            peer[1].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_bytes_are_exact_both_ways_whoever_is_slow(host: str) -> None:
    async with connected(host) as (transport, heard, (reader, writer)):
        data = os.urandom(8 << 20)
        for start in range(0, len(data), 100_000):
            transport.write(data[start : start + 100_000])  # far more than the socket takes at once
        assert await reader.readexactly(len(data)) == data
        writer.write(data)
        await heard.until(lambda: len(heard.data) == len(data))
        assert heard.data == data


async def test_an_end_from_over_there_is_told_once() -> None:
    async with connected() as (transport, heard, (_, writer)):
        writer.write(b"bye")
        writer.close()
        await heard.until(lambda: heard.ends)
        assert (bytes(heard.data), heard.ends) == (b"bye", [None])
        transport.write(b"more")  # nobody takes it, nothing happens
        assert transport.get_extra_info("cipher") is None


async def test_a_reset_is_told_as_what_it_is() -> None:
    async with connected() as (_, heard, (_, writer)):
        near: socket.socket = writer.get_extra_info("socket")
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await heard.until(lambda: heard.ends)
        assert isinstance(heard.ends[0], ConnectionResetError)


async def test_what_is_written_to_the_dead_ends_it_too() -> None:
    async with connected() as (transport, heard, (reader, writer)):
        transport.write(bytes(16 << 20))
        await reader.readexactly(1)
        near: socket.socket = writer.get_extra_info("socket")
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await heard.until(lambda: heard.ends)
        assert isinstance(heard.ends[0], (ConnectionResetError, BrokenPipeError))


async def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await connect_address(Heard, socket.AF_INET, taken.getsockname())


async def test_a_cancel_while_connecting_leaves_no_socket() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):  # whoever comes now gets no answer
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connect_address(Heard, socket.AF_INET, full.getsockname())


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("web1", None),
        ("127.1", None),
        ("999.1.1.1", None),
        ("fe80::1%lo", None),
        ("a\0b", None),
    ],
)
def test_only_an_address_in_numbers_has_a_family(host: str, family: socket.AddressFamily | None) -> None:
    """Anything else would be looked up, and that would block the loop."""
    assert family_of(host) == family


async def test_a_socket_whose_other_end_is_gone_is_closed_though_the_first_word_fails() -> None:
    class Greeter(Heard):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert isinstance(transport, asyncio.WriteTransport)
            transport.write(b"hello")

    near, far = socket.socketpair()
    near.setblocking(False)
    far.close()
    heard = Greeter()
    SocketTransport(near, heard).start()
    await heard.until(lambda: heard.ends)
    assert near.fileno() == -1
    assert (heard.made, len(heard.ends)) == (1, 1)
    assert isinstance(heard.ends[0], BrokenPipeError)
