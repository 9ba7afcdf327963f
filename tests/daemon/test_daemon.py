"""The daemon: who gets in, who does not, and what is left when one goes."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.daemon.served import serving, to

from aioremote import BusyError, ConnectError, ConnectionLost, DaemonMachine
from aioremote.daemon import DaemonConfig, make_key, serve, server
from aioremote.errors import ConfigError
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy

ALERT = b"\x15\x03\x03\0\2\2\x46"  # of TLS: another version

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


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


async def test_a_thousand_idle_sockets_keep_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Promises 102, 104: the oldest of an address gives way, one line a second is logged, memory stays."""
    process = psutil.Process()
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, tmp_path / "client") as machine:
        await machine.ping()
        before, began = process.memory_info().rss, time.monotonic()
        socks = []
        try:
            for _ in range(10):
                socks += [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(100)]
                await machine.ping()
            await until(lambda: daemon.waiting == 8)
            assert process.memory_info().rss - before < 40 * 2**20
            started = time.monotonic()
            async with to(daemon, pin, tmp_path / "client") as late:
                assert time.monotonic() - started < 1
                assert (await late.run("echo", "in")).stdout == "in\n"
        finally:
            for sock in socks:
                sock.close()
        assert len(caplog.records) <= 1 + time.monotonic() - began


