"""What commands and pipelines have in common: how they run, and how their streams are led elsewhere."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias, cast

from aioremote.commands.lines import LineStream
from aioremote.commands.orders import DEFAULT_OUTPUT_BYTES
from aioremote.commands.plumbing import prepare
from aioremote.commands.process import Starting
from aioremote.commands.running import run_order
from aioremote.commands.tee import Shown
from aioremote.files.path import RemotePath

if TYPE_CHECKING:
    from aioremote.commands.command import Bindable, Command, Pipeline
    from aioremote.types import Result, Terminal

__all__ = ["Place", "Runnable"]

Place: TypeAlias = "RemotePath | str | os.PathLike[str]"
"""Where a stream leads: a RemotePath is a far file, anything else a near one."""


class Runnable(abc.ABC):
    """What a Command and a Pipeline have in common."""

    __slots__ = ()
    __iter__ = None  # subscription would make it iterable, without an end
    __contains__ = None

    @abc.abstractmethod
    def _commands(self) -> tuple[Command, ...]:
        """Return its commands, in order."""

    @abc.abstractmethod
    def _with(self, index: int, command: Command) -> Self:
        """Return the same with another command at `index`."""

    # running

    async def __call__(self, *args: Bindable, timeout: float | None = None) -> str:
        """Run it with further arguments (of the first command) and return its standard output as text.

        Raises:
            RemoteError: as from `run`.
        """
        return (await self._with(0, self._commands()[0][args]).run(timeout=timeout)).stdout

    async def run(
        self,
        *,
        input: str | bytes | None = None,  # noqa: A002  # subprocess's name for it
        check: bool = True,
        timeout: float | None = None,
        pty: bool | Terminal = False,
        ok_codes: Iterable[int] | int | None = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        errors: str = "replace",
    ) -> Result:
        """Run it to its end and return its result.

        Args:
            input, check, timeout, max_output_bytes, errors: as in `Machine.run`.
            pty: as in `Machine.run`; for a command without redirections.
            ok_codes: the statuses that count as success: one, several, or None for all.

        Returns:
            Result: of a pipeline, ``stages`` has one Exit a command, ``returncode`` is that of the rightmost one that
                failed (else 0), ``args`` and ``host`` are that one's, and ``stderr`` is that of all in order. A command
                before the last one that ended by SIGPIPE, since its reader had enough, has not failed.

        Raises:
            RemoteError: as from `Machine.run`; ``.cmd`` is the argv of the command that failed, or where none has (a
                timeout, a lost link, too much output) the words of all with "|" between them.
            FileError: a file to read from or to write to cannot be opened; nothing ran.
            ValueError: `input` for a command whose standard input leads elsewhere; nothing was sent.

        Cancellation: as `Machine.run`, on every machine.
        """
        prepared = prepare(
            self._commands(),
            input=input,
            check=check,
            timeout=timeout,
            pty=pty,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            errors=errors,
        )
        return await run_order(prepared.order, prepared.starter, prepared.host)

    async def ok(self, *, ok_codes: Iterable[int] | int | None = (0,), timeout: float | None = None) -> bool:
        """Run it and return whether its status is one of `ok_codes`.

        Raises:
            RemoteError: as from `run`, but for a status.
        """
        return (await self.run(check=False, ok_codes=ok_codes, timeout=timeout)).ok

    async def returncode(self, *, timeout: float | None = None) -> int:
        """Run it and return its status, whatever it is; negative for a signal.

        Raises:
            RemoteError: as from `run`, but for a status.
        """
        return (await self.run(check=False, timeout=timeout)).returncode

    async def tee(
        self,
        *,
        input: str | bytes | None = None,  # noqa: A002
        check: bool = True,
        timeout: float | None = None,
        ok_codes: Iterable[int] | int | None = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        errors: str = "replace",
    ) -> Result:
        """Run it, show its output on ``sys.stdout`` and ``sys.stderr`` as it comes, and return its result.

        Of a pipeline standard errors come in blocks, since they are told apart at the far end.

        Args:
            input, check, timeout, ok_codes, max_output_bytes, errors: as in `run`.

        Raises:
            RemoteError: as from `run`.
        """
        prepared = prepare(
            self._commands(),
            input=input,
            check=check,
            timeout=timeout,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            errors=errors,
        )
        async with Shown(prepared.order) as shown:
            return await run_order(prepared.order, prepared.starter, prepared.host, shown=shown)

    def start(self, *, timeout: float | None = None, pty: bool | Terminal = False, errors: str = "replace") -> Starting:
        """Start it and keep it running: ``async with command.start() as p: ...``.

        Args:
            timeout: seconds for connecting and starting, not for the run.
            pty: as in `Machine.start`; for a command without redirections.
            errors: as in `run`.

        Returns:
            Starting: an async context manager (and awaitable) of a `Process`. Of a pipeline, ``stdin`` is that of the
                first command, ``stdout`` that of the last, ``stderr`` those of all.
        """
        prepared = prepare(self._commands(), timeout=timeout, pty=pty, errors=errors, stdin=True, live=True)
        return Starting(prepared.starter, prepared.order, prepared.host)

    def lines(
        self,
        *,
        check: bool = True,
        timeout: float | None = None,
        line_timeout: float | None = None,
        keep_last: int = 100,
        pty: bool | Terminal = False,
        ok_codes: Iterable[int] | int | None = (0,),
        errors: str = "replace",
    ) -> LineStream:
        """Iterate over its output while it runs, both streams, each line when it arrives; as `Machine.lines`."""
        prepared = prepare(
            self._commands(), check=check, timeout=timeout, pty=pty, ok_codes=ok_codes, errors=errors, live=True
        )
        return LineStream(
            prepared.starter, prepared.order, prepared.host, line_timeout=line_timeout, keep_last=keep_last
        )

    # putting together

    def __or__(self, other: Runnable) -> Pipeline:
        """Return a pipeline: the standard output of this is the standard input of `other`."""
        if not isinstance(cast(object, other), Runnable):
            return NotImplemented
        from aioremote.commands.command import Pipeline

        return Pipeline((*self._commands(), *other._commands()))

    def stdin_from(self, place: Place | None = None, *, data: str | bytes | None = None) -> Self:
        """Return it with a standard input: ``command < place``, ``command << data``.

        Args:
            place: a RemotePath is a far file, a str or path a near one.
            data: the input itself; str is sent as UTF-8.

        Raises:
            ValueError: its standard input leads somewhere already.
        """
        if (place is None) == (data is None):
            raise TypeError("give either a path, or data=")
        command = self._commands()[0]
        if command.stdin is not None:
            raise ValueError(f"the standard input of {command} leads somewhere already: it can only once")
        source = _place(place) if place is not None else _data(data)
        return self._with(0, replace(command, stdin=source))

    def stdout_to(self, place: Place, *, append: bool = False) -> Self:
        """Return it with a file for its standard output: ``command > place``, ``command >> place`` to append.

        Args:
            place: a RemotePath is a far file, a str or path a near one.
            append: whether what the file holds is kept.

        Raises:
            ValueError: its standard output leads somewhere already.
        """
        command = self._commands()[-1]
        if command.stdout is not None:
            raise ValueError(f"the standard output of {command} leads somewhere already: it can only once")
        return self._with(-1, replace(command, stdout=_place(place), append=append))

    def stderr_to(self, place: Place) -> Self:
        """Return it with a file for its standard error (of a pipeline: of its last command).

        Raises:
            ValueError: its standard error leads somewhere already, or the file is on another machine.
        """
        command, found = self._free_stderr(), _place(place)
        if isinstance(found, RemotePath) and found.machine.transport is not command.machine.transport:
            raise ValueError(f"{found!r} is on another machine than {command}: give a file there, or a near one")
        return self._with(-1, replace(command, stderr=found))

    def merge_stderr(self) -> Self:
        """Return it with standard error going where standard output goes (of a pipeline: of its last command).

        Raises:
            ValueError: its standard error leads somewhere already.
        """
        return self._with(-1, replace(self._free_stderr(), merge=True))

    def _free_stderr(self) -> Command:
        command = self._commands()[-1]
        if command.stderr is not None or command.merge:
            raise ValueError(f"the standard error of {command} leads somewhere already: it can only once")
        return command

    def __lt__(self, place: Place) -> Self:
        return self.stdin_from(place)

    def __gt__(self, place: Place) -> Self:
        return self.stdout_to(place)

    def __rshift__(self, place: Place) -> Self:
        return self.stdout_to(place, append=True)

    def __lshift__(self, data: str | bytes) -> Self:
        return self.stdin_from(data=data)

    def __bool__(self) -> bool:
        raise TypeError(
            "a command is neither true nor false; ask it with `await command.ok()`. Two redirections need parentheses, "
            "since Python chains comparisons: ((command < source) > target)"
        )


def _place(place: object) -> RemotePath | Path:
    if isinstance(place, RemotePath):
        return place
    if isinstance(place, (str, os.PathLike)):
        near = Path(cast("str | os.PathLike[str]", place))
        if "\0" not in str(near):
            return near
        raise ValueError(f"path {str(near)!r} holds a NUL byte")
    raise TypeError(f"{place!r} is no place: give a RemotePath for a far file, a str or path for a near one")


def _data(data: object) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    if isinstance(data, bytes):
        return data
    raise TypeError(f"data is {type(data).__name__}: give str or bytes")
