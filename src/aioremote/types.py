"""Frozen values that pass between the layers: results, addresses, specifications.

Nothing here does any I/O, and nothing here knows a transport. One module, since whoever looks for one looks here.
"""

from __future__ import annotations

import enum
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = [
    "Address",
    "Capability",
    "Endpoint",
    "Exit",
    "ExitStatus",
    "Facts",
    "FileEntry",
    "FileStat",
    "JobStatus",
    "Line",
    "PartialResult",
    "ProcessInfo",
    "ProcessSpec",
    "Reconnect",
    "Result",
    "SyncReport",
    "Terminal",
    "TransferProgress",
    "TransferReport",
]


class Capability(enum.Enum):
    """What a transport can do. A missing one means `UnsupportedError` before anything is sent."""

    COMMANDS = "commands"
    TERMINAL = "terminal"
    SIGNALS = "signals"
    TREE_KILL = "tree_kill"
    TCP_CONNECTIONS = "tcp_connections"
    UNIX_CONNECTIONS = "unix_connections"
    TCP_LISTENERS = "tcp_listeners"
    UNIX_LISTENERS = "unix_listeners"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a machine is. ``str(address)`` holds no secret.

    Attributes:
        scheme: the transport's name, as "ssh" or "local".
        host: a name or an IP address, as it was given.
        user: the login name, None for the transport's default.
        port: None for the transport's default.
        path: what is left, for transports that need it.
    """

    scheme: str
    host: str = ""
    user: str | None = None
    port: int | None = None
    path: str = ""

    def __str__(self) -> str:
        if not self.host:
            return f"{self.scheme}:{self.path}"
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{user}{host}{port}{self.path}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a byte stream: a TCP port, or a unix socket where `path` is given.

    Attributes:
        host: name or address, resolved on the side where the socket is.
        port: 0 lets a listener pick one.
        path: of a unix socket; empty for TCP.
    """

    host: str = "localhost"
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How often a lost connection is tried again.

    Attributes:
        attempts: tries after a loss, None for no limit.
        first_delay: seconds before the second try (the first comes at once); doubled from try to try, less up to half
            of it at random.
        most_delay: seconds between tries at most.
    """

    attempts: int | None = None
    first_delay: float = 0.2
    most_delay: float = 30.0

    def __post_init__(self) -> None:
        if (self.attempts is not None and self.attempts < 1) or not 0 < self.first_delay <= self.most_delay:
            raise ValueError(f"{self}: give at least one attempt, and delays in seconds, the first not the longer")


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal that a command gets with ``pty=``.

    Attributes:
        columns: width in characters.
        rows: height in characters.
        term: the value of TERM.
    """

    columns: int = 80
    rows: int = 24
    term: str = "xterm-256color"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What a transport is asked to start.

    Attributes:
        argv: program and arguments, bytes without NUL, at least one.
        cwd: the directory to start in; None for the login's own.
        env: variables to set; None as a value unsets one.
        terminal: None for three separate streams; else one terminal, whose output is stdout.
        stdin: False gives the program an empty standard input (end of file at once).
        guarded: False for a program that ends by itself when its input ends, and has work to do then: losing the link
            does not end it.
    """

    argv: tuple[bytes, ...]
    cwd: bytes | None = None
    env: Mapping[str, bytes | None] = field(default_factory=dict[str, bytes | None], repr=False)  # may hold secrets
    terminal: Terminal | None = None
    stdin: bool = True
    guarded: bool = True


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a far process ended.

    Attributes:
        returncode: the exit status; negative for a signal where its number is known near, as in subprocess.
        signal: the name without SIG, as "KILL"; None for a plain exit.
        core_dumped: whether the far system says so.
    """

    returncode: int
    signal: str | None = None
    core_dumped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How one stage of a pipeline ended.

    Attributes:
        args: the far argv.
        host: where it ran.
        returncode, signal: as in `Result`.
        stderr: what the stage wrote there, decoded.
    """

    args: tuple[str, ...]
    host: str
    returncode: int
    signal: str | None
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialResult:
    """What is known of a command that has no end: its output so far.

    Attributes:
        args: the far argv.
        host: the machine's name, as it was given.
        elapsed: seconds from the call.
        stdout_bytes, stderr_bytes: the exact bytes.
        encoding, errors: how `stdout` and `stderr` decode them.
    """

    args: tuple[str, ...]
    host: str
    elapsed: float
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    encoding: str = field(default="utf-8", repr=False)
    errors: str = field(default="replace", repr=False)

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.stdout_bytes.decode(self.encoding, self.errors)

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.stderr_bytes.decode(self.encoding, self.errors)

    @property
    def command_line(self) -> str:
        """`args` as a POSIX shell would want them typed."""
        return shlex.join(self.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(PartialResult):
    """How a command ended. Exists only with an exit status or a signal.

    Attributes:
        returncode: exit status; negative for a signal, as in subprocess.
        signal: the signal's name without SIG, as "KILL", or None.
        ok_codes: the statuses that count as success, None for all.
        output_truncated: True when the command ended while another process still held its output open, and what that
            one writes later is not in here.
        input_unread: True when the command ended before it had taken all of its input.
        stages: one Exit a stage for a pipeline, else empty.
    """

    returncode: int
    signal: str | None = None
    ok_codes: tuple[int, ...] | None = field(default=(0,), repr=False)
    output_truncated: bool = False
    input_unread: bool = False
    stages: tuple[Exit, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the status is one of `ok_codes`."""
        return self.ok_codes is None or self.returncode in self.ok_codes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How a detached job stands.

    Attributes:
        state: "running"; "exited", by itself or by a signal; "lost" where what watched it was ended first (a reboot, a
            KILL), so that nobody knows how it ended.
        returncode: the exit status once it has exited, negative for a signal, as in subprocess; else None.
        signal: the name without SIG of the signal that ended it, as "KILL"; else None.
        started: when its program began, in seconds since the epoch by the far clock, whole ones; None where that was
            lost with it.
        ended: when it ended, in the same way; None unless it has exited.
    """

    state: Literal["running", "exited", "lost"]
    returncode: int | None = None
    signal: str | None = None
    started: float | None = None
    ended: float | None = None


class Line(NamedTuple):
    """One line of a command's output. A named tuple, because millions of them are made.

    Attributes:
        source: "stdout" or "stderr".
        text: the line without its newline; trailing blanks are kept.
        host: the machine's name.
    """

    source: Literal["stdout", "stderr"]
    text: str
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine is.

    Attributes:
        system: kernel name, as "Linux".
        release: kernel release.
        machine: hardware name, as "x86_64".
        hostname: what the machine calls itself.
        user: the login's name.
        uid: its number, -1 where there is none.
        home: its home directory.
        shell: its login shell.
        python: path of the first Python 3 found, None where there is none.
        cpu_count: processors online, at least 1.
    """

    system: str
    release: str
    machine: str
    hostname: str
    user: str
    uid: int
    home: str
    shell: str
    python: str | None
    cpu_count: int


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One far process.

    Attributes:
        pid: process id.
        uid: numeric user id of its owner.
        state: the first letter of ps's state column, as "S" or "R".
        args: the command line, as ps shows it.
    """

    pid: int
    uid: int
    state: str
    args: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What is known of a file. The names are those of `os.stat_result`.

    Attributes:
        st_mode: type and permissions; its type bits are 0 where the far side does not tell the type.
        st_size: bytes.
        st_uid, st_gid: owner and group by number, -1 where the far side does not tell.
        st_atime_ns, st_mtime_ns, st_ctime_ns: nanoseconds since the epoch by the far clock, 0 where not told. SFTP
            tells whole seconds of the first two.
        st_ino, st_dev, st_nlink: 0 where not told, as over SFTP.
    """

    st_mode: int
    st_size: int
    st_uid: int = -1
    st_gid: int = -1
    st_atime_ns: int = 0
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0
    st_ino: int = 0
    st_dev: int = 0
    st_nlink: int = 0

    @property
    def st_atime(self) -> float:
        """The last access, in seconds."""
        return self.st_atime_ns / 1e9

    @property
    def st_mtime(self) -> float:
        """The last change of the content, in seconds."""
        return self.st_mtime_ns / 1e9

    @property
    def st_ctime(self) -> float:
        """The last change of the content or of the attributes, in seconds."""
        return self.st_ctime_ns / 1e9

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.st_mode)

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.st_mode)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.st_mode)


