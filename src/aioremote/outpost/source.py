"""Functions as source: which of them travel, what they need, and why one cannot go.

A function is found by its code object in the file it came from, stripped of annotations (its decorators are no part of
it), and shipped with its defaults, the contents of its closure, and the globals that it uses: functions of the same
module as source, modules by name, everything else by pickle. Bytecode never travels: it differs between minor versions.
Nothing here imports or executes anything. Not for modules, which the far end asks for (`library`).
"""

from __future__ import annotations

import ast
import dis
import functools
import io
import linecache
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, cast

from aioremote.errors import ShipError
from aioremote.outpost.far.rebuild import FACTORY, find_code
from aioremote.outpost.syntax import check_syntax, without_annotations

__all__ = ["Shipment", "ship"]

_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_WITHOUT_PLACE = frozenset({"RESUME", "COPY_FREE_VARS", "MAKE_CELL"})  # theirs is the line, not the expression
_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_LASTING = (type(None), bool, int, float, complex, str, bytes, type, ModuleType, BuiltinFunctionType, FunctionType)
_MISSING = object()
_EVERY_MODULE_HAS = frozenset({"__name__", "__builtins__", "__spec__", "__loader__"})


@dataclass(frozen=True, slots=True)
class Shipment:
    """A callable on its way.

    Attributes:
        data: what `far.rebuild.rebuild` takes.
        packages: the top-level package of the callable's own module, where the far end may ask for it; else empty.
        fixed: what it depends on, where nothing of that can change without being replaced: triples of a namespace or
            cell, a name and the value. None where something can; then a call may leave it changed.
    """

    data: bytes
    packages: frozenset[str]
    fixed: tuple[tuple[object, str, object], ...] | None = None

    def still_holds(self) -> bool:
        """Whether shipping again would give the same."""
        if self.fixed is None:
            return False
        for place, name, value in self.fixed:  # asked before each call
            now = place.get(name, _MISSING) if isinstance(place, dict) else getattr(place, name, _MISSING)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if now is not value:
                return False
        return True


def ship(function: object, *, version: tuple[int, ...]) -> Shipment:
    """Prepare a callable for a far Python.

    Functions, lambdas, closures, methods, ``functools.partial`` and other callables that pickle. What belongs to
    Python's own library goes by name.

    Args:
        function: what is to be called there.
        version: the far Python's, as (3, 6) or longer.

    Raises:
        ShipError: it cannot go; names the function and the variable. Nothing was sent.
    """
    if not callable(function):
        raise ShipError(f"{function!r} is not callable: give a function")
    root = _plain(function)
    inner = root
    while isinstance(inner, functools.partial):
        inner = inner.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    module = getattr(inner, "__module__", None) or ""  # pyright: ignore[reportUnknownArgumentType]
    freight = _Freight(tuple(version[:2]), module)
    values = freight.pack(root)
    packages = set[str]() if _is_pythons_own(module) else {module.partition(".")[0]}
    data = pickle.dumps((freight.sources, freight.files, values), protocol=4)
    fixed = freight.fixed() if root is function else None
    return Shipment(data, frozenset(packages - {"", "__main__"}), fixed)


