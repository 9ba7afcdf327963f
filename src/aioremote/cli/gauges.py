"""How tunnels are shown: as plain lines, as JSON documents, or as a table with live counters on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aioremote.escape import one_line

if TYPE_CHECKING:
    from aioremote.cli.forwards import Forward
    from aioremote.cli.screen import Screen
    from aioremote.tunnels.tunnel import Tunnel

__all__ = ["Gauges", "JsonGauges", "LiveGauges"]

_COLOURS = {"open": "green", "lost": "red", "reconnecting": "yellow", "closed": "red"}


class Gauges:
    """Plain lines: one for each change of a state, on standard output.

    Args:
        screen: where they go.
        host: the machine's name.
    """

    def __init__(self, screen: Screen, host: str) -> None:
        self._screen = screen
        self._host = host
        self._pairs: Sequence[tuple[Forward, Tunnel]] = ()
        self._told: list[str] = []  # the state that was told last
        self._refused: list[int] = []

    def begin(self, pairs: Sequence[tuple[Forward, Tunnel]]) -> None:
        """Show these tunnels, which are open."""
        self._pairs = pairs
        self._told, self._refused = [""] * len(pairs), [0] * len(pairs)
        for number in range(len(pairs)):
            self.changed(number)

    def changed(self, number: int) -> None:
        """Show a tunnel's state, unless that has been shown."""
        state = self._pairs[number][1].state
        if state != self._told[number]:
            self._told[number] = state
            self._show(number)

    def tick(self) -> None:
        """Look at the counters: tell why connections were turned away, one line a tunnel."""
        for number, (_, tunnel) in enumerate(self._pairs):
            more = tunnel.refused - self._refused[number]
            self._refused[number] = tunnel.refused
            if more:
                times = "" if more == 1 else f" ({more} connections)"
                self._note(f"{tunnel.last_error}{times}")

    def end(self) -> None:
        """Show what has become of each tunnel."""
        for number in range(len(self._pairs)):
            self.changed(number)

    def settle(self) -> None:
        """End the live display, where there is one."""

    def _note(self, text: str) -> None:
        self._screen.note(text)

    def _show(self, number: int) -> None:
        tunnel = self._pairs[number][1]
        text = f"{self._title(number)}: {tunnel.state}"
        if tunnel.state == "closed":
            text += f" after {tunnel.connections} connection{'' if tunnel.connections == 1 else 's'}"
            text += f", {tunnel.refused} refused, {tunnel.bytes_sent} B sent, {tunnel.bytes_received} B received"
        self._screen.text("stdout", one_line(text) + "\n")

    def _title(self, number: int) -> str:
        """Return where it leads: the near end, the machine, the far end."""
        forward, tunnel = self._pairs[number]
        near, far = forward.ends(tunnel)
        arrow = "<-" if forward.kind == "reverse" else "->"
        return f"{near} {arrow} {self._host} {arrow} {far}"


class JsonGauges(Gauges):
    """JSON documents instead of the lines."""

    def _show(self, number: int) -> None:
        forward, tunnel = self._pairs[number]
        near, far = forward.ends(tunnel)
        error = tunnel.last_error
        document = {
            "tunnel": number,
            "host": self._host,
            "kind": forward.kind,
            "near": near,
            "far": far,
            "lport": tunnel.lport,
            "dport": tunnel.dport,
            "state": tunnel.state,
            "connections": tunnel.connections,
            "active": tunnel.active,
            "refused": tunnel.refused,
            "bytes_sent": tunnel.bytes_sent,
            "bytes_received": tunnel.bytes_received,
            "error": None if error is None else str(error),
        }
        self._screen.text("stdout", json.dumps(document) + "\n")


class LiveGauges(Gauges):
    """A table on the terminal, until `settle`; it stays there as it was in the end."""

    def __init__(self, screen: Screen, host: str) -> None:
        super().__init__(screen, host)
        self._live: Live | None = None

    def begin(self, pairs: Sequence[tuple[Forward, Tunnel]]) -> None:
        """Show the table."""
        self._pairs = pairs
        self._live = Live(
            console=Console(stderr=True), auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        super().begin(pairs)

    def tick(self) -> None:
        """Show the counters as they are."""
        super().tick()
        self._show(0)

    def settle(self) -> None:
        """Leave the table as it is."""
        live, self._live = self._live, None
        if live is not None:
            with suppress(OSError):  # the terminal is gone
                live.stop()

    def _note(self, text: str) -> None:
        if self._live is None:
            super()._note(text)
        else:
            self._live.console.print(Text(f"aioremote: {one_line(text)}", "yellow"), soft_wrap=True)

    def _show(self, number: int) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table("tunnel", "state", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("open", "so far", "refused", "sent", "received"):
            table.add_column(column, justify="right")
        for number, (_, tunnel) in enumerate(self._pairs):
            counts = (tunnel.active, tunnel.connections, tunnel.refused)
            sizes = (tunnel.bytes_sent, tunnel.bytes_received)
            table.add_row(
                Text(one_line(self._title(number))),
                Text(tunnel.state, _COLOURS.get(tunnel.state, "")),
                *(str(count) for count in counts),
                *(decimal(size) for size in sizes),
            )
        return table
