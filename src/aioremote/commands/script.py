r"""Several stages as one far ``/bin/sh -c SCRIPT sh WORD…``: the pure part, which writes the script.

No word is ever quoted: programs, arguments and paths are positional parameters, environment values are variables of the
shell that no program sees. Programs are exec'ed, never builtins. Beside the programs' own output the shells report, on
a side channel, in lines of ASCII:

- ``<!NUMBER:ERRNO-NAME>``: a file or directory cannot be used, and nothing began.
- ``<+STAGE>``: a stage begins; from now on it gets signals.
- ``<STAGE:STATUS>``: a stage has ended. What a shell says just before that ("Killed") tells a signal from an exit
  status above 128.

There are three ways to get standard errors and the side channel over the one far standard error, binary-exact:

- APART tells the stages' standard errors from each other: each goes through ``od | tr`` into hexadecimal digits of its
  own, 16 byte values beyond ASCII, so that pieces of different stages may interleave at any byte. There are five such
  alphabets, since dash knows no descriptor above 9; of more stages, groups become scripts within the script.
- LIVE shows them at once: they go as they are, all together, and lines of the side channel begin with a nonce.
- ALONE is for one program with redirections: as LIVE, and the shell becomes the program.

`commands.readout` reads what comes of it. Not for pipelines in shell syntax: those are `Machine.shell`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from aioremote._core.quoting import ONLY_PROGRAMS

__all__ = ["Kind", "Script", "Stage", "alphabet", "make_script"]

# Descriptors: 3 is a stage's own standard output, 4 the side channel (and the real standard error, but for LIVE),
# 5 to 9 standard errors. LIVE has the real one at 5.
_LAST = 9
_CLOSED = b" ".join(b"%d>&-" % fd for fd in range(3, _LAST + 1))

# Says why a path cannot be read (r), written (w) or entered (d). Variables have long names, since one that the
# environment exports already would reach the programs.
_WHY = b"""aioremote_why() {
aioremote_up=$2 aioremote_e=
if [ -d "$2" ]; then if [ $3 = d ]; then aioremote_e=EACCES; else aioremote_e=EISDIR; fi
elif [ -e "$2" ]; then
if [ $3 = d ]; then aioremote_e=ENOTDIR; elif [ -$3 "$2" ]; then aioremote_e=EIO; else aioremote_e=EACCES; fi
fi
while [ ! "$aioremote_e" ]; do
case $aioremote_up in
*/*) aioremote_up=${aioremote_up%%/*}; aioremote_up=${aioremote_up:-/};;
*) aioremote_up=.;;
esac
if [ -d "$aioremote_up" ]; then
if [ ! -x "$aioremote_up" ] || [ "$3$aioremote_made" = w ]; then aioremote_e=EACCES; else aioremote_e=ENOENT; fi
elif [ -e "$aioremote_up" ]; then aioremote_e=ENOTDIR
fi
aioremote_made=no
done
echo "%s<!$1:$aioremote_e>" >&%d; exit 1
}
"""
_HAS_TOOLS = b'command -v od >/dev/null && command -v tr >/dev/null || { echo "<!-1:ENOSYS>" >&4; exit 1; }\n'
# Signals go to the whole group: shells outlive them to tell of their programs, which get the signals' own effects
# back; relays ignore them and end with their input, so that what a killed program had written arrives.
_OUTLIVE = b"trap : HUP INT PIPE TERM; "
_IGNORE = b"trap '' HUP INT PIPE TERM; "
_RELAY = (
    b"{ " + _OUTLIVE + b"%s\n} %d>&1 >&3 | ( " + _IGNORE + b"exec od -An -v -tx1 %s ) | "
    b"( " + _IGNORE + b"export LC_ALL; exec tr 0123456789abcdef '%s' >&4 %s )"
)
_REPORTER = (
    b"{ " + _OUTLIVE + b"%s\n} 4>&1 >&3 | "
    b"( " + _IGNORE + b'while read -r aioremote_l; do echo "%s$aioremote_l"; done ) >&5 %s'
)
_STAGE = b"{ " + _OUTLIVE + b'( %s ); echo "<%d:$?>"; } 3>&1 >&4 2>&4'
_LOCALE = b'{ LC_ALL="$aioremote_lc"; } 2>/dev/null; '


class Kind(Enum):
    """How a script tells of its stages; see the module."""

    APART = "apart"
    LIVE = "live"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Stage:
    """One program of a script.

    Attributes:
        words: program and arguments.
        cwd: where it starts; None where the script does.
        env: what changes in its environment; None as a value unsets.
        merge: whether its standard error goes where its standard output goes.
        stderr: a file for its standard error, None for none.
    """

    words: tuple[bytes, ...]
    cwd: bytes | None = None
    env: Mapping[str, bytes | None] = field(default_factory=dict[str, bytes | None], repr=False)
    merge: bool = False
    stderr: bytes | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """What is to be run, and what its standard error means.

    Attributes:
        argv: the far shell, the script and its words.
        env: values that the script hands on.
        kind: see `Kind`.
        nonce: what marks the side channel; empty for APART.
        alphabets: for each alphabet whose digits they are: a stage's by its number, or a script's.
        paths: the files and directories that may turn out unusable, by their numbers.
    """

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes | None] = field(repr=False)
    kind: Kind
    nonce: bytes
    alphabets: tuple[int | Script, ...]
    paths: tuple[bytes, ...]


def alphabet(index: int) -> range:
    """Return the byte values that stand for the digits 0 to f."""
    return range(0x80 + 16 * index, 0x90 + 16 * index)


def make_script(
    stages: Sequence[Stage],
    *,
    kind: Kind,
    nonce: str = "",
    stdin: bytes | None = None,
    stdout: bytes | None = None,
    append: bool = False,
) -> Script:
    """Write the script for stages that pipe into each other.

    Args:
        stages: in order; exactly one for ALONE.
        kind: see `Kind`.
        nonce: letters and digits that no program prints, for LIVE and ALONE.
        stdin: the file that the first stage reads; None for the script's own standard input.
        stdout: the file that the last stage writes; None for the script's own standard output.
        append: whether what the file `stdout` holds is kept.

    Raises:
        ValueError: a program's name begins with "-".
    """
    shared = _Shared()
    for stage in stages:  # each program is to be rid of every one of them
        for value in stage.env.values():
            if value is not None:
                shared.name_of(value)
    writer = _Writer(kind, nonce.encode(), shared)
    if stdin is not None:
        writer.open(b"<", stdin)
    if stdout is not None:
        writer.open(b">>" if append else b">", stdout)
    return writer.write(range(len(stages)), stages)


@dataclass(slots=True)
class _Shared:
    """What a script has in common with the scripts in it: names of values, numbers of paths."""

    env: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    names: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    paths: list[bytes] = field(default_factory=list[bytes])

    def name_of(self, value: bytes) -> bytes:
        """Return the name of the variable that holds a value."""
        if value not in self.names:
            name = f"aioremote_v{len(self.names)}"
            self.env[name], self.names[value] = value, name.encode()
        return self.names[value]


class _Writer:
    """Collects the words of one script while its text is made."""

    def __init__(self, kind: Kind, nonce: bytes, shared: _Shared) -> None:
        self._kind = kind
        self._nonce = nonce
        self._shared = shared
        self._real = 5 if kind is Kind.LIVE else 4  # the standard error that was there
        self._free = 5 if kind is Kind.APART else 6  # the next descriptor
        self._words: list[bytes] = []
        self._checks: list[bytes] = []
        self._openings: list[tuple[bytes, bytes]] = []  # redirections, and what says why one has failed
        self._relays: list[tuple[int, int | Script]] = []  # descriptors, and whose standard error comes there

    def write(self, numbers: Sequence[int], stages: Sequence[Stage]) -> Script:
        parts: list[tuple[int, Stage | Script]] = [*zip(numbers, stages, strict=True)]
        if sum(self._needs(part) for _, part in parts) > _LAST + 1 - self._free:
            parts = self._grouped(parts)
        if self._kind is Kind.ALONE:
            body = self._program(0, stages[0], b"", self._stderr_of(0, stages[0]))
        else:
            body = self._pipeline(parts)
        text = self._head() + b"".join(self._checks) + self._inside_openings(body)
        return Script(
            (b"/bin/sh", b"-c", text, b"sh", *self._words),
            self._shared.env,
            self._kind,
            self._nonce,
            tuple(whose for _, whose in self._relays),
            tuple(self._shared.paths),
        )

    def _head(self) -> bytes:
        head = b"exec %d>&2 2>/dev/null\n" % self._real
        if self._kind is not Kind.ALONE:  # shells tell a death in the language of LC_ALL
            head += b'aioremote_lc="${LC_ALL-}" LC_ALL=C\n' + _OUTLIVE
            head += b'if [ "${BASH_VERSION-}" ]; then set +o posix; fi\n'  # which would keep it quiet
        if self._checks or self._openings:
            head += _WHY % (self._nonce, self._real)
        return head + _HAS_TOOLS if self._relays else head

    # paths

    def open(self, operator: bytes, path: bytes) -> None:
        """Redirect everything in the script."""
        word, why = self._path(path, b"r" if operator == b"<" else b"w")
        self._checks.append(b"if [ -d %s ]; then %s; fi\n" % (word, why))
        self._openings.append((operator + word, why))

    def _path(self, path: bytes, mode: bytes) -> tuple[bytes, bytes]:
        word = self._word(path)
        self._shared.paths.append(path)
        return word, b"aioremote_why %d %s %s" % (len(self._shared.paths) - 1, word, mode)

    def _inside_openings(self, body: bytes) -> bytes:
        text = b"aioremote_at=; " + body
        whys = b""
        for number, (opening, why) in reversed([*enumerate(self._openings)]):
            text = b"aioremote_at=%d; { %s\n} %s" % (number, text, opening)
            whys += b"%d) %s;; " % (number, why)
        return text + b"\ncase $aioremote_at in %sesac" % whys if whys else text

    # stages

    def _needs(self, part: Stage | Script) -> int:
        """Return how many descriptors a part of the pipeline takes."""
        apart = self._kind is Kind.APART
        return int(apart if isinstance(part, Script) else part.stderr is not None or (apart and not part.merge))

    def _grouped(self, parts: Sequence[tuple[int, Stage | Script]]) -> list[tuple[int, Stage | Script]]:
        """Turn runs of stages into scripts, so many that each gets a descriptor."""
        size = -(-len(parts) // (_LAST + 1 - self._free))
        grouped: list[tuple[int, Stage | Script]] = []
        for start in range(0, len(parts), size):
            run = [(number, part) for number, part in parts[start : start + size] if isinstance(part, Stage)]
            inner = _Writer(self._kind, self._nonce, self._shared)
            numbers, stages = [number for number, _ in run], [stage for _, stage in run]
            grouped.append((numbers[0], inner.write(numbers, stages)))
        return grouped

    def _pipeline(self, parts: Sequence[tuple[int, Stage | Script]]) -> bytes:
        elements: list[bytes] = []
        for number, part in parts:
            stderr = self._stderr_of(number, part)
            if isinstance(part, Script):
                words = b" ".join(map(self._word, part.argv))
                elements.append(b"( exec %s 2>&%d %s )" % (words, stderr, _CLOSED))
            else:
                elements.append(_STAGE % (_LOCALE + self._program(number, part, b">&3", stderr), number))
        text = b" |\n".join(elements)
        for index, (fd, _) in enumerate(self._relays):
            digits = b"".join(b"\\%o" % value for value in alphabet(index))
            text = _RELAY % (text, fd, _CLOSED, digits, _CLOSED)
        if self._kind is Kind.LIVE:
            text = _REPORTER % (text, self._nonce, _CLOSED)
        return b"{ %s\n} 3>&1" % text

    def _stderr_of(self, number: int, part: Stage | Script) -> int:
        """Return the descriptor that is to be a stage's standard error."""
        if isinstance(part, Stage) and part.merge:
            return 1 if self._kind is Kind.ALONE else 3
        if not self._needs(part):
            return self._real
        fd = self._free
        self._free += 1
        if isinstance(part, Stage) and part.stderr is not None:
            self.open(b"%d>" % fd, part.stderr)
        else:
            self._relays.append((fd, number if isinstance(part, Stage) else part))
        return fd

    def _program(self, number: int, stage: Stage, stdout: bytes, stderr: int) -> bytes:
        enter = b""
        if stage.cwd is not None:
            word, why = self._path(stage.cwd, b"d")
            self._checks.append(b"if [ ! -d %s ] || [ ! -x %s ]; then %s; fi\n" % (word, word, why))
            enter = b"cd -P %s && " % word
        words = b" ".join(map(self._word, _startable(stage.words)))
        change = self._environment(stage)
        find = b"" if b"/" in stage.words[0] and not change else ONLY_PROGRAMS
        program = b'%secho "%s<+%d>" >&4 && exec %s%s%s %s 2>&%d %s'
        nonce = self._nonce if self._kind is Kind.ALONE else b""
        return program % (enter, nonce, number, find, change, words, stdout, stderr, _CLOSED)

    def _environment(self, stage: Stage) -> bytes:
        """Return what changes the environment, in front of the program."""
        gone = [*self._shared.names.values(), *(name.encode() for name, value in stage.env.items() if value is None)]
        set_ = [(name.encode(), self._shared.names[value]) for name, value in stage.env.items() if value is not None]
        if not gone:
            return b""
        return b"env " + b"".join(b"-u %s " % name for name in gone) + b"".join(b'%s="$%s" ' % pair for pair in set_)

    def _word(self, word: bytes) -> bytes:
        self._words.append(word)
        return b'"${%d}"' % len(self._words)


def _startable(words: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if words[0].startswith(b"-"):
        raise ValueError(f"program {words[0]!r} starts with '-', which reads as an option: give its path")
    if b"=" in words[0]:  # env would take it for a variable
        return b"/bin/sh", b"-c", b'exec "$0" "$@"', *words
    return words
