r"""An argv as one command line for a far login shell, and what the far end announces before the program starts.

sshd runs ``LOGIN-SHELL -c LINE`` and nobody knows the login shell beforehand. There are two forms of line:

- direct, for a login shell known to be POSIX-like, which runs the script below itself. For fish and csh ``"${SHELL-}"``
  at its beginning is a syntax error, which both report before they run anything: a wrong guess has no effect.
- universal, for any: ``exec /bin/sh -c 'SCRIPT' 'WORD' …``. Between its quotes is printable ASCII without ``'``, ``\``
  and ``!``, which every shell passes as it is. Words with anything else travel as octal digits.

Both are ASCII without a newline: csh cannot hold a newline, and in a legacy locale (GB18030, Shift_JIS, Big5) bash, csh
and fish lose quotes in the middle of UTF-8 text. So words with a newline or bytes beyond ASCII are always universal.

The script enters the directory, prints the line ``NONCE PID LOGINSHELL`` on standard output, and becomes the program:
the same process, so PID is also the group that sshd's child leads. A directory that cannot be entered gives the line
``NONCE ERRNO-NAME`` instead. An end without either line means that nothing was started, whatever its exit status.

Not for finding out which program was missing, nor for lines in the user's own shell syntax: those are the argv
``["/bin/sh", "-c", line]``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_NOISE_BYTES",
    "ONLY_PROGRAMS",
    "Announced",
    "Announcement",
    "Argument",
    "command_line",
    "env_words",
    "is_posix_shell",
    "join_posix",
    "octal_words",
    "program_argv",
    "quote_posix",
    "shell_line",
]

Argument: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

MAX_LINE_BYTES = 131_071
"""The longest argument Linux gives a program, without its NUL. Source: MAX_ARG_STRLEN, include/uapi/linux/binfmts.h."""

MAX_NOISE_BYTES = 64 * 1024
"""How much of what login files print is kept for error texts."""

_POSIX_SHELLS = frozenset({"ash", "bash", "busybox", "dash", "ksh", "ksh93", "lksh", "mksh", "sh", "zsh"})

# "${SHELL-}" must stand before anything that is quoted. echo, since mksh has no printf of its own.
_START = b"if echo %s $$ %s; then exec %s; fi"
_LOGIN_SHELL = b'"${SHELL-}"'

# -P does with ".." what chdir(2) does. Which errno it was is found from the nearest path above that can be looked at.
# Variables have long names, since one that the environment exports already would reach the program.
_ENTER = (
    b'if : "${SHELL-}"; aioremote_cwd=%s; cd -P "$aioremote_cwd" 2>/dev/null; then %s; '
    b'else d="$aioremote_cwd" e=ENOENT; while [ "$d" ]; do if [ -d "$d" ]; then [ -x "$d" ] || e=EACCES; d=; '
    b'elif [ -e "$d" ]; then e=ENOTDIR; d=; '
    b'else case $d in */*) d="${d%%/*}";; *) e=EACCES; d=;; esac; fi; done; echo %s $e; fi'
)

ONLY_PROGRAMS = b"${ZSH_VERSION:+env} ${KSH_VERSION:+env} "
"""What stands between ``exec`` and a program's name, since zsh and mksh prefer builtins and functions to programs.

