"""The near end of a road to Windows: as to any daemon, over the TCP port of a bridge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.samba import PASSWORD, USER, PipeServer, Samba, move

from aioremote import Machine, SmbMachine
from aioremote._core.deadline import Deadline
from aioremote.transports.bare import BareTransport
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.tcp import DaemonEnd, reach
from aioremote.types import Address


def machine_behind(port: int) -> Machine:
    where = Address("bridge", host="windows", port=port)

    async def open_end(end: DaemonEnd) -> None:
        await asyncio.get_running_loop().create_connection(lambda: end, "127.0.0.1", port)

    async def bring_up(deadline: Deadline) -> DaemonEnd:
        return await reach(where, open_end, deadline)

    transport = LinkedTransport(BareTransport(where), bring_up=bring_up)
    transport.keeps_sessions = True  # as all roads to daemons
    return Machine(transport, host="windows")


@asynccontextmanager
async def machine_through_smb(samba: Samba, port: int) -> AsyncIterator[Machine]:
    """Yield what a client of Windows' own SMB server would have: Samba hands its pipe on to the bridge."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(move(reader, far_writer))
            tasks.create_task(move(far_reader, writer))

    path = str(samba.folder / "bridge")
    machine = SmbMachine("127.0.0.1", username=USER, password=PASSWORD, port=samba.port)
    async with await asyncio.start_unix_server(carry, path), PipeServer(samba, path), machine:
        yield machine
