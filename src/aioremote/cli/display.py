"""How output is laid out: one host's as it is, several hosts' line by line, or folded where it is the same."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from aioremote.cli.streaming import Receiver
from aioremote.escape import Escaper, escaped
from aioremote.types import PartialResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioremote.cli.screen import Screen
    from aioremote.cli.streaming import Source
    from aioremote.fleet import Outcome, Report
    from aioremote.types import Result

__all__ = ["Direct", "Prefixed", "show_gathered", "show_json"]

_MAX_LINE_BYTES = 1024 * 1024  # a longer one is cut into lines of this length
_RULE = "-" * 15


class _OnScreen(Receiver):
    """What both layouts share."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @property
    def full(self) -> bool:
        """Whether the screen is behind."""
        return self._screen.full

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back when it has caught up."""
        self._screen.when_room(callback)


class Direct(_OnScreen):
    """One host: its bytes are ours."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._escapers: defaultdict[Source, Escaper] = defaultdict(Escaper)

    def take(self, host: str, source: Source, data: bytes) -> None:
        """Pass bytes on."""
        if self._screen.escapes(source):
            self._screen.text(source, self._escapers[source].feed(data))
        else:
            self._screen.write(source, data)

    def end(self, host: str) -> None:
        """Pass on what was left of a character that never came whole."""
        for source, escaper in self._escapers.items():
            self._screen.text(source, escaper.finish())


class Prefixed(_OnScreen):
    """Several hosts: each line behind its host's name, as soon as it is whole."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._rests: dict[tuple[str, Source], bytes] = {}

    def take(self, host: str, source: Source, data: bytes) -> None:
        """Show the lines that these bytes complete."""
        *lines, rest = (self._rests.pop((host, source), b"") + data).split(b"\n")
        while len(rest) > _MAX_LINE_BYTES:
            lines.append(rest[:_MAX_LINE_BYTES])
            rest = rest[_MAX_LINE_BYTES:]
        if rest:
            self._rests[host, source] = rest
        if lines:
            self._screen.lines(host, source, lines)

    def end(self, host: str) -> None:
        """Show a last line that had no newline."""
        for source in ("stdout", "stderr"):
            rest = self._rests.pop((host, source), b"")
            if rest:
                self._screen.lines(host, source, [rest])


def show_gathered(report: Report[Result], screen: Screen) -> None:
    """Show each output once, below the folded names of the hosts that gave it; standard error apart.

    What hosts without a result had written until then comes last. Results have to be made with
    ``errors="surrogateescape"``, which keeps their bytes exact.
    """
    sources: tuple[Source, Source] = ("stdout", "stderr")
    for source in sources:
        for hosts, text in report.gathered(source):
            _show_block(hosts, text, source, screen)
    for outcome in report.outcomes:
        partial: object = None if outcome.has_value else getattr(outcome.error, "result", None)
        if isinstance(partial, PartialResult):
            _show_block(f"{outcome.host} (not finished)", partial.stdout, "stdout", screen)
            _show_block(f"{outcome.host} (not finished)", partial.stderr, "stderr", screen)


def _show_block(hosts: str, text: str, source: Source, screen: Screen) -> None:
    if not text:
        return
    data = text.encode("utf-8", "surrogateescape")
    data = data if data.endswith(b"\n") else data + b"\n"
    if screen.escapes(source):
        escaper = Escaper()
        screen.text(source, f"{_RULE}\n{escaped(hosts)}\n{_RULE}\n{escaper.feed(data)}{escaper.finish()}")
    else:
        screen.write(source, f"{_RULE}\n{hosts}\n{_RULE}\n".encode() + data)


def show_json(outcome: Outcome[Result], screen: Screen) -> None:
    """Write one host's outcome as one line of JSON, in ASCII: valid and harmless whatever the bytes were."""
    screen.write("stdout", json.dumps(outcome.to_json(), allow_nan=False).encode("ascii") + b"\n")
