r"""What a far shell is told so that it runs one line after the other: pure functions of text.

The shell reads its standard input as its script. For each line it gets one command, of the same form in every shell::

    \command eval 'LINE' </dev/null >&8 2>&9 8>&- 9>&-; (set -- "$?"; \command echo MARK "$1" >&8; …; exit "$1")

``command eval`` keeps a syntax error from ending a POSIX shell, and the backslash an alias from taking its place. The
redirections hold for the line alone: whatever it does to its streams, the session's are back afterwards. Outside of
lines the shell's output goes nowhere, so that traces and traps of the driver's own words do not mix with a line's
output. The mark is new each time and follows both streams' output without a newline between; the subshell hands ``$?``
on to the next line. Braces around it would be nearer, but bash 5.2 does not know them for what they are after an
unbalanced quote.
"""

from __future__ import annotations

import os
import re
import secrets

from aioremote._core.quoting import is_posix_shell
from aioremote.errors import UnsupportedError

__all__ = ["boot_argv", "input_file", "line_text", "mark_pattern", "new_mark", "put_line", "taking_line"]

# $1 is the mark, the rest the shell. A shell whose output is no terminal does not take itself for interactive; its
# streams wait at 8 and 9, the highest numbers that every shell can redirect.
_BOOT = b"""\
mark=$1; shift
if [ -t 0 ]; then stty -echo; fi
command -v "$1" >/dev/null || exit 127
echo "$mark 0"; [ -t 2 ] || echo "$mark 0" >&2
unset mark
exec "$@" 8>&1 9>&2 >/dev/null 2>&1
"""
_OPTIONS = {"bash": (b"--norc",), "busybox": (b"sh",), "zsh": (b"+i",)}
_LINE = b'\\%s eval %s <%s >&8 2>&9 8>&- 9>&-; (set -- "$?"; \\%s echo %s "$1" >&8; %sexit "$1")\n'
_SECOND_MARK = b'\\%s echo %s "$1" >&9; '
_TYPED = b'"$(set -- "$?"; %s; exit "$1")"'
_TYPED_PART = b"\\%s printf %%b %s"
_PUT = b"(umask 077; set -C; : >%s || exit 1; set +C%s)"
_PUT_PART = b"; \\command printf %%b %s >>%s || { \\command -p rm -f %s; exit 1; }"
_PART_BYTES = 16 * 1024  # of input in one word: with four characters a byte still less than an argument may have
_TYPED_BYTES = 900  # of a line in one line of a terminal, which takes 4,095 characters, four for a byte
_NOT_PLAIN = re.compile(rb"[^ -~]|['\\]")


def new_mark() -> bytes:
    """Return a word that nothing else prints."""
    return secrets.token_hex(16).encode()


def mark_pattern(mark: bytes) -> re.Pattern[bytes]:
    """Return what finds a mark; its group is the status. A mark that a terminal echoes has none."""
    return re.compile(re.escape(mark) + rb" ([0-9]{1,10})\r?\n")


def boot_argv(shell: str, mark: bytes) -> tuple[bytes, ...]:
    """Return the argv that says `mark` and becomes the shell; it exits with 127 where there is no such shell.

    Raises:
        UnsupportedError: its name is not that of a POSIX shell.
    """
    if not is_posix_shell(shell):
        raise UnsupportedError(f"a session in {shell!r}: give a POSIX shell, as sh, bash, dash, ash, ksh or zsh")
    options = _OPTIONS.get(_name(shell), ())
    return b"/bin/sh", b"-c", _BOOT, b"sh", mark, os.fsencode(shell), *options, b"-s"


def line_text(shell: str, line: bytes, mark: bytes, *, stdin: bytes = b"/dev/null", on_terminal: bool = False) -> bytes:
    """Return what the shell reads in order to run `line` and then to say `mark`.

    Args:
        shell: its name.
        line: shell text without NUL.
        mark: from `new_mark`, for this line only.
        stdin: what the line reads, in shell syntax.
        on_terminal: whether the text is typed on a terminal: then control characters travel as octal digits.

    Raises:
        UnsupportedError: it is too long for a ksh93 on a terminal, which misreads commands of several typed lines.
    """
    if on_terminal and _name(shell) in ("ksh", "ksh93") and len(line) > _TYPED_BYTES:
        raise UnsupportedError(f"{len(line)} bytes for {shell} on a terminal: give at most {_TYPED_BYTES}")
    verb = b"builtin" if _name(shell) == "zsh" else b"command"  # zsh's `command` knows no builtins
    word = _typed(line, verb) if on_terminal else b"'%s'" % line.replace(b"'", rb"'\''")
    second = b"" if on_terminal else _SECOND_MARK % (verb, mark)
    return _LINE % (verb, word, stdin, verb, mark, second)


def input_file(mark: bytes) -> bytes:
    """Return the name of a line's input file, in shell syntax."""
    return b'"${TMPDIR:-/tmp}/aioremote-%s"' % mark


def put_line(name: bytes, data: bytes) -> bytes:
    """Return the line that makes the file `name` with `data` in it, for the login alone; its status is 1 on failure."""
    parts = (_octal(data[at : at + _PART_BYTES]) for at in range(0, len(data), _PART_BYTES))
    return _PUT % (name, b"".join(_PUT_PART % (part, name, name) for part in parts))


def taking_line(name: bytes, line: bytes) -> bytes:
    """Return the line that first removes its input file, which it has open."""
    return b"\\command -p rm -f %s\n%s" % (name, line)


def _name(shell: str) -> str:
    return shell.rpartition("/")[2]


def _octal(data: bytes) -> bytes:
    """Write bytes as ``printf %b`` reads them, as one quoted word of plain characters."""
    return b"'%s'" % _NOT_PLAIN.sub(lambda found: rb"\0%03o" % found[0][0], data)


def _typed(data: bytes, verb: bytes) -> bytes:
    parts = [_octal(data[at : at + _TYPED_BYTES]) for at in range(0, len(data), _TYPED_BYTES)] or [b"''"]
    return _TYPED % b"\n".join(_TYPED_PART % (verb, part) for part in parts)
