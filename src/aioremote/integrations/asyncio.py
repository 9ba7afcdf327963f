"""asyncio's own shapes of a connection, through a machine: a transport with its protocol, a reader with its writer.

There is no socket: ``get_extra_info("socket")`` is None. TLS is done here, above the machine's stream, and so with any
event loop; ``start_tls`` of an open connection is not offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.streams.tls import TLSStream

from aioremote._core.bridge import StreamTransport
from aioremote.types import Endpoint

if TYPE_CHECKING:
    import ssl

    from anyio.abc import ByteStream

    from aioremote.machine import Machine

__all__ = ["create_connection", "open_connection"]

P = TypeVar("P", bound=asyncio.Protocol)


async def create_connection(
    machine: Machine,
    protocol_factory: Callable[[], P],
    host: str | None = None,
    port: int | None = None,
    *,
    path: str = "",
    ssl: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> tuple[asyncio.Transport, P]:
    """Connect a protocol through a machine, as ``loop.create_connection`` does from here.

    Args:
        machine: where the connection goes on from.
        protocol_factory: returns the protocol, which hears of what comes and once of the end. A link that is lost is a
            ConnectionResetError there.
        host, port: as the machine sees them.
        path: a unix socket at the far end, instead.
        ssl: a context for TLS with the server itself; the machine sees only what is encrypted.
        server_hostname: whom the server's certificate is to name; None for `host`.

    Raises:
        TunnelError: it does not come about; TunnelRefused where nothing listens there.
        ConnectError, ConnectionLost: the machine is not connected.
        ssl.SSLError: TLS does not come about.

    Cancellation: nothing is left open.
    """
    stream: ByteStream = await machine.open_connection(host, port, path=path)
    try:
        if ssl is not None:
            name = server_hostname if server_hostname is not None else host
            stream = await _encrypted(stream, ssl, name)
        way = f"the connection to {Endpoint(host or 'localhost', port or 0, path)} through {machine}"
        transport = StreamTransport(stream, protocol := protocol_factory(), way=way)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    transport.start()
    return transport, protocol


async def _encrypted(stream: ByteStream, context: ssl.SSLContext, name: str | None) -> ByteStream:
    return await TLSStream.wrap(
        stream, server_side=False, hostname=name, ssl_context=context, standard_compatible=False
    )


async def open_connection(
    machine: Machine,
    host: str | None = None,
    port: int | None = None,
    *,
    path: str = "",
    ssl: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    limit: int = 65536,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a reader and a writer through a machine, as ``asyncio.open_connection`` does from here.

    Args:
        machine, host, port, path, ssl, server_hostname: as in `create_connection`, which also says what is raised.
        limit: the reader's bytes in waiting.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit, loop)
    transport, protocol = await create_connection(
        machine,
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
        host,
        port,
        path=path,
        ssl=ssl,
        server_hostname=server_hostname,
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
