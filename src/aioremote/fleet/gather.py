"""Many names in short, ``web[01-39],db1``: written, read, and put together where what they said is the same.

The notation is ClusterShell's NodeSet. Ranges are read and written here, because both happen on the event loop: NodeSet
holds a range whole (300 ms and 14 MB for 100,000 names), and folds at 20 to 40 µs a name, a thousand names with three
numbers each in seconds. What is written here, NodeSet reads back to the same names. It is asked, and imported, where it
knows more: groups (``@db``) and set operations (``web[1-9]!web3``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import TypeVar

from aioremote._core.names import HostName, parse_host
from aioremote.addresses import parse_address, scheme_of
from aioremote.errors import AddressError

__all__ = ["EXAMPLE", "NamePattern", "check_host", "fold_hosts", "gather", "read_hosts"]

K = TypeVar("K", bound=Hashable)

EXAMPLE = "a right one is 'web[01-40],db1'"  # the end of messages

# Names that are folded. Others (user@host:port, IPv6, addresses) hold signs that the notation gives a meaning of its
# own.
_FOLDABLE = re.compile(r"[A-Za-z0-9._-]+")
_NUMBER = re.compile(r"([0-9]+)")
_MAX_DIGITS = 18  # longer numbers stand for themselves, they are in no range
_RANGE = re.compile(r"([0-9]{1,255})(?:-([0-9]{1,18})(?:/([0-9]{1,18}))?)?")
_BRACKETS = re.compile(r"\[([^][:]*)\]")  # with a colon inside they belong to an IPv6 address
_SET_OPERATION = re.compile(r"[!&^]")
_PASSWORD = re.compile(r":[^/@][^@]*(?=@)")  # what may be one, in a text that is not understood
# A group's name is put into the shell commands and sed expressions of a groups.conf: it must be no more than a name.
_GROUP = re.compile(r"@(?:\w[\w.-]*:)?(?:\*|\w[\w.,\[\]-]*)", re.ASCII)


# --- writing ----------------------------------------------------------------------------------------------------------

_Axes = tuple[frozenset[str], ...]


def fold_hosts(hosts: Iterable[str]) -> str:
    """Write host names in short: ``web[01-39],db1``.

    Args:
        hosts: names, each at most once. Names that are more than letters, digits and ``. _ -`` (``root@web1:22``,
            ``::1``) are listed as they are.

    Returns:
        The names, joined by commas, in the order in which each name or each form of a name first appears; inside
        brackets numbers go up, shorter ones first. No names give "".
    """
    shapes: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for host in hosts:
        parts = _NUMBER.split(host) if _FOLDABLE.fullmatch(host) else [host]
        shapes.setdefault(tuple(parts[::2]), []).append(tuple(parts[1::2]))
    return ",".join(text for texts, numbers in shapes.items() for text in _fold_shape(texts, numbers))


def gather(items: Iterable[tuple[str, K]]) -> list[tuple[str, K]]:
    """Put hosts with equal values together.

    Args:
        items: host and value.

    Returns:
        Folded hosts and their value, in the order in which each value first appears.
    """
    groups: dict[K, list[str]] = {}
    for host, value in items:
        groups.setdefault(value, []).append(host)
    return [(fold_hosts(hosts), value) for value, hosts in groups.items()]


def _fold_shape(texts: tuple[str, ...], numbers: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the names of one shape: the same texts, and other numbers between them."""
    blocks: list[_Axes] = [tuple(frozenset((number,)) for number in row) for row in dict.fromkeys(numbers)]
    variety = [len({block[axis] for block in blocks}) for axis in range(len(texts) - 1)]
    for axis in sorted(range(len(variety)), key=lambda axis: (-variety[axis], -axis)):
        if variety[axis] > 1:
            blocks = _merge(blocks, axis)
    for block in blocks:
        middle = (_bracket(found) + text for found, text in zip(block, texts[1:], strict=True))
        yield texts[0] + "".join(middle)


