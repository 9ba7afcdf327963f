"""Everything that aioremote raises, in one tree.

Not for wrong arguments (``ValueError`` and ``TypeError``, before anything is sent) nor for byte streams (anyio's own
``EndOfStream``, ``ClosedResourceError``, ``BrokenResourceError``). The tree::

    RemoteError                         .host
    ├── ConnectError                    ConnectionError: no connection came about, nothing ran
    │   ├── AddressError                ValueError: the address itself cannot be used
    │   ├── ConfigError                 ssh_config or key files that cannot be used
    │   ├── HostKeyError                the server's key is unknown, changed or revoked
    │   ├── AuthenticationError         the server refused every credential that was offered
    │   └── ConnectTimeout              TimeoutError
    ├── ConnectionLost                  ConnectionError: .outcome, .reason, .cmd, .result (partial)
    ├── CommandError                    .cmd
    │   ├── CommandFailed               subprocess.CalledProcessError: .result, .returncode, .stdout, .stderr
    │   │   └── CommandKilled           ended by a signal: .signal
    │   ├── CommandTimeout              TimeoutError: .result (partial), .timeout
    │   ├── CommandNotFound             FileNotFoundError: .program, .programs, .path
    │   ├── OutputLimitExceeded         .result (partial), .limit_bytes
    │   └── SessionEnded                .result (partial), .returncode, .signal
    ├── FileError                       OSError with errno and the far path; also the matching builtin
    │   ├── FileMissing                 FileNotFoundError
    │   ├── FileForbidden               PermissionError
    │   ├── FileInTheWay                FileExistsError
    │   ├── NotAFolder                  NotADirectoryError
    │   └── IsAFolder                   IsADirectoryError
    ├── TransferError                   a file or tree did not arrive
    │   ├── UnsafePathError             ValueError: a name or link of the source that could lead out of the target
    │   ├── ChecksumMismatch            what arrived is not what was sent
    │   └── FileChanged                 the source changed while it was read
    ├── TunnelError                     a tunnel or a connection through a machine
    │   ├── TunnelRefused               ConnectionRefusedError
    │   └── TunnelPortError             ValueError: no port, and no path
    ├── BootstrapError                  the far Python did not come up: .stderr, .noise, .tried
    │   ├── PythonNotFound              none of the names looked for is a Python
    │   └── PythonTooOld                there are some, all older than 3.6
    ├── RemoteException                 the far Python raised: .type_name, .remote_traceback
    │   └── RemoteValueError            ValueError: a result that cannot travel
    ├── ShipError                       code that cannot travel
    ├── CallTimeout                     TimeoutError: .timeout
    ├── WorkerDied                      the far worker process ended in a call: .returncode, .signal, .stderr
    ├── ClosedError                     used after it was closed
    │   └── ForkedConnection            used in a forked process, which has no part in it
    ├── BusyError                       one at a time, and there is one already
    ├── UnsupportedError                this transport cannot do that
    └── FleetError                      an ExceptionGroup of the hosts' errors: .report

One module, since the tree is one thing to look up. Every error pickles whole:
``pickle.loads(pickle.dumps(e))`` has the same type, message and attributes.
"""

from __future__ import annotations

import errno as errno_module
import os
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from aioremote.escape import escaped

if TYPE_CHECKING:
    from typing import Self

    from aioremote.fleet.report import Report
    from aioremote.types import PartialResult, Result

__all__ = [
    "AddressError", "AuthenticationError", "BootstrapError", "BusyError", "CallTimeout", "ChecksumMismatch",
    "ClosedError", "CommandError", "CommandFailed", "CommandKilled", "CommandNotFound", "CommandTimeout",
    "ConfigError", "ConnectError", "ConnectTimeout", "ConnectionLost", "FileChanged", "FileError", "FileForbidden",
    "FileInTheWay", "FileMissing", "FleetError", "ForkedConnection", "HostKeyError", "IsAFolder", "NotAFolder",
    "OutputLimitExceeded", "PythonNotFound", "PythonTooOld", "RemoteError", "RemoteException", "RemoteValueError",
    "SessionEnded", "ShipError", "TransferError", "TunnelError", "TunnelPortError", "TunnelRefused",
    "UnsafePathError", "UnsupportedError", "WorkerDied", "file_error",
]  # fmt: skip

_Outcome = Literal["not_started", "unknown", "finished"]
_SHOWN_BYTES = 800  # of stderr in a message; the whole of it is on the error's result


