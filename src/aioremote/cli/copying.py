"""One `copy` or `sync` of the command line: both ends opened, a bar on a terminal, a line or a document in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from aioremote.cli.outcomes import error_line, error_status
from aioremote.cli.progress import can_be_live
from aioremote.cli.screen import Screen
from aioremote.errors import FileError, RemoteError
from aioremote.escape import escaped
from aioremote.files.transfer import far_end, near_end
from aioremote.machines import SshMachine
from aioremote.types import SyncReport

if TYPE_CHECKING:
    from aioremote._core.names import HostName
    from aioremote.cli.ends import EndWord
    from aioremote.cli.interrupt import Interrupt
    from aioremote.files.transfer import End
    from aioremote.machines import SshKeywords
    from aioremote.types import TransferProgress, TransferReport

    _Report = TransferReport | SyncReport

__all__ = ["CopyRequest", "run_copying"]

_REFRESH_SECONDS = 0.1
_SHOWN_CHARACTERS = 28  # of the path beside the bar


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """What was asked for on the command line.

    Attributes:
        source, target: the ends.
        ssh: keywords of `SshMachine`; a host's own user and port win over those.
        work: copies or syncs, given both ends and ``progress``.
        engine: how far ends are reached.
        as_json: whether the report is one JSON document.
    """

    source: EndWord
    target: EndWord
    ssh: SshKeywords
    work: Callable[..., Awaitable[_Report]]
    engine: str = "auto"
    as_json: bool = False


async def run_copying(request: CopyRequest, interrupt: Interrupt) -> int:
    """Copy or sync, and return the exit status."""
    bar = _Bar() if can_be_live() and not request.as_json else None
    async with Screen(interrupt) as screen:
        try:
            report = await _carry_out(request, interrupt, bar)
        except RemoteError as error:
            screen.note(error_line(error))
            return 1 if isinstance(error, FileError) else error_status(error)
        except asyncio.CancelledError:
            if interrupt.status is None:
                raise
            screen.note("interrupted; every file is as it was, or new")
        else:
            _tell(screen, request, report, in_short=bar is not None)
    return interrupt.status or 0


async def _carry_out(request: CopyRequest, interrupt: Interrupt, bar: _Bar | None) -> _Report:
    machines: dict[HostName, SshMachine] = {}
    async with AsyncExitStack() as stack:

        async def end(word: EndWord) -> End:
            if word.host is None:
                return near_end(word.path)
            if word.host not in machines:
                machines[word.host] = await stack.enter_async_context(_machine(word.host, request.ssh))
            return await far_end(machines[word.host], word.path, request.engine)

        source, target = await end(request.source), await end(request.target)
        if bar is None:
            return await request.work(source, target, progress=None)
        interrupt.on_abort.append(bar.settle)
        try:
            bar.begin()
            return await request.work(source, target, progress=bar.show)
        finally:
            bar.settle()


def _machine(host: HostName, ssh: SshKeywords) -> SshMachine:
    keywords = ssh.copy()
    if host.user is not None:
        keywords["user"] = host.user
    if host.port is not None:
        keywords["port"] = host.port
    return SshMachine(host.host, **keywords)


def _tell(screen: Screen, request: CopyRequest, report: _Report, *, in_short: bool) -> None:
    """Write a document; or what was left out, what a dry run would do, and where there was a bar how it went."""
    if request.as_json:
        screen.text("stdout", json.dumps(asdict(report)) + "\n")
        return
    for path, why in report.skipped:
        screen.note(f"left out: {escaped(path)}: {why}")
    if isinstance(report, SyncReport) and report.dry_run:
        for word, paths in (("delete", report.deleted), ("send", report.sent)):
            screen.text("stdout", "".join(f"{word} {escaped(path)}\n" for path in paths))
    if in_short:
        screen.note(_summary(report))


def _summary(report: _Report) -> str:
    if isinstance(report, SyncReport):
        text = f"{len(report.sent)} sent, {len(report.deleted)} deleted, {report.unchanged} unchanged"
    else:
        text = f"{report.files} file{'' if report.files == 1 else 's'}"
    rate = decimal(int(report.bytes / report.elapsed)) if report.elapsed else "-"
    return f"{text}: {decimal(report.bytes)} in {report.elapsed:.1f} s, {rate}/s, by {report.engine}"


class _Bar:
    """Files, bytes, rate and time left on the last line of a terminal, until `settle`."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[files]}", markup=False),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, files="")
        self._next = 0.0
        self._live = False

    def begin(self) -> None:
        """Show it."""
        self._live = True
        self._progress.start()

    def show(self, progress: TransferProgress) -> None:
        """Show how far it has come, at most ten times a second."""
        is_last = progress.files_done == progress.files_total
        if not self._live or (monotonic() < self._next and not is_last):
            return
        self._next = monotonic() + _REFRESH_SECONDS
        self._progress.update(
            self._task,
            completed=progress.done_bytes,
            total=progress.total_bytes,
            description=escaped(progress.path)[-_SHOWN_CHARACTERS:],
            files=f"{progress.files_done}/{progress.files_total} files",
        )
        with suppress(OSError):  # the terminal is gone
            self._progress.refresh()

    def settle(self) -> None:
        """Take it away."""
        if self._live:
            self._live = False
            with suppress(OSError):
                self._progress.stop()