async def test_a_slow_login_is_closed(tmp_path: Path) -> None:
    """Promise 103: a byte now and then does not help."""
    async with serving(tmp_path, login_seconds=1.0) as (daemon, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"\x16\x03\x01\x02\x00" + bytes(200):
                writer.write(bytes([byte]))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        if await reader.read(1) == b"":
                            break
        assert time.monotonic() - started < 3
        writer.close()
        await until(lambda: daemon.waiting == 0)


async def test_who_fails_often_has_to_pause(tmp_path: Path) -> None:
    """Promise 104: longer with each failure, and nobody else has to."""
    async with serving(tmp_path) as (daemon, pin):
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", daemon.port), source_address=("127.0.0.2", 0)) as sock:
                sock.setblocking(False)
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(sock, b"no TLS at all")
                    assert await asyncio.get_running_loop().sock_recv(sock, 100) in (b"", ALERT)
            await until(lambda: daemon.waiting == 0)
        with socket.create_connection(("127.0.0.1", daemon.port), source_address=("127.0.0.2", 0)) as sock:
            sock.setblocking(False)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""  # without having been heard
        async with to(daemon, pin, tmp_path / "client") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"


async def test_a_recorded_login_cannot_be_replayed(tmp_path: Path) -> None:
    """Promise 105."""
    async with serving(tmp_path) as (daemon, pin), TcpProxy("127.0.0.1", daemon.port) as proxy:
        recorded = bytearray()
        server = await asyncio.start_server(partial(_record, recorded, proxy.port), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        machine = DaemonMachine("127.0.0.1", port, keyfile=tmp_path / "client", server_fingerprint=pin)
        async with machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"
        server.close()
        await until(lambda: daemon.sessions == 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(recorded)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        assert daemon.sessions == 0


async def _record(recorded: bytearray, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass a connection on and keep what the client says."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                kept += data
                target.write(data)
        target.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(pass_on(reader, far_writer, recorded))
        group.create_task(pass_on(far_reader, writer, bytearray()))


async def test_only_what_is_authorised_itself_gets_in(tmp_path: Path) -> None:
    """Promise 101: not what an authorised certificate has signed."""
    pin = make_key(tmp_path / "server")
    (tmp_path / "ca.crt").write_text(signed_by_an_authority(tmp_path / "signed"))
    (tmp_path / "ca.crt").chmod(0o600)
    config = DaemonConfig(listen="127.0.0.1:0", key=tmp_path / "server", authorized=tmp_path / "ca.crt")
    async with serve(config) as daemon:
        with pytest.raises(ConnectError):
            await to(daemon, pin, tmp_path / "signed").connect()


def signed_by_an_authority(keyfile: Path) -> str:
    """Write a key with a certificate that another one has signed, and return that one's."""
    folder = str(keyfile.parent)
    new = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "9"]
    subprocess.run(
        [*new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"], cwd=folder, check=True, capture_output=True
    )
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=signed", "-keyout", "s.key", "-out", "s.pem"]
    subprocess.run([*new, *signing], cwd=folder, check=True, capture_output=True)
    keyfile.write_text((keyfile.parent / "s.key").read_text() + (keyfile.parent / "s.pem").read_text())
    keyfile.chmod(0o600)
    return (keyfile.parent / "ca.pem").read_text()


async def test_a_reload_changes_who_gets_in(tmp_path: Path) -> None:
    """Who is in stays in; what cannot be read changes nothing."""
    make_key(tmp_path / "second")
    async with serving(tmp_path) as (daemon, pin), to(daemon, pin, tmp_path / "client") as first:
        await first.ping()
        (tmp_path / "client.crt").write_text((tmp_path / "second.crt").read_text())
        daemon.reload()
        async with to(daemon, pin, tmp_path / "second") as second:
            assert (await second.run("echo", "in")).stdout == "in\n"
        with pytest.raises(ConnectError):
            await to(daemon, pin, tmp_path / "client").connect()
        (tmp_path / "client.crt").unlink()
        with pytest.raises(ConfigError):
            daemon.reload()
        async with to(daemon, pin, tmp_path / "second") as second:
            await second.ping()
        assert (await first.run("echo", "still")).stdout == "still\n"


async def test_a_drain_lets_clients_finish(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, pin):
        machine = await to(daemon, pin, tmp_path / "client").connect()
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(daemon.drain(30))
            assert (await machine.run("echo", "still")).stdout == "still\n"
            with pytest.raises(ConnectError):
                await to(daemon, pin, tmp_path / "client").connect()
            assert not draining.done()
            await machine.aclose()
        started = time.monotonic()
        await daemon.drain(30)
        assert time.monotonic() - started < 5


async def test_a_killed_client_leaves_nothing(tmp_path: Path) -> None:
    """Promise 73: SIGKILL of the client's process."""
    mark = f"aioremote-mark-{os.getpid()}-killed"
    code = (
        "import asyncio, sys\n"
        "from aioremote import DaemonMachine\n"
        "async def main():\n"
        "    port, key, pin, mark = int(sys.argv[1]), *sys.argv[2:]\n"
        "    async with DaemonMachine('127.0.0.1', port, keyfile=key, server_fingerprint=pin) as machine:\n"
        "        async with machine.start('sleep', '600', env={'MARK': mark}) as process:\n"
        "            print(process.pid, flush=True)\n"
        "            await process.wait()\n"
        "asyncio.run(main())\n"
    )
    async with serving(tmp_path) as (daemon, pin):
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(daemon.port), str(tmp_path / "client"), pin, mark,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdout is not None
        assert int(await client.stdout.readline()) > 1
        assert marked_processes(mark)
        client.kill()
        await client.wait()
        await until(lambda: not marked_processes(mark), seconds=3)


async def test_a_refused_start_touches_no_file(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="0700"):
        async with serve(DaemonConfig(listen=str(path))):
            pass
    tmp_path.chmod(0o700)
    with pytest.raises(OSError, match="in use"):
        async with serve(DaemonConfig(listen=str(path))):
            pass
    assert path.read_text() == "x"
    async with serve(DaemonConfig(listen=str(tmp_path / "s"))), DaemonMachine(path=tmp_path / "s") as machine:
        with pytest.raises(ConfigError, match="already"):
            async with serve(DaemonConfig(listen=str(tmp_path / "s"))):
                pass
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


async def test_a_pipe_is_for_windows() -> None:
    with pytest.raises(ConfigError, match="only Windows has named pipes"):
        async with serve(DaemonConfig(listen=r"\\.\pipe\aioremote")):
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


async def test_an_outpost_that_does_not_end_is_killed_though_the_daemon_ends_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 73."""
    monkeypatch.setattr(server, "_END_SECONDS", 0.5)
    async with serving(tmp_path) as (daemon, pin):
        machine = await to(daemon, pin, tmp_path / "client").connect()
        outpost = int((await machine.shell("echo $PPID")).stdout)
        os.kill(outpost, signal.SIGSTOP)
        machine.abort()
        await asyncio.sleep(0.1)  # the daemon sees the loss
    await machine.aclose()
    assert not Path(f"/proc/{outpost}").exists()


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
            words = ["/usr/bin/python3", "-c", code]
            done = await asyncio.to_thread(subprocess.run, words, user="nobody", stdout=subprocess.PIPE)
            assert done.stdout == b"b''\n"


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
