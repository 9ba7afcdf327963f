"""Daemons, in this loop and as a process; machines on them; and a client that speaks as it likes."""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aioremote import DaemonMachine
from aioremote.daemon import Daemon, DaemonConfig, make_key, serve

T = TypeVar("T")


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[tuple[Daemon, str]]:
    """Serve whoever has the key in the file "client", unless `settings` say who else; gives the server's pin too."""
    pin = make_key(folder / "server")
    make_key(folder / "client")
    if "tokens" not in settings:
        settings.setdefault("authorized", folder / "client.crt")
    config = DaemonConfig(listen="127.0.0.1:0", key=folder / "server", **settings)  # type: ignore[arg-type]
    async with serve(config) as daemon:
        yield daemon, pin


def to(daemon: Daemon, pin: str, keyfile: Path) -> DaemonMachine:
    return DaemonMachine("127.0.0.1", daemon.port, keyfile=keyfile, server_fingerprint=pin)


class Served:
    """The process, its port, and the machine behind it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, pin: str, first: str) -> None:
        self.process = process
        self._folder = folder
        self._pin = pin
        assert first.startswith("listening on 127.0.0.1:"), first
        self.port = int(first.rpartition(":")[2])

    def machine(self, key: str = "client") -> DaemonMachine:
        return DaemonMachine("127.0.0.1", self.port, keyfile=self._folder / key, server_fingerprint=self._pin)

    async def line(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.readline()).decode().strip()


async def started(*words: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "aioremote", "serve", "--listen", "127.0.0.1:0", *words)
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


@asynccontextmanager
async def served(folder: Path, *words: str) -> AsyncIterator[Served]:
    pin = make_key(folder / "server")
    make_key(folder / "client")
    process = await started("--key", str(folder / "server"), "--authorized", str(folder / "client.crt"), *words)
    assert process.stderr is not None
    try:
        yield Served(process, folder, pin, (await process.stderr.readline()).decode().strip())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Caller:
    """A client that speaks TLS by hand, so that it can be slow anywhere."""

    def __init__(self, sock: socket.socket, keyfile: Path | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if keyfile is not None:
            context.load_cert_chain(keyfile)
        sock.setblocking(False)
        self.sock = sock
        self.heard, self.said = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.heard, self.said)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()

    async def hear(self, step: Callable[[], T]) -> T:
        """Say what there is to say, and read until `step` has all it needs."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sock, self.said.read())
        while True:
            self.heard.write(await loop.sock_recv(self.sock, 65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                return step()

    def sealed(self, data: bytes) -> bytes:
        """Return what to send for some content."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.tls.write(rest) :]
        return self.said.read()