def _merge(blocks: list[_Axes], axis: int) -> list[_Axes]:
    """Join the blocks that differ in one axis only: what they stand for stays the same."""
    joined: dict[tuple[_Axes, _Axes], set[str]] = {}
    for block in blocks:
        joined.setdefault((block[:axis], block[axis + 1 :]), set()).update(block[axis])
    return [(*before, frozenset(numbers), *after) for (before, after), numbers in joined.items()]


def _bracket(numbers: frozenset[str]) -> str:
    if len(numbers) == 1:
        return next(iter(numbers))
    runs: list[tuple[str, str]] = []
    for number in sorted(numbers, key=lambda number: (len(number), number)):
        if runs and _follows(runs[-1], number):
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return "[" + ",".join(first if first == last else f"{first}-{last}" for first, last in runs) + "]"


def _follows(run: tuple[str, str], number: str) -> bool:
    """Tell whether a number is the next of a run; a run is padded to one width, or not padded at all."""
    first, last = run
    same_width = len(number) == len(last) or not (_padded(first) or _padded(number))
    return same_width and len(number) <= _MAX_DIGITS and int(number) == int(last) + 1


def _padded(number: str) -> bool:
    return len(number) > 1 and number[0] == "0"


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Texts with numbers between them, as ``web[01-40].example.com``; iterating gives one name after another.

    Attributes:
        texts: what stands before, between and behind the brackets.
        axes: one a pair of brackets, its ranges with the width that their numbers are padded to (0: not padded).
    """

    texts: tuple[str, ...]
    axes: tuple[tuple[tuple[range, int], ...], ...]

    def __iter__(self) -> Iterator[str]:
        """Yield the names; the last pair of brackets moves fastest, ranges come in the order given."""
        return self._names(self.texts[0], 0)

    def _names(self, start: str, axis: int) -> Iterator[str]:
        text = self.texts[axis + 1]
        for number in chain.from_iterable(_numbers(*numbers) for numbers in self.axes[axis]):
            if axis + 1 == len(self.axes):
                yield start + number + text
            else:
                yield from self._names(start + number + text, axis + 1)

    def edges(self) -> Iterator[str]:
        """Yield the names with the first and the last number of each range, each beside the first of all others."""
        first = [next(_numbers(*axis[0])) for axis in self.axes]
        for place, axis in enumerate(self.axes):
            for values, width in axis:
                for value in {values[0], values[-1]}:
                    numbers = [*first[:place], f"{value:0{width}d}", *first[place + 1 :]]
                    yield self.texts[0] + "".join(chain.from_iterable(zip(numbers, self.texts[1:], strict=True)))

    def count(self) -> int:
        """How many names there are, without going through them."""
        product = 1
        for axis in self.axes:
            product *= sum(len(values) for values, _ in axis)
        return product

    def is_plain(self) -> bool:
        """Whether there is one range only, so that no name can come twice."""
        return len(self.axes) == 1 and len(self.axes[0]) == 1


def _numbers(values: range, width: int) -> Iterator[str]:
    return (f"{value:0{width}d}" for value in values)


def check_host(name: str) -> HostName | None:
    """Judge one host; returns its parts, None where it is an address with another scheme than ssh.

    Raises:
        AddressError: it cannot be used.
    """
    if ":" in name and scheme_of(name) not in (None, "ssh"):
        parse_address(name)
        return None
    return parse_host(name)


def read_hosts(text: str) -> list[str | NamePattern]:
    """Read one host, or several with commas and ranges between brackets.

    Names, user names and ports are checked; of a range, its first name and all of its ports' ends. Blocks while
    ClusterShell looks up a group.

    Args:
        text: as ``web[01-40],root@db1:2222``; blanks beside commas are dropped. Addresses (``daemon://web[01-40]``) are
            hosts too; one that begins with ``exec:`` is the whole text.

    Returns:
        Names and patterns in the order given; of groups and set operations the names, in NodeSet's order.

    Raises:
        AddressError: what is wrong, and at which character.
    """
    if _FOLDABLE.fullmatch(text):
        parse_host(text)
        return [text]
    if scheme_of(text) == "exec":  # its words may hold commas, brackets and all else
        parse_address(text)
        return [text]
    if _SET_OPERATION.search(text):
        for start, part in _split(text, ",!&^"):
            _read_part(text, start, part)
        return [*_ask_node_set(text, text)]
    return [found for start, part in _split(text, ",") for found in _read_part(text, start, part)]


def _read_part(text: str, start: int, part: str) -> Sequence[str | NamePattern]:
    if part.startswith("@"):
        if not _GROUP.fullmatch(part):
            raise _malformed(text, start, f"{part!r} is no name of a group")
        return _ask_node_set(text, part)
    pieces = _BRACKETS.split(part)
    if len(pieces) == 1:
        check_host(part)
        return [part]
    axes: list[tuple[tuple[range, int], ...]] = []
    for before, inside in zip(pieces[::2], pieces[1::2], strict=False):
        start += len(before) + 1
        axes.append(tuple(_read_ranges(text, start, inside)))
        start += len(inside) + 1
    pattern = NamePattern(tuple(pieces[::2]), tuple(axes))
    for name in pattern.edges() if ":" in part else [next(iter(pattern))]:  # what numbers change is a port at most
        check_host(name)
    return [pattern]


def _read_ranges(text: str, start: int, inside: str) -> Iterator[tuple[range, int]]:
    for part in inside.split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            raise _malformed(text, start, f"{part!r} is neither a number nor a range of numbers")
        first, last, step = found[1], found[2] or found[1], int(found[3] or 1)
        padded = _padded(first) or _padded(last)
        if padded and len(first) != len(last):
            raise _malformed(text, start, f"{part!r} has ends of different widths; padded ones have one, as in 01-10")
        if int(first) > int(last) or not step:
            raise _malformed(text, start, f"{part!r} holds no number; a range goes up")
        yield range(int(first), int(last) + 1, step), len(first) if padded else 0
        start += len(part) + 1


def _split(text: str, separators: str) -> Iterator[tuple[int, str]]:
    """Yield the parts between separators that stand outside of brackets, each behind the place where it starts."""
    start, opened = 0, -1
    for place, character in enumerate(text):
        if character == "[":
            if opened >= 0:
                break
            opened = place
        elif character == "]":
            if opened < 0:
                raise _malformed(text, place, "']' closes nothing")
            opened = -1
        elif character in separators and opened < 0:
            yield _part(text, start, place)
            start = place + 1
    if opened >= 0:
        raise _malformed(text, opened, "'[' is never closed")
    yield _part(text, start, len(text))


def _part(text: str, start: int, end: int) -> tuple[int, str]:
    while start and start < end and text[start] == " ":  # blanks beside a separator, not at the ends of the text
        start += 1
    while end < len(text) and start < end and text[end - 1] == " ":
        end -= 1
    if start == end:
        raise _malformed(text, start, "a host is missing")
    return start, text[start:end]


def _malformed(text: str, place: int, fault: str) -> AddressError:
    shown = _PASSWORD.sub(":…", text)
    return AddressError(f"hosts {shown!r} cannot be read at character {place + 1}: {fault}; {EXAMPLE}", host=shown)


def _ask_node_set(text: str, expression: str) -> list[str]:
    module = import_module("ClusterShell.NodeSet")
    node_set: Callable[[str], Iterable[str]] = module.NodeSet
    errors: tuple[type[Exception], ...] = (
        module.NodeSetException,
        import_module("ClusterShell.NodeUtils").GroupResolverError,
    )
    try:
        names = list(node_set(expression))
    except errors as error:
        raise AddressError(f"hosts {text!r}: {error}; {EXAMPLE}", host=text) from error
    if not names:
        hint = "; groups come from ClusterShell's groups.conf" if "@" in expression else ""
        raise AddressError(f"hosts {text!r}: there are no hosts in {expression!r}{hint}", host=text)
    for name in names:
        parse_host(name)
    return names
