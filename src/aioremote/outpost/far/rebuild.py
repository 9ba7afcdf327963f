"""Functions from a shipment: sources compiled here, closures and globals tied together again. Near: `outpost.source`.

No source is executed for that, so that defaults and decorators are not evaluated a second time. `find_code` is used at
both ends. Not for modules, which `importer` finds.
"""

import builtins
import io
import linecache
import pickle
import sys
from importlib import import_module
from types import CodeType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CellType

__all__ = ["FACTORY", "find_code", "rebuild", "remember"]

FACTORY = "aioremote_factory"  # the function around a source whose parameters are the free variables


def find_code(text: "str", file: "str", name: "str") -> "CodeType":
    """Compile a source that holds one function, and return the code of that function."""
    level = [compile(text, file, "exec", dont_inherit=True)]
    while level:
        inner = [found for code in level for found in code.co_consts if isinstance(found, CodeType)]
        for code in reversed(inner):  # those of default values come first
            if code.co_name == name:
                return code
        level = inner
    raise ValueError("no function %s in its own source" % name)


def remember(file: "str", text: "str") -> "None":
    """Let tracebacks show this text for a file, whatever is at that path here."""
    linecache.cache[file] = len(text), None, text.splitlines(True), file


def rebuild(shipment: "bytes") -> "object":
    """Return the callable that was shipped.

    Raises:
        SyntaxError: the source is too new for this Python, and nobody noticed near.
        ImportError: a module that it needs is not here.
    """
    sources, files, values = pickle.loads(shipment)
    for file, text in files.items():
        remember(file, text)
    cells: "dict[int, tuple[CellType, Callable[[object], None]]]" = {}
    spaces: "dict[str, dict[str, object]]" = {}
    functions: "list[FunctionType]" = []
    for name, qualname, module, file, text, closure in sources:
        code = find_code(text, file, name)
        for number in closure.values():
            if number not in cells:
                cells[number] = _make_cell()
        space = spaces.setdefault(module, {"__name__": module, "__builtins__": builtins})
        free = tuple(cells[closure[variable]][0] for variable in code.co_freevars)
        function = FunctionType(code, space, name, None, free)
        function.__qualname__, function.__module__ = qualname, module
        functions.append(function)
    root, details, contents, taken = _Unpickler(values, functions).load()
    for number, (defaults, keyword_defaults, attributes) in enumerate(details):
        function = functions[number]
        function.__defaults__, function.__kwdefaults__ = defaults, keyword_defaults
        function.__dict__.update(attributes)
    for number, value in contents.items():
        cells[number][1](value)
    for module, names in taken.items():
        spaces[module].update(names)
    return root


class _Unpickler(pickle.Unpickler):
    """Knows the functions of the shipment by number and modules by name."""

    def __init__(self, data: "bytes", functions: "list[FunctionType]") -> "None":
        super().__init__(io.BytesIO(data))
        self._functions = functions

    def persistent_load(self, pid: "int | str") -> "object":
        if isinstance(pid, int):
            return self._functions[pid]
        return sys.modules.get(pid) or import_module(pid)


def _make_cell() -> "tuple[CellType, Callable[[object], None]]":
    """Return an empty cell and what fills it; Python 3.6 has no other way."""
    value: "object" = None

    def fill(new: "object") -> "None":
        nonlocal value
        value = new

    def get() -> "object":
        return value  # noqa: F821  # bound when the cell is filled

    closure = get.__closure__
    assert closure is not None
    del value
    return closure[0], fill
