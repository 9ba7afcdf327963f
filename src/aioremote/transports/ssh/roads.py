"""How the bytes of an ssh connection travel: straight, over another machine, or through a command."""

from __future__ import annotations

import abc
import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aioremote._core.bridge import StreamTransport
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote.errors import ConnectError
from aioremote.transports.ssh.sockets import SocketTransport, connect_address, family_of
from aioremote.types import Endpoint

if TYPE_CHECKING:
    from aioremote.protocols import Transport

__all__ = ["CommandRoad", "DirectRoad", "MachineRoad", "Road"]

_HAPPY_EYEBALLS_SECONDS = 0.25
_CLOSE_SECONDS = 2.0
_GRACE_SECONDS = 0.3  # for a command whose connection has ended, before TERM, and again before KILL
_SAID_BYTES = 1000


class Road(abc.ABC):
    """One way to a server, used again for each try."""

    @abc.abstractmethod
    async def travel(self, make: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        """Connect a protocol, made by the first argument, to a host and port."""

    async def complaint(self) -> str:
        """Return why the road itself ended, where that is known; else an empty string."""
        return ""

    async def aclose(self) -> None:  # noqa: B027  # not every way holds something
        """Release what is left of the way, after the connection's own end."""


class DirectRoad(Road):
    """A TCP connection from here.

    Args:
        family: address family to use, 0 for any.
        local_address: host and port to connect from, None for any.
    """

    def __init__(self, family: int, local_address: tuple[str, int] | None) -> None:
        self._family = family
        self._local_address = local_address

    async def travel(self, make: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        family = family_of(host)
        own = isinstance(loop, asyncio.SelectorEventLoop) and self._local_address is None
        if own and family is not None and self._family in (0, family):
            await connect_address(make, family, (host, port))
            return
        # A race of addresses costs tasks that one address does not need; uvloop has none.
        race = isinstance(loop, asyncio.BaseEventLoop) and family is None
        more: dict[str, Any] = {"happy_eyeballs_delay": _HAPPY_EYEBALLS_SECONDS} if race else {}
        await loop.create_connection(make, host, port, family=self._family, local_addr=self._local_address, **more)


class MachineRoad(Road):
    """A connection that another machine opens, which is connected already."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._bridge: StreamTransport | None = None

    async def travel(self, make: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        await self.aclose()
        stream = await self._transport.open_connection(Endpoint(host, port))
        self._bridge = StreamTransport(stream, make(), way=f"the way through {self._transport.address}")
        self._bridge.start()

    async def aclose(self) -> None:
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.abort()
            await bounded_cleanup(bridge.wait_closed(), _CLOSE_SECONDS)


class CommandRoad(Road):
    """A near program's standard input and output (ProxyCommand), one run of it for each connection.

    Args:
        line: what /bin/sh is to run, as ssh_config(5) says of ProxyCommand.
        name: the machine's name, for errors.
    """

    def __init__(self, line: str, name: str) -> None:
        self._line = line
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self._owner: Owner | None = None
        self._errors: socket.socket | None = None
        self._said = b""

    async def travel(self, make: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        await self.aclose()
        near = await self._start()
        try:
            # Not the loop's create_connection: where the command has ended already, uvloop never closes the socket.
            SocketTransport(near, make()).start()
        except BaseException:
            near.close()
            raise

    async def _start(self) -> socket.socket:
        """Start the command; returns the near end of its standard input and output."""
        (near, far), (errors, far_errors) = socket.socketpair(), socket.socketpair()
        self._owner = Owner(f"ProxyCommand of {self._name}")
        self._said = b""
        try:
            near.setblocking(False)
            errors.setblocking(False)
            argv = ("/bin/sh", "-c", f"exec {self._line}")
            self._process = await asyncio.create_subprocess_exec(
                *argv, stdin=far.fileno(), stdout=far.fileno(), stderr=far_errors.fileno(), start_new_session=True
            )
        except BaseException as error:
            near.close()
            errors.close()
            if isinstance(error, OSError):
                text = f"{self._name}: cannot start a shell for the ProxyCommand: {error.strerror}"
                raise ConnectError(text, host=self._name) from error
            raise
        finally:
            far.close()
            far_errors.close()
        self._errors = errors
        self._owner.spawn(self._listen(errors), "standard error")
        return near

    async def _listen(self, errors: socket.socket) -> None:
        """Keep the last of what the command says on its standard error."""
        with suppress(OSError):
            while data := await asyncio.get_running_loop().sock_recv(errors, 4096):
                self._said = (self._said + data)[-_SAID_BYTES:]

    async def complaint(self) -> str:
        """Return how the command ended and its last word, where it has failed."""
        process = self._process
        if process is None:
            return ""
        await bounded_cleanup(process.wait(), _GRACE_SECONDS)
        if not process.returncode:
            return ""
        lines = self._said.decode(errors="replace").strip().splitlines()
        said = f": {ascii(lines[-1])[1:-1]}" if lines else ""
        return f"the ProxyCommand ended with status {process.returncode}{said}"

    async def aclose(self) -> None:
        process, self._process = self._process, None
        owner, self._owner = self._owner, None
        try:
            if process is not None:
                await bounded_cleanup(_end(process), _CLOSE_SECONDS)
        finally:
            try:
                if owner is not None:
                    await owner.aclose()
            finally:
                errors, self._errors = self._errors, None
                if errors is not None:
                    errors.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a command that has lost its connection; then end it and all of its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                await process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    await process.wait()
