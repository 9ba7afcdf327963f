"""Finding programs at the far end: for `which`, and for telling a missing program from one that exits with 127.

What `which` has found is kept for each connection and value of PATH, until a command finds a program missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio

from aioremote.commands.orders import with_path_edits
from aioremote.errors import CommandNotFound, FileForbidden, RemoteError, file_error

if TYPE_CHECKING:
    from aioremote.commands.orders import Order
    from aioremote.protocols import Starter

__all__ = ["Found", "explain_not_found", "find_first", "find_programs", "forget_programs"]

_found: WeakKeyDictionary[Starter, dict[tuple[object, ...], str]] = WeakKeyDictionary()

# Prints PATH, then for each name: its path, or "" when it is not there, or "!path" when it may not be executed.
_SCRIPT = rb"""
printf '%s\0' "$PATH"
find_one() {
 case $1 in
 */*) if [ -x "$1" ] && [ ! -d "$1" ]; then found=$1; elif [ -e "$1" ]; then found="!$1"; fi; return ;;
 esac
 set -f; IFS=:
 for folder in $PATH; do
  file=${folder:-.}/$1
  if [ -x "$file" ] && [ ! -d "$file" ]; then found=$file; return; fi
  if [ -f "$file" ] && [ -z "$found" ]; then found="!$file"; fi
 done
}
for name do found=; find_one "$name"; printf '%s\0' "$found"; done
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        path: the directories searched.
        programs: for each name its path, "" when it is not there, "!" and its path when it may not be executed.
    """

    path: tuple[str, ...]
    programs: tuple[str, ...]


async def find_programs(transport: Starter, names: Sequence[bytes], order: Order) -> Found:
    """Look for programs with the PATH and directory of `order`, in one round trip."""
    spec = order.spec
    env = {name: value for name, value in spec.env.items() if name not in ("LD_PRELOAD", "ENV", "BASH_ENV")}
    argv = with_path_edits((b"/bin/sh", b"-c", _SCRIPT, b"sh", *names), order.path)
    lookup = replace(spec, argv=argv, env=env, stdin=False, terminal=None)
    far = await transport.start_process(lookup)
    parts: list[bytes] = []
    try:
        with suppress(anyio.EndOfStream):
            while True:
                parts.append(await far.stdout.receive())
        await far.wait()
    finally:
        await far.aclose()
    path, *programs = (os.fsdecode(part) for part in b"".join(parts).split(b"\0")[:-1])
    return Found(tuple(path.split(":")), tuple(programs))


async def find_first(transport: Starter, order: Order, host: str) -> str:
    """Return the path of the first of the programs that the order's words name. One round trip, or none if known.

    Raises:
        CommandNotFound: there is none of them.
    """
    names, spec = order.args, order.spec
    anywhere = (names, spec.env.get("PATH", b"the login's"), order.path)
    known = _found.setdefault(transport, {})
    place = known.get(anywhere) or known.get((*anywhere, spec.cwd))
    if place:
        return place
    found = await find_programs(transport, [os.fsencode(name) for name in names], order)
    place = next((place for place in found.programs if place and not place.startswith("!")), None)
    if place is None:
        raise CommandNotFound(names, host=host, path=found.path)
    is_absolute = all(folder.startswith("/") for folder in found.path) and not any("/" in name for name in names)
    known[anywhere if is_absolute else (*anywhere, spec.cwd)] = place
    return place


def forget_programs(transport: Starter, error: BaseException) -> None:
    """Forget what was found, where `error` says that a program is not where it was."""
    if isinstance(error, CommandNotFound | FileForbidden):
        _found.pop(transport, None)


async def explain_not_found(transport: Starter, order: Order, host: str) -> None:
    """Raise where a status of 126 or 127 came of the program's absence, and return where the program itself gave it.

    Raises:
        CommandNotFound: there is no such program.
        FileError: it is there and may not be executed.
    """
    program = order.args[0].encode("utf-8", "surrogateescape")
    if program == b"/bin/sh":
        return
    _found.pop(transport, None)
    try:
        found = await find_programs(transport, [program], order)
    except (RemoteError, ValueError):  # a server that is gone, or says nothing sensible: the status stands as it is
        return
    what = found.programs[0] if found.programs else ""
    if not what:
        raise CommandNotFound([order.args[0]], host=host, cmd=order.args, path=() if b"/" in program else found.path)
    if what.startswith("!"):
        raise file_error(errno.EACCES, what[1:], host=host, text="it is there and may not be executed")