def _rebuild(cls: type[Exception], args: tuple[object, ...], state: dict[str, object]) -> Exception:
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class RemoteError(Exception):
    r"""Base of everything that aioremote raises.

    Its text may hold what a far side said. ``str(error)`` shows that harmlessly on a terminal: what could move the
    cursor, ring, hide or reorder is written out (``\x1b``). ``args`` and the attributes are exact.

    Attributes:
        host: the name or address that the machine was given, "" when no machine is involved.
    """

    host: str = ""

    def __init__(self, message: str, *, host: str = "") -> None:
        Exception.__init__(self, message)  # not super(): the builtin bases have constructors of their own
        self.host = host

    def __str__(self) -> str:
        return escaped(str(self.args[0])) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, _state(self))


def _state(error: RemoteError) -> dict[str, object]:
    state = dict(error.__dict__)
    if isinstance(error, OSError):  # kept in C slots, outside __dict__
        state |= {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
    return state


class ConnectError(RemoteError, ConnectionError):
    """No connection came about; nothing ran.

    Attributes:
        retryable: True where the server dropped the connection before authentication, as one does that is asked by many
            at once: a later try may do better. Never for a refused port or a refused credential.
    """

    retryable: bool = False

    def __init__(self, message: str, *, host: str = "", retryable: bool = False) -> None:
        super().__init__(message, host=host)
        self.retryable = retryable


class AddressError(ConnectError, ValueError):
    """The host name, user, port or address cannot be used, or does not resolve."""


class ConfigError(ConnectError):
    """An ssh_config or key file cannot be read, parsed or unlocked."""


class HostKeyError(ConnectError):
    """The server's host key is unknown, changed or revoked. Nothing secret was sent.

    Attributes:
        presented: fingerprint of the key that the server showed, as "SHA256:…".
        expected: fingerprints that would have been accepted, in the order of the file; empty for an unknown host.
        other_algorithms: key types under which the host is known, where the presented key has another; else empty.
    """

    presented: str = ""
    expected: tuple[str, ...] = ()
    other_algorithms: tuple[str, ...] = ()

    def __init__(self, message: str, *, host: str = "", presented: str = "", expected: Sequence[str] = ()) -> None:
        super().__init__(message, host=host)
        self.presented = presented
        self.expected = tuple(expected)


class AuthenticationError(ConnectError):
    """The far side refused every credential that was offered. Never retried."""


class ConnectTimeout(ConnectError, TimeoutError):
    """The time ran out before a connection was ready; nothing ran."""


class ConnectionLost(RemoteError, ConnectionError):
    """The link ended under an operation: no exit status, no signal, no result.

    Attributes:
        outcome: "not_started" (it cannot have run), "unknown" (it may have run, in part or whole) or "finished".
        reason: "keepalive", "closed", "reset" or "protocol".
        cmd: the far argv where there is one.
        result: the output so far, or None.
    """

    outcome: _Outcome = "unknown"
    reason: str = "closed"
    cmd: list[str]
    result: PartialResult | None = None

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        outcome: _Outcome = "unknown",
        reason: str = "closed",
        cmd: Sequence[str] = (),
        result: PartialResult | None = None,
    ) -> None:
        super().__init__(message, host=host)
        self.outcome = outcome
        self.reason = reason
        self.cmd = list(cmd)
        self.result = result


class CommandError(RemoteError):
    """A command did not do what was asked.

    Attributes:
        cmd: the far argv.
    """

    cmd: list[str]

    def __init__(self, message: str, *, host: str = "", cmd: Sequence[str] = ()) -> None:
        super().__init__(message, host=host)
        self.cmd = list(cmd)


def _tail(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN_BYTES else "…" + text[-_SHOWN_BYTES:]


class CommandFailed(CommandError, subprocess.CalledProcessError):
    """A command ended with a status that is not in ``ok_codes``.

    Attributes:
        result: the whole Result.
        cmd, returncode, stdout, stderr: as on ``subprocess.CalledProcessError``; text.
    """

    result: Result
    returncode: int
    output: str
    stderr: str

    def __init__(self, result: Result) -> None:
        stderr = _tail(result.stderr)
        how = f"killed by SIG{result.signal}" if result.signal else f"exit status {result.returncode}"
        message = f"{result.host}: {result.command_line}: {how}" + (f"\n{stderr}" if stderr else "")
        super().__init__(message, host=result.host, cmd=result.args)
        self.result = result
        self.returncode = result.returncode
        self.output = result.stdout
        self.stderr = result.stderr


class CommandKilled(CommandFailed):
    """A command was ended by a signal.

    Attributes:
        signal: its name without SIG, as "KILL".
    """

    @property
    def signal(self) -> str | None:
        """The signal's name without SIG."""
        return self.result.signal


class CommandTimeout(CommandError, TimeoutError):
    """A command ran out of time; its far process tree has been ended.

    Attributes:
        result: the output so far (no returncode).
        timeout: the seconds it was given.
    """

    result: PartialResult | None
    timeout: float

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        cmd: Sequence[str] = (),
        timeout: float = 0.0,
        result: PartialResult | None = None,
    ) -> None:
        super().__init__(message, host=host, cmd=cmd)
        self.timeout = timeout
        self.result = result


