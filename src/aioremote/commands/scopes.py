"""The working directory and environment of the calling task.

A scope belongs to the task that opened it and to the tasks that this one starts, never to the machine: two tasks in two
directories do not see each other. Kept in one context variable, as an immutable table.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import PurePath, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING

from aioremote.commands.orders import EnvValue, PathEdit, environment, folder_bytes
from aioremote.errors import file_error

if TYPE_CHECKING:
    from aioremote.files.path import RemotePath
    from aioremote.machine import Machine

__all__ = ["CwdScopes", "EnvPath", "EnvScopes", "Scope", "current_scope", "in_folder", "joined", "with_variables"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What holds for one machine in one task.

    Attributes:
        cwd: None for the login's own directory.
        env: variables that are set or, with None, unset.
        path: changes of PATH, in their order.
        outer: what holds again after the innermost ``with`` block; None outside of any.
    """

    cwd: bytes | None = None
    env: Mapping[str, bytes | None] = field(default_factory=dict[str, bytes | None], repr=False)  # may hold secrets
    path: tuple[PathEdit, ...] = ()
    outer: Scope | None = field(default=None, repr=False)

    def place(self) -> tuple[bytes | None, dict[str, bytes | None], tuple[PathEdit, ...]] | None:
        """Return directory, variables and changes of PATH as far Python takes them; None where nothing differs."""
        if self.cwd is None and not self.env and not self.path:
            return None
        return self.cwd, dict(self.env), self.path


# A value's own "=" and newlines are told by the NUL behind it. Source: POSIX awk, ENVIRON.
_AWK = 'BEGIN { for (name in ENVIRON) printf "%s=%s%c", name, ENVIRON[name], 0 }'
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_USER = re.compile(r"~[A-Za-z0-9_.][A-Za-z0-9_.-]*|~")
_scopes: ContextVar[Mapping[int, Scope]] = ContextVar("aioremote_scopes")


def current_scope(machine: Machine) -> Scope:
    """Return what holds for the machine in the calling task."""
    return _scopes.get({}).get(machine.scope_key, machine.base)


def _change(machine: Machine, scope: Scope) -> None:
    table = {**_scopes.get({}), machine.scope_key: scope}
    if scope is machine.base:
        del table[machine.scope_key]
    _scopes.set(table)


def joined(outer: bytes | None, path: bytes, paths: type[PurePath] = PurePosixPath) -> bytes:
    """Return `path` below `outer`, unless it is absolute; `paths` is how the machine writes them."""
    if outer is None:
        return path
    if paths is not PurePosixPath:
        return os.fsencode(str(paths(os.fsdecode(outer), os.fsdecode(path))))
    return path if path.startswith(b"/") else outer.rstrip(b"/") + b"/" + path


def in_folder(scope: Scope, path: str | bytes | RemotePath, paths: type[PurePath]) -> Scope:
    """Return the scope in another directory; a relative one is below the scope's own."""
    folder = folder_bytes(path)
    if not folder:
        raise ValueError("cwd is empty: give a directory")
    return replace(scope, cwd=joined(scope.cwd, folder, paths))


def with_variables(scope: Scope, values: Mapping[str, EnvValue]) -> Scope:
    """Return the scope with further variables, None as a value to unset one."""
    checked = environment(values)
    return replace(scope, env={**scope.env, **checked}, path=() if "PATH" in checked else scope.path)


class _Block:
    """One ``with`` block; may be entered again, also by several tasks at once."""

    def __init__(self, machine: Machine, change: Callable[[Scope], Scope]) -> None:
        self._machine = machine
        self._change = change

    def __enter__(self) -> None:
        outer = current_scope(self._machine)
        _change(self._machine, replace(self._change(outer), outer=outer))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        _change(self._machine, current_scope(self._machine).outer or self._machine.base)


class CwdScopes:
    """``with m.cwd("/srv"):`` and what the directory is: ``await m.cwd.get()``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __call__(self, path: str | bytes | RemotePath) -> _Block:
        """Return a block whose commands start in `path`; a relative one is below the outer scope's.

        Nothing is asked here: a directory that cannot be entered is a FileError of the command.
        """
        self._inner(Scope(), path)  # judged at once
        return _Block(self._machine, lambda scope: self._inner(scope, path))

    def chdir(self, path: str | bytes | RemotePath) -> None:
        """Change the calling task's directory until its block is left; outside of blocks, for the rest of the task."""
        _change(self._machine, self._inner(current_scope(self._machine), path))

    async def get(self) -> RemotePath:
        """Return the directory in which commands start now, asking the far side."""
        result = await self._machine.run("pwd", "-P")
        return self._machine.path(result.stdout_bytes.decode("utf-8", "surrogateescape").removesuffix("\n"))

    def _inner(self, scope: Scope, path: str | bytes | RemotePath) -> Scope:
        return in_folder(scope, path, self._machine.transport.paths)

    def __str__(self) -> str:
        cwd = current_scope(self._machine).cwd
        return "~" if cwd is None else cwd.decode("utf-8", "surrogateescape")


