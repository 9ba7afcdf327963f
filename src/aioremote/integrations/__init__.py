"""Other libraries' clients through a machine, without a local port: one module for each, imported when it is used.

`asyncio` (transports and reader/writer pairs), `sockets` (a unix socket that only we can reach, for whatever takes its
path), `httpx`, `aiohttp` and `redis`. Not for servers, nor for sharing a connection with other programs: that is
`Machine.tunnel`.
"""