class CommandNotFound(CommandError, FileNotFoundError):
    """No such program on the far PATH. A program that itself exits with 127 is a CommandFailed instead.

    Attributes:
        program: the first name that was looked for.
        programs: all of them.
        path: the directories searched, in order.
    """

    program: str
    programs: tuple[str, ...]
    path: tuple[str, ...]

    def __init__(
        self, programs: Sequence[str], *, host: str = "", cmd: Sequence[str] = (), path: Sequence[str] = ()
    ) -> None:
        names = " or ".join(repr(name) for name in programs)
        hint = ""
        if any(" " in name.strip() and "/" not in name for name in programs):
            hint = "; arguments are given one by one, and a line of shell syntax goes through shell()"
        where = f" (searched {':'.join(path)})" if path else ""
        super().__init__(f"{host}: no program {names}{where}{hint}", host=host, cmd=cmd or list(programs))
        self.errno: int | None = errno_module.ENOENT
        self.program = programs[0]
        self.programs = tuple(programs)
        self.path = tuple(path)


class OutputLimitExceeded(CommandError):
    """A command wrote more than ``max_output_bytes``; its far process tree has been ended.

    Attributes:
        result: the output up to the limit (no returncode).
        limit_bytes: the limit, for stdout and stderr together.
    """

    result: PartialResult | None
    limit_bytes: int

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        cmd: Sequence[str] = (),
        limit_bytes: int = 0,
        result: PartialResult | None = None,
    ) -> None:
        super().__init__(message, host=host, cmd=cmd)
        self.limit_bytes = limit_bytes
        self.result = result


class SessionEnded(CommandError):
    """The shell of a session has ended under a line: by ``exit`` or ``exec``, by a signal, or by an error.

    Attributes:
        result: the output of that line (no returncode).
        returncode: the shell's own exit status; negative for a signal.
        signal: the signal's name without SIG, or None.
    """

    result: PartialResult | None
    returncode: int
    signal: str | None

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        cmd: Sequence[str] = (),
        returncode: int = 0,
        signal: str | None = None,
        result: PartialResult | None = None,
    ) -> None:
        super().__init__(message, host=host, cmd=cmd)
        self.returncode = returncode
        self.signal = signal
        self.result = result


class FileError(RemoteError, OSError):
    """A far file operation failed. Made by `file_error`, as the member that is also the matching builtin.

    Attributes:
        errno: the near platform's number for the far error.
        filename: the far path.
    """

    def __init__(self, message: str, *, host: str = "", errno: int = 0, filename: str = "") -> None:
        super().__init__(message, host=host)
        self.errno: int | None = errno
        self.strerror: str | None = message
        self.filename = filename


class FileMissing(FileError, FileNotFoundError):
    """No such far file or directory."""


class FileForbidden(FileError, PermissionError):
    """The far user may not do that."""


class FileInTheWay(FileError, FileExistsError):
    """The far file exists already."""


class NotAFolder(FileError, NotADirectoryError):
    """A directory was expected at the far path."""


class IsAFolder(FileError, IsADirectoryError):
    """A file was expected at the far path, and a directory is there."""


_BY_ERRNO: dict[int, type[FileError]] = {
    errno_module.ENOENT: FileMissing,
    errno_module.EACCES: FileForbidden,
    errno_module.EPERM: FileForbidden,
    errno_module.EEXIST: FileInTheWay,
    errno_module.ENOTDIR: NotAFolder,
    errno_module.EISDIR: IsAFolder,
}


def file_error(number: int, path: str, *, host: str = "", text: str = "") -> FileError:
    """Return the FileError that stands for one errno at one far path.

    Args:
        number: the errno, in near numbering.
        path: the far path.
        host: the machine's name.
        text: what the far side said; the default is the near system's text for the number.
    """
    kind = _BY_ERRNO.get(number, FileError)
    return kind(f"{host}: {path}: {text or os.strerror(number)}", host=host, errno=number, filename=path)


class TransferError(RemoteError):
    """A file or a tree did not arrive; its target is as it was.

    Attributes:
        path: the file of the source, "" where it is no matter of one.
    """

    path: str = ""

    def __init__(self, message: str, *, host: str = "", path: str = "") -> None:
        super().__init__(message, host=host)
        self.path = path


class UnsafePathError(TransferError, ValueError):
    """A far side listed a name that could lead out of the target: `path`. Nothing outside of it was touched."""


