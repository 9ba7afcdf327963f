"""httpx and aiohttp through a machine, against a real web server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import aiohttp
import httpx
import pytest
from tests.integrations.conftest import Certificate, Web, listening, program_behind

from aioremote import Machine, SshMachine
from aioremote.integrations.aiohttp import MachineConnector
from aioremote.integrations.httpx import MachineTransport
from aioremote.testing.checks import until
from aioremote.testing.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


class Client(Protocol):
    """What the tests want of either library."""

    errors: tuple[type[Exception], ...]

    async def fetch(self, url: str, body: bytes = b"", *, timeout: float = 20) -> bytes: ...

    async def aclose(self) -> None: ...


class Httpx:
    errors = (httpx.TransportError,)

    def __init__(self, machine: Machine, certificate: Certificate | None = None) -> None:
        transport = MachineTransport(machine, verify=certificate.client if certificate else True)
        self.client = httpx.AsyncClient(transport=transport)

    async def fetch(self, url: str, body: bytes = b"", *, timeout: float = 20) -> bytes:
        response = await self.client.request("POST" if body else "GET", url, content=body, timeout=timeout)
        return response.content

    async def aclose(self) -> None:
        await self.client.aclose()


class Aiohttp:
    errors = (aiohttp.ClientError, TimeoutError)

    def __init__(self, machine: Machine, certificate: Certificate | None = None) -> None:
        connector = MachineConnector(machine, ssl=certificate.client if certificate else True)
        self.client = aiohttp.ClientSession(connector=connector)

    async def fetch(self, url: str, body: bytes = b"", *, timeout: float = 20) -> bytes:
        times = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
        async with self.client.request("POST" if body else "GET", url, data=body, timeout=times) as response:
            return await response.read()

    async def aclose(self) -> None:
        await self.client.close()


KINDS = {"httpx": Httpx, "aiohttp": Aiohttp}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Httpx] | type[Aiohttp]:
    return KINDS[request.param]


@pytest.fixture
async def client(kind: type[Httpx], machine: Machine, certificate: Certificate) -> AsyncIterator[Client]:
    made = kind(machine, certificate)
    yield made
    await made.aclose()


async def test_requests_go_on_from_the_machine_without_a_local_port(
    client: Client, site: Web, machine: Machine
) -> None:
    """Part 5, deliver 3."""
    before = listening()
    body = bytes(range(256)) * 4000
    assert await client.fetch(site.url()) == b"fine"
    assert await client.fetch(site.url(), body) == body
    assert listening() == before
    assert len(set(site.clients)) == 1, "the connection is used again"
    if isinstance(machine, SshMachine):
        assert program_behind(site.clients[0]).startswith("sshd")


async def test_tls_is_with_the_server_itself(client: Client, site: Web) -> None:
    body = b"x" * 300_000
    assert await client.fetch(site.tls_url(), body) == body
    assert await client.fetch(site.tls_url()) == b"fine"
    assert len(set(site.clients)) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(kind: type[Httpx], machine: Machine, site: Web) -> None:
    client = kind(machine)
    with pytest.raises(client.errors, match=r"(?i)certificate"):
        await client.fetch(site.tls_url())
    assert site.clients == []
    await client.aclose()


async def test_many_requests_at_once(client: Client, site: Web) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.fetch(site.url(), b"%d," % number * 1000)) for number in range(50)]
    assert [task.result() for task in tasks] == [b"%d," % number * 1000 for number in range(50)]


async def test_a_connection_that_the_server_has_closed_is_not_used_again(client: Client, site: Web) -> None:
    for path in ("/close", "/", "/close", "/"):
        assert await client.fetch(site.url(path)) == b"fine"
    assert len(set(site.clients)) == 3


async def test_where_nothing_listens(client: Client, unused_tcp_port: int) -> None:
    with pytest.raises(client.errors, match=r"refused|refuses|connect"):
        await client.fetch(f"http://127.0.0.1:{unused_tcp_port}/")


async def test_a_name_that_the_machine_does_not_know(client: Client) -> None:
    with pytest.raises(client.errors, match=r"no-such-host"):
        await client.fetch("http://no-such-host.invalid/")


async def test_an_answer_that_does_not_come_in_time(client: Client, site: Web) -> None:
    with pytest.raises((httpx.ReadTimeout, TimeoutError)):
        await client.fetch(site.url("/slow"), timeout=0.2)
    assert await client.fetch(site.url()) == b"fine"


async def test_a_cancelled_request_leaves_nothing(client: Client, site: Web) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.fetch(site.url("/slow"))
    assert await client.fetch(site.url()) == b"fine"


async def test_a_lost_link_is_no_whole_answer(kind: type[Httpx], lossy: tuple[SshMachine, TcpProxy], site: Web) -> None:
    """Promise 131, 52: in the middle of a body."""
    machine, link = lossy
    client = kind(machine)
    async with asyncio.TaskGroup() as group:

        async def fetch() -> None:
            with pytest.raises(client.errors):
                await client.fetch(site.url("/slow"))

        group.create_task(fetch())
        await until(lambda: link.bytes_received > 1000 and site.clients)
        link.cut()
    with pytest.raises(client.errors, match="lost"):
        await client.fetch(site.url())
    await client.aclose()


async def test_httpx_to_a_far_unix_socket(machine: Machine, tmp_path: object) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix")
        writer.close()

    path = f"{tmp_path}/socket"
    async with (
        await asyncio.start_unix_server(serve, path),
        httpx.AsyncClient(transport=MachineTransport(machine, path=path)) as client,
    ):
        assert (await client.get("http://docker/version")).text == "unix"
