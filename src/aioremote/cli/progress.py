"""The live display of a fleet on a terminal: the hosts' lines scroll by, and below them stands how far it has come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from aioremote._core.lifetime import Owner
from aioremote.cli.screen import Screen, harmless, is_terminal
from aioremote.escape import escaped, one_line

if TYPE_CHECKING:
    from aioremote.cli.interrupt import Interrupt
    from aioremote.cli.outcomes import Counts
    from aioremote.cli.streaming import Source

__all__ = ["LiveScreen", "can_be_live"]

_REFRESH_SECONDS = 0.1
_HIGH_WATER_CHARACTERS = 256 * 1024


def can_be_live() -> bool:
    """Whether both of our streams are one terminal that can move its cursor."""
    if not (is_terminal(1) and is_terminal(2)):
        return False
    with suppress(OSError):
        return os.ttyname(1) == os.ttyname(2) and not Console(stderr=True).is_dumb_terminal
    return False


class LiveScreen(Screen):
    """A `Screen` on a terminal with a live line of progress, until `settle`.

    Lines wait for the next refresh, a tenth of a second at most.

    Args:
        interrupt: as for `Screen`.
        total: how many hosts there are.
    """

    def __init__(self, interrupt: Interrupt, *, total: int) -> None:
        super().__init__(interrupt)
        self._text = Text()
        self._room: list[Callable[[], None]] = []
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total)
        self._owner = Owner("progress")
        self._live = False
        interrupt.on_abort.append(self.settle)

    async def __aenter__(self) -> Self:
        self._live = True
        self._progress.start()
        self._owner.spawn(self._refresh(), "refresh")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc_val, exc_tb)
        finally:
            await self._owner.aclose()

    async def _refresh(self) -> None:
        while self._live:
            await asyncio.sleep(_REFRESH_SECONDS)
            self._print()

    def _print(self) -> None:
        text, self._text = self._text, Text()
        try:
            if text:
                text.right_crop()  # its last newline, which print() adds
                self._progress.console.print(text, soft_wrap=True)
            self._progress.refresh()
        except OSError as error:  # the terminal is gone
            self._failed(error)
        waiting, self._room = self._room, []
        for callback in waiting:
            callback()

    def lines(self, host: str, source: Source, lines: Sequence[bytes]) -> None:
        """Show whole lines of one host above the progress."""
        if not self._live:
            super().lines(host, source, lines)
            return
        name, style = f"{escaped(host)}: ", "cyan" if source == "stdout" else "red"
        for line in lines:
            self._text.append(name, style)
            self._text.append(harmless(line) + "\n")

    def note(self, text: str) -> None:
        """Show a line of our own above the progress."""
        if self._live:
            self._text.append(f"aioremote: {one_line(text)}\n", "yellow")
        else:
            super().note(text)

    @property
    def full(self) -> bool:
        """Whether the hosts should be held back."""
        return len(self._text) > _HIGH_WATER_CHARACTERS or super().full

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back after the next refresh."""
        if self._live:
            self._room.append(callback)
        else:
            super().when_room(callback)

    def show(self, counts: Counts) -> None:
        """Show how far it has come, from the next refresh on."""
        elapsed = self._progress.tasks[0].elapsed or 0.0
        parts = [f"[green]{counts.ok} ok[/]"]
        parts += [f"[red]{counts.failed} failed[/]"] if counts.failed else []
        parts += [f"[red]{counts.unreachable} unreachable[/]"] if counts.unreachable else []
        parts += [f"{counts.running} running"]
        parts += [f"{counts.done / elapsed:.1f}/s"] if elapsed > 1 else []
        self._progress.update(self._task, completed=counts.done, description=", ".join(parts))

    def settle(self) -> None:
        """Show what waits, and take the progress away."""
        if self._live:
            self._print()
            self._live = False
            with suppress(OSError):
                self._progress.stop()
