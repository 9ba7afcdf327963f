"""``aioremote demo``: the main job on twenty ssh hosts, which this process plays itself on loopback."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aioremote.cli.demo_acts import cancel_it, check_all, compare
from aioremote.cli.demo_view import DemoView, HostTable
from aioremote.errors import RemoteError
from aioremote.fleet import Fleet
from aioremote.machines import SshMachine

if TYPE_CHECKING:
    from aioremote.cli.interrupt import Interrupt
    from aioremote.testing.embedded import EmbeddedServer
    from aioremote.types import Result

__all__ = ["run_demo"]

_HOSTS = 20
_LIMIT = 8
_FAILING = "web13"
_NEWER = ("web18", "web19", "web20")


async def run_demo(interrupt: Interrupt, *, save_svg: Path | None = None) -> int:
    """Show everything once, in some five seconds.

    Args:
        interrupt: what may end it early.
        save_svg: where to write a picture of what was shown, None for nowhere.

    Returns:
        0 where everything was as promised, 1 where it was not.

    Raises:
        RemoteError: the hosts cannot be played here.
    """
    from aioremote.testing.embedded import EmbeddedServer

    view = DemoView()
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(EmbeddedServer(hosts=_HOSTS, name="web"))
        except OSError as error:
            text = (
                f"the demo plays {_HOSTS} hosts on 127.0.0.1 and the addresses behind it, and cannot: {error.strerror}"
            )
            raise RemoteError(text) from error
        good = await _show(server, view)
    if save_svg is not None:
        view.save(save_svg)
    return 0 if good else 1


def _prepare(server: EmbeddedServer) -> None:
    """Give each host its pace and its version, and one of them a fault."""
    for number, host in enumerate(server.hosts):
        host.environment["NAP"] = f"{0.2 + number * 7 % 10 / 10:.1f}"
        host.environment["APP"] = "2.5.0" if host.name in _NEWER else "2.4.1"
        host.environment["FAULT"] = "disk is full" if host.name == _FAILING else ""


async def _show(server: EmbeddedServer, view: DemoView) -> bool:
    _prepare(server)
    loop = asyncio.get_running_loop()
    began = loop.time()
    name = f"web[01-{_HOSTS}]"
    view.show(Text(f"{_HOSTS} ssh hosts on loopback, played by this process; Fleet({name!r}, limit={_LIMIT})", "bold"))
    async with Fleet(name, limit=_LIMIT, keep_open=True, config=server.ssh_config) as fleet:
        table = HostTable([host.name for host in server.hosts], limit=_LIMIT)
        view.heading(1, "A command on all of them, one failing on purpose", check_all)
        with view.live(table):
            await check_all(fleet, table.add)
        view.heading(2, "Equal outputs, told once", compare)
        groups = await compare(fleet)
        view.show(_groups(groups))
        view.heading(3, "Cancelled means gone, at the far end too", cancel_it)
        gone = await _cancel(server, view)
    text = f"{_HOSTS} hosts, {server.accepted} connections, {loop.time() - began:.1f} s"
    view.show(Text(), Text(text, "bold green"))
    return table.done == _HOSTS and len(groups) == 2 and gone


def _groups(groups: list[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for hosts, text in groups:
        grid.add_row(Text(hosts, "cyan"), text.strip())
    return Padding(grid, (0, 0, 0, 4))


async def _cancel(server: EmbeddedServer, view: DemoView) -> bool:
    seen: list[bool] = []

    def show(state: str, pid: int, answer: Result) -> None:
        seen.append(answer.ok)
        said = ("alive", "green") if answer.ok else ("gone", "bold green")
        detail = "" if answer.ok else f" ({answer.stderr.strip()})"
        view.show(Text.assemble(f"    {state:11}", (f"kill -0 {pid}", "cyan"), ": ", said, detail))

    async with SshMachine("web01", config=server.ssh_config) as machine:
        await cancel_it(machine, show)
    return seen == [True, False]
