"""httpx through a machine: ``httpx.AsyncClient(transport=MachineTransport(m))``. Needs the extra ``httpx``."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
import httpx
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from aioremote._core.streams import StreamAttribute
from aioremote.errors import RemoteError

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from aioremote.machine import Machine

__all__ = ["MachineBackend", "MachineTransport"]

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)  # httpx's own
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ssl.SSLError, OSError, RemoteError)
_INFO: Mapping[str, Any] = {  # Any: attributes of many types
    "ssl_object": TLSAttribute.ssl_object,
    "client_addr": SocketAttribute.local_address,
    "server_addr": SocketAttribute.remote_address,
    "is_readable": StreamAttribute.readable,
}


@asynccontextmanager
async def _told_as(broken: type[Exception], late: type[Exception], timeout: float | None) -> AsyncGenerator[None]:
    """Bound the block by a time, and raise httpcore's kinds of errors from it."""
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            yield
    except _BROKEN as error:
        kind = late if scope.expired() else broken
        raise kind(str(error) or type(error).__name__) from error


class MachineTransport(httpx.AsyncHTTPTransport):
    """Sends requests from a machine: names are resolved there, and TLS is with the server itself.

    Args:
        machine: stays yours to close.
        path: a unix socket at the far end that takes every request, instead of the hosts in the URLs.
        verify, cert, http1, http2, limits, retries: as in ``httpx.AsyncHTTPTransport``.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        path: str | None = None,
        verify: ssl.SSLContext | bool = True,
        cert: str | tuple[str, str] | None = None,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _LIMITS,
        retries: int = 0,
    ) -> None:
        # Not the parent's constructor: all that it does is to make a pool of its own.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, cert=cert),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            uds=path,
            retries=retries,
            network_backend=MachineBackend(machine),
        )


class MachineBackend(httpcore.AsyncNetworkBackend):
    """The same for httpcore alone: ``httpcore.AsyncConnectionPool(network_backend=MachineBackend(m))``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect from the machine; `local_address` and `socket_options` have no meaning there."""
        async with _told_as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
            return _Stream(await self._machine.open_connection(host, port))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a far unix socket."""
        async with _told_as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
            return _Stream(await self._machine.open_connection(path=path))

    async def sleep(self, seconds: float) -> None:
        """Wait between two tries."""
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A stream as httpcore wants it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        async with _told_as(httpcore.ReadError, httpcore.ReadTimeout, timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        async with _told_as(httpcore.WriteError, httpcore.WriteTimeout, timeout):
            if buffer:
                await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with _told_as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
                encrypted = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=server_hostname,
                    ssl_context=ssl_context,
                    standard_compatible=False,
                )
        except BaseException:
            await anyio.aclose_forcefully(self._stream)
            raise
        return _Stream(encrypted)

    def get_extra_info(self, info: str) -> Any:  # Any: httpcore's signature
        attribute = _INFO.get(info)
        return None if attribute is None else self._stream.extra(attribute, None)  # noqa: S610  # no Django
