"""Runs in Windows: lets TCP clients of this machine through to a named pipe, which it is told the name of."""

import asyncio
import sys
from contextlib import suppress


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from_pipe = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(from_pipe)
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.create_pipe_connection(lambda: protocol, sys.argv[1])
    to_pipe = asyncio.StreamWriter(pipe, protocol, from_pipe, loop)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pump(reader, to_pipe))
        tasks.create_task(pump(from_pipe, writer))


async def main() -> None:
    server = await asyncio.start_server(carry, "127.0.0.1")
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
