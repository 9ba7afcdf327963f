"""The daemon: who gets in, who does not, and what is left when one goes."""

import asyncio
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aioremote import BusyError, ConnectError, ConnectionLost, DaemonMachine
from aioremote.daemon import Daemon, DaemonConfig, make_key, serve
from aioremote.errors import ConfigError
from aioremote.testing.checks import marked_processes, until

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[tuple[Daemon, str]]:
    pin = make_key(folder / "server")
    make_key(folder / "client")
    config = DaemonConfig(
        listen="127.0.0.1:0",
        key=folder / "server",
        authorized=folder / "client.crt",
        **settings,  # type: ignore[arg-type]
    )
    async with serve(config) as daemon:
        yield daemon, pin


def to(daemon: Daemon, pin: str, keyfile: Path) -> DaemonMachine:
    return DaemonMachine("127.0.0.1", daemon.port, keyfile=keyfile, server_fingerprint=pin)


async def test_an_authorised_client_runs_commands(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, tmp_path / "client") as machine:
        data = os.urandom(1_000_000)
        assert (await machine.run("cat", input=data)).stdout_bytes == data
        assert await machine.python.call(os.getpid) != os.getpid()


async def test_wrong_and_expired_certificates_and_pins_fail_at_connect(tmp_path: Path) -> None:
    """Promise 101."""
    make_key(tmp_path / "stranger")
    async with serving(tmp_path) as (daemon, pin):
        for key, shown in (("stranger", pin), ("client", "sha256:" + "0" * 64)):
            with pytest.raises(ConnectError):
                await to(daemon, shown, tmp_path / key).connect()
        await until(lambda: daemon.sessions == 0)  # one was let in, and left when it saw the pin


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """Promise 101."""
    pin = make_key(tmp_path / "server")
    make_key(tmp_path / "old", valid_days=-1)
    config = DaemonConfig(listen="127.0.0.1:0", key=tmp_path / "server", authorized=tmp_path / "old.crt")
    async with serve(config) as daemon:
        with pytest.raises(ConnectError):
            await to(daemon, pin, tmp_path / "old").connect()


@pytest.mark.parametrize("first", [b"\xff" * 4096, b"\x80\x04\x95" * 99, b"\x1f\x8b" * 99, b"GET / HTTP/1.0\r\n\r\n"])
async def test_what_is_no_tls_is_closed(tmp_path: Path, first: bytes) -> None:
    """Promises 101, 106."""
    async with serving(tmp_path) as (daemon, pin):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(first)
        try:
            assert b"aioremote" not in await reader.read()
        except ConnectionError:
            pass
        writer.close()
        async with to(daemon, pin, tmp_path / "client") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"


async def test_tls_1_2_and_no_certificate_are_refused(tmp_path: Path) -> None:
    """Promise 101."""
    async with serving(tmp_path) as (daemon, _):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = version
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port, ssl=context)
                assert await reader.read() == b""
            except OSError:
                pass  # an alert
            if writer is not None:
                writer.close()
        assert daemon.sessions == 0


async def test_idle_and_slow_sockets_are_limited(tmp_path: Path) -> None:
    """Promises 102, 103: 8 of an address are held, for as long as the login may take."""
    async with serving(tmp_path, login_seconds=1.0) as (daemon, pin):
        socks = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(100)]
        for sock in socks:
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        for sock in socks:  # every one is closed by the server
            try:
                assert await loop.sock_recv(sock, 1) == b""
            except ConnectionError:
                pass
            sock.close()
        async with to(daemon, pin, tmp_path / "client") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"


async def test_it_does_not_start_unsafely(tmp_path: Path) -> None:
    """Promise 107."""
    make_key(tmp_path / "k")
    good = {"key": tmp_path / "k", "authorized": tmp_path / "k.crt"}
    open_key = tmp_path / "open"
    make_key(open_key)
    open_key.chmod(0o644)
    for settings in ({}, {**good, "listen": "0.0.0.0:0"}, {**good, "key": open_key}):
        with pytest.raises(ConfigError):
            async with serve(DaemonConfig(**settings)):  # type: ignore[arg-type]
                pass


async def test_sessions_are_limited_and_apart(tmp_path: Path) -> None:
    """Promise 108."""
    async with serving(tmp_path, max_sessions=2) as (daemon, pin):
        key = tmp_path / "client"
        async with to(daemon, pin, key) as one:
            async with to(daemon, pin, key) as two:
                with pytest.raises(BusyError, match="sessions"):
                    await to(daemon, pin, key).connect()
                with pytest.raises(ConnectionLost):
                    await two.shell("kill -9 $PPID; sleep 600")
            assert (await one.run("echo", "alive")).stdout == "alive\n"


async def test_losing_the_client_ends_what_it_runs(tmp_path: Path) -> None:
    """Promise 73."""
    mark = f"aioremote-mark-{os.getpid()}-lost"
    async with serving(tmp_path) as (daemon, pin):
        machine = await to(daemon, pin, tmp_path / "client").connect()
        process = await machine.start("sleep", "600", env={"MARK": mark})
        assert process.pid > 1
        machine.abort()
        await until(lambda: not marked_processes(mark), seconds=5)
        await machine.aclose()


async def test_another_user_is_refused_at_a_unix_socket() -> None:
    """Promise 109: also where somebody has opened the directory and the socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        async with serve(DaemonConfig(listen=path)):
            os.chmod(folder, 0o755)
            os.chmod(path, 0o777)
            code = f"import socket; s = socket.socket(1); s.connect({path!r}); print(s.recv(9))"
            process = await asyncio.create_subprocess_exec(
                "/usr/bin/python3", "-c", code, user="nobody", stdout=asyncio.subprocess.PIPE
            )
            assert (await process.communicate())[0] == b"b''\n"


async def test_a_unix_socket_needs_a_private_folder(tmp_path: Path) -> None:
    """Promise 109."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    path = str(folder / "s")
    with pytest.raises(ConfigError, match="0700"):
        async with serve(DaemonConfig(listen=path)):
            pass
    folder.chmod(0o700)
    async with serve(DaemonConfig(listen=path)), DaemonMachine(path=path) as machine:
        assert (await machine.run("echo", "in")).stdout == "in\n"
