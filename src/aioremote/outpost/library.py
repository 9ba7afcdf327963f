"""Sources of modules for a far end that imports them: only of packages that were named, only from below their folders.

The far end gives dotted names and nothing else, and nothing here imports what it asks for, so that a hostile one can
neither read other files nor run anything. Not for functions, which travel by themselves (`source`).
"""

from __future__ import annotations

import ast
import os
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder

from aioremote.errors import ShipError

__all__ = ["Library", "Module"]


@dataclass(frozen=True, slots=True)
class Module:
    """The source of one module.

    Attributes:
        text: the source.
        file: where it stands near, for tracebacks.
        is_package: whether it has modules below it.
    """

    text: str
    file: str
    is_package: bool


@dataclass(frozen=True, slots=True)
class _Root:
    """Where a named package stands: its folders, or the one file of a plain module."""

    folders: tuple[str, ...]
    file: str


class Library:
    """Answers a far end's questions for modules. Reads files: ask it in a thread.

    Args:
        packages: top-level packages or modules that may go; ``"mypkg.part"`` lets ``mypkg`` go.

    Raises:
        ShipError: one of them is not there, or has no source.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        tops = {name.partition(".")[0] for name in packages}
        self._roots = {name: _find_root(name) for name in sorted(tops)}
        self._known: dict[str, Module | None] = {}

    @property
    def packages(self) -> frozenset[str]:
        """The top-level names that may go."""
        return frozenset(self._roots)

    def find(self, name: str) -> Module | None:
        """Return a module's source, None where it may not go or is not there. The answer stays the same."""
        top, *rest = name.split(".")
        root = self._roots.get(top)
        if root is None or not all(part.isidentifier() for part in rest):
            return None
        if name not in self._known:
            self._known[name] = _read(root, rest)
        return self._known[name]

    def closure(self, name: str) -> dict[str, Module]:
        """Return a module with all of these packages that it imports, directly or not: what to send before asked."""
        found: dict[str, Module] = {}
        waiting = [name]
        while waiting:
            wanted = waiting.pop()
            module = None if wanted in found else self.find(wanted)
            if module is not None:
                found[wanted] = module
                waiting += [".".join(wanted.split(".")[:-1])] if "." in wanted else []
                waiting += _imports(wanted, module)
        return found


def _find_root(name: str) -> _Root:
    """Find a top-level package without importing it."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    spec = loaded if isinstance(loaded, ModuleSpec) else PathFinder.find_spec(name)
    folders = tuple(os.path.realpath(folder) for folder in (spec and spec.submodule_search_locations) or ())
    file = spec.origin if spec is not None and spec.has_location and spec.origin else ""
    if not folders and not file.endswith(".py"):
        why = f"{file} is no source" if file else "there is no such package here"
        raise ShipError(f"ship: {name!r} cannot go: {why}")
    return _Root(folders, os.path.realpath(file) if file else "")


def _read(root: _Root, rest: list[str]) -> Module | None:
    if not rest and root.file:
        return _open(root.file, is_package=bool(root.folders))
    if not rest:
        return Module("", "", is_package=True)  # a package without a file of its own
    for folder in root.folders:
        path = os.path.join(folder, *rest)
        choices = ((os.path.join(path, "__init__.py"), True), (path + ".py", False))
        for file, is_package in choices:
            if os.path.isfile(file) and os.path.realpath(file).startswith(folder + os.sep):
                return _open(file, is_package=is_package)
        if os.path.isdir(path) and os.path.realpath(path).startswith(folder + os.sep):
            return Module("", "", is_package=True)
    return None


def _open(file: str, *, is_package: bool) -> Module | None:
    try:
        with tokenize.open(file) as source:
            return Module(source.read(), file, is_package)
    except (OSError, SyntaxError, UnicodeError):  # as for the near import: it is not there
        return None


def _imports(name: str, module: Module) -> Iterator[str]:
    """Yield the absolute names that a module may import: what is after ``from x import`` may be a module or not."""
    package = name if module.is_package else name.rpartition(".")[0]
    try:
        tree = ast.parse(module.text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
