"""What importing costs and gives: a light ``import aioremote``, and ``__all__`` lists that are true."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import aioremote

PACKAGE = Path(aioremote.__file__).parent
PUBLIC = ["aioremote", "aioremote.errors", "aioremote.protocols", "aioremote.types", "aioremote.testing"]
NOT_LOADED = {"asyncssh", "cryptography", "ClusterShell", "click", "rich", "pytest", "uvloop"} | {
    "aiohttp",
    "fsspec",
    "httpcore",
    "httpx",
    "redis",
}
ROUNDS = 7
COST = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def module_names() -> list[str]:
    """Name every module of the package, as files on disk have them."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if not name.endswith(".__main__"))


def python(code: str, **env: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | env)
    return run.stdout


def bound_names(node: ast.stmt, package: str | None) -> set[str]:
    """List what one top-level statement exports: definitions and, for a package, what it takes from its own modules."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {
                name.id
                for target in targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.ImportFrom(module=str(module), names=names) if package and module.startswith(f"{package}."):
            taken = {alias.asname or alias.name for alias in names}
            return set(importlib.import_module(module).__all__) if taken == {"*"} else taken
        case ast.If(body=body, orelse=orelse) | ast.Try(body=body, orelse=orelse):
            return {name for child in [*body, *orelse] for name in bound_names(child, package)}
        case _:
            return set()


def exported(module: ModuleType) -> set[str]:
    assert module.__file__ is not None
    path = Path(module.__file__)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module.__name__ if path.name == "__init__.py" else None
    names = {name for node in tree.body for name in bound_names(node, package)}
    return {name for name in names if not name.startswith("_")}


def defined_in(module: ModuleType, name: str) -> bool:
    return isinstance(thing := getattr(module, name), type | FunctionType) and thing.__module__ == module.__name__


def test_import_loads_nothing_heavy() -> None:
    loaded = json.loads(python("import json, sys, aioremote; print(json.dumps(sorted(sys.modules)))"))
    assert NOT_LOADED.isdisjoint(loaded)


def test_import_costs_less_than_1_3_of_asyncio_and_anyio(tmp_path: Path) -> None:
    """Compare CPU seconds of fresh interpreters, interleaved; the least of each is free of the machine's noise."""

    def cost(modules: str) -> float:
        # Compiled once, into a place of the test's own, whatever the environment says about byte code.
        return float(python(COST.format(modules), PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=str(tmp_path)))

    cost("aioremote, anyio")
    rounds = [(cost("aioremote"), cost("asyncio, anyio")) for _ in range(ROUNDS)]
    ratio = min(ours for ours, _ in rounds) / min(base for _, base in rounds)
    assert ratio < 1.3, f"import aioremote costs {ratio:.2f} x import asyncio, anyio"


@pytest.mark.parametrize("name", PUBLIC)
def test_all_of_a_public_module_is_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert {item for item in module.__all__ if not item.startswith("_")} == exported(module)


@pytest.mark.parametrize("name", module_names())
def test_all_names_what_is_there_once_and_every_class_and_function(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert [item for item in listed if not hasattr(module, item)] == []
    assert len(listed) == len(set(listed))
    assert {item for item in exported(module) if defined_in(module, item)} <= set(listed)


def test_dir_names_everything_exported() -> None:
    assert set(aioremote.__all__) <= set(dir(aioremote))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(aioremote, "no_such_" + "name")
