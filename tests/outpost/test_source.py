"""Functions as source: equal results in every far Python, and a reason where one cannot go."""

import ast
import functools
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.outpost import shipped
from tests.outpost.conftest import probing, pythons

from aioremote import ShipError
from aioremote.outpost.far.rebuild import rebuild
from aioremote.outpost.source import ship
from aioremote.outpost.syntax import check_syntax, without_annotations
from aioremote.transports.local import LocalTransport

LOCK = threading.Lock()
HOLDS_A_LOCK = {"deep": [LOCK]}


@pytest.mark.parametrize("version", pythons())
async def test_a_shipped_function_gives_the_same(version: str, aioremote_no_leaks: None) -> None:
    """Promise 32: closures, lambdas, defaults, recursion, annotations, decorators, from 3.11 to each Python."""
    shipped.LIMIT = 7
    far_version = tuple(int(part) for part in version.split("."))
    transport = LocalTransport()
    async with probing(transport, python=pythons()[version]) as probe:
        for name, (function, args) in shipped.CASES.items():
            data = ship(function, version=far_version).data
            wanted = function(*args)  # type: ignore[operator]
            given = await probe.ask(f"repr(call({data!r}, *{args!r}))")
            assert given == repr(wanted), name
            shipped.LIMIT = 7
        data = ship(shipped.raises, version=far_version).data
        told = str(await probe.ask(f"call({data!r})"))
    await transport.aclose()
    line = shipped.raises.__code__.co_firstlineno + 1
    assert f'File "{shipped.__file__}", line {line}, in raises' in told
    assert "this line is looked for" in told


def test_functions_that_share_a_variable_still_do() -> None:
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        return count

    pair = rebuild(ship(functools.partial(lambda *both: both, add, read), version=(3, 11)).data)()  # type: ignore[operator]
    pair[0]()
    pair[0]()
    assert (pair[1](), count) == (2, 0)


def test_a_variable_that_is_not_filled_yet_is_no_reason_to_stay() -> None:
    def early() -> object:
        return late  # noqa: F821

    data = ship(early, version=(3, 11)).data
    with pytest.raises(NameError):
        rebuild(data)()  # type: ignore[operator]
    late = 1
    del late


def test_the_package_of_the_function_may_be_asked_for() -> None:
    assert ship(shipped.plain, version=(3, 11)).packages == {"tests"}
    assert ship(print, version=(3, 11)).packages == frozenset()


# --- what cannot go ---------------------------------------------------------------------------------------------------


def uses_a_lock() -> object:
    return LOCK


def uses_one_that_uses_a_lock() -> object:
    return uses_a_lock()


def uses_a_lock_inside() -> object:
    return HOLDS_A_LOCK


def has_a_lock_as_default(lock: object = LOCK) -> object:
    return lock


def refused(function: object, version: tuple[int, int] = (3, 11)) -> str:
    with pytest.raises(ShipError) as caught:
        ship(function, version=version)
    return str(caught.value)


def test_a_value_that_cannot_be_pickled_is_named() -> None:
    """Promise 33: an unpicklable global, and the same in a closure, a default, a value, and further away."""
    lock = LOCK
    assert "uses_a_lock: the global 'LOCK' cannot travel: cannot pickle '_thread.lock'" in refused(uses_a_lock)
    assert "uses_a_lock: the global 'LOCK'" in refused(uses_one_that_uses_a_lock)
    assert "uses_a_lock_inside: the global 'HOLDS_A_LOCK'" in refused(uses_a_lock_inside)
    assert "has_a_lock_as_default: its defaults" in refused(has_a_lock_as_default)
    assert "its variable 'lock'" in refused(lambda: lock)


def test_a_function_without_source_is_named() -> None:
    """Promise 33: eval'd functions."""
    made = eval("lambda: 1")
    assert "there is no source of it (<string>)" in refused(made)
    space: dict[str, Callable[[], int]] = {}
    exec("def made(): return 1", space)
    assert "made: there is no source of it" in refused(space["made"])
    assert "the global 'hidden' cannot travel: made: there is no source" in refused(using(hidden=space["made"]))


def using(**names: object) -> types.FunctionType:
    """Return a function of a module of its own, with these globals."""
    function = types.FunctionType(_uses_hidden.__code__, names, "uses_hidden")
    function.__module__ = __name__
    return function


def _uses_hidden() -> object:
    return hidden  # type: ignore[name-defined]  # noqa: F821


def test_a_class_of_main_is_named() -> None:
    thing = type("Thing", (), {"__module__": "__main__"})
    assert "the global 'hidden' cannot travel: class Thing is defined in __main__" in refused(using(hidden=thing))
    assert "class Thing is defined in __main__" in refused(using(hidden=[thing()]))


def test_a_file_that_has_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def f():\n    return 1\n")
    space: dict[str, Callable[[], int]] = {"__name__": "changing"}  # type: ignore[dict-item]
    exec(compile(path.read_text(), str(path), "exec"), space)
    path.write_text("\n\ndef f():\n    return 1\n")
    assert "it is not at line 1 of" in refused(space["f"])


def test_what_is_no_function_is_told() -> None:
    assert "give a function" in refused(3)


