"""A daemon in this loop, a machine on it, and a client that is none."""

import asyncio
import contextlib
import socket
import ssl
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