(ksh93 too has a KSH_VERSION: harmless. zsh knows ``exec command``, but not where it stands as /bin/sh.)
"""

# Under LC_ALL=C, as bash loses quotes in GB18030. Silent, as bash would complain again of a locale it does not know.
_DECODE = b'aioremote_lc="${LC_ALL-}"; LC_ALL=C; eval "$(printf %b "$0")"; { LC_ALL="$aioremote_lc"; } 2>/dev/null; '

_NEVER_DIRECT = re.compile(rb"[\n\x80-\xff]")
_NEVER_PLAIN = re.compile(rb"[^ -~\0]|['\\!]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANNOUNCED = re.compile(rb" (?:([0-9]{1,10}) ([^\r\n]*)|(ENOENT|ENOTDIR|EACCES))\r*\n")


def command_line(
    argv: Sequence[Argument],
    *,
    nonce: str,
    cwd: bytes | None = None,
    env: Mapping[str, bytes | None] | None = None,
    login_shell: str | None = None,
) -> bytes:
    """Build the command line that announces itself and becomes a program with exactly these arguments.

    The program is looked up on the PATH in ``env``, else on the login's; shell builtins and functions are passed over.

    Args:
        argv: program and arguments, at least the program; text travels as UTF-8 with surrogateescape.
        nonce: ASCII letters and digits that nothing else prints.
        cwd: the directory to start in, relative to the login's own; never on CDPATH, ``-`` and ``~`` are plain names.
            None stays there.
        env: variables to set, None as a value to unset; the rest of the login's environment stays.
        login_shell: the far login shell's path as an earlier command announced it, None while unknown.

    Returns:
        Printable or control ASCII without a newline, at most `MAX_LINE_BYTES` long.

    Raises:
        ValueError: nothing to run, a program name that is empty or starts with "-", NUL or a lone surrogate anywhere,
            an impossible variable name, an empty cwd, a nonce with other characters, or a line that is too long.
    """
    if not (nonce.isascii() and nonce.isalnum()):
        raise ValueError(f"nonce {nonce!r} is not made of ASCII letters and digits")
    words = b"\0".join(_words(argv, env))
    directory = None if cwd is None else _directory(cwd)
    line = _line(words, directory, nonce.encode(), direct=login_shell is not None and is_posix_shell(login_shell))
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"the command line is {len(line):,} bytes long and Linux refuses more than {MAX_LINE_BYTES:,}: "
            "pass fewer or shorter arguments, and data by input="
        )
    return line


def program_argv(
    argv: Sequence[Argument], *, nonce: str, cwd: bytes | None = None, prelude: bytes = b"", tells: bytes = b""
) -> tuple[bytes, ...]:
    """Build the argv of a /bin/sh that announces itself and becomes a program, for roads that pass an argv as it is.

    Args:
        argv, nonce, cwd: as for `command_line`; there is no limit on the length.
        prelude: POSIX shell text that runs first; it may change the program's words, which are in ``"$@"``.
        tells: one word of shell syntax, which the announcement has in the place of the login shell.

    Raises:
        ValueError: as from `command_line`.
    """
    words = _words(argv, None)
    directory = None if cwd is None else _directory(cwd)
    find = b"" if b"/" in words[0] else ONLY_PROGRAMS
    script = _script(nonce.encode(), directory and b'"$0"', find + b'"$@"', tells or _LOGIN_SHELL)
    return (b"/bin/sh", b"-c", prelude + script, directory or b"sh", *words)


def shell_line(argv: Sequence[Argument]) -> bytes:
    """Build the line that becomes a program with exactly these arguments, in whatever shell reads it.

    Raises:
        ValueError: as from `command_line`; there is no limit on the length.
    """
    words = _words(argv, None)
    if not any(_NEVER_PLAIN.search(word) for word in words):
        return b"exec " + b" ".join(map(_quote, words))
    script = _DECODE + b'exec "$@"'
    return b"exec /bin/sh -c '%s' '%s'" % (script, octal_words([b"set", b"--", *words]))


def octal_words(words: Sequence[bytes]) -> bytes:
    """Write words in shell syntax as one line of printable ASCII that printf's %b reads."""
    return _NEVER_PLAIN.sub(_octal, b" ".join(map(_quote, words)))


def env_words(env: Mapping[str, bytes | None]) -> list[bytes]:
    """Return what starts a program in a changed environment: ``env -u NAME … NAME=VALUE …``.

    Raises:
        ValueError: an impossible variable name.
    """
    unset = [word for name, value in env.items() if value is None for word in (b"-u", _name(name))]
    changed = [
        _name(name) + b"=" + _encode(value, f"environment variable {name}")
        for name, value in env.items()
        if value is not None
    ]
    return [b"env", *unset, *changed]


def is_posix_shell(path: str) -> bool:
    """Tell by its file name whether a login shell runs POSIX shell scripts; False for restricted and unknown ones."""
    return path.rpartition("/")[2] in _POSIX_SHELLS


def quote_posix(argument: Argument) -> str:
    """Quote one argument for a POSIX shell, for people to read; undecodable bytes become lone surrogates."""
    value = os.fspath(argument)
    return shlex.quote(value if isinstance(value, str) else value.decode("utf-8", "surrogateescape"))


def join_posix(argv: Sequence[Argument]) -> str:
    """Quote an argv for a POSIX shell, for people to read; never what a far shell gets, which may not be POSIX-like."""
    words = [quote_posix(argument) for argument in argv]
    if words and "=" in words[0] and "'" not in words[0]:
        words[0] = f"'{words[0]}'"  # a program, not a variable
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Announced:
    """What the far end said before the program's own output.

    Attributes:
        pid: the program's process id, which is also its process group; 0 where it was refused.
        login_shell: the path in the far SHELL variable, empty where it has none.
        refusal: "ENOENT", "ENOTDIR" or "EACCES" where the directory could not be entered and nothing was started.
        rest: what came after the line, the program's own output.
        noise: what came before it, the last `MAX_NOISE_BYTES`.
    """

    pid: int
    login_shell: str
    refusal: str | None
    rest: bytes
    noise: bytes


