"""Every example of the README, the site and the docstrings is run; what is shown as its output is compared.

- ``python`` blocks run as they stand, with ``await`` at top level, in a namespace that has the names of `aioremote`,
  and where they are used and not made by the block: `m`, a connected machine, `fleet`, a Fleet of web[01-03], and the
  ports of servers (`SERVERS`). A block with ``asyncio.run`` runs as a program of its own, one with test functions
  under pytest.
- A ``text`` block right after is its output; ``…`` in it stands for anything.
- In ``console`` blocks the lines ``$ aioremote …`` run, others do not; what follows each is its output, ``$? = 1`` its
  status.
"""

import ast
import asyncio
import contextlib
import dataclasses
import doctest
import importlib
import inspect
import linecache
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
from tests.docs.stage import Stage

import aioremote
from aioremote import Fleet, InsecureHostKeyWarning, SshMachine
from aioremote.testing.checks import no_leaks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PUBLIC = [
    "aioremote",
    "aioremote.errors",
    "aioremote.protocols",
    "aioremote.types",
    "aioremote.fleet",
    "aioremote.integrations.aiohttp",
    "aioremote.integrations.asyncio",
    "aioremote.integrations.fsspec",
    "aioremote.integrations.httpx",
    "aioremote.integrations.redis",
    "aioremote.integrations.sockets",
    "aioremote.testing.checks",
    "aioremote.testing.embedded",
    "aioremote.testing.fakes",
    "aioremote.testing.plugin",
    "aioremote.testing.proxy",
    "aioremote.testing.sshd",
]
LANGUAGES = {"python", "text", "console", "bash", "toml", "ini", "sshconfig", "json"}
SERVERS = {"postgres_port", "redis_port", "web_port"}  # on localhost; fixtures
SECONDS = 40  # for a program
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PYTEST_INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        place: file and line of its first line.
        language: what stands behind the backticks.
        code: its text, not indented.
        output: the text block right after it, None where there is none.
    """

    place: str
    line: int
    language: str
    code: str
    output: str | None


def find_blocks(name: str, text: str, first_line: int = 1) -> Iterator[Block]:
    found = list(FENCE.finditer(text))
    for fence, following in zip(found, [*found, None][1:], strict=True):
        line = first_line + text.count("\n", 0, fence.start(3))
        output = None
        if following and following[2] == "text" and not text[fence.end() : following.start()].strip():
            output = textwrap.dedent(following[3])
        yield Block(f"{name}:{line}", line, fence[2], textwrap.dedent(fence[3]), output)


def page_blocks() -> Iterator[Block]:
    for page in PAGES:
        if "_build" not in page.parts:
            yield from find_blocks(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))


def documented(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the module, what it exports, and what is defined in its classes."""
    yield module.__name__, module
    for name in module.__all__:
        thing = getattr(module, name)
        yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            yield from ((f"{module.__name__}.{name}.{key}", member) for key, member in vars(thing).items())


def docstring_blocks() -> Iterator[Block]:
    things = {name: thing for public in PUBLIC for name, thing in documented(importlib.import_module(public))}
    for name, thing in things.items():
        yield from find_blocks(name, inspect.getdoc(thing) or "")


def is_program(block: Block) -> bool:
    return "asyncio.run(" in block.code or "aioremote+ssh://" in block.code  # fsspec keeps a thread


def has_tests(block: Block) -> bool:
    return bool(re.search(r"^(async )?def test_", block.code, re.MULTILINE))


BLOCKS = list(page_blocks())
PYTHON = [block for block in [*BLOCKS, *docstring_blocks()] if block.language == "python"]
PROGRAMS = [block for block in PYTHON if is_program(block)]
TESTS = [block for block in PYTHON if has_tests(block)]
SNIPPETS = [block for block in PYTHON if block not in PROGRAMS and block not in TESTS]
CONSOLE = [block for block in BLOCKS if block.language == "console" and "$ aioremote " in block.code]


def place(block: Block) -> str:
    return block.place


