"""The arithmetic of far paths: that of `pathlib.PurePosixPath` or `PureWindowsPath`, on a machine. Asks nothing."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from aioremote.machine import Machine

__all__ = ["PureRemotePath"]


class PureRemotePath:
    """The part of `RemotePath` that asks nothing."""

    __slots__ = ("_machine", "_path")

    def __init__(self, machine: Machine, *parts: str | PurePath | PureRemotePath) -> None:
        self._machine = machine
        self._path: PurePath = machine.transport.paths(
            *(part.pure_on(machine) if isinstance(part, PureRemotePath) else part for part in parts)
        )
        if "\0" in str(self._path):
            raise ValueError(f"path {str(self._path)!r} holds a NUL byte")

    def pure_on(self, machine: Machine) -> PurePath:
        """Return the plain path; ValueError where it is not on this machine."""
        if machine.transport is not self._machine.transport:
            raise ValueError(f"{self!r} is on another machine than {machine}")
        return self._path

    def _place(self) -> tuple[object, ...]:
        """What makes two paths the same: the connection and the path, with what a relative one is below."""
        machine = self._machine
        return id(machine.transport), self._path, None if self._path.is_absolute() else machine.base.cwd

    def _same(self, path: PurePath) -> Self:
        return type(self)(self._machine, path)

    @property
    def machine(self) -> Machine:
        """The machine that it is on."""
        return self._machine

    def __truediv__(self, other: str | PurePath | PureRemotePath) -> Self:
        return type(self)(self._machine, self._path, other)

    def joinpath(self, *others: str | PurePath | PureRemotePath) -> Self:
        """Return this path and the others one after the other; an absolute one starts anew."""
        return type(self)(self._machine, self._path, *others)

    def __str__(self) -> str:
        return str(self._path)

    def __bytes__(self) -> bytes:
        return str(self._path).encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"<RemotePath {self._machine}:{self._path}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PureRemotePath) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def __lt__(self, other: PureRemotePath) -> bool:
        return self._path < other.pure_on(self._machine)

    def as_posix(self) -> str:
        """Return the path with slashes."""
        return self._path.as_posix()

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its last suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The last suffix, with its dot."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes, with their dots."""
        return self._path.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, "/" first for an absolute path."""
        return self._path.parts

    @property
    def parent(self) -> Self:
        """The path without its last part."""
        return self._same(self._path.parent)

    @property
    def parents(self) -> tuple[Self, ...]:
        """All ancestors, the nearest first."""
        return tuple(self._same(path) for path in self._path.parents)

    def is_absolute(self) -> bool:
        """Whether it begins at the root."""
        return self._path.is_absolute()

    def is_relative_to(self, other: str | PurePath | PureRemotePath) -> bool:
        """Whether it is `other` or below it, by name alone."""
        return self._path.is_relative_to(other.pure_on(self._machine) if isinstance(other, PureRemotePath) else other)

    def relative_to(self, other: str | PurePath | PureRemotePath) -> Self:
        """Return what follows `other`; ValueError where this path is not below it."""
        return self._same(
            self._path.relative_to(other.pure_on(self._machine) if isinstance(other, PureRemotePath) else other)
        )

    def match(self, pattern: str) -> bool:
        """Whether the path matches a glob pattern, as PurePath.match."""
        return self._path.match(pattern)

    def with_name(self, name: str) -> Self:
        """Return the path with another last part."""
        return self._same(self._path.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """Return the path with another stem and the same suffix."""
        return self._same(self._path.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """Return the path with another suffix, or without one for ""."""
        return self._same(self._path.with_suffix(suffix))
