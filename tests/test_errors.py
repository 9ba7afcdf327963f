"""The tree of errors: as its docstring draws it, with the builtins it promises, and each whole after pickling."""

import asyncio
import builtins
import copy
import errno
import io
import os
import pickle
import re
import subprocess
from collections.abc import Callable

import pytest

import aioremote
from aioremote import errors
from aioremote.errors import (
    AddressError,
    AuthenticationError,
    BootstrapError,
    BusyError,
    CallTimeout,
    ChecksumMismatch,
    CommandError,
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    CommandTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FileChanged,
    FileError,
    FleetError,
    HostKeyError,
    OutputLimitExceeded,
    PythonNotFound,
    PythonTooOld,
    RemoteError,
    RemoteException,
    SessionEnded,
    TransferError,
    TunnelRefused,
    UnsafePathError,
    WorkerDied,
    file_error,
)
from aioremote.fleet.report import Outcome, Report
from aioremote.types import PartialResult, Result

PARTIAL = PartialResult(args=("tail", "-F"), host="web1", elapsed=1.5, stdout_bytes=b"so far\xff\n", stderr_bytes=b"e")
RESULT = Result(args=("false",), host="web1", elapsed=0.1, stdout_bytes=b"out\n", stderr_bytes=b"err\n", returncode=3)
KILLED = Result(args=("cat", "a b"), host="web1", elapsed=0.1, returncode=-9, signal="KILL")


def host_key_error() -> HostKeyError:
    error = HostKeyError("changed", host="web1", presented="SHA256:a", expected=["SHA256:b", "SHA256:c"])
    error.other_algorithms = ("ssh-ed25519",)
    return error


def remote_exception() -> RemoteException:
    error = RemoteException("division by zero", host="web1")
    error.type_name, error.remote_traceback = "builtins.ZeroDivisionError", "Traceback …"
    return error


def fleet_error() -> FleetError:
    outcomes: list[Outcome[Result]] = [
        Outcome.of_value("web1", 0, value=RESULT),
        Outcome.of_error("web2", 1, error=CommandFailed(RESULT), value=RESULT),
        Outcome.of_error("web3", 2, error=ConnectTimeout("too late", host="web3")),
    ]
    with pytest.raises(FleetError) as caught:
        Report(outcomes).raise_for_failures()
    return caught.value


