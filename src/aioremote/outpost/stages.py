"""What is sent to bring a far Python up: the search, stage 0 on the command line, and what follows on its input.

Pure functions of text and bytes; the dialogue is in `launch`. The order of things:

1. ``/bin/sh`` looks for a Python of 3.6 or later (``python -V`` takes 2 ms) and becomes it, running `STAGE_0`.
2. Stage 0 prints READY, with its version, and reads one line, byte by byte: nothing is sent before, since a login file
   that reads its input, or a password prompt, would get it.
3. That line reads so many bytes, checks them and starts `far.stage1`, which answers with a nonce. It unpacks only what
   starts first; to a Python of our own version that is byte code. Both together take a third of the time.

`STAGE_0` holds no quote, ``$``, backtick, ``!``, ``%``, backslash or newline, so that it passes through any quotes:
those of a prefix that feeds a shell, of sudo's or a container's wrappers. A transport that quotes an argv for the far
shell needs less: without ``'``, ``!``, backslash and newline, in the search too, the line needs no octal digits.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
import os
import re
import sys
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import MAGIC_NUMBER

from aioremote.outpost.far.stage1 import file_name

__all__ = [
    "CANDIDATES",
    "EXIT_CUT",
    "EXIT_DAMAGED",
    "EXIT_NOT_FOUND",
    "EXIT_TOO_OLD",
    "OWN_VERSION",
    "STAGE_0",
    "Payload",
    "find_and_run",
    "outpost_payload",
    "starting",
    "tried",
]

OF_DAEMONS = ("guests.py", "shared.py", "windows_")  # not for what is launched over a transport; names, or beginnings
OWN_VERSION = sys.version[:4].encode()  # as stage 0 tells it
EXIT_NOT_FOUND = 7  # no Python, or only old ones: `tried` tells
EXIT_TOO_OLD = 8  # stage 0 runs on an old one, whose -V told something else
EXIT_CUT = 9  # the input ended
EXIT_DAMAGED = 10  # what came is not what was sent

CANDIDATES = (
    "python3",
    *(f"python3.{minor}" for minor in range(14, 5, -1)),
    "/usr/bin/python3",
    "/usr/local/bin/python3",
    "/usr/libexec/platform-python",
    "/opt/homebrew/bin/python3",
    "python",
)
"""Where Python is looked for; the plain names on the login's PATH. platform-python is that of RHEL 8."""

# Empty entries of sys.path mean the working directory, where a select.py may lie.
STAGE_0 = (
    f"import sys as s,os;s.version_info<(3,6)and s.exit({EXIT_TOO_OLD});s.path[:]=filter(None,s.path);"
    "from select import select;n=bytes((10,));os.write(1,(s.argv[1][::-1]+s.version[:4]).encode()+n);"
    f"exec(bytes().join(iter(lambda:select([0],[],[])and os.read(0,1)or s.exit({EXIT_CUT}),n)))"
)

# $1 is stage 0. Long names, since a variable that the environment exports already would reach Python. From 3.11 on -P
# keeps the working directory out; 3.13 imports linecache before it runs a -c.
_FIND = (
    '[ -d "$PWD" ] && pwd -P >/dev/null 2>&1 || cd /; '  # Python 3.11 does not start in a directory that was removed
    'aioremote_ask() {{ {{ "$1" -V; }} 2>&1 </dev/null; }}; aioremote_stage=$1; shift; '
    'for aioremote_python do case $(aioremote_ask "$aioremote_python") in '
    '"Python 3."[6-9]*|"Python 3.10"*) exec "$aioremote_python" {flags} -c "$aioremote_stage" {mark};; '
    '"Python 3."[1-9][0-9]*) exec "$aioremote_python" {flags}P -c "$aioremote_stage" {mark};; esac; done; '
    'for aioremote_python do echo "aioremote: $aioremote_python: $(aioremote_ask "$aioremote_python")" >&2; done; '
    "exit {status}"
)

_TRIED = re.compile(r"^aioremote: (.*)$", re.MULTILINE)

# Short, since stage 0 reads it with two system calls a byte. hashlib loads OpenSSL, which takes 3 ms.
_LINE = """\
d=b""
while len(d)<{size}:
 select([0],[],[])
 p=os.read(0,{size}-len(d))
 p or s.exit({cut})
 d+=p
import zlib
try:h=__import__("_sha2"if s.version_info>(3,12)else"_sha256")
except ImportError:import hashlib as h
h.sha256(d).hexdigest()=={digest!a}or s.exit({damaged})
def u(b):w=zlib.decompress(b).decode().split(chr(0));return dict(zip(w[::2],w[1::2]))
f,r,m,c=d[:{first}],d[{first}:],{{}},{{}}
if {magic!a}==__import__("_frozen_importlib_external").MAGIC_NUMBER:c=__import__("marshal").loads(zlib.decompress(f))
elif {magic!a}:m,r=u(r),b""
else:m=u(f)
s=type(s)("aioremote_outpost.stage1")
exec(c.get("stage1")or compile(m["stage1"],"aioremote/outpost/far/stage1.py","exec"),s.__dict__)
s.start(m,{entry!a},{nonce!a},{options!a},c,r)"""

