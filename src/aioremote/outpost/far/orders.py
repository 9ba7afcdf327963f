"""What the two ends of a "process" channel say to each other: an order, and how it ended. Pure functions.

The order is the channel's header, or its first message where it is longer than a header may be. What the program writes
comes as bytes of the channel; a message of one byte says which of its streams the bytes after it are from.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ENDED",
    "END_TREE",
    "ERRORS",
    "MAX_IN_HEADER",
    "OUTPUT",
    "RESIZE",
    "SEND_SIGNAL",
    "STDIN_BROKEN",
    "Ending",
    "Order",
    "StartError",
    "pack_ending",
    "pack_order",
    "unpack_ending",
    "unpack_order",
]

MAX_IN_HEADER = 60000

# First bytes of messages from the far end.
OUTPUT = b"1"  # the bytes that follow are standard output's; so are the first ones
ERRORS = b"2"  # they are standard error's
STDIN_BROKEN = b"b"  # the program takes no more input
ENDED = b"x"  # with the status, and the last of the output

# First bytes of signals from the near end.
SEND_SIGNAL = b"s"  # and a name without SIG
RESIZE = b"r"  # and columns and rows
END_TREE = b"e"

_ENDED = struct.Struct(">cBiII")  # ENDED, flags, code, length of output, length of errors; words at the end:
# a signal's name, which may be empty, and process ids
CORE_DUMPED = 1
HELD = 2


class StartError(Exception):
    """A program could not be started; nothing ran.

    Attributes:
        what: "cwd" or "program".
        number: the errno.
        path: where a program was looked for, b"" where its name has a slash.
    """

    def __init__(self, what: "str", number: "int", path: "bytes" = b"") -> "None":
        super().__init__(what, number, path)
        self.what: "str" = what
        self.number: "int" = number
        self.path: "bytes" = path


class Order(object):
    """A program to start.

    Attributes:
        argv: exact bytes.
        cwd: where, None for the outpost's own directory.
        env: what is set, or unset where the value is None.
        stdin: whether input will come.
        guarded: whether it ends with the link.
        size: columns and rows of its terminal, None for three streams.
    """

    __slots__ = ("argv", "cwd", "env", "guarded", "size", "stdin")

    def __init__(
        self,
        argv: "list[bytes]",
        cwd: "bytes | None",
        env: "Mapping[bytes, bytes | None]",
        *,
        stdin: "bool",
        guarded: "bool",
        size: "tuple[int, int] | None",
    ) -> "None":
        self.argv: "list[bytes]" = argv
        self.cwd: "bytes | None" = cwd
        self.env: "Mapping[bytes, bytes | None]" = env
        self.stdin: "bool" = stdin
        self.guarded: "bool" = guarded
        self.size: "tuple[int, int] | None" = size


def pack_order(order: "Order") -> "bytes":
    """Return an order as bytes; ValueError for what no program can be given."""
    if not order.argv or order.cwd == b"":
        raise ValueError("argv and cwd must not be empty")
    words = list(order.argv)
    for name, value in order.env.items():
        if not name or b"=" in name:
            raise ValueError("environment variable %r: a name has no '=' and is not empty" % name)
        words.append(name if value is None else name + b"=" + value)
    columns, rows = order.size or (0, 0)
    head = b"%d %d %d %d %d %d" % (len(order.argv), order.stdin, order.guarded, order.size is not None, columns, rows)
    packed = b"\0".join((head, order.cwd or b"", b"\0".join(words)))
    if packed.count(b"\0") != len(words) + 1:
        raise ValueError("a NUL byte in argv, cwd or env, which no program can be given")
    return packed


def unpack_order(data: "bytes") -> "Order":
    """Return the order that `pack_order` has packed."""
    head, cwd, *words = data.split(b"\0")
    count, stdin, guarded, terminal, columns, rows = map(int, head.split())
    env = {name: value if sign else None for name, sign, value in (word.partition(b"=") for word in words[count:])}
    return Order(
        words[:count],
        cwd or None,
        env,
        stdin=bool(stdin),
        guarded=bool(guarded),
        size=(columns, rows) if terminal else None,
    )


class Ending(object):
    """How a program ended.

    Attributes:
        code: exit status, or the negative number of a signal.
        signal: the signal's name without SIG, as the far system has it; "" for a plain exit.
        core_dumped: whether the far system says so.
        held: whether something else held the output open.
        output, errors: what had not been sent before.
        escaped: processes that have left the session of a tree that was ended, and live on.
    """

    __slots__ = ("code", "core_dumped", "errors", "escaped", "held", "output", "signal")

    def __init__(
        self,
        code: "int",
        signal: "str",
        *,
        core_dumped: "bool",
        held: "bool",
        output: "bytes",
        errors: "bytes",
        escaped: "Sequence[int]" = (),
    ) -> "None":
        self.code: "int" = code
        self.signal: "str" = signal
        self.core_dumped: "bool" = core_dumped
        self.held: "bool" = held
        self.output: "bytes" = output
        self.errors: "bytes" = errors
        self.escaped: "Sequence[int]" = escaped


def pack_ending(ending: "Ending") -> "bytes":
    """Return an ending as a message."""
    flags = CORE_DUMPED * ending.core_dumped | HELD * ending.held
    head = _ENDED.pack(ENDED, flags, ending.code, len(ending.output), len(ending.errors))
    words = [ending.signal] + [str(pid) for pid in ending.escaped]
    return b"".join((head, ending.output, ending.errors, " ".join(words).encode("ascii")))


def unpack_ending(data: "bytes") -> "Ending":
    """Return the ending that a message tells."""
    _, flags, code, output, errors = _ENDED.unpack_from(data)
    middle = _ENDED.size + output
    end = middle + errors
    name, *pids = data[end:].decode("ascii", "replace").split(" ")
    return Ending(
        code,
        name,
        core_dumped=bool(flags & CORE_DUMPED),
        held=bool(flags & HELD),
        output=data[_ENDED.size : middle],
        errors=data[middle:end],
        escaped=[int(pid) for pid in pids],
    )