def _is_pythons_own(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _plain(value: object) -> object:
    """Return the function inside ``functools.cache`` and the like, which keep it and are no functions themselves."""
    if isinstance(value, FunctionType | type):
        return value
    inner = getattr(value, "__wrapped__", None) if callable(value) else None
    return inner if isinstance(inner, FunctionType) else value


class _Freight:
    """The functions of one shipment, by number, and all that they need."""

    def __init__(self, version: tuple[int, ...], module: str) -> None:
        self._version = version
        self._modules = {module, "__main__"}
        self._numbers: dict[FunctionType, int] = {}
        self._functions: list[FunctionType] = []
        self._cells: dict[int, CellType] = {}
        self._needs: list[tuple[str, object]] = []  # what each value is called in an error
        self._contents: dict[int, object] = {}
        self._globals: dict[str, dict[str, object]] = {}
        self.sources: list[tuple[str, str, str, str, str, dict[str, int]]] = []
        self.files: dict[str, str] = {}

    def pack(self, root: object) -> bytes:
        """Pickle the root with everything that is found on the way, until nothing new is."""
        self._needs.append((_name(root), root))
        checked = 0
        while checked < len(self._needs):  # pickling a value may bring further functions in
            what, value = self._needs[checked]
            self._dump(value, what)
            checked += 1
        details = [(f.__defaults__, f.__kwdefaults__, f.__dict__) for f in self._functions]
        return self._dump((root, details, self._contents, self._globals), _name(root))

    def _dump(self, value: object, what: str) -> bytes:
        buffer = io.BytesIO()
        protocol = 5 if self._version >= (3, 8) else 4
        try:
            _Pickler(buffer, protocol, self).dump(value)
        except Exception as error:  # whatever a __reduce__ raises, or what a function in there needs
            text = str(error)
            raise ShipError(text if text.startswith(what) else f"{what} cannot travel: {text}") from error
        return buffer.getvalue()

    def number(self, value: object) -> int | str | None:
        """Return how a value is referred to instead of being pickled: a number for a function, a name for a module."""
        if isinstance(value, ModuleType):
            return value.__name__
        value = _plain(value)
        if isinstance(value, FunctionType) and self._as_source(value):
            return self._numbers[value] if value in self._numbers else self._add(value)
        if isinstance(value, type) and value.__module__ == "__main__":
            raise ShipError(f"class {value.__qualname__} is defined in __main__: move it to a module, and ship that")
        return None

    def _as_source(self, function: FunctionType) -> bool:
        """Whether a function does not go by name: one of the shipped function's module, and one without a name."""
        module = function.__module__ or ""
        found: object = sys.modules.get(module)
        for part in function.__qualname__.split("."):
            found = getattr(found, part, None)
        return found is not function or (module in self._modules and not _is_pythons_own(module))

    def _add(self, function: FunctionType) -> int:
        self._numbers[function] = number = len(self._functions)
        self._functions.append(function)
        name, file = function.__code__.co_name, function.__code__.co_filename
        text = _source_of(function, self._version)
        code = find_code(text, file, name)
        self.files[file] = _text(file, function)
        self._need_defaults(function)
        closure = self._need_cells(function)
        self._need_globals(function, code)
        self.sources.append((name, function.__qualname__, function.__module__ or "", file, text, closure))
        return number

    def fixed(self) -> tuple[tuple[object, str, object], ...] | None:
        """Return what the functions depend on, None where that, or a function's own doing, can change it."""
        found: list[tuple[object, str, object]] = []
        for function in self._functions:
            if function.__dict__ or _changes_more(function.__code__):
                return None
            keywords = function.__kwdefaults__ or {}
            found += [(keywords, name, value) for name, value in keywords.items()]
            found += [(function, "__code__", function.__code__), (function, "__defaults__", function.__defaults__)]
            space = function.__globals__
            found += [(space, name, space[name]) for name in _global_names(function.__code__) if name in space]
            found += [
                (cell, "cell_contents", cell.cell_contents) for cell in function.__closure__ or () if _filled(cell)
            ]
        return tuple(found) if all(_lasts(value) for _, _, value in found) else None

    def _need(self, function: FunctionType, what: str, value: object) -> None:
        self._needs.append((f"{_name(function)}: {what}", value))

    def _need_defaults(self, function: FunctionType) -> None:
        self._need(function, "its defaults", (function.__defaults__, function.__kwdefaults__))
        self._need(function, "its attributes", function.__dict__)

    def _need_cells(self, function: FunctionType) -> dict[str, int]:
        closure: dict[str, int] = {}
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            closure[variable] = id(cell)
            if id(cell) in self._cells:
                continue
            self._cells[id(cell)] = cell  # kept, so that no other gets its id
            try:
                self._contents[id(cell)] = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._need(function, f"its variable {variable!r}", cell.cell_contents)
        return closure

    def _need_globals(self, function: FunctionType, code: CodeType) -> None:
        taken = self._globals.setdefault(function.__module__ or "", {})
        for name in _global_names(code):
            if name in function.__globals__ and name not in taken and name not in _EVERY_MODULE_HAS:
                taken[name] = value = function.__globals__[name]
                self._need(function, f"the global {name!r}", value)


class _Pickler(pickle.Pickler):
    """Refers to functions that go as source by number, to modules by name, and to what `os` has by that name.

    What `os` has is defined in "posix" here and in "nt" on Windows.
    """

    def __init__(self, file: io.BytesIO, protocol: int, freight: _Freight) -> None:
        super().__init__(file, protocol)
        self._freight = freight

    def persistent_id(self, obj: object) -> int | str | None:
        return self._freight.number(obj)

    def reducer_override(self, obj: object) -> Any:  # Any: as the base has it
        if isinstance(obj, BuiltinFunctionType) and obj.__module__ == os.name and hasattr(os, obj.__name__):
            return getattr, (os, obj.__name__)
        return NotImplemented


def _name(value: object) -> str:
    return f"{getattr(value, '__qualname__', None) or repr(value)}"


def _global_names(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up as globals, inner functions included, some of them twice."""
    for step in dis.get_instructions(code):
        if step.opname in _LOADS:
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _global_names(inner)


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not _MISSING
    except ValueError:
        return False


def _lasts(value: object) -> bool:
    """Whether a value cannot change."""
    if isinstance(value, tuple | frozenset):
        return all(_lasts(item) for item in cast("tuple[object, ...]", value))
    return type(value) in _LASTING or isinstance(value, CodeType | type)


def _changes_more(code: CodeType) -> bool:
    """Whether code binds names outside of itself."""
    for step in dis.get_instructions(code):
        if step.opname in _STORES or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars):
            return True
    return any(isinstance(inner, CodeType) and _changes_more(inner) for inner in code.co_consts)


# finding the source


def _source_of(function: FunctionType, version: tuple[int, ...]) -> str:
    """Return a source with just this function, on the lines where it stands in its file.

    Raises:
        ShipError: there is no source, or it has syntax that the far Python does not know.
    """
    code = function.__code__
    text = _text(code.co_filename, function)
    node = _find_node(_parsed(text), code)
    if node is None:
        raise ShipError(f"{_name(function)}: it is not at line {code.co_firstlineno} of {code.co_filename} any more")
    piece = _cut(text, node)
    free = ", ".join(code.co_freevars)
    if isinstance(node, ast.Lambda):
        head, tail = f"def {FACTORY}({free}): return (", "\n)\n"
    elif node.col_offset:
        head, tail = f"def {FACTORY}({free}):", "\n"
    else:
        head, tail = "", "\n"
    first = node.lineno - (1 if head else 0)
    source = "\n" * (first - 1) + (head + "\n" if head and first else head) + without_annotations(piece) + tail
    check_syntax(source, version, _name(function))
    return source


def _text(file: str, function: FunctionType) -> str:
    text = "".join(linecache.getlines(file, function.__globals__))
    if not text:
        raise ShipError(f"{_name(function)}: there is no source of it ({file}); define it in a file")
    return text


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def _find_node(tree: ast.Module, code: CodeType) -> _Function | None:
    """Return the node that a code object was compiled from."""
    found: list[_Function] = [node for node in ast.walk(tree) if isinstance(node, _Function) and _fits(node, code)]
    if len(found) > 1:  # lambdas that begin on one line
        found = [node for node in found if isinstance(node, ast.Lambda) and _holds(node.body, code)]
        found.sort(key=lambda node: (node.end_lineno, node.end_col_offset, -node.col_offset))  # the innermost first
    return found[0] if found else None


def _fits(node: _Function, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    first = node.decorator_list[0] if node.decorator_list else node
    return code.co_name == node.name and first.lineno == code.co_firstlineno


def _holds(body: ast.expr, code: CodeType) -> bool:
    """Whether all instructions of a lambda come from inside of an expression."""
    end = (body.end_lineno or 0, body.end_col_offset or 0)
    for step in dis.get_instructions(code):
        line, end_line, column, end_column = step.positions or (None, None, None, None)
        if end_column and step.opname not in _WITHOUT_PLACE:
            starts = (line or 0, column or 0) >= (body.lineno, body.col_offset)
            if not starts or (end_line or 0, end_column or 0) > end:
                return False
    return True


def _cut(text: str, node: _Function) -> str:
    """Return the lines of a definition without its decorators, or a lambda with blanks up to its column."""
    lines = text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    if isinstance(node, ast.Lambda):
        end = lines[-1].encode()[: node.end_col_offset].decode()
        lines[-1] = end
        lines[0] = " " * node.col_offset + lines[0].encode()[node.col_offset :].decode()
    return "".join(lines).rstrip("\n")
