"""Whatever comes at a daemon's door, and what an authorised client does wrongly: others are not touched."""

import asyncio
import contextlib
import datetime
import os
import signal
import socket
import ssl
import struct
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.daemon.served import Caller, serving, to
from tests.forked import in_a_child, refused_in_a_fork

from aioremote import (
    AddressError,
    AuthenticationError,
    ConnectionLost,
    DaemonMachine,
    connect,
)
from aioremote.daemon import Daemon, DaemonConfig, make_key, make_token, serve
from aioremote.daemon import server as daemon_server
from aioremote.errors import ConfigError
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy

HEADER = struct.Struct(">IBBHI")  # of a frame: length, type, flags, reserved, channel

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def let_in(daemon: Daemon, keyfile: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Log in as a client that is authorised, and then speaks as it likes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(keyfile)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port, ssl=context)
    assert (await reader.readline()).startswith(b"aioremote-daemon")
    return reader, writer


PICKLE = b"\x80\x05\x95" + bytes(1_000_000)
LENGTH_4_GIB = HEADER.pack(0xFFFFFFFF, 1, 0, 0, 1) + bytes(1_000_000)
GZIP_BOMB = b"\x1f\x8b\x08\0" + bytes(1_000_000)
LONG_RECORD = b"\x16\x03\x01\xff\xff" + bytes(1_000_000)  # of TLS: longer than a ClientHello may be here


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes a daemon takes from the sockets of its clients before they are in, each time that it does."""
    counts: list[int] = []

    class Counting(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size, flags)
            counts.append(0 if flags & socket.MSG_PEEK else len(data))
            return data

    arrived = Daemon._arrived

    def counted(daemon: Daemon, side: daemon_server._Side, source: str) -> None:
        assert side.raw is not None
        side.raw = Counting(fileno=side.raw.detach())
        arrived(daemon, side, source)

    monkeypatch.setattr(Daemon, "_arrived", counted)
    return counts


async def is_closed_on(sock: socket.socket, data: bytes) -> bool:
    """Say something, and wait for the end; whether it was a reset, as where not all was read."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(5):
            await loop.sock_sendall(sock, data)
            while await loop.sock_recv(sock, 65536):
                pass
    except ConnectionError:
        return True
    return False


JUNK = pytest.mark.parametrize(
    "junk", [PICKLE, LENGTH_4_GIB, GZIP_BOMB, LONG_RECORD], ids=["pickle", "4GiB", "gzip", "tls"]
)


@JUNK
async def test_what_is_no_login_is_closed_unread(tmp_path: Path, taken: list[int], junk: bytes) -> None:
    """Promises 101, 106: not a byte of it is taken from the socket."""
    async with serving(tmp_path) as (daemon, _):
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            sock.setblocking(False)
            assert await is_closed_on(sock, junk)
        await until(lambda: daemon.waiting == 0)
        assert taken == [0]


@JUNK
@pytest.mark.parametrize("when", ["in the handshake", "in place of a token"])
async def test_what_follows_a_good_beginning_is_closed_all_but_unread(
    tmp_path: Path, taken: list[int], junk: bytes, when: str
) -> None:
    """Promise 106: with all that led to it, 4 KiB at most are taken."""
    make_token(tmp_path / "token")
    async with serving(tmp_path, tokens=tmp_path / "token") as (daemon, _):
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            caller = Caller(sock)
            await caller.hear(caller.tls.do_handshake)
            if when != "in the handshake":
                await caller.hear(caller.tls.read)
                junk = caller.sealed(junk)
            assert await is_closed_on(sock, junk)
        await until(lambda: daemon.waiting == 0)
        assert 500 < sum(taken) <= 4096
        assert daemon.sessions == 0


async def test_a_chain_of_certificates_has_an_end(tmp_path: Path, taken: list[int]) -> None:
    """Promise 106: OpenSSL by itself takes 100 KiB of them."""
    async with serving(tmp_path) as (daemon, _):
        own = (tmp_path / "client").read_text()
        (tmp_path / "long").write_text(own + 100 * (tmp_path / "client.crt").read_text())
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            caller = Caller(sock, tmp_path / "long")
            await caller.hear(caller.tls.do_handshake)
            assert await is_closed_on(sock, caller.said.read())
        await until(lambda: daemon.waiting == 0)
        assert 500 < sum(taken) <= 4096