class FileEntry(NamedTuple):
    """One entry of a directory.

    Attributes:
        name: exactly as the file system has it.
        stat: of the entry itself: a link is not followed.
    """

    name: bytes
    stat: FileStat


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress:
    """How far a transfer has come.

    Attributes:
        path: what was written last, below the target; "" for a single file.
        done_bytes: bytes handed to the target.
        total_bytes: bytes found so far; all of them for a single file, and for a tree once it has been walked.
        files_done: files that stand complete at the target.
        files_total: files found so far, in the same way.
    """

    path: str
    done_bytes: int
    total_bytes: int
    files_done: int
    files_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What a transfer has done.

    Attributes:
        files: regular files written.
        bytes: their bytes.
        elapsed: seconds.
        engine: how the far side was reached: "sftp", "local" …; joined by "+" from machine to machine.
        skipped: paths below the target that were left out, each with the reason: sockets, pipes and devices, and
            links that lead out of a tree that came from a far side.
    """

    files: int
    bytes: int
    elapsed: float
    engine: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What a sync has done, or would do. Paths are below the two directories.

    Attributes:
        sent: files and links that were written, sorted.
        deleted: what was removed from the target, sorted; a directory with all that was in it is one.
        unchanged: the number of files and links that were as they should be.
        bytes: of the files sent; of one that was sent by its differences, only what differs.
        elapsed: seconds.
        engine: as in `TransferReport`.
        skipped: as in `TransferReport`.
        dry_run: whether nothing was done.
    """

    sent: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    bytes: int
    elapsed: float
    engine: str
    skipped: tuple[tuple[str, str], ...] = ()
    dry_run: bool = False
