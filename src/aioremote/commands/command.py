"""Commands as values: programs on machines with arguments bound to them, and pipelines of such.

Nothing here asks the far side before it is awaited. How they run is in `commands.runnable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from aioremote._core.quoting import join_posix
from aioremote.commands.orders import Argument, EnvValue, argument_bytes, environment
from aioremote.commands.runnable import Runnable
from aioremote.commands.scopes import joined
from aioremote.files.path import RemotePath

if TYPE_CHECKING:
    from aioremote.machine import Machine

__all__ = ["Bindable", "Command", "Pipeline"]

Bindable: TypeAlias = "Argument | Command | Sequence[Bindable]"
"""What can be bound: an argument, a command (its words), or lists and tuples of these."""


@dataclass(frozen=True, slots=True, repr=False)
class Command(Runnable):
    """A program on a machine, with arguments: ``m["ls"]["-l", path]``. Immutable; make one with ``machine[name]``.

    Subscription binds arguments: text, bytes, paths and numbers, as `Machine.run` takes them; lists and tuples flatten;
    a command of the same machine contributes its words. All arrive byte for byte. Directory and environment of the task
    (``m.cwd``, ``m.env``) count when it runs.

    Attributes:
        machine: where it runs.
        words: program and arguments as text; bytes that are no UTF-8 are surrogate escapes.
        cwd: where it starts, None for the task's directory.
        env: changes of its environment as name and value, None to unset.
        stdin: bytes, a far or a near file for standard input; None for an empty one.
        stdout, append: a far or a near file for standard output, and whether what it holds is kept.
        stderr, merge: a far or a near file for standard error, or whether it goes where standard output goes.
    """

    machine: Machine
    words: tuple[str, ...]
    cwd: bytes | None = None
    env: tuple[tuple[str, bytes | None], ...] = ()
    stdin: RemotePath | Path | bytes | None = None
    stdout: RemotePath | Path | None = None
    append: bool = False
    stderr: RemotePath | Path | None = None
    merge: bool = False

    @classmethod
    def of(cls, machine: Machine, words: Bindable) -> Command:
        """Return a command without further ado; users write ``machine[words]``."""
        command = cls(machine, ())[words]
        if not command.words or not command.words[0]:
            raise ValueError("no program was given: the first word is the program's name or path")
        return command

    def _commands(self) -> tuple[Command, ...]:
        return (self,)

    def _with(self, index: int, command: Command) -> Command:
        return command

    def __getitem__(self, args: Bindable) -> Command:
        """Return it with further arguments; see the class."""
        words = list(self.words)
        self._collect(args, words)
        return replace(self, words=tuple(words))

    def _collect(self, value: Bindable, words: list[str]) -> None:
        if isinstance(value, str) and "\0" not in value:
            words.append(value)
        elif isinstance(value, (list, tuple)):
            for part in value:
                self._collect(part, words)
        elif isinstance(value, Command):
            self._check_nested(value)
            words += value.words
        else:
            words.append(argument_bytes(value, f"argument {len(words)}").decode("utf-8", "surrogateescape"))

    def _check_nested(self, inner: Command) -> None:
        if inner.machine is not self.machine:
            raise ValueError(f"{inner!r} is of another machine than the command that it is to be an argument of")
        if inner != Command(inner.machine, inner.words):
            raise ValueError(
                f"{inner!r} has a directory, an environment or redirections of its own, which an argument cannot have"
            )

    def with_cwd(self, path: str | RemotePath) -> Command:
        """Return it with a directory to start in; a relative one is below its present one, or the task's."""
        return replace(self, cwd=joined(self.cwd, argument_bytes(path, "the directory"), self.machine.transport.paths))

    def with_env(self, values: Mapping[str, EnvValue] | None = None, /, **more: EnvValue) -> Command:
        """Return it with changes of its environment; None as a value unsets.

        Raises:
            ValueError: a name that no shell can hold.
        """
        return replace(self, env=tuple({**dict(self.env), **environment({**(values or {}), **more})}.items()))

    def __str__(self) -> str:
        text = join_posix(self.words)
        if isinstance(self.stdin, bytes):
            text += f" <<({len(self.stdin)} bytes)"
        elif self.stdin is not None:
            text += f" <{_shown(self.stdin)}"
        if self.stdout is not None:
            text += f" {'>>' if self.append else '>'}{_shown(self.stdout)}"
        if self.stderr is not None:
            text += f" 2>{_shown(self.stderr)}"
        return text + (" 2>&1" if self.merge else "")

    def __repr__(self) -> str:
        where = "" if self.cwd is None else f" in {self.cwd.decode('utf-8', 'surrogateescape')}"
        names = f" with {', '.join(name for name, _ in self.env)}" if self.env else ""
        return f"<Command {self.machine}: {self}{where}{names}>"


@dataclass(frozen=True, slots=True, repr=False)
class Pipeline(Runnable):
    """Commands whose standard output is the next one's standard input: ``a | b | c``. Immutable.

    Neighbours on one machine run there as one far process, and no byte between them crosses the network. Between
    machines the bytes stream through here, with bounded memory.

    Attributes:
        commands: in order.

    Raises:
        ValueError: a command in the middle has its standard input or output elsewhere.
    """

    commands: tuple[Command, ...]

    def __post_init__(self) -> None:
        """Check that the pipes are free."""
        for command in self.commands[1:]:
            if command.stdin is not None:
                raise ValueError(f"the standard input of {command} is a pipe already: it cannot come from elsewhere")
        for command in self.commands[:-1]:
            if command.stdout is not None:
                raise ValueError(f"the standard output of {command} is a pipe already: it cannot go elsewhere")

    def _commands(self) -> tuple[Command, ...]:
        return self.commands

    def _with(self, index: int, command: Command) -> Pipeline:
        commands = list(self.commands)
        commands[index] = command
        return Pipeline(tuple(commands))

    def __str__(self) -> str:
        return " | ".join(map(str, self.commands))

    def __repr__(self) -> str:
        return f"<Pipeline {' | '.join(f'{command.machine}: {command}' for command in self.commands)}>"


def _shown(place: RemotePath | Path) -> str:
    return join_posix([str(place)])