class FileChanged(TransferError):
    """The source file `path` changed while it was read."""


class ChecksumMismatch(TransferError):
    """What arrived of the source file `path` is not what was sent."""


class TunnelError(RemoteError):
    """A tunnel, or a connection through a machine, did not come about or ended."""


class TunnelRefused(TunnelError, ConnectionRefusedError):
    """The far side could not connect to the target."""


class TunnelPortError(TunnelError, ValueError):
    """What was given for the end of a tunnel can be neither a port nor a path."""


class BootstrapError(RemoteError):
    """The Python at the far end did not come up. The message says which step failed, what was seen and what to try.

    Attributes:
        stderr: what the far end wrote on its standard error, the last of it.
        noise: what login files printed on standard output before Python spoke, the last 4 KiB.
        tried: the interpreters looked for and what each answered, as "python3: Python 2.7.18".
    """

    stderr: str = ""
    noise: str = ""
    tried: tuple[str, ...] = ()

    def __init__(
        self, message: str, *, host: str = "", stderr: str = "", noise: str = "", tried: Sequence[str] = ()
    ) -> None:
        super().__init__(message, host=host)
        self.stderr = stderr
        self.noise = noise
        self.tried = tuple(tried)


class PythonNotFound(BootstrapError):
    """None of the names that were looked for is a Python; `tried` has them. Nothing of ours was sent."""


class PythonTooOld(BootstrapError):
    """Every Python that was found is older than 3.6; `tried` has them. Nothing of ours was sent."""


class RemoteException(RemoteError):
    """Code at the far end raised. Where that was a builtin exception, this is one too: ``except FileNotFoundError``.

    What would steer the near program (KeyboardInterrupt, SystemExit, StopIteration, CancelledError …) never is. The
    text of the far traceback is the ``__cause__``, so that it is printed with this one.

    Attributes:
        type_name: the far exception's qualified name, as "json.decoder.JSONDecodeError"; builtins without a module.
        text: the far ``str(error)``.
        remote_args: its ``args``; what cannot travel as its ``repr``.
        remote_traceback: the far traceback as text, with causes and notes.
    """

    type_name: str = ""
    text: str = ""
    remote_args: tuple[object, ...] = ()
    remote_traceback: str = ""


class RemoteValueError(RemoteException, ValueError):
    """A result that cannot travel; the text says where in it what stands, as ``result['a'][3]``."""


class ShipError(RemoteError):
    """Code or a value that cannot travel to the far end; nothing was sent."""


class CallTimeout(RemoteError, TimeoutError):
    """A call ran out of time; its far worker has been ended.

    Attributes:
        timeout: the seconds it was given.
    """

    timeout: float = 0.0

    def __init__(self, message: str, *, host: str = "", timeout: float = 0.0) -> None:
        super().__init__(message, host=host)
        self.timeout = timeout


class WorkerDied(RemoteError):
    """The far worker process ended in the middle of a call.

    Attributes:
        returncode: its exit status; negative for a signal.
        signal: the signal's name without SIG, or None.
        stderr: the last it wrote to standard error, as text.
    """

    returncode: int = 0
    signal: str | None = None
    stderr: str = ""

    def __init__(
        self, message: str, *, host: str = "", returncode: int = 0, signal: str | None = None, stderr: str = ""
    ) -> None:
        super().__init__(message, host=host)
        self.returncode = returncode
        self.signal = signal
        self.stderr = stderr


class ClosedError(RemoteError):
    """A machine, process or stream was used after it was closed."""


class ForkedConnection(ClosedError):
    """A connection was used in a process that was forked from the one that has it. There it goes on unharmed."""


class BusyError(RemoteError):
    """Only one may use this at a time, and somebody does."""


class UnsupportedError(RemoteError):
    """This transport cannot do what was asked; nothing was sent."""


class FleetError(ExceptionGroup[Exception], RemoteError):
    """Some hosts of a fleet failed. ``exceptions`` holds one error a host, in the order given.

    Attributes:
        report: the whole report, from which every host's result can be reached.
    """

    report: Report[Any]  # Any: whatever the operation gave

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: Report[Any]) -> Self:
        """Make the group; `report` is kept as an attribute."""
        return super().__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception], report: Report[Any]) -> None:
        Exception.__init__(self, message, exceptions)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exceptions, self.report), _state(self)

    # The group's own signature promises any kind of exceptions; in here are hosts' errors.
    def derive(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, excs: Sequence[Exception]
    ) -> FleetError:
        """Return the same error over a part of the hosts (``split`` and ``except*`` call this)."""
        return FleetError(self.message, excs, self.report)