MADE: list[Callable[[], RemoteError]] = [
    lambda: ConnectError("refused", host="web1", retryable=True),
    lambda: ConnectionLost("lost", host="web1", outcome="not_started", reason="reset", cmd=["a"], result=PARTIAL),
    lambda: CommandError("no", host="web1", cmd=("a", "b")),
    lambda: CommandFailed(RESULT),
    lambda: CommandKilled(KILLED),
    lambda: CommandTimeout("late", host="web1", cmd=["a"], timeout=2.5, result=PARTIAL),
    lambda: CommandNotFound(["python3", "python"], host="web1", cmd=["python3"], path=["/bin", "/usr/bin"]),
    lambda: OutputLimitExceeded("much", host="web1", cmd=["a"], limit_bytes=10, result=PARTIAL),
    *(
        lambda kind=kind: kind("no", host="web1", stderr="e", noise="n", tried=["python3: Python 2.7"])
        for kind in (BootstrapError, PythonNotFound, PythonTooOld)
    ),
    lambda: WorkerDied("died", host="web1", returncode=-9, signal="KILL", stderr="out of memory"),
    lambda: CallTimeout("slow", host="web1", timeout=2.5),
    lambda: SessionEnded("ended", host="web1", cmd=["sh"], returncode=-9, signal="KILL", result=PARTIAL),
    host_key_error,
    remote_exception,
    fleet_error,
    *(
        lambda kind=kind: kind("no", host="web1", path="a/b")
        for kind in (TransferError, ChecksumMismatch, FileChanged, UnsafePathError)
    ),
    lambda: FileError("broken", host="web1", errno=errno.EIO, filename="/far/file"),
    *(
        lambda number=number: file_error(number, "/far/file", host="web1")  # type: ignore[misc]
        for number in (errno.ENOENT, errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
    ),
]


def kinds() -> list[type[RemoteError]]:
    """Return every public error."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [kind for kind in found if isinstance(kind, type)]


def whole(error: BaseException) -> dict[str, object]:
    """Return what must be the same after a journey; values that compare by identity as what they hold."""
    attributes = {**vars(error)}
    if isinstance(error, OSError):
        attributes |= {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
    if isinstance(error, BaseExceptionGroup):
        attributes["exceptions"] = [whole(part) for part in error.exceptions]
        report = attributes.pop("report")
        assert isinstance(report, Report)
        attributes["outcomes"] = [
            (item.host, item.state, item.value, item.error and whole(item.error)) for item in report.outcomes
        ]
    args = error.args[:1] if isinstance(error, BaseExceptionGroup) else error.args
    return {"type": type(error), "str": str(error), "args": args, **attributes}


@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("make", MADE)
def test_an_error_is_whole_after_pickling(
    make: Callable[[], RemoteError], travel: Callable[[RemoteError], RemoteError]
) -> None:
    error = make()
    error.add_note("first note")
    error.add_note("second note")
    error.host = "as-given"
    again = travel(error)
    assert whole(again) == whole(error)
    assert again.__notes__ == ["first note", "second note"]
    assert whole(travel(again)) == whole(error)


def test_every_public_error_is_pickled_above_or_has_nothing_of_its_own() -> None:
    made = {type(make()) for make in MADE}
    for kind in set(kinds()) - made:
        error = kind("text", host="web1")
        assert whole(pickle.loads(pickle.dumps(error))) == whole(error)
        assert set(vars(error)) <= {"host", "retryable", "cmd"}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_will_do(protocol: int) -> None:
    stream = io.BytesIO()
    pickle.dump(CommandFailed(RESULT), stream, protocol)
    assert pickle.loads(stream.getvalue()).result == RESULT


# --- the tree ---------------------------------------------------------------------------------------------------------


def drawn() -> dict[str, tuple[str | None, str]]:
    """Return name -> (parent, remark) as the docstring of the module draws the tree."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str | None, str]] = {}
    parents: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        found = re.fullmatch(r"    (?P<bars>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: +(?P<remark>.*))?", line)
        if found:
            depth = len(found["bars"]) // 4
            tree[found["name"]] = (parents.get(depth - 1), found["remark"] or "")
            parents[depth] = found["name"]
    return tree


def test_the_docstring_draws_every_class_in_its_place() -> None:
    tree = {kind.__name__: kind for kind in kinds()}
    assert list(drawn()) != sorted(drawn())
    assert set(drawn()) == set(tree)
    for name, (parent, _) in drawn().items():
        ours = [base for base in tree[name].__bases__ if issubclass(base, RemoteError)]
        assert [base.__name__ for base in ours] == ([] if parent is None else [parent])


def test_the_docstring_names_every_builtin_that_is_a_base() -> None:
    named = {"subprocess.CalledProcessError": subprocess.CalledProcessError, **vars(builtins)}
    bases = {name: re.findall(r"[\w.]*[A-Z]\w+", remark.split(": ")[0]) for name, (_, remark) in drawn().items()}
    shown = {name: [named[word] for word in words if word in named] for name, words in bases.items()}
    for kind in set(kinds()) - {RemoteError}:
        foreign = [base for base in kind.__bases__ if not issubclass(base, RemoteError)]
        assert shown[kind.__name__] == foreign


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConnectError, ConnectionError),
        (AddressError, ValueError),
        (AddressError, ConnectionError),
        (ConfigError, ConnectionError),
        (HostKeyError, ConnectionError),
        (AuthenticationError, ConnectionError),
        (ConnectTimeout, TimeoutError),
        (ConnectTimeout, asyncio.TimeoutError),
        (ConnectionLost, ConnectionError),
        (CommandFailed, subprocess.CalledProcessError),
        (CommandKilled, subprocess.CalledProcessError),
        (CommandTimeout, TimeoutError),
        (CommandNotFound, FileNotFoundError),
        (FileError, OSError),
        (TunnelRefused, ConnectionRefusedError),
        (FleetError, ExceptionGroup),
    ],
)
def test_errors_are_the_builtins_that_they_mirror(kind: type[RemoteError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, RemoteError)


def test_not_found_is_not_failed() -> None:
    assert not issubclass(CommandNotFound, CommandFailed)
    assert issubclass(CommandNotFound, CommandError)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "file_error"])
