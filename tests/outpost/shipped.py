"""Functions that are shipped to every far Python, and what they need. Written for 3.11; annotations are newer."""

import collections
import functools
import json
import math as arithmetic
import os.path
from collections.abc import Callable, Sequence
from typing import Self

LIMIT = 7
TABLE = {"a": [1, 2], "b": {"c": (3, None)}}
COUNTER = collections.Counter("abracadabra")
DECIMAL = __import__("decimal").Decimal("1.5")
ALIASES = {"double": lambda x: 2 * x, "half": lambda x: x / 2}


def plain(x: int, y: "int | None" = None, *rest: int | str, key: dict[str, int] | None = None) -> list[int] | None:
    """Have annotations that Python 3.6 cannot evaluate."""
    z: int | None = x
    return [z, y, *rest, key]


def defaults(a=LIMIT, b=TABLE, *, c=os.path.join("x", "y"), d=lambda n: n + LIMIT):
    return a, b, c, d(1)


def uses_globals(x):
    return x + LIMIT, TABLE["b"]["c"], arithmetic.floor(2.5), json.dumps(TABLE, sort_keys=True), COUNTER["a"], DECIMAL


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def is_even(n):
    return n == 0 or is_odd(n - 1)


def is_odd(n):
    return n != 0 and is_even(n - 1)


def aliases(x):
    return [ALIASES[name](x) for name in sorted(ALIASES)]


def inner_functions(n):
    def add(
        a: "int",
        b: Sequence[int] | None = (lambda: [n])(),  # a lambda's colon is no annotation's
    ) -> dict[
        str,  # over several lines
        int | None,
    ]:
        return {"sum": a + sum(b)}

    class Inner:
        value = LIMIT

        def get(self: Self) -> int:
            return self.value

    return add(n), Inner().get()


def twice(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(*args: object) -> object:
        return function(*args), function(*args)

    return wrapper


@twice
@twice
def decorated(x: int) -> int:
    return x * 3


@functools.cache
def cached(x):
    return x + 1 if x > 3 else cached(x + 1)


def counter():
    count = 0

    def add() -> int:
        nonlocal count
        count += 1
        return count

    def both():
        return add(), add(), count

    return both


def closure_recursion():
    def depth(value):
        return 1 + max(map(depth, value)) if isinstance(value, list) and value else 0

    return depth


def generator(n):
    yield from (i * i for i in range(n))


def sums(n):
    return list(generator(n))


def changes_a_global():
    global LIMIT
    before, LIMIT = LIMIT, LIMIT + 1
    return before, read_limit()


def read_limit():
    return LIMIT


def raises():
    raise LookupError("in a shipped function")  # this line is looked for


def multiline(a):
    text = """
not indented: {a}
"""
    return text.format(a=a), "%s" % (a,), [
        a
        for a in range(3)
    ]  # fmt: skip


first, second = (lambda x: x + 1), (lambda x: x - 1)
nested_lambda = lambda x: (lambda y: (x, y))(x + LIMIT)
long_lambda = (  # fmt: skip
    lambda x, y=(lambda: 5)(): (
        x,
        y,
    )
)
partial = functools.partial(plain, 1, key={"z": 2})


class Thing:
    """Has methods, of which a function alone is shipped."""

    def method(self, x):
        return x * LIMIT

    @staticmethod
    def static(x):
        return x - LIMIT


CASES = {
    "annotations": (plain, (1, 2, 3)),
    "defaults": (defaults, ()),
    "globals": (uses_globals, (1,)),
    "recursion": (factorial, (20,)),
    "mutual recursion": (is_even, (10,)),
    "functions inside values": (aliases, (5,)),
    "inner functions": (inner_functions, (4,)),
    "decorators": (decorated, (5,)),
    "cached": (cached, (1,)),
    "closure with nonlocal": (counter(), ()),
    "recursive closure": (closure_recursion(), ([[1], [[2]]],)),
    "generator": (sums, (4,)),
    "global statement": (changes_a_global, ()),
    "several lines": (multiline, (9,)),
    "first lambda of a line": (first, (1,)),
    "second lambda of a line": (second, (1,)),
    "lambda in a lambda": (nested_lambda, (1,)),
    "lambda over lines": (long_lambda, (1,)),
    "partial": (partial, (2,)),
    "unbound method": (Thing.method, (None, 2)),
    "static method": (Thing.static, (2,)),
    "builtin": (sorted, ([3, 1, 2],)),
    "standard library": (json.dumps, ([1],)),
}
