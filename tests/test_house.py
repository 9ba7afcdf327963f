"""House rules that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "src").rglob("*.py"))
KEPT = (".ci", "benchmarks", "dev", "docs", "src", "tests")
TEXT = {"", ".cfg", ".css", ".md", ".py", ".pyi", ".sh", ".svg", ".toml", ".typed"}
# Where somebody's checkout or interpreter lies, and where packages come from: neither belongs into the project.
FOREIGN = re.compile(r"(?<![\w.-])/work/|/root/\.|\bpypi\.org|pythonhosted\.org|--(extra-)?index-url|find-links")


def kept_files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT)
    for folder in KEPT:
        yield from (
            path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in TEXT and not built(path)
        )


def built(path: Path) -> bool:
    return not {"_build", "__pycache__"}.isdisjoint(path.parts)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_is_for_in_at_most_600_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= 600


def test_no_machine_path_and_no_registry_host_in_the_project() -> None:
    places = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in kept_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert places == []