# --- syntax -----------------------------------------------------------------------------------------------------------

NEWER = {
    "def f(x):\n    if (y := x):\n        return y": (3, 8),
    "def f(x, /):\n    return x": (3, 8),
    "def f(x):\n    return f'{x=}'": (3, 8),
    "def f(x):\n    return f'{x = !r:>5}'": (3, 8),
    "def f(x):\n    return 1, *x": (3, 8),
    "def f(x):\n    yield 1, *x": (3, 8),
    "def f(x):\n    for y in 1, *x: pass": (3, 9),
    "def f(x):\n    with (x as y, x): pass": (3, 9),
    "def f(x):\n    with (\n        x  # one\n        as y\n    ): pass": (3, 9),
    "async def f(x):\n    async with (x as y): pass": (3, 9),
    "def f(x):\n    match x:\n        case 1: pass": (3, 10),
    "def f(x):\n    try: pass\n    except* OSError: pass": (3, 11),
    "def f(x):\n    return x[1, *x]": (3, 11),
}
OLD = [
    "def f(x):\n    return (1, *x), [*x], {**x}, f'{x!r:>{x}} {{x=}} {x==1} {x!=1} {x<=1}'",
    "def f(x):\n    with (x), (x): pass\n    with (x) as y, x: pass\n    with (x).y() as z: pass",
    "def f(x):\n    for y in (1, *x): pass\n    return x[1, 2], x[(1, *x)]",
    "async def f(x):\n    return [y async for y in x], 1_000, x @ x",
]


@pytest.mark.parametrize("text", NEWER)
def test_newer_syntax_is_refused(text: str) -> None:
    """Promise 33: newer syntax than the far Python's; what is refused for one version goes from that one on."""
    since = NEWER[text]
    for minor in range(6, 14):
        if (3, minor) < since:
            with pytest.raises(ShipError, match=rf"f has syntax that Python 3\.{minor} does not know \(line \d"):
                check_syntax(text, (3, minor), "f")
        else:
            check_syntax(text, (3, minor), "f")


@pytest.mark.parametrize("text", OLD)
def test_old_syntax_is_not_refused(text: str) -> None:
    check_syntax(text, (3, 6), "f")


def test_what_is_refused_is_what_old_pythons_refuse() -> None:
    """The table above is true: each version compiles or refuses as it says."""
    import json
    import subprocess

    code = (
        "import json, sys\nfor text in json.load(sys.stdin):\n"
        "    try: compile(text, 'f', 'exec'); print(1)\n    except SyntaxError: print(0)"
    )
    for version, python in pythons().items():
        done = subprocess.run([python, "-c", code], input=json.dumps([*NEWER, *OLD]), capture_output=True, text=True)
        minor = int(version.partition(".")[2])
        # Python 3.9 and 3.10 take parenthesized managers already, as does their grammar; older ones do not.
        assert done.stdout.split() == [str(int((3, minor) >= since)) for since in NEWER.values()] + ["1"] * len(OLD)


def test_newer_syntax_of_a_shipped_function_is_refused(tmp_path: Path) -> None:
    assert "uses_a_match has syntax that Python 3.9 does not know" in refused(uses_a_match, (3, 9))
    ship(uses_a_match, version=(3, 10))


def uses_a_match(x: object) -> int:
    match x:
        case 1:
            return 2
        case _:
            return 3


def test_f_strings_with_their_own_quotes_are_refused() -> None:
    """Where the near Python is 3.11, its own parser does not know them either."""
    with pytest.raises(ShipError, match=r"f has syntax that Python 3\.11 does not know"):
        check_syntax('def f(x):\n    return f"{x["a"]}"', (3, 11), "f")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("def f(a: int, *b: 'x', c: d[1, 2] = 3, **e: {1: 2}) -> {3: 4}: pass", "def f(a, *b, c = 3, **e): pass"),
        ("def f(a=lambda b: c, d: int = {1: 2}): x = {1: 2}", "def f(a=lambda b: c, d = {1: 2}): x = {1: 2}"),
        ("def f(a: lambda: 1 = 2): return a[1:2]", "def f(a = 2): return a[1:2]"),
        ("async def f() -> None: return lambda x: x", "async def f(): return lambda x: x"),
        ("def f(é: 'ü' = 'ä'): pass", "def f(é = 'ä'): pass"),
        ("def f(a) -> (\n    int  # why\n): pass", "def f(a): pass"),
        ("def f(\n    a: int,  # one\n    b: (\n        str\n    ),\n): pass", "def f(a, b): pass"),
        ("class A:\n  def f(self, x: int) -> int: pass", "class A:\n def f(self, x): pass"),
    ],
)  # fmt: skip
def test_annotations_go_and_everything_else_stays_where_it_is(given: str, kept: str) -> None:
    stripped = without_annotations(given)
    assert ast.dump(ast.parse(stripped)) == ast.dump(ast.parse(kept))
    assert stripped.count("\n") == given.count("\n")


def test_what_os_has_travels_as_part_of_os() -> None:
    """Windows has it too, but not in a module named posix."""
    assert b"posix" not in ship(os.getcwd, version=(3, 11)).data
    assert b"posix" not in ship(functools.partial(os.stat, "/"), version=(3, 11)).data
