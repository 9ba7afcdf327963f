"""A machine over ssh and the local one, and servers for their clients."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from aiohttp import web
from tests import servers

from aioremote import HostKeys, LocalMachine, Machine, SshMachine
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd


@pytest_asyncio.fixture(params=["ssh", "local"])
async def machine(request: pytest.FixtureRequest, aioremote_sshd: Sshd) -> AsyncIterator[Machine]:
    async with LocalMachine() if request.param == "local" else on(aioremote_sshd) as connected:
        yield connected


@pytest_asyncio.fixture
async def lossy(aioremote_sshd: Sshd) -> AsyncIterator[tuple[SshMachine, TcpProxy]]:
    """A machine, and the link to it."""
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as link,
        on(aioremote_sshd, port=link.port, host_keys=HostKeys.pinned(aioremote_sshd.host_key_fingerprint)) as connected,
    ):
        yield connected, link


def on(server: Sshd, **keywords: object) -> SshMachine:
    needed = {
        "port": server.port,
        "keyfile": server.keyfile,
        "host_keys": HostKeys.strict(server.known_hosts),
        "config": None,
    }
    return SshMachine(server.host, **{**needed, **keywords})  # type: ignore[arg-type]


def listening() -> set[object]:
    """Return where this process listens on ports."""
    return {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def program_behind(port: int) -> str:
    """Return the name of the program that has connected from a port of this computer."""
    (pid,) = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid}
    return psutil.Process(pid).name()


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A server's certificate for localhost, which is its own authority."""

    cert: Path
    key: Path

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

    @property
    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.cert)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
            *("-keyout", made.key, "-out", made.cert),
        ],
        check=True,
        capture_output=True,
    )
    return made


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[int]:
    with servers.postgres() as port:
        yield port


@pytest.fixture(scope="session")
def redis_ports(certificate: Certificate) -> Iterator[tuple[int, int]]:
    """A Redis; gives its port and the one for TLS."""
    tls = servers.free_port()
    files = ["--tls-cert-file", str(certificate.cert), "--tls-key-file", str(certificate.key)]
    with servers.redis(*files, "--tls-auth-clients", "no", "--tls-port", str(tls)) as port:
        yield port, tls


@dataclass
class Web:
    """A web server in this loop.

    Attributes:
        port, tls_port: where it listens, on localhost.
        clients: the ports that its clients have connected from.
        hold: until it is set, /slow does not end.
    """

    port: int = 0
    tls_port: int = 0
    clients: list[int] = field(default_factory=list[int])
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/") -> str:
        return f"http://localhost:{self.port}{path}"

    def tls_url(self, path: str = "/") -> str:
        return f"https://localhost:{self.tls_port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.clients.append(request.transport.get_extra_info("peername")[1])
        if request.path == "/slow":
            response = web.StreamResponse()
            response.content_length = 2_000_000
            await response.prepare(request)
            await response.write(b"x" * 1000)
            await self.hold.wait()
            return response
        response = web.Response(body=await request.read() or b"fine")
        if request.path == "/close":
            response.force_close()
        return response


@pytest_asyncio.fixture
async def site(certificate: Certificate) -> AsyncIterator[Web]:
    made = Web()
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1, keepalive_timeout=1000)
    await runner.setup()
    sites = [
        web.TCPSite(runner, "127.0.0.1", 0),
        web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.server),
    ]
    for one in sites:
        await one.start()
    made.port, made.tls_port = (address[1] for address in runner.addresses)
    yield made
    made.hold.set()
    await runner.cleanup()