def test_every_error_is_exported_by_the_package(name: str) -> None:
    assert getattr(aioremote, name) is getattr(errors, name)
    assert name in aioremote.__all__


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_a_host_and_says_what_it_is_for(kind: type[RemoteError]) -> None:
    assert kind.host == ""
    assert kind.__doc__
    assert kind.__dict__.get("__doc__") is not None


# --- what they say ----------------------------------------------------------------------------------------------------


def test_a_failure_says_host_command_status_and_the_end_of_stderr() -> None:
    error = CommandFailed(RESULT)
    assert str(error) == "web1: false: exit status 3\nerr"
    assert (error.cmd, error.returncode, error.stdout, error.stderr, error.host) == (
        ["false"],
        3,
        "out\n",
        "err\n",
        "web1",
    )
    assert error.output == error.stdout
    long = Result(args=("x",), host="h", elapsed=0, stderr_bytes=b"a" * 5000 + b"the end\n", returncode=1)
    assert len(str(CommandFailed(long))) < 900
    assert str(CommandFailed(long)).endswith("the end")


def test_a_killed_command_says_by_what() -> None:
    error = CommandKilled(KILLED)
    assert str(error) == "web1: cat 'a b': killed by SIGKILL"
    assert (error.signal, error.returncode) == ("KILL", -9)


def test_a_missing_program_says_where_it_was_looked_for() -> None:
    error = CommandNotFound(["python3", "python"], host="web1", path=["/bin", "/usr/bin"])
    assert str(error) == "web1: no program 'python3' or 'python' (searched /bin:/usr/bin)"
    assert (error.program, error.programs, error.path) == ("python3", ("python3", "python"), ("/bin", "/usr/bin"))
    assert (error.errno, error.cmd) == (errno.ENOENT, ["python3", "python"])


@pytest.mark.parametrize(("name", "hint"), [("ls -l", True), ("/opt/my app/run", False), ("ls", False)])
def test_a_program_with_blanks_gets_a_hint_at_shell(name: str, hint: bool) -> None:
    assert ("shell()" in str(CommandNotFound([name]))) == hint


@pytest.mark.parametrize(
    ("number", "builtin"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EACCES, PermissionError),
        (errno.EPERM, PermissionError),
        (errno.EEXIST, FileExistsError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.EISDIR, IsADirectoryError),
        (errno.ENOSPC, OSError),
        (errno.ENAMETOOLONG, OSError),
    ],
)
def test_a_far_errno_is_the_matching_builtin_with_the_far_path(number: int, builtin: type[OSError]) -> None:
    """Promise 62, for the errors themselves."""
    error = file_error(number, "/far/file", host="web1")
    assert isinstance(error, FileError)
    assert isinstance(error, builtin)
    assert (error.errno, error.filename, error.host) == (number, "/far/file", "web1")
    assert str(error) == f"web1: /far/file: {os.strerror(number)}"
    assert str(file_error(number, "/far/file", host="web1", text="as told")) == "web1: /far/file: as told"


def test_a_fleet_error_can_be_split_and_keeps_its_report() -> None:
    error = fleet_error()
    timeouts, rest = error.split(ConnectTimeout)
    assert isinstance(timeouts, FleetError)
    assert isinstance(rest, FleetError)
    assert timeouts.report is rest.report is error.report
    assert [type(part) for part in rest.exceptions] == [CommandFailed]
    caught: list[BaseException] = []
    try:
        raise error
    except* ConnectTimeout as group:
        caught.append(group)
    except* CommandFailed as group:
        caught += group.exceptions
    assert isinstance(caught[0], FleetError)
    assert caught[1] is error.exceptions[0]
    assert str(error).startswith("2 of 3 hosts failed: web[2-3]")


def test_the_plain_ones_take_a_message_and_a_host() -> None:
    error = BusyError("one at a time", host="web1")
    assert (str(error), error.host, error.args) == ("one at a time", "web1", ("one at a time",))
    assert str(RemoteError.__new__(RemoteError)) == ""


def test_a_servers_words_are_harmless_in_a_message_and_exact_beside_it() -> None:
    """Promise 110: the name of a signal, as every other text, is the server's."""
    error = CommandKilled(Result(args=("x",), host="web1", elapsed=0.1, returncode=-99, signal="K\x1b[2J\u202e"))
    assert str(error) == r"web1: x: killed by SIGK\x1b[2J\u202e"
    assert error.signal == "K\x1b[2J\u202e"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(RemoteError("a\udcff\nb", host="web1")) == "a\\udcff\nb"
