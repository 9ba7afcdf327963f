"""Reads what a far script (`commands.script`) writes to its standard error: the stages' own, statuses, refusals."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from aioremote.commands.script import Kind, Script, alphabet
from aioremote.types import ExitStatus

__all__ = ["Readout", "Sink", "Told", "status_of"]

Sink = Callable[[int, bytes], None]
"""Takes the number of a stage and what it wrote to standard error."""

_SIGNALS = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_QUIET = frozenset({signal.SIGINT, signal.SIGPIPE, signal.SIGTERM})  # of which not every shell says something
_LINE = re.compile(rb"<(?:(\d+):(\d+)|!(-?\d+):([A-Z]+)|\+(\d+))>")
_BEYOND_ASCII = bytes(range(0x80, 0x100))
_DIGITS = b"0123456789abcdef"
# For each alphabet: what makes digits of its bytes, and all other bytes.
_TABLES = [
    (bytes.maketrans(bytes(alphabet(index)), _DIGITS), bytes(set(range(256)) - set(alphabet(index))))
    for index in range(5)
]


def status_of(status: int, *, said: bool) -> ExitStatus:
    """Return what a shell's ``$?`` stands for.

    A shell shows the death by a signal as 128 and its number, which is what a program may exit with as well. Most
    shells say how a program died, in words; of INT, PIPE and TERM bash and dash say nothing.

    Args:
        status: the number; ksh93 shows a death as 256 and the signal's number.
        said: whether the shell said something.
    """
    number = status - 256 if status > 256 else status - 128
    if number in _SIGNALS and (status > 256 or said or number in _QUIET):
        return ExitStatus(-number, _SIGNALS[number])
    return ExitStatus(status)


@dataclass(slots=True)
class Told:
    """What the shells have told.

    Attributes:
        begun: the numbers of the stages that have begun.
        statuses: of those that have ended.
        refused: the number of the path that cannot be used (-1 for od and tr), and the name of the reason.
    """

    begun: set[int] = field(default_factory=set[int])
    statuses: dict[int, ExitStatus] = field(default_factory=dict[int, ExitStatus])
    refused: tuple[int, str] | None = None


class Readout:
    """Takes the bytes of a script's standard error as they come, any split of them giving the same.

    Args:
        script: what runs.
        sink: gets the stages' standard errors; their number is -1 where it cannot be known.
        told: what is added to.
    """

    def __init__(self, script: Script, sink: Sink, told: Told) -> None:
        self._sink = sink
        self._told = told
        self._nonce = script.nonce
        self._number = 0 if script.kind is Kind.ALONE else -1  # whose a standard error is that is nobody's own
        self._inner = [_inner(whose, sink, told) for whose in script.alphabets]
        self._digits = [b"" for _ in script.alphabets]  # half a byte
        self._text = b""  # of the side channel, not complete
        self._said = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._nonce:
            self._feed_live(data)
        else:
            self._feed_apart(data)

    def _feed_apart(self, data: bytes) -> None:
        self._read(data.translate(None, _BEYOND_ASCII))
        for index, take in enumerate(self._inner):
            table, others = _TABLES[index]
            digits = self._digits[index] + data.translate(table, others)
            half = len(digits) % 2
            self._digits[index] = digits[len(digits) - half :]
            if len(digits) > 1:
                take(bytes.fromhex(digits[: len(digits) - half].decode()))

    def _feed_live(self, data: bytes) -> None:
        text = self._text + data
        self._text = b""
        while (at := text.find(self._nonce)) >= 0:
            self._pass(text[:at])
            line, newline, text = text[at:].partition(b"\n")
            if not newline:
                self._text = line
                return
            self._read(line[len(self._nonce) :] + newline)
        # Keep back what may be the beginning of a nonce.
        keep = next(
            (n for n in range(min(len(self._nonce) - 1, len(text)), 0, -1) if text.endswith(self._nonce[:n])), 0
        )
        self._text = text[len(text) - keep :]
        self._pass(text[: len(text) - keep])

    def finish(self) -> None:
        """Say that nothing more comes."""
        if self._nonce:
            self._pass(self._text)

    def _pass(self, data: bytes) -> None:
        if data:
            self._sink(self._number, data)

    def _read(self, text: bytes) -> None:
        """Take bytes of the side channel."""
        if not self._nonce:
            text = self._text + text
            text, _, self._text = text.rpartition(b"\n")
        for line in text.splitlines():
            found = _LINE.fullmatch(line.strip())
            if found is None:
                self._said = self._said or bool(line.strip())
            elif found[5]:
                self._told.begun.add(int(found[5]))
            elif found[4]:
                self._told.refused = self._told.refused or (int(found[3]), found[4].decode())
            else:
                self._told.statuses[int(found[1])] = status_of(int(found[2]), said=self._said)
                self._said = self._said and int(found[2]) < 128


def _inner(whose: int | Script, sink: Sink, told: Told) -> Callable[[bytes], None]:
    """Return what takes the bytes of one alphabet."""
    return partial(sink, whose) if isinstance(whose, int) else Readout(whose, sink, told).feed