class Announcement:
    """Finds the announcement in the first chunks of a standard output, however they are split.

    Args:
        nonce: the one given to `command_line`.
    """

    __slots__ = ("_held", "_mark", "_searched")

    def __init__(self, nonce: str) -> None:
        self._mark = nonce.encode()
        self._held: bytes | bytearray = b""
        self._searched = 0

    @property
    def noise(self) -> bytes:
        """What has come while nothing was announced, the last `MAX_NOISE_BYTES`."""
        return bytes(self._held)

    def feed(self, chunk: bytes) -> Announced | None:
        """Take the next chunk.

        Returns:
            None while the announcement is not complete. Once it was given, `feed` is not to be called again.
        """
        held = self._held
        if held:
            held += chunk
        else:
            held = chunk
        at = held.find(self._mark, self._searched)
        while at >= 0:
            found = _ANNOUNCED.match(held, at + len(self._mark))
            if found:
                return _announced(
                    found, noise=bytes(held[max(0, at - MAX_NOISE_BYTES) : at]), rest=bytes(held[found.end() :])
                )
            if held.find(b"\n", at) < 0:
                break  # its line has not ended yet
            at = held.find(self._mark, at + 1)
        self._hold(held, searched=at if at >= 0 else len(held) - len(self._mark) + 1)
        return None

    def _hold(self, held: bytes | bytearray, *, searched: int) -> None:
        dropped = max(0, len(held) - MAX_NOISE_BYTES)
        self._held = held if isinstance(held, bytearray) else bytearray(held)
        del self._held[:dropped]
        self._searched = max(0, searched - dropped)


def _announced(found: re.Match[bytes], *, noise: bytes, rest: bytes) -> Announced:
    pid, shell, refusal = found.groups()
    if refusal:
        return Announced(0, "", refusal.decode(), rest, noise)
    return Announced(int(pid), shell.decode("utf-8", "surrogateescape"), None, rest, noise)


def _line(words: bytes, directory: bytes | None, nonce: bytes, *, direct: bool) -> bytes:
    """Choose the form of line for words that are joined by NUL."""
    find = b"" if b"/" in words.partition(b"\0")[0] else ONLY_PROGRAMS
    quoted = _quote(words).replace(b"\0", b"' '")
    where = None if directory is None else _quote(directory)
    needs_octal = (_NEVER_DIRECT if direct else _NEVER_PLAIN).search
    if needs_octal(words) or (directory and needs_octal(directory)):
        script = _DECODE + _script(nonce, where and b'"$aioremote_cwd"', find + b'"$@"')
        setup = b"aioremote_cwd=%s; set -- %s" % (where or b"", quoted)
        return b"exec /bin/sh -c '%s' '%s'" % (script, _NEVER_PLAIN.sub(_octal, setup))
    if direct:
        return _script(nonce, where, find + quoted)
    script = _script(nonce, where and b'"$0"', find + b'"$@"')
    return b"exec /bin/sh -c '%s' %s %s" % (script, where or b"sh", quoted)


def _script(nonce: bytes, directory: bytes | None, command: bytes, tells: bytes = _LOGIN_SHELL) -> bytes:
    """Write the POSIX script around a directory and a command that are given in shell syntax."""
    start = _START % (nonce, tells, command)
    return start if directory is None else _ENTER % (directory, start, nonce)


def _quote(text: bytes) -> bytes:
    return b"'" + text.replace(b"'", rb"'\''") + b"'"


def _octal(found: re.Match[bytes]) -> bytes:
    return rb"\0%03o" % found[0][0]  # as printf's %b reads it; every shell keeps a backslash before a digit


def _words(argv: Sequence[Argument], env: Mapping[str, bytes | None] | None) -> list[bytes]:
    """Encode and check the argv, with `env` in front where the environment changes."""
    words = [
        argument if type(argument) is bytes and b"\0" not in argument else _encode(argument, f"argv[{index}]")
        for index, argument in enumerate(argv)
    ]
    if not words or not words[0]:
        raise ValueError("argv names no program: give at least one word that is not empty")
    if words[0].startswith(b"-"):
        raise ValueError(f"program {quote_posix(words[0])} starts with '-', which reads as an option: give its path")
    if b"=" in words[0]:  # env would take it for a variable
        words = [b"/bin/sh", b"-c", b'exec "$0" "$@"', *words]
    return [*env_words(env), *words] if env else words


def _name(name: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"environment variable {name!r}: a name has only A-Z, a-z, 0-9 and _, and no digit in front")
    return name.encode()


def _directory(cwd: bytes) -> bytes:
    if not cwd:
        raise ValueError("cwd is empty: give a directory, or None for the login's own")
    directory = _encode(cwd, "cwd")
    return directory if directory.startswith(b"/") else b"./" + directory


def _encode(argument: Argument, what: str) -> bytes:
    value = os.fspath(argument)
    try:
        encoded = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate that stands for no byte: give bytes") from None
    if b"\0" in encoded:
        raise ValueError(f"{what} has a NUL byte, which no program can be given: remove it, or pass data by input=")
    return encoded
