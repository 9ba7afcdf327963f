"""What the type checkers are to know of other libraries' clients through a machine. Checked, never run."""

import asyncio
import ssl
from typing import assert_type

import httpx
from redis.asyncio import ConnectionPool

from aioremote import Machine, Reconnect
from aioremote.integrations.aiohttp import MachineConnector
from aioremote.integrations.asyncio import create_connection, open_connection
from aioremote.integrations.httpx import MachineTransport
from aioremote.integrations.redis import connection_pool
from aioremote.integrations.sockets import postgres_folder, private_socket


async def clients(m: Machine, context: ssl.SSLContext) -> None:
    httpx.AsyncClient(transport=MachineTransport(m, verify=context, retries=1))
    MachineConnector(m, limit=5)
    assert_type(connection_pool(m, "cache", ssl_context=context, db=3), ConnectionPool)
    async with (
        postgres_folder(m, host="db", reconnect=True) as folder,
        private_socket(m, "/run/x", reconnect=Reconnect()),
    ):
        assert_type(folder, str)
    reader, writer = await open_connection(m, "db", 5432, ssl=context)
    assert_type(reader, asyncio.StreamReader)
    assert_type(writer, asyncio.StreamWriter)
    transport, protocol = await create_connection(m, asyncio.Protocol, path="/run/x")
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, asyncio.Protocol)
