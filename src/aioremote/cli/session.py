"""One `run`, `shell` or `python` of the command line, from the first host to the exit status."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from aioremote.cli.display import Direct, Prefixed, show_gathered, show_json
from aioremote.cli.outcomes import Counts, exit_status, interrupted_line, summary_line, trouble_line
from aioremote.cli.progress import LiveScreen, can_be_live
from aioremote.cli.python_calls import run_source
from aioremote.cli.screen import Screen
from aioremote.cli.streaming import stream_command
from aioremote.errors import CommandFailed
from aioremote.fleet import Fleet, Outcome, Report

if TYPE_CHECKING:
    from aioremote.cli.hosts import Hosts
    from aioremote.cli.interrupt import Interrupt
    from aioremote.machine import Machine
    from aioremote.machines import SshKeywords
    from aioremote.types import Result

__all__ = ["Layout", "Request", "run_request"]

Layout = Literal["lines", "gathered", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for on the command line.

    Attributes:
        hosts: where.
        work: the program and its arguments, as bytes; or Python source.
        ssh: keywords of `SshMachine` for every host.
        limit: hosts at once.
        timeout: seconds a host, None for no limit.
        layout: how output is shown.
        raw: whether a terminal gets far bytes as they are.
        fail_fast: whether the first trouble ends the rest.
    """

    hosts: Hosts
    work: tuple[bytes, ...] | str
    ssh: SshKeywords
    limit: int = 100
    timeout: float | None = None
    layout: Layout = "lines"
    raw: bool = False
    fail_fast: bool = False


class _Session:
    """The run, and what is known of it so far."""

    def __init__(self, request: Request, interrupt: Interrupt, screen: Screen) -> None:
        self._request = request
        self._interrupt = interrupt
        self._screen = screen
        self._alone = request.hosts.total == 1
        self._receiver = Direct(screen) if self._alone else Prefixed(screen)
        self._outcomes: list[Outcome[Result]] = []
        self._running: dict[str, None] = {}
        self._counts = Counts(request.hosts.total)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def run(self) -> int:
        request = self._request
        hosts = request.hosts
        fleet = Fleet(hosts.given, limit=request.limit, keep_open=False, allow_exec=hosts.allow_exec, **request.ssh)
        outcomes = fleet.stream_map(self._work, connect=False, fail_fast=request.fail_fast)
        try:
            async with fleet, outcomes:
                async for outcome in outcomes:
                    self._take(outcome)
        except asyncio.CancelledError:
            if self._interrupt.status is None:
                raise
        self._screen.settle()
        self._tell_end()
        if self._interrupt.status is not None:
            return self._interrupt.status
        return exit_status(self._outcomes, request.hosts.total)

    async def _work(self, machine: Machine) -> Result:
        self._running[machine.host] = None
        self._count()
        request = self._request
        receiver = self._receiver if request.layout == "lines" else None
        errors = "surrogateescape" if request.layout == "gathered" else "replace"
        if isinstance(request.work, str):
            return await run_source(machine, request.work, timeout=request.timeout, errors=errors, receiver=receiver)
        if receiver is not None:
            order = machine.order(request.work, cwd=None, env=None, timeout=request.timeout)
            return await stream_command(machine, order, receiver)
        return await machine.run(*request.work, timeout=request.timeout, errors=errors)

    def _take(self, outcome: Outcome[Result]) -> None:
        if isinstance(outcome.error, CommandFailed):
            outcome = replace(outcome, value=outcome.error.result)
        self._running.pop(outcome.host, None)
        self._outcomes.append(outcome)
        self._counts.add(outcome)
        self._count()
        if self._request.layout == "json":
            show_json(outcome, self._screen)
        else:
            self._tell(trouble_line(outcome, alone=self._alone))

    def _count(self) -> None:
        self._counts.running = len(self._running)
        self._screen.show(self._counts)

    def _tell(self, text: str) -> None:
        if text:
            self._screen.note(text)

    def _tell_end(self) -> None:
        report, elapsed = Report(self._outcomes), self._loop.time() - self._began
        if self._request.layout == "gathered":
            show_gathered(report, self._screen)
        if self._interrupt.status is None:
            self._tell("" if self._alone else summary_line(report, elapsed))
        elif self._interrupt.by_signal:
            self._tell(interrupted_line(report, self._running, self._request.hosts.total, elapsed))


async def run_request(request: Request, interrupt: Interrupt) -> int:
    """Run the command on every host, show what comes, and return the exit status.

    Raises:
        AddressError, ValueError, TypeError: hosts or arguments that cannot be used; nothing was started.
    """
    many = request.hosts.total > 1
    live = many and request.layout != "json" and not request.raw and can_be_live()
    screen = LiveScreen(interrupt, total=request.hosts.total) if live else Screen(interrupt, raw=request.raw)
    async with screen:
        return await _Session(request, interrupt, screen).run()
