"""What Python's grammar allowed when, and sources without annotations. Pure functions of text."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from aioremote.errors import ShipError

__all__ = ["check_syntax", "without_annotations"]

_DEBUG_FIELD = re.compile(r"(?<!\{)\{(?!\{)[^{}]*[^=!<>{}\s]\s*=\s*(![rsa])?(:[^{}]*)?\}")


def check_syntax(source: str, version: tuple[int, ...], what: str) -> None:
    """Raise ShipError where a far Python of this version does not know the syntax of a source.

    Beside what the parser itself knows of older grammars: star expressions without parentheses, parenthesized context
    managers, ``f"{x=}"`` and the f-strings of Python 3.12.
    """
    try:
        tree = ast.parse(source, feature_version=(version[0], version[1]))
    except SyntaxError as error:
        raise _too_new(what, version, error.lineno, error.msg) from error
    for since, line, feature in _newer(tree, source):
        if version < since:
            raise _too_new(what, version, line, f"{feature} is of Python {since[0]}.{since[1]}")


def _too_new(what: str, version: tuple[int, ...], line: int | None, why: str) -> ShipError:
    return ShipError(f"{what} has syntax that Python {version[0]}.{version[1]} does not know (line {line}: {why})")


def _newer(tree: ast.Module, source: str) -> Iterator[tuple[tuple[int, int], int, str]]:
    """Yield what the parser takes for any version: since when it is known, the line, and what it is."""
    for node in ast.walk(tree):
        match node:
            case ast.Return(value=ast.Tuple() as value) | ast.Yield(value=ast.Tuple() as value):
                if _bare_star(value, source):
                    yield (3, 8), value.lineno, "a star expression after return or yield"
            case ast.For(iter=ast.Tuple() as value) | ast.AsyncFor(iter=ast.Tuple() as value):
                if _bare_star(value, source):
                    yield (3, 9), value.lineno, "a star expression after in"
            case ast.Subscript(slice=ast.Tuple() as value) if _bare_star(value, source):
                yield (3, 11), value.lineno, "a star expression in an index"
            case ast.JoinedStr() if _DEBUG_FIELD.search(ast.get_source_segment(source, node) or ""):
                yield (3, 8), node.lineno, 'f"{x=}"'
            case ast.With() | ast.AsyncWith() if _parenthesized(node, source):
                yield (3, 9), node.lineno, "a parenthesized list of context managers"
            case _:
                pass
    yield from _nested_quotes(source)


def _bare_star(node: ast.Tuple, source: str) -> bool:
    stars = any(isinstance(item, ast.Starred) for item in node.elts)
    return stars and not (ast.get_source_segment(source, node) or "").startswith("(")


def _parenthesized(node: ast.With | ast.AsyncWith, source: str) -> bool:
    """Whether the parenthesis after ``with`` holds ``as`` or several managers: neither was an expression before."""
    if len(node.items) == 1 and node.items[0].optional_vars is None:
        return False
    head = ast.get_source_segment(source, node) or ""
    words = [token for token in _tokens(head) if token.type not in (tokenize.NL, tokenize.COMMENT)]
    start = 2 if isinstance(node, ast.AsyncWith) else 1
    if words[start].string != "(":
        return False
    depth = 0
    for index, token in enumerate(words[start:], start):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if depth == 0:
            return words[index + 1].string == ":"
    return False


def _nested_quotes(source: str) -> Iterator[tuple[tuple[int, int], int, str]]:
    """Yield strings inside of f-strings with the same quotes (only Python 3.12 and later can read them near)."""
    start = getattr(tokenize, "FSTRING_START", None)
    quotes: list[str] = []
    for token in _tokens(source) if start is not None else ():
        if quotes and token.type in (start, tokenize.STRING) and _quote(token.string) == quotes[-1]:
            yield (3, 12), token.start[0], "an f-string with its own quotes inside"
        if token.type == start:
            quotes.append(_quote(token.string))
        elif token.type == getattr(tokenize, "FSTRING_END", None):
            quotes.pop()


def _quote(literal: str) -> str:
    text = literal.lstrip("rRbBuUfF")
    return text[:3] if text[:3] in ('"""', "'''") else text[:1]


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens of a piece of source, as far as they go: a piece may begin indented or end in the middle."""
    try:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)
    except (tokenize.TokenError, IndentationError):
        return


def without_annotations(piece: str) -> str:
    """Blank the annotations of all functions in a piece of source; every line stays where it is."""
    lines = piece.splitlines(keepends=True)
    for start, end in _annotations(piece):
        for number in range(start[0] - 1, end[0]):
            line = lines[number]
            left = start[1] if number == start[0] - 1 else 0
            if number == end[0] - 1:
                lines[number] = line[:left] + " " * (end[1] - left) + line[end[1] :]
            else:
                lines[number] = line[:left] + "\\\n"  # a result's may go over several lines outside of parentheses
    return "".join(lines)


_Place = tuple[int, int]


def _annotations(piece: str) -> Iterator[tuple[_Place, _Place]]:
    """Yield where annotations begin and end: a parameter's from its colon on, a result's from its arrow on."""
    nesting = _Nesting()
    begun: tuple[_Place, int, tuple[str, ...]] | None = None  # where, how deep, and what ends it
    for token in _tokens(piece):
        if token.type in (tokenize.NL, tokenize.COMMENT):
            continue
        text = token.string if token.type in (tokenize.OP, tokenize.NAME) else ""
        if begun is not None and nesting.depth == begun[1] and text in begun[2]:
            yield begun[0], token.start
            begun = None
        if begun is None and nesting.is_parameters_colon(text):
            begun = token.start, nesting.depth, (",", "=", ")")
        elif begun is None and text == "->":
            begun = token.start, nesting.depth, (":",)
        nesting.take(text)


class _Nesting:
    """How deep in brackets a scan of tokens is, and which of them are parameter lists."""

    def __init__(self) -> None:
        self.depth = 0
        self._parameters: list[int] = []
        self._lambdas: list[int] = []  # the depths of those whose colon is still to come
        self._last: tuple[str, str] = ("", "")

    def is_parameters_colon(self, text: str) -> bool:
        """Whether this colon stands between a parameter and its annotation."""
        at = [self.depth]
        return text == ":" and self._parameters[-1:] == at and self._lambdas[-1:] != at

    def take(self, text: str) -> None:
        """Go past a token: an operator's or a name's text, else ""."""
        if text == "lambda":
            self._lambdas.append(self.depth)
        elif text == ":" and self._lambdas[-1:] == [self.depth]:
            self._lambdas.pop()
        elif text in ("(", "[", "{"):
            self.depth += 1
            if text == "(" and self._last[0] == "def":
                self._parameters.append(self.depth)
        elif text in (")", "]", "}"):
            if self._parameters[-1:] == [self.depth]:
                self._parameters.pop()
            self.depth -= 1
        self._last = self._last[1], text
