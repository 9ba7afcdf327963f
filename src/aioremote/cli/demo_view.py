"""How the demo looks: the code, and what comes of it, as in a table that fills; plain text without a terminal."""

from __future__ import annotations

import inspect
import io
import textwrap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from aioremote.escape import one_line

if TYPE_CHECKING:
    from aioremote.fleet import Outcome
    from aioremote.types import Result

__all__ = ["DemoView", "HostTable"]

_COLUMNS = 100
_THEME = TerminalTheme(
    (17, 24, 33),
    (214, 222, 232),
    [
        (40, 50, 62),
        (240, 98, 98),
        (120, 200, 120),
        (232, 190, 90),
        (110, 160, 240),
        (200, 140, 220),
        (90, 200, 210),
        (214, 222, 232),
    ],
)
# Without the web fonts of rich's own template: a picture should not ask other servers for anything.
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
 font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


_Row = tuple[str, Text, str, Text]  # host, state, time, output


class HostTable:
    """The hosts and what came of each, in two halves side by side where there is room."""

    def __init__(self, hosts: Sequence[str], *, limit: int) -> None:
        self._hosts = tuple(hosts)
        self._limit = limit
        self._ends: dict[str, tuple[Text, str, Text]] = {}

    @property
    def done(self) -> int:
        """How many rows are filled."""
        return len(self._ends)

    def add(self, outcome: Outcome[Result]) -> None:
        """Fill one row."""
        result = outcome.value
        said = "" if result is None else result.stdout or result.stderr
        if outcome.ok:
            state, text = Text("ok", "green"), Text(one_line(said))
        else:
            status = f"exit {result.returncode}" if result is not None else outcome.state
            state, text = Text(status, "bold red"), Text(one_line(said or str(outcome.error)), "red")
        self._ends[outcome.host] = (state, f"{outcome.elapsed:.2f} s", text)

    def _row(self, index: int) -> _Row:
        begun = index < self.done + self._limit  # the fleet takes its hosts in order
        open_row = (Text("running", "yellow") if begun else Text("waiting", "dim"), "", Text())
        return (self._hosts[index], *self._ends.get(self._hosts[index], open_row))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = Table.grid(padding=(0, 2))
        rows = [self._row(index) for index in range(len(self._hosts))]
        length = -(-len(rows) // 2) if options.max_width >= _COLUMNS else len(rows)
        grid.add_row(*(_part(rows[start : start + length]) for start in range(0, len(rows), length)))
        yield Padding(grid, (0, 0, 0, 4))


def _part(rows: Sequence[_Row]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for name, width in (("host", 6), ("state", 7), ("time", 7), ("output", 21)):
        table.add_column(name, width=width, no_wrap=True, justify="right" if name == "time" else "left")
    for host, state, elapsed, text in rows:
        table.add_row(Text(host, "cyan"), state, elapsed, text)
    return table


class DemoView:
    """Shows one thing below the other, and can paint it all again as a picture."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        self._console = console if console.is_terminal else Console(highlight=False, width=_COLUMNS)
        self._shown: list[RenderableType] = []

    def show(self, *things: RenderableType) -> None:
        """Show something."""
        for thing in things:
            self._console.print(thing)
        self._shown.extend(things)

    @contextmanager
    def live(self, thing: RenderableType) -> Generator[None, None, None]:
        """Show something that changes until the block is left; without a terminal only as it is then."""
        if not self._console.is_terminal:
            yield
            self.show(thing)
            return
        with Live(thing, console=self._console, refresh_per_second=12, redirect_stdout=False, redirect_stderr=False):
            yield
        self._shown.append(thing)

    def heading(self, number: int, text: str, function: Callable[..., object]) -> None:
        """Show what comes next and the code that does it."""
        self.show(Text(), Text.assemble((f" {number} ", "black on cyan"), f" {text}", style="bold"), _code(function))

    def save(self, path: Path) -> None:
        """Write everything that was shown as an SVG."""
        console = Console(
            record=True,
            width=_COLUMNS,
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
            legacy_windows=False,
        )
        for thing in self._shown:
            console.print(thing, highlight=False)
        console.save_svg(str(path), title="aioremote demo", theme=_THEME, code_format=_SVG)


def _code(function: Callable[..., object]) -> RenderableType:
    try:
        source = textwrap.indent(inspect.getsource(function), " " * 4)
    except OSError:  # installed without its source
        return Text()
    return Syntax("", "python", theme="ansi_dark", background_color="default").highlight(source)