async def test_a_login_by_rsa_has_room(tmp_path: Path) -> None:
    """The longest of the keys that are in use."""
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    shown = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa.crt").write_bytes(shown.public_bytes(Encoding.PEM))
    (tmp_path / "rsa").write_bytes(secret + shown.public_bytes(Encoding.PEM))
    (tmp_path / "rsa").chmod(0o600)
    async with (
        serving(tmp_path, authorized=tmp_path / "rsa.crt") as (daemon, pin),
        to(daemon, pin, tmp_path / "rsa") as machine,
    ):
        await machine.ping()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"])
async def test_a_login_that_stalls_is_closed(tmp_path: Path, sent: bytes) -> None:
    """Promise 103: before the first record, in its head, and in its middle."""
    async with serving(tmp_path, login_seconds=0.5) as (daemon, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.close()
        await until(lambda: daemon.waiting == 0)


async def test_a_frame_of_4_gib_ends_its_client_alone(tmp_path: Path) -> None:
    """Promise 108: as does everything else that breaks a rule of the wire, after the login."""
    async with (
        serving(tmp_path) as (daemon, pin),
        to(daemon, pin, tmp_path / "client") as machine,
        machine.start("cat") as process,
    ):
        for broken in (LENGTH_4_GIB, PICKLE, GZIP_BOMB):
            reader, writer = await let_in(daemon, tmp_path / "client")
            assert daemon.sessions == 2
            writer.write(broken)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    await reader.read()
            writer.close()
            await until(lambda: daemon.sessions == 1)
        await process.stdin.send(b"untouched")
        assert await process.stdout.receive() == b"untouched"


async def test_a_swapped_certificate_is_named_with_the_one_expected(tmp_path: Path) -> None:
    """Promise 101: the daemon's is a new one; and a client's key with the certificate of another."""
    async with serving(tmp_path) as (daemon, pin):
        (tmp_path / "server").unlink()
        (tmp_path / "server.crt").unlink()
        shown = make_key(tmp_path / "server")
        daemon.reload()
        with pytest.raises(AuthenticationError, match=f"shows {shown}, not {pin}"):
            await to(daemon, pin, tmp_path / "client").connect()
        make_key(tmp_path / "other")
        mixed = tmp_path / "mixed"
        secret = (tmp_path / "client").read_text().partition("-----BEGIN CERT")[0]
        mixed.write_text(secret + (tmp_path / "other.crt").read_text())
        mixed.chmod(0o600)
        with pytest.raises(ConfigError, match=r"no key with its certificate"):
            await to(daemon, shown, mixed).connect()
        async with to(daemon, shown, tmp_path / "client") as machine:
            await machine.ping()


async def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    """Promise 107, at both ends; a reload that finds one changes nothing."""
    async with serving(tmp_path) as (daemon, pin):
        (tmp_path / "client").chmod(0o644)
        with pytest.raises(ConfigError, match=r"0644.*chmod 600"):
            await to(daemon, pin, tmp_path / "client").connect()
        (tmp_path / "client").chmod(0o600)
        (tmp_path / "server").chmod(0o640)
        with pytest.raises(ConfigError, match=r"0640.*chmod 600"):
            daemon.reload()
        async with to(daemon, pin, tmp_path / "client") as machine:
            await machine.ping()


async def test_a_killed_outpost_is_a_lost_connection_and_leaves_nothing(tmp_path: Path) -> None:
    """Promise 74."""
    mark = f"aioremote-mark-{os.getpid()}-outpost"
    key = tmp_path / "client"
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, key) as machine, to(daemon, pin, key) as other:
        async with machine.start("sh", "-c", "sleep 600 & sleep 600", env={"MARK": mark}) as process:
            outpost = psutil.Process(process.pid).parent()
            assert outpost is not None
            outpost.send_signal(signal.SIGKILL)
            with pytest.raises(ConnectionLost):
                await process.wait()
            await until(lambda: not marked_processes(mark), seconds=1.5)
        assert (await other.run("echo", "alive")).stdout == "alive\n"