_PACKING = threading.Lock()
_IMPORTED = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def find_and_run(mark: str, *, python: str | None = None, isolated: bool = False) -> tuple[bytes, ...]:
    """Return the argv that finds a Python and runs stage 0 in it.

    Args:
        mark: letters and digits that stage 0 prints when it is ready, and "3.11" or "3.9." behind them. They stand
            reversed in the argv, so that a shell that echoes its command line is not taken for it.
        python: a path, or a name on the far PATH; None for `CANDIDATES`.
        isolated: whether Python ignores PYTHON* variables and the user's own site-packages (``-I``).

    Raises:
        ValueError: `python` is empty or starts with "-".
    """
    if python is not None and (not python or python.startswith("-")):
        raise ValueError(f"python={python!r}: give a path, or a name on the far PATH")
    script = _FIND.format(flags="-IB" if isolated else "-B", mark=mark[::-1], status=EXIT_NOT_FOUND)
    names = CANDIDATES if python is None else (python,)
    return tuple(os.fsencode(word) for word in ("/bin/sh", "-c", script, "aioremote", STAGE_0, *names))


def tried(stderr: str) -> tuple[str, ...]:
    """Return what the search has told of each interpreter it could not use, as "python3: Python 2.7.18"."""
    return tuple(found.strip() for found in _TRIED.findall(stderr))


@dataclass(frozen=True, slots=True)
class Payload:
    """Modules that are shipped, and the one whose ``main`` is called.

    Attributes:
        modules: source by name within the package; "stage1" is among them.
        entry: the name of the module with ``main(read_fd, write_fd, err_fd, nonce, options)``.
        same_version: whether they go to a Python that has told `OWN_VERSION`: what starts first goes as byte code.
        first: what starts first, packed.
        rest: sources of all that `first` does not have, packed; they come after it.
    """

    modules: Mapping[str, str]
    entry: str
    same_version: bool = False
    first: bytes = field(init=False, repr=False)
    rest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = starting(self.modules, self.entry)
        sources = {name: self.modules[name] for name in names}
        first = _byte_code(sources) if self.same_version else _text(sources)
        rest = self.modules if self.same_version else {n: s for n, s in self.modules.items() if n not in sources}
        object.__setattr__(self, "first", zlib.compress(first, 9))
        object.__setattr__(self, "rest", zlib.compress(_text(rest), 9) if rest else b"")

    @property
    def packed(self) -> bytes:
        """What is sent after the line."""
        return self.first + self.rest

    def line(self, nonce: str, options: Mapping[str, object]) -> bytes:
        """Return the line that stage 0 reads: it takes `packed` and starts the entry module.

        Args:
            nonce: letters and digits that the far end's answer begins with.
            options: handed to ``main``: str to str, int, float, bool, None, bytes, or containers of them.
        """
        packed = self.packed
        code = _LINE.format(
            size=len(packed),
            digest=hashlib.sha256(packed).hexdigest(),
            first=len(self.first),
            magic=MAGIC_NUMBER if self.same_version else b"",
            entry=self.entry,
            cut=EXIT_CUT,
            damaged=EXIT_DAMAGED,
            nonce=nonce,
            options=dict(options),
        )
        return f"exec({code!a})\n".encode("ascii")


def starting(modules: Mapping[str, str], entry: str) -> list[str]:
    """Return the names of the modules that run until `entry` is imported."""
    names = ["stage1", *(name for name in ("__init__", entry) if name in modules)]
    for name in names:  # grows meanwhile
        names += [found for found in _IMPORTED.findall(modules[name]) if found in modules and found not in names]
    return names


def _text(sources: Mapping[str, str]) -> bytes:
    return "\0".join(word for item in sources.items() for word in item).encode()


def _byte_code(sources: Mapping[str, str]) -> bytes:
    return marshal.dumps(
        {
            name: compile(source, file_name(name), "exec", dont_inherit=True, optimize=0)
            for name, source in sources.items()
        }
    )


def outpost_payload(*, same_version: bool = False) -> Payload:
    """Return the outpost itself: the modules of `far`, started by ``serve``. Packed the first time.

    Args:
        same_version: whether the far Python has told `OWN_VERSION`.
    """
    with _PACKING:  # a fan-out asks in many threads at once
        return _pack(same_version=same_version)


@functools.cache
def _pack(*, same_version: bool) -> Payload:
    folder = resources.files("aioremote.outpost.far")
    files = [item for item in folder.iterdir() if item.name.endswith(".py") and not item.name.startswith(OF_DAEMONS)]
    modules = {item.name.removesuffix(".py"): item.read_text(encoding="utf-8") for item in files}
    return Payload(modules, "serve", same_version)
