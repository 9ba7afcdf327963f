"""What commands with redirections, and pipelines, ask of which machine, and what their ends mean.

`prepare` turns commands into an order and a starter, so that `run_order`, `Starting` and `LineStream` run a pipeline as
they run a program. A plain command is started by its machine's own transport.

Neighbours on one transport are one segment: one far process, a script where it has several stages (`commands.script`).
The far processes and the bytes between them are in `commands.segments`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from aioremote._core.lifetime import bounded_cleanup
from aioremote.commands.lookup import explain_not_found
from aioremote.commands.nearfiles import NearWriter, feed, feed_file, open_near
from aioremote.commands.orders import DEFAULT_OUTPUT_BYTES
from aioremote.commands.running import CANCEL_SECONDS
from aioremote.commands.scopes import joined
from aioremote.commands.script import Kind, Stage, make_script
from aioremote.commands.segments import Ends, Part, Plumbed, Segment
from aioremote.files.path import RemotePath
from aioremote.types import Exit, ExitStatus, ProcessSpec, Result, Terminal

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote.commands.command import Command
    from aioremote.commands.orders import Order
    from aioremote.machine import Machine
    from aioremote.protocols import FarProcess, Starter

__all__ = ["Plumbing", "Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `run_order`, `Starting` and `LineStream` want."""

    starter: Starter
    order: Order
    host: str


def prepare(
    commands: Sequence[Command],
    *,
    input: str | bytes | None = None,  # noqa: A002
    check: bool = True,
    timeout: float | None = None,
    pty: bool | Terminal = False,
    ok_codes: Iterable[int] | int | None = (0,),
    max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
    errors: str = "replace",
    stdin: bool = False,
    live: bool = False,
) -> Prepared:
    """Check everything, with the calling task's directories and environments; sends nothing.

    Args:
        commands: one, or the stages of a pipeline.
        input, check, timeout, pty, ok_codes, max_output_bytes, errors: as in `Machine.run`.
        stdin: whether standard input stays open for the caller to write to.
        live: whether output is wanted as it comes; standard errors of stages on one machine are then not told apart.

    Raises:
        ValueError, TypeError: what is wrong, and what was expected.
    """
    source = commands[0].stdin
    if input is not None and source is not None:
        raise ValueError(f"the standard input of {commands[0]} leads somewhere already: input= cannot be given too")
    if isinstance(source, bytes) and not live:
        input, source = source, None  # noqa: A001
    orders = [
        command.machine.order(
            command.words,
            cwd=command.cwd,
            env=dict(command.env),
            input=input if command is commands[0] else None,
            check=check,
            timeout=timeout,
            pty=pty,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            errors=errors,
            stdin=stdin,
        )
        for command in commands
    ]
    only = commands[0]
    if len(commands) == 1 and source is None and not (only.stdout or only.stderr or only.merge):
        return Prepared(only.machine.transport, orders[0], only.machine.host)
    if pty:
        raise ValueError("pty= is for a command without redirections: a terminal is all of its streams at once")
    plumbing = Plumbing(commands, orders, source, live=live)
    return Prepared(plumbing, plumbing.order, plumbing.host)


@dataclass(frozen=True, slots=True)
class _Item:
    """One stage.

    Attributes:
        machine, order: where and what.
        stderr, merge: as of the command.
        hidden: whether we have put it there: ``cat`` on the machine of a file that is on none of the commands' own.
    """

    machine: Machine
    order: Order
    stderr: RemotePath | Path | None = None
    merge: bool = False
    hidden: bool = False

    def far(self, path: RemotePath) -> bytes:
        """Return a far path as the stage sees it, below the directory in which scripts start."""
        return joined(self.order.spec.cwd, bytes(path))