async def test_a_client_that_falls_silent_is_ended(tmp_path: Path) -> None:
    """Promise 73: a black hole, after which nothing of it is left three intervals and 2 s later."""
    mark = f"aioremote-mark-{os.getpid()}-silent"
    async with serving(tmp_path, keepalive=0.5) as (daemon, pin), TcpProxy("127.0.0.1", daemon.port) as proxy:
        machine = DaemonMachine("127.0.0.1", proxy.port, keyfile=tmp_path / "client", server_fingerprint=pin)
        process = await machine.start("sleep", "600", env={"MARK": mark})
        assert process.pid > 1
        proxy.freeze()
        await until(lambda: not marked_processes(mark), seconds=3 * 0.5 + 2)
        await until(lambda: daemon.sessions == 0, seconds=10)
        machine.abort()
        with pytest.raises(ConnectionLost):
            await process.wait()
        await machine.aclose()


async def test_a_forked_child_may_not_use_the_connection(tmp_path: Path) -> None:
    """Promise 78: the parent's goes on."""
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, tmp_path / "client") as machine:
        await machine.ping()
        await in_a_child(lambda: refused_in_a_fork(machine))
        assert (await machine.run("echo", "parent")).stdout == "parent\n"


async def test_a_close_while_it_connects_leaves_nothing(tmp_path: Path) -> None:
    """Promise 79: at the client, and at the daemon; and closing twice, or after an error in the block."""
    async with serving(tmp_path) as (daemon, pin):
        machine = to(daemon, pin, tmp_path / "client")
        connecting = asyncio.create_task(machine.connect())  # noqa: TID251  # is closed from here
        await until(lambda: daemon.waiting + daemon.sessions > 0)
        await machine.aclose()
        await machine.aclose()
        assert isinstance((await asyncio.gather(connecting, return_exceptions=True))[0], BaseException)  # noqa: TID251
        with pytest.raises(ZeroDivisionError):
            async with to(daemon, pin, tmp_path / "client"):
                raise ZeroDivisionError
        await until(lambda: daemon.sessions == daemon.waiting == 0)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a;b", "a\nb", "", "a b", "a/b"])
def test_what_is_no_host_is_refused_at_once(host: str) -> None:
    """Promise 97."""
    with pytest.raises(ValueError):  # noqa: PT011  # each says which character
        DaemonMachine(host, keyfile="k", server_fingerprint="sha256:0")
    with pytest.raises(AddressError):
        connect(f"daemon://{host}", keyfile="k", server_fingerprint="sha256:0")


async def test_an_address_of_a_unix_socket_leads_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    async with serve(DaemonConfig(listen=str(tmp_path / "s"))), connect(f"unix://{tmp_path}/s") as machine:
        assert (await machine.run("echo", "in")).stdout == "in\n"


async def test_a_client_that_takes_its_leave_is_let_go(tmp_path: Path) -> None:
    """TLS says that nothing follows, and the connection stays open: nobody waits for its end."""
    async with serving(tmp_path) as (daemon, _):
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            caller = Caller(sock, tmp_path / "client")
            await caller.hear(caller.tls.do_handshake)
            assert (await caller.hear(caller.tls.read)).startswith(b"aioremote-daemon")
            await until(lambda: daemon.sessions == 1)
            with contextlib.suppress(ssl.SSLWantReadError):
                caller.tls.unwrap()
            await asyncio.get_running_loop().sock_sendall(sock, caller.said.read())
            await until(lambda: daemon.sessions == 0)


async def test_a_client_that_speaks_no_tls_after_its_login_is_let_go(tmp_path: Path) -> None:
    """Promise 108: alone."""
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, tmp_path / "client") as machine:
        await machine.ping()
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            caller = Caller(sock, tmp_path / "client")
            await caller.hear(caller.tls.do_handshake)
            assert (await caller.hear(caller.tls.read)).startswith(b"aioremote-daemon")
            await is_closed_on(sock, PICKLE)
            await until(lambda: daemon.sessions == 1)
        assert (await machine.run("echo", "untouched")).stdout == "untouched\n"
