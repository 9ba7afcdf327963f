"""The near end of a road to Windows: as to any daemon, over the TCP port of a bridge."""

import asyncio

from aioremote import Machine
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