class EnvPath:
    """The list of directories in which programs are looked up: ``m.env.path.insert(0, "/opt/tool/bin")``.

    Changes are those of the calling task, as ``m.env["NAME"] = …``. They send nothing: what PATH is, only the far side
    knows, so they are made there when a command starts. A PATH that is set as a whole drops the changes before it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def insert(self, index: int, folder: str | RemotePath) -> None:
        """Put a directory in, so that it comes to stand at `index`; 0 to be searched first."""
        if index < 0:
            raise ValueError(f"position {index}: give 0 for the first or more; the end is append()")
        self._edit(index, folder)

    def append(self, folder: str | RemotePath) -> None:
        """Put a directory in at the end, to be searched last."""
        self._edit(-1, folder)

    def remove(self, folder: str | RemotePath) -> None:
        """Take a directory out, wherever it stands; it need not be there."""
        self._edit(None, folder)

    def _edit(self, index: int | None, folder: str | RemotePath) -> None:
        name = folder_bytes(folder, "the directory")
        if not name or b":" in name:
            raise ValueError(f"directory {name.decode(errors='replace')!r}: PATH can hold no empty one and no ':'")
        scope = current_scope(self._machine)
        _change(self._machine, replace(scope, path=(*scope.path, (index, name))))

    async def get(self) -> list[RemotePath]:
        """Return the directories as a command of the calling task would search them, in order; "." for an empty one."""
        result = await self._machine.run("/bin/sh", "-c", 'printf %s "$PATH"')
        text = result.stdout_bytes.decode("utf-8", "surrogateescape")
        return [self._machine.path(folder or ".") for folder in text.split(":")] if text else []


class EnvScopes:
    """``with m.env(LANG="C", DEBUG=None):`` and what the variables are: ``await m.env.get("HOME")``.

    ``m.env["LANG"] = "C"``, ``del m.env["DEBUG"]`` and `update` hold until the calling task's block is left; outside of
    blocks, for the rest of the task. They send nothing: a name that no shell can hold is a ValueError at once.

    Attributes:
        path: the directories in which programs are looked up.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path: EnvPath = EnvPath(machine)

    def __call__(self, values: Mapping[str, EnvValue] | None = None, /, **more: EnvValue) -> _Block:
        """Return a block in which the calling task's commands get these variables; None unsets one."""
        checked = environment({**(values or {}), **more})
        return _Block(self._machine, lambda scope: with_variables(scope, checked))

    def __setitem__(self, name: str, value: EnvValue) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        self.update({name: None})

    def update(self, values: Mapping[str, EnvValue] | None = None, /, **more: EnvValue) -> None:
        """Set several variables; None unsets one."""
        _change(self._machine, with_variables(current_scope(self._machine), {**(values or {}), **more}))

    async def all(self) -> dict[str, str]:
        """Return every far variable, as a command of the calling task would see it."""
        result = await self._machine.run("env", "-0", check=False)
        if not result.ok:  # some know no -0
            result = await self._machine.run("awk", _AWK)
        items = result.stdout_bytes.decode("utf-8", "surrogateescape").split("\0")
        pairs = (item.partition("=") for item in items if item)
        return {name: value for name, _, value in pairs}

    async def get(self, name: str, default: str | None = None) -> str | None:
        """Return one far variable, `default` where it is not set."""
        return (await self.all()).get(name, default)

    async def expand(self, text: str) -> str:
        """Return `text` with ``$NAME``, ``${NAME}`` and a leading ``~`` or ``~user`` replaced by what they are far.

        As os.path.expandvars does, it leaves a variable that is not set. Nothing else means anything: text from outside
        cannot run a command.

        Raises:
            FileError: there is no such user.
        """
        home, slash, rest = text.partition("/")
        if _USER.fullmatch(home):
            return await self.expanduser(home + slash) + await self.expand(rest)
        if "$" not in text:
            return text
        values = await self.all()
        return _VARIABLE.sub(lambda found: values.get(found[1] or found[2], found[0]), text)

    async def expanduser(self, text: str) -> str:
        """Return `text` with a leading ``~`` or ``~user`` replaced by that far user's home.

        Raises:
            FileError: there is no such user.
        """
        home, slash, rest = text.partition("/")
        if not home.startswith("~"):
            return text
        found = b"~"
        if _USER.fullmatch(home):
            found = (await self._machine.run("/bin/sh", "-c", f"printf %s {home}")).stdout_bytes
        if not found or found.startswith(b"~"):
            raise file_error(errno.ENOENT, home, host=self._machine.host, text="there is no such user")
        folder = found.decode("utf-8", "surrogateescape")
        return folder.rstrip("/") + slash + rest if slash else folder
