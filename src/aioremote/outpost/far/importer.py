"""Imports from the near end: a hook that asks for the sources of a few packages and for nothing else.

The near end decides what may come (`outpost.library`); here it is only asked for packages that it has named. What it
has not got stays unknown without a second question.
"""

import sys
from importlib.machinery import ModuleSpec

from .rebuild import remember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Importer"]


class Importer:
    """Finds and loads modules of named packages from sources that the near end has.

    Args:
        ask: given a dotted name, returns (source, near file, whether it is a package), or None; waits for the near end.
    """

    def __init__(self, ask: "Callable[[str], tuple[str, str, bool] | None]") -> "None":
        self._ask = ask
        self._packages: "set[str]" = set()
        self._known: "dict[str, tuple[str, str, bool] | None]" = {}

    def install(self) -> "None":
        """Stand before every other finder: what the near end has is what was asked to be shipped."""
        sys.meta_path.insert(0, self)

    def allow(self, packages: "Iterable[str]", known: "dict[str, tuple[str, str, bool] | None]") -> "None":
        """Ask for these packages from now on; `known` are sources that have come already."""
        self._packages.update(packages)
        self._known.update(known)

    def _find(self, name: "str") -> "tuple[str, str, bool] | None":
        if name.partition(".")[0] not in self._packages:
            return None
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]

    def find_spec(self, name: "str", path: "object" = None, target: "object" = None) -> "ModuleSpec | None":
        """Return the spec of a module that the near end has."""
        found = self._find(name)
        if found is None:
            return None
        _, file, is_package = found
        spec = ModuleSpec(name, self, origin=file or None, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = bool(file)
        return spec

    def create_module(self, spec: "ModuleSpec") -> "None":
        """Leave it to Python."""

    def exec_module(self, module: "object") -> "None":
        """Run the module's source in its namespace."""
        space = vars(module)
        found = self._find(space["__name__"])
        if found is None:
            raise ImportError("%s is not shipped" % space["__name__"])
        text, file, _ = found
        remember(file, text)
        exec(compile(text, file, "exec", dont_inherit=True), space)

    def get_source(self, name: "str") -> "str | None":
        """Return the source of a module, for tools that look at it."""
        found = self._find(name)
        return found and found[0]
