"""One `tunnel` of the command line: open all tunnels or none, show how they do, close them in the end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioremote.addresses import connect, fitting_keywords, parse_address, scheme_of
from aioremote.cli.gauges import Gauges, JsonGauges, LiveGauges
from aioremote.cli.outcomes import error_line, error_status
from aioremote.cli.progress import can_be_live
from aioremote.cli.screen import Screen
from aioremote.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioremote.cli.forwards import Forward
    from aioremote.cli.interrupt import Interrupt
    from aioremote.machine import Machine
    from aioremote.machines import SshKeywords
    from aioremote.tunnels.tunnel import Tunnel

__all__ = ["TunnelRequest", "run_tunnels"]

_TICK_SECONDS = 0.2  # between two looks at the counters


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRequest:
    """What was asked for on the command line.

    Attributes:
        host: where, a name or an address; its own user and port win over those of `ssh`.
        forwards: the tunnels.
        ssh: keywords of `SshMachine`, of which a machine of another kind takes those that it has too.
        reconnect: whether a lost link is brought back.
        as_json: whether states are told as JSON documents, one a line.
    """

    host: str
    forwards: Sequence[Forward]
    ssh: SshKeywords
    reconnect: bool = False
    as_json: bool = False


async def run_tunnels(request: TunnelRequest, interrupt: Interrupt) -> int:
    """Keep the tunnels open until they are lost or interrupted, and return the exit status."""
    async with Screen(interrupt) as screen:
        kind = JsonGauges if request.as_json else LiveGauges if can_be_live() else Gauges
        gauges = kind(screen, parse_address(request.host).host or request.host)
        interrupt.on_abort.append(gauges.settle)
        try:
            await _keep_open(request, gauges)
        except RemoteError as error:
            gauges.settle()
            screen.note(error_line(error))
            return error_status(error)
        except asyncio.CancelledError:
            if interrupt.status is None:
                raise
        finally:
            gauges.settle()
    return interrupt.status or 0


async def _keep_open(request: TunnelRequest, gauges: Gauges) -> None:
    """Open every tunnel and wait for the first that ends, which ends the others.

    Raises:
        RemoteError: why they could not be opened, or ended.
    """
    machine = _machine(request)
    pairs = [(forward, forward.tunnel(machine, reconnect=request.reconnect)) for forward in request.forwards]
    try:
        async with machine, AsyncExitStack() as stack:
            for _, tunnel in pairs:
                await stack.enter_async_context(tunnel)
            gauges.begin(pairs)
            await _follow_all([tunnel for _, tunnel in pairs], gauges)
    finally:
        gauges.end()


async def _follow_all(tunnels: Sequence[Tunnel], gauges: Gauges) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_tick(gauges))
            for number, tunnel in enumerate(tunnels):
                group.create_task(_follow(tunnel, number, gauges))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _machine(request: TunnelRequest) -> Machine:
    return connect(request.host, **fitting_keywords(scheme_of(request.host) or "ssh", request.ssh))


async def _tick(gauges: Gauges) -> None:
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        gauges.tick()


async def _follow(tunnel: Tunnel, number: int, gauges: Gauges) -> None:
    async for _ in tunnel.states():
        gauges.changed(number)
    await tunnel.wait_closed()
