"""What the demo does. The source of these functions is shown beside what comes of them, hence without docstrings."""

# ruff: noqa: D103
from __future__ import annotations

from collections.abc import Callable

import anyio

from aioremote import Fleet, Machine, Outcome, Result

__all__ = ["CHECK", "Show", "Tell", "cancel_it", "check_all", "compare"]

Show = Callable[[Outcome[Result]], None]
Tell = Callable[[str, int, Result], None]
CHECK = 'sleep $NAP; [ -z "$FAULT" ] || { echo "$FAULT" >&2; exit 3; }; echo "app $APP pid $$"'


async def check_all(fleet: Fleet, show: Show) -> None:
    async for outcome in fleet.stream("sh", "-c", CHECK, timeout=10):
        show(outcome)  # as they come


async def compare(fleet: Fleet) -> list[tuple[str, str]]:
    report = await fleet.shell("echo app $APP")  # over the connections that are open
    return report.gathered()


async def cancel_it(machine: Machine, tell: Tell) -> None:
    pid = 0
    with anyio.move_on_after(0.8):  # cancels what is inside
        async with machine.start("sleep", "1000") as process:
            pid = process.pid
            tell("running", pid, await machine.shell(f"kill -0 {pid}", check=False))
            await process.wait()
    tell("cancelled", pid, await machine.shell(f"kill -0 {pid}", check=False))
