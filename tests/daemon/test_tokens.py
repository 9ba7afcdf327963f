"""Clients that show a token in place of a certificate: it is proved, never sent, and good for one daemon."""

import asyncio
import hmac
import logging
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aioremote import ConnectError, DaemonMachine
from aioremote.daemon import Daemon, DaemonConfig, make_key, make_token, serve
from aioremote.daemon.gate import FREE_FAILURES, MOST_PAUSE_SECONDS, Gate
from aioremote.errors import ConfigError
from aioremote.testing.checks import until
from aioremote.transports.tokens import answer, challenge, whose_answer

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[tuple[Daemon, str]]:
    """A daemon that knows the token in the file "token"."""
    pin = make_key(folder / "server")
    make_token(folder / "token")
    config = DaemonConfig(
        listen="127.0.0.1:0",
        key=folder / "server",
        tokens=folder / "token",
        **settings,  # type: ignore[arg-type]
    )
    async with serve(config) as daemon:
        yield daemon, pin


def to(daemon: Daemon, pin: str, tokenfile: Path) -> DaemonMachine:
    return DaemonMachine("127.0.0.1", daemon.port, tokenfile=tokenfile, server_fingerprint=pin)


async def greeted(daemon: Daemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Open TLS without a certificate and return the streams and the challenge."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port, ssl=context)
    return reader, writer, await reader.readline()


async def last_words(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except OSError:
        return b""


async def test_a_token_lets_in_and_another_does_not(tmp_path: Path) -> None:
    """Promise 101: a wrong token is a ConnectError at connect, as is a wrong pin."""
    make_token(tmp_path / "other")
    async with serving(tmp_path) as (daemon, pin):
        async with to(daemon, pin, tmp_path / "token") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"
            async with machine.python.session("n") as session:
                assert await session.eval("1") == 1
        for pinned, token in ((pin, "other"), ("sha256:" + "0" * 64, "token")):
            with pytest.raises(ConnectError):
                await to(daemon, pinned, tmp_path / token).connect()


async def test_keys_and_tokens_go_together(tmp_path: Path) -> None:
    """A certificate that is not authorised is refused, though a token would do; a reload reads the tokens anew."""
    make_key(tmp_path / "client")
    make_key(tmp_path / "stranger")
    async with serving(tmp_path, authorized=tmp_path / "client.crt") as (daemon, pin):
        for key in ("client", "stranger"):
            machine = DaemonMachine("127.0.0.1", daemon.port, keyfile=tmp_path / key, server_fingerprint=pin)
            if key == "stranger":
                with pytest.raises(ConnectError):
                    await machine.connect()
            else:
                async with machine:
                    await machine.ping()
        async with to(daemon, pin, tmp_path / "token") as machine:
            (tmp_path / "token").rename(tmp_path / "old")
            make_token(tmp_path / "token")
            daemon.reload()
            assert (await machine.run("echo", "still")).stdout == "still\n"
        with pytest.raises(ConnectError):
            await to(daemon, pin, tmp_path / "old").connect()
        async with to(daemon, pin, tmp_path / "token") as machine:
            await machine.ping()


async def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    """Promise 107, at both ends; and one that is too short, or no file."""
    async with serving(tmp_path) as (daemon, pin):
        path = tmp_path / "token"
        path.chmod(0o640)
        with pytest.raises(ConfigError, match=r"0640.*chmod 600"):
            await to(daemon, pin, path).connect()
        with pytest.raises(ConfigError, match=r"0640.*chmod 600"):
            daemon.reload()
        path.chmod(0o600)
        path.write_text("secret\n")
        with pytest.raises(ConfigError, match="32 or more"):
            daemon.reload()
        with pytest.raises(ConfigError, match="No such file"):
            await to(daemon, pin, tmp_path / "none").connect()
    with pytest.raises(FileExistsError):
        make_token(path)
    assert path.read_text() == "secret\n"
    assert (tmp_path / "server").stat().st_mode & 0o777 == 0o600


async def test_an_answer_is_good_once_and_for_one_daemon(tmp_path: Path) -> None:
    """Promise 105: recorded from one connection, or got by another daemon, it opens nothing."""
    async with serving(tmp_path) as (daemon, _):
        token = (tmp_path / "token").read_bytes().strip()
        certificate = ssl.PEM_cert_to_DER_cert((tmp_path / "server.crt").read_text())
        reader, writer, asked = await greeted(daemon)
        said = answer(asked, token, certificate)
        assert said is not None
        writer.write(said)
        assert (await reader.readline()).startswith(b"aioremote-daemon")
        writer.close()
        for replayed in (said, None):
            reader, writer, asked = await greeted(daemon)
            writer.write(replayed or answer(asked, token, b"another certificate") or b"")
            assert await last_words(reader) == b""
            writer.close()
        await until(lambda: daemon.sessions == 0)


@pytest.mark.parametrize(
    "first", [b"\x80\x04\x95" * 9999, b"\xff\xff\xff\xff\x01\0\0\0\0\0\0\1" * 9, b"\x1f\x8b" * 9999, b"token " * 9999]
)
async def test_what_is_no_answer_is_closed(tmp_path: Path, first: bytes) -> None:
    """Promise 106: a pickle, a frame of 4 GiB, a gzip bomb, a line without end, in place of the answer."""
    async with serving(tmp_path) as (daemon, pin):
        reader, writer, _ = await greeted(daemon)
        writer.write(first if len(first) > 256 else first + b"\n")
        assert await last_words(reader) == b""
        writer.close()
        await until(lambda: daemon.waiting == 0)
        assert daemon.sessions == 0
        async with to(daemon, pin, tmp_path / "token") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 104: whichever is right, and if none is."""
    compared: list[object] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    real = hmac.compare_digest
    monkeypatch.setattr("aioremote.transports.tokens.hmac.compare_digest", compare)
    tokens = tuple(b"%032d" % number for number in range(5))
    for token in (*tokens, b"%032d" % 9):
        asked = challenge()
        said = answer(asked, token, b"c")
        assert said is not None
        found = whose_answer(asked, said, tokens, b"c")
        assert found == (token if token in tokens else None)
        assert len(compared) == len(tokens)
        compared.clear()


def test_the_pause_grows_with_each_failure_and_ends() -> None:
    """Promise 104."""
    gate: Gate[int] = Gate(64, 8)
    now, pauses = 0.0, []
    for _ in range(10_000):
        gate.failed("a", now)
        end = now
        while gate.is_paused("a", end):
            end += 0.5
        pauses.append(end - now)
        now = end
    assert pauses[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert pauses[FREE_FAILURES : FREE_FAILURES + 4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_PAUSE_SECONDS
    assert not gate.is_paused("b", 0.0)


GUESSING = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
heard = 0
for _ in range(10_000):
    try:
        sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.2", 0))
        with context.wrap_socket(sock) as tls:
            assert tls.recv(100).startswith(b"token? ")
            heard += 1
            tls.sendall(b"token " + b"0" * 64 + b" " + b"0" * 64 + b"\\n")
            assert tls.recv(100) == b""
    except OSError:
        pass
    sock.close()
print(heard)
"""


async def test_ten_thousand_guesses_are_hardly_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 104: most meet a pause, one line a second is logged, and who has the token gets in meanwhile."""
    caplog.set_level(logging.DEBUG, "aioremote.daemon")
    async with serving(tmp_path) as (daemon, pin):
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GUESSING, str(daemon.port), stdout=asyncio.subprocess.PIPE
        )
        await until(lambda: len(caplog.records) > 0)
        async with to(daemon, pin, tmp_path / "token") as machine:
            assert (await machine.run("echo", "in")).stdout == "in\n"
        heard = int((await process.communicate())[0])
        took = time.monotonic() - began
    assert heard <= FREE_FAILURES + 2 + took / 0.5
    assert 1 <= len(caplog.records) <= 1 + took
    token = (tmp_path / "token").read_text().strip()
    assert token not in caplog.text


def test_the_token_is_in_no_representation(tmp_path: Path) -> None:
    make_token(tmp_path / "token")
    machine = DaemonMachine("h", tokenfile=tmp_path / "token", server_fingerprint="sha256:0")
    token = (tmp_path / "token").read_text().strip()
    assert re.fullmatch(r"[\w-]{43}", token)
    assert token not in f"{machine!r} {machine} {vars(machine.transport)}"
    with pytest.raises(ValueError, match="either keyfile= or tokenfile="):
        DaemonMachine("h", tokenfile="t", keyfile="k", server_fingerprint="sha256:0")


def test_keygen_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "t"
    command = [sys.executable, "-m", "aioremote", "keygen", "--token", str(path)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b""
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2