def check_output(expected: str | None, shown: str, where: str, *, ordered: bool = True) -> None:
    if expected is None:
        return
    wanted = [line.rstrip() for line in expected.strip("\n").split("\n")]
    found = [line.rstrip() for line in shown.strip("\n").split("\n")]
    if not ordered:  # lines of several hosts come as they come
        wanted, found = sorted(wanted), sorted(found)
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in wanted)
    assert re.fullmatch(pattern, "\n".join(found)), f"{where}: the text shows\n{expected}\nand it is\n{shown}"


def run_program(stage: Stage, command: list[str], where: str, *, status: int = 0) -> str:
    done = subprocess.run(
        command,
        env=stage.environment(),
        cwd=stage.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == status, f"{where}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def names_wanted(tree: ast.Module) -> set[str]:
    """Return the names that the code uses and does not make."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - made


@pytest.fixture
def ports(block: Block, request: pytest.FixtureRequest) -> dict[str, int]:
    """The ports that a block wants of servers, which are started for that."""
    return {name: request.getfixturevalue(name) for name in SERVERS if re.search(rf"\b{name}\b", block.code)}


async def run_snippet(code: str, line: int, where: str, ports: dict[str, int]) -> None:
    tree = ast.parse(code, where)
    wanted = names_wanted(tree)
    names: dict[str, object] = {name: getattr(aioremote, name) for name in aioremote.__all__}
    names |= {"asyncio": asyncio, "aioremote": aioremote, "__name__": "example", **ports}
    lines = ["\n"] * (line - 1) + code.splitlines(keepends=True)
    linecache.cache[where] = (0, None, lines, where)  # as in a file: functions travel as source
    async with contextlib.AsyncExitStack() as stack:
        if "m" in wanted:
            names["m"] = await stack.enter_async_context(SshMachine("web1"))
        if "fleet" in wanted:
            names["fleet"] = await stack.enter_async_context(Fleet("web[01-03]"))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code_object = compile(ast.increment_lineno(tree, line - 1), where, "exec", flags=flags, dont_inherit=True)
        running = eval(code_object, names)
        if running is not None:
            await running


@pytest.mark.parametrize("block", SNIPPETS, ids=place)
async def test_an_example_runs_and_shows_what_the_text_says(
    block: Block, stage: Stage, ports: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureHostKeyWarning)  # shown in the text, with a warning
        async with no_leaks():
            await run_snippet(stage.substitute(block.code), block.line, block.place, ports)
    check_output(block.output, capsys.readouterr().out, block.place)


@pytest.mark.parametrize("block", PROGRAMS, ids=place)
def test_an_example_program_runs_and_shows_what_the_text_says(block: Block, stage: Stage) -> None:
    script = stage.home / "example.py"
    script.write_text(stage.substitute(block.code), encoding="utf-8")
    check_output(block.output, run_program(stage, [sys.executable, str(script)], block.place), block.place)


@pytest.mark.parametrize("block", TESTS, ids=place)
def test_example_tests_pass(block: Block, stage: Stage) -> None:
    (stage.home / "pytest.ini").write_text(PYTEST_INI)
    (stage.home / "test_example.py").write_text(stage.substitute(block.code), encoding="utf-8")
    installed = any(found.value == "aioremote.testing.plugin" for found in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "aioremote.testing.plugin"]
    run_program(stage, [sys.executable, "-m", "pytest", "-q", *plugin, "test_example.py"], block.place)


@pytest.mark.parametrize("block", CONSOLE, ids=place)
def test_commands_in_the_text_show_what_it_says(block: Block, stage: Stage) -> None:
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, rest = part.partition("\n")
        output, _, status = rest.partition("$? = ")
        if command.startswith("aioremote "):
            shown = run_program(stage, ["bash", "-c", command], f"{block.place}: {command}", status=int(status or 0))
            check_output(output or None, shown, block.place, ordered=False)


def test_nothing_in_the_text_escapes_the_runner() -> None:
    directives = [block for block in BLOCKS if block.language.startswith("{")]
    strange = [block.place for block in BLOCKS if block.language not in LANGUAGES and block not in directives]
    assert strange == [], "name the language: one of " + ", ".join(sorted(LANGUAGES))
    assert len(PYTHON) > 40


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_doctests_of_public_modules_hold(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
