"""Two sieges of a daemon as it is by default, at the same time: by a crowd, and by clients that are slow on purpose."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from tests.daemon.served import Caller, serving, to
from tests.pace import in_time

from aioremote.daemon import Daemon, make_token
from aioremote.testing.checks import until
from aioremote.transports.tokens import answer

SIEGE_SECONDS = 30.0
CROWD = 1000
LOGIN_SECONDS = 10.0
MOST_GROWTH_BYTES = 40 * 2**20

pytestmark = [pytest.mark.usefixtures("aioremote_no_leaks"), pytest.mark.timeout(180)]


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def crowd_in(daemon: Daemon, crowd: list[socket.socket]) -> None:
    """Fill the crowd up again: whoever was sent away comes back."""
    for gone in filter(is_closed, list(crowd)):
        gone.close()
        crowd.remove(gone)
    for number in range(CROWD - len(crowd)):
        source = (f"127.0.{1 + number % 200}.1", 0)
        crowd.append(socket.create_connection(("127.0.0.1", daemon.port), source_address=source))
        crowd[-1].setblocking(False)
        await asyncio.sleep(0)
        assert daemon.waiting <= 64
    await until(lambda: daemon.waiting == 64)


async def besiege(daemon: Daemon, pin: str, keyfile: Path) -> None:
    process, crowd = psutil.Process(), list[socket.socket]()
    async with to(daemon, pin, keyfile) as machine:
        await machine.ping()
    before, end = process.memory_info().rss, time.monotonic() + SIEGE_SECONDS
    try:
        while time.monotonic() < end:
            await crowd_in(daemon, crowd)
            began = time.monotonic()
            async with to(daemon, pin, keyfile) as machine:
                took = time.monotonic() - began
                assert in_time(took, 1), f"{took:.2f} s"
                assert (await machine.run("echo", "in")).stdout == "in\n"
            await asyncio.sleep(1)  # they are idle
            assert sum(not is_closed(sock) for sock in crowd) <= 64
            assert process.memory_info().rss - before < MOST_GROWTH_BYTES
    finally:
        for sock in crowd:
            sock.close()


async def at_first(caller: Caller, _: Path) -> list[bytes]:
    return [bytes([byte]) for byte in caller.said.read()]


async def after_a_record(caller: Caller, _: Path) -> list[bytes]:
    await caller.hear(caller.tls.do_handshake)
    return [bytes([byte]) for byte in caller.said.read()]


async def after_the_handshake(caller: Caller, folder: Path) -> list[bytes]:
    """Prove the token, a record for each byte."""
    await caller.hear(caller.tls.do_handshake)
    asked = await caller.hear(caller.tls.read)
    certificate = caller.tls.getpeercert(binary_form=True)
    assert certificate is not None
    proof = answer(asked, (folder / "token").read_bytes().strip(), certificate)
    assert proof is not None
    return [caller.sealed(bytes([byte])) for byte in proof]


async def be_slow(daemon: Daemon, folder: Path, how: Callable[[Caller, Path], Awaitable[list[bytes]]]) -> None:
    """Say a word a second until it is closed, and check when that is."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
        began = time.monotonic()
        sock.setblocking(False)
        words = await how(Caller(sock), folder)
        assert len(words) > 2 * LOGIN_SECONDS
        with contextlib.suppress(ConnectionError):
            for word in words:
                await loop.sock_sendall(sock, word)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        while await loop.sock_recv(sock, 65536):
                            pass
                        break
        took = time.monotonic() - began
        assert took > LOGIN_SECONDS - 0.1, f"{how.__name__}: {took:.2f} s"
        assert in_time(took, LOGIN_SECONDS + 1), f"{how.__name__}: {took:.2f} s"


async def test_a_crowd_of_a_thousand_and_slow_clients(tmp_path: Path) -> None:
    """Promises 102, 103.

    For 30 s there are 1000 at the door, each back as soon as it was sent away: 64 are held, memory stays, and an
    authorised client is in within a second. Beside that, clients that say a byte a second are closed at 10 s.
    """
    crowded, slow = tmp_path / "crowded", tmp_path / "slow"
    for folder in (crowded, slow):
        folder.mkdir()
    make_token(slow / "token")
    async with serving(crowded) as (daemon, pin), serving(slow, tokens=slow / "token") as (other, _):
        assert daemon.config.login_seconds == other.config.login_seconds == LOGIN_SECONDS
        async with asyncio.TaskGroup() as group:
            group.create_task(besiege(daemon, pin, crowded / "client"))
            for how in (at_first, after_a_record, after_the_handshake):
                group.create_task(be_slow(other, slow, how))
        await until(lambda: other.waiting == daemon.waiting == 0)
