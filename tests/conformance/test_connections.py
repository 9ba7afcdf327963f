"""Streams to and from the far side."""

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from tests.conformance.conftest import KINDS, STREAM_KINDS

from aioremote import Capability, Machine, TunnelError, UnsupportedError

of_stream_kinds = pytest.mark.parametrize("machine", STREAM_KINDS, indirect=True)


async def _echo(stream: ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)
        await stream.send(b"bye")
        await stream.send_eof()


async def _read_all(stream: ByteStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except anyio.EndOfStream:
        return data


@of_stream_kinds
async def test_a_connection_from_the_far_side(machine: Machine) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, _echo)
        port = listener.extra(SocketAttribute.local_port)
        async with await machine.open_connection("127.0.0.1", port) as stream:
            await stream.send(b"x" * 300_000)
            await stream.send_eof()
            assert await _read_all(stream) == b"x" * 300_000 + b"bye"
        group.cancel_scope.cancel()


@of_stream_kinds
async def test_a_refused_connection_says_so(machine: Machine) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    with pytest.raises(TunnelError) as caught:
        await machine.open_connection("127.0.0.1", port)
    assert isinstance(caught.value, ConnectionRefusedError)


@of_stream_kinds
async def test_a_listener_on_the_far_side(machine: Machine) -> None:
    listener = await machine.open_listener()
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, _echo)
        port = listener.extra(SocketAttribute.local_port)
        assert isinstance(port, int)
        assert port > 0
        async with await anyio.connect_tcp("localhost", port) as stream:
            await stream.send(b"hello")
            await stream.send_eof()
            assert await _read_all(stream) == b"hellobye"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("machine", sorted({*KINDS} - {*STREAM_KINDS}), indirect=True)
async def test_promise_133_what_a_road_cannot_do_it_says_before_anything_is_sent(machine: Machine) -> None:
    assert not machine.capabilities & {Capability.TCP_CONNECTIONS, Capability.TCP_LISTENERS}
    with pytest.raises(UnsupportedError, match="no connections"):
        await machine.open_connection("127.0.0.1", 9)
    with pytest.raises(UnsupportedError, match="no listeners"):
        await machine.open_listener()
    with pytest.raises(UnsupportedError):
        async with machine.tunnel(0, 9):
            raise AssertionError