class Plumbing:
    """Starts a pipeline as a transport starts a program. For one use.

    Attributes:
        order: of the whole.
        host: the last command's.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        orders: Sequence[Order],
        source: RemotePath | Path | bytes | None,
        *,
        live: bool,
    ) -> None:
        pairs = zip(commands, orders, strict=True)
        self._items = [_Item(command.machine, order, command.stderr, command.merge) for command, order in pairs]
        self._live = live
        self._append = commands[-1].append
        self._source, self._target = source, commands[-1].stdout
        self._bring_files()
        self._segments = self._cut()
        self._single = len(commands) == 1
        self._running: Plumbed | None = None
        self._last = len(self._items) - 1 - self._items[-1].hidden
        words = [word for order in orders for word in ("|", *order.args)][1:]
        self.host: str = commands[-1].machine.host
        self.order: Order = replace(
            orders[-1],
            spec=ProcessSpec((b"/bin/sh",), stdin=orders[0].spec.stdin),
            args=tuple(words),
            input=orders[0].input,
            conclude=self._result,
        )

    # what is asked of whom

    def _bring_files(self) -> None:
        """Let ``cat`` read or write a file that is on another machine than the command."""
        if isinstance(self._source, RemotePath) and self._is_elsewhere(self._source, self._items[0]):
            self._items.insert(0, self._cat(self._source))
        if isinstance(self._target, RemotePath) and self._is_elsewhere(self._target, self._items[-1]):
            self._items.append(self._cat(self._target))

    def _is_elsewhere(self, path: RemotePath, item: _Item) -> bool:
        return path.machine.transport is not item.machine.transport

    def _cat(self, path: RemotePath) -> _Item:
        return _Item(path.machine, path.machine.order(("cat",), cwd=None, env=None), hidden=True)

    def _cut(self) -> list[Segment]:
        numbered = enumerate(self._items)
        groups = groupby(numbered, key=lambda pair: id(pair[1].machine.transport))
        return [self._segment([*group]) for _, group in groups]

    def _segment(self, numbered: Sequence[tuple[int, _Item]]) -> Segment:
        numbers, items = [number for number, _ in numbered], [item for _, item in numbered]
        is_first, is_last = numbers[0] == 0, numbers[-1] == len(self._items) - 1
        source = items[0].far(self._source) if is_first and isinstance(self._source, RemotePath) else None
        target = items[-1].far(self._target) if is_last and isinstance(self._target, RemotePath) else None
        stdin = source is None and (not is_first or self._source is not None or items[0].order.spec.stdin)
        starter, host = items[0].machine.transport, items[0].machine.host
        far_stderr = isinstance(items[0].stderr, RemotePath) or items[0].merge
        if len(items) == 1 and source is None and target is None and not far_stderr:
            return Segment(starter, host, replace(items[0].order.spec, stdin=stdin), None, tuple(numbers))
        folders = {item.order.spec.cwd for item in items}
        common = folders.pop() if len(folders) == 1 else None
        kind = Kind.ALONE if len(items) == 1 else Kind.LIVE if self._live else Kind.APART
        script = make_script(
            [_stage(item, common) for item in items],
            kind=kind,
            nonce="" if kind is Kind.APART else secrets.token_hex(12),
            stdin=source,
            stdout=target,
            append=self._append,
        )
        spec = ProcessSpec(script.argv, common, script.env, stdin=stdin)
        return Segment(starter, host, spec, script, tuple(numbers))

    # its start

    async def connect(self) -> None:
        """Connect every machine, before anything is started on any."""
        for segment in self._segments:
            await segment.starter.connect()

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        """Open the near files and start every segment, the last one first.

        Raises:
            FileError: a near file cannot be opened; nothing was started.
        """
        files: list[BinaryIO] = []
        parts: list[Part] = []
        try:
            ends = await self._open(files)
            for segment in reversed(self._segments):
                parts.insert(0, Part(segment, await segment.starter.start_process(segment.spec)))
        except BaseException:
            _close(files)
            for part in parts:
                part.far.end()
            for part in parts:
                await bounded_cleanup(part.far.aclose(), CANCEL_SECONDS)
            raise
        self._running = Plumbed(parts, ends, self._status)
        return self._running

    async def _open(self, files: list[BinaryIO]) -> Ends:
        """Open the near files."""

        async def opened(path: Path, mode: str) -> BinaryIO:
            files.append(await open_near(path, mode))
            return files[-1]

        feeding: Callable[[ByteSendStream], Coroutine[Any, Any, None]] | None = None
        if isinstance(self._source, bytes):
            feeding = partial(feed, self._source)
        elif isinstance(self._source, Path):
            feeding = partial(feed_file, await opened(self._source, "rb"), self._source)
        stdout: NearWriter | None = None
        if isinstance(self._target, Path):
            file = await opened(self._target, "ab" if self._append else "wb")
            stdout = NearWriter(file, self._target)
        stderrs: dict[int, NearWriter] = {}
        for number, item in enumerate(self._items):
            if isinstance(item.stderr, Path):
                stderrs[number] = NearWriter(await opened(item.stderr, "wb"), item.stderr)
        limit = self.order.max_output_bytes
        keep = 0 if self._live or self._single else DEFAULT_OUTPUT_BYTES if limit is None else limit
        return Ends(feeding, stdout, stderrs, partial(_close, files), keep)

    # its end

    def _failed(self, number: int, status: ExitStatus) -> bool:
        codes = self.order.ok_codes
        if codes is None or status.returncode in codes:
            return False
        return number == self._last or not (status.returncode == 0 or status.signal == "PIPE")

    def _culprit(self, statuses: Sequence[ExitStatus]) -> int | None:
        """Return the number of the stage whose status is that of the pipeline; None where that is 0."""
        numbers = range(len(statuses) - 1, -1, -1)
        for number in numbers:
            if self._failed(number, statuses[number]):
                return number
        wrong = (n for n in numbers if statuses[n].returncode and (n == self._last or statuses[n].signal != "PIPE"))
        return next(wrong, None)

    async def _status(self, statuses: dict[int, ExitStatus]) -> ExitStatus:
        """Return the pipeline's status, unless a program was not there."""
        for number, item in enumerate(self._items):
            if statuses[number].returncode in (126, 127) and self._failed(number, statuses[number]):
                await explain_not_found(item.machine.transport, item.order, item.machine.host)
        culprit = self._culprit([status for _, status in sorted(statuses.items())])
        return ExitStatus(0) if culprit is None else statuses[culprit]

    def _result(self, result: Result) -> Result:
        """Add what is known of the stages."""
        if self._single or self._running is None:
            return result
        statuses = [status for _, status in sorted(self._running.statuses.items())]
        stderrs = [b"".join(self._running.kept.get(number, ())) for number in range(len(self._items))]
        exits = [
            Exit(
                args=item.order.args,
                host=item.machine.host,
                returncode=status.returncode,
                signal=status.signal,
                stderr=stderr.decode(item.order.encoding, item.order.errors),
            )
            for item, status, stderr in zip(self._items, statuses, stderrs, strict=True)
        ]
        culprit = self._culprit(statuses)
        named = exits[self._last if culprit is None else culprit]
        return replace(
            result,
            args=named.args,
            host=named.host,
            stages=tuple(end for end, item in zip(exits, self._items, strict=True) if not item.hidden),
            stderr_bytes=result.stderr_bytes if self._live else b"".join(stderrs),
        )


def _stage(item: _Item, common: bytes | None) -> Stage:
    """Return a stage as the script wants it; with one directory for all, it starts there."""
    spec, stderr = item.order.spec, item.stderr
    cwd = None if common is not None or spec.cwd is None else joined(b".", spec.cwd)
    far = item.far(stderr) if isinstance(stderr, RemotePath) else None
    return Stage(spec.argv, cwd, spec.env, item.merge, far)


def _close(files: Sequence[BinaryIO]) -> None:
    for file in files:
        file.close()
