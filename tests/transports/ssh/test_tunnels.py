"""Tunnels over a real sshd: what it forbids, what breaks in mid-transfer, how soon a port is free, IPv6."""

import asyncio
import contextlib
import os
import signal
import socket
import time

import anyio
import psutil
import pytest
from anyio.abc import ByteStream, SocketAttribute
from tests.conformance.test_tunnels import echo, exchange, serving
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker

from aioremote import ConnectionLost, HostKeys, TunnelError
from aioremote.testing.checks import until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.tunnels.tunnel import Tunnel

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


def listening() -> set[object]:
    """Return where this process listens."""
    return {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize(
    ("rule", "reverse"),
    [("AllowTcpForwarding no", False), ("AllowTcpForwarding no", True), ("AllowTcpForwarding local", True),
     ("AllowTcpForwarding remote", False), ("DisableForwarding yes", False), ("PermitOpen localhost:1", False)],
)  # fmt: skip
async def test_a_server_that_forbids_it_exposes_nothing(make: MachineMaker, rule: str, *, reverse: bool) -> None:
    """Part 5, bad input: a typed error, and nothing has listened; the machine serves on."""
    with Sshd(extra_config=rule) as strict:
        async with make(strict) as machine, serving(echo) as port:
            before = listening()
            tunnel = machine.tunnel(port, 0, reverse=True) if reverse else machine.tunnel(0, port, dhost="127.0.0.1")
            with pytest.raises(TunnelError, match=machine.host):
                await tunnel.open()
            assert listening() == before
            assert (tunnel.state, tunnel.connections) == ("closed", 0)
            assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_a_server_that_permits_some_targets(make: MachineMaker) -> None:
    async with serving(echo) as port:
        with Sshd(extra_config=f"PermitOpen 127.0.0.1:{port}") as strict:
            async with make(strict) as machine, machine.tunnel(0, port, dhost="127.0.0.1") as tunnel:
                assert await exchange(tunnel.lport, b"x") == b"xbye"


@pytest.mark.parametrize("how", ["cut", "freeze", "kill"])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_link_that_breaks_in_mid_transfer_is_no_end(make: MachineMaker, how: str, way: str) -> None:
    """Promise 131: reset, never an end of stream, so that nobody takes a part for the whole."""

    async def pour(stream: ByteStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):
            async with stream:
                while way == "down":
                    await stream.send(bytes(65536))
                await anyio.sleep_forever()

    with Sshd() as server:
        async with (
            TcpProxy(server.host, server.port) as link,
            serving(pour) as port,
            make(server, host=link.host, port=link.port, host_keys=pinned(server), keepalive=0.3) as machine,
            machine.tunnel(0, port, dhost="127.0.0.1") as tunnel,
            await anyio.connect_tcp("127.0.0.1", tunnel.lport) as stream,
        ):
            with pytest.raises(anyio.BrokenResourceError):
                async with asyncio.timeout(10):
                    await _break_after_a_megabyte(link, server, how, tunnel, stream, way)
            with pytest.raises(ConnectionLost):
                await tunnel.wait_closed()
            assert tunnel.state == "closed"
            link.cut()


def pinned(server: Sshd) -> HostKeys:
    return HostKeys.pinned(server.host_key_fingerprint)


async def _break_after_a_megabyte(
    link: TcpProxy, server: Sshd, how: str, tunnel: Tunnel, stream: ByteStream, way: str
) -> None:
    """Send or receive until that fails; the link breaks on the way."""
    broken = False
    while True:
        if way == "down":
            await stream.receive()
        else:
            await stream.send(bytes(65536))
        if not broken and tunnel.bytes_sent + tunnel.bytes_received > 1_000_000:
            broken = True
            if how == "kill":
                for pid in server.session_pids():
                    with contextlib.suppress(ProcessLookupError):  # the end of one is that of another
                        os.kill(pid, signal.SIGKILL)
            else:
                getattr(link, how)()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_the_port_is_free_soon_after_closing(make: MachineMaker, *, reverse: bool) -> None:
    """Part 5: within 0.5 s, though connections were open and said nothing of their end."""
    async with make() as machine, serving(echo) as port:
        made = machine.tunnel(port, 0, reverse=True) if reverse else machine.tunnel(0, port, dhost="127.0.0.1")
        tunnel = await made.open()
        taken = tunnel.dport if reverse else tunnel.lport
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


def is_free(port: int) -> bool:
    """Tell whether a server could listen there, as servers do."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def test_ipv6_at_either_end(make: MachineMaker) -> None:
    """Part 5, deliver 1."""
    listener = await anyio.create_tcp_listener(local_host="::1")
    async with listener, make() as machine, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        port = listener.extra(SocketAttribute.local_port)
        async with machine.tunnel(0, port, lhost="::1", dhost="::1") as tunnel:
            assert await said(tunnel.lport) == b"hello"
        async with machine.tunnel(port, 0, lhost="::1", dhost="::1", reverse=True) as tunnel:
            assert await said(tunnel.dport) == b"hello"
        group.cancel_scope.cancel()


async def said(port: int) -> bytes:
    async with await anyio.connect_tcp("::1", port) as stream:
        await stream.send(b"hello")
        return await stream.receive()


async def test_it_listens_on_loopback_unless_told(make: MachineMaker) -> None:
    """Promise 71."""
    async with make() as machine, machine.tunnel(0, 22) as tunnel, machine.socks_proxy() as proxy:
        found = {c.laddr.ip for c in psutil.Process().net_connections() if c.laddr.port in (tunnel.lport, proxy.lport)}
        assert found <= {"127.0.0.1", "::1"}
    async with make() as machine, machine.tunnel(22, 0, reverse=True) as tunnel:
        found = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == tunnel.dport}
        assert found
        assert found <= {"127.0.0.1", "::1"}
