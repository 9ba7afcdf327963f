"""Words that say where files are: a near path, or ``[USER@]HOST:PATH`` as scp and rsync write it. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioremote._core.names import parse_host

if TYPE_CHECKING:
    from aioremote._core.names import HostName

__all__ = ["EndWord", "read_end"]

_FAR = re.compile(r"((?:[^/:\[\]]|\[[^/\[\]]*\])+):(.*)", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class EndWord:
    """Where files are.

    Attributes:
        path: as it was given; below the login's directory where it is far and relative.
        host: None for this machine.
    """

    path: str
    host: HostName | None = None


def read_end(word: str) -> EndWord:
    """Read one word. A near path with a colon in its first part is written with ``./`` in front.

    Raises:
        ValueError: it is none of both.
        AddressError: its host cannot be used.
    """
    if _URL.match(word):
        raise ValueError(f"{word!r}: a far path is written [USER@]HOST:PATH, and its port with -p")
    found = _FAR.fullmatch(word)
    if found is None:
        if not word or word.startswith(":"):
            raise ValueError(f"{word!r}: give a path, or [USER@]HOST:PATH")
        return EndWord(word)
    path = found[2]
    if path == "~" or path.startswith("~/"):
        path = path[2:].lstrip("/")
    return EndWord(path or ".", parse_host(found[1]))
