"""What the type checkers are to know of errors, and of what they carry. Checked, never run."""

import subprocess
from typing import Any, Literal, assert_type

from aioremote import (
    AddressError,
    CommandError,
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    CommandTimeout,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FileError,
    FileMissing,
    FleetError,
    HostKeyError,
    Machine,
    OutputLimitExceeded,
    PartialResult,
    RemoteError,
    RemoteException,
    Report,
    Result,
    TunnelRefused,
)
from aioremote.errors import file_error


async def commands(m: Machine) -> None:
    try:
        await m.run("ls")
    except CommandKilled as error:
        assert_type(error.signal, str | None)
    except CommandFailed as error:
        assert_type(error.result, Result)
        assert_type(error.cmd, list[str])
        assert_type(error.returncode, int)
    except CommandTimeout as error:
        assert_type(error.result, PartialResult | None)
        assert_type(error.timeout, float)
    except CommandNotFound as error:
        assert_type(error.program, str)
        assert_type(error.path, tuple[str, ...])
    except OutputLimitExceeded as error:
        assert_type(error.limit_bytes, int)
    except CommandError as error:
        assert_type(error.cmd, list[str])


async def connections(m: Machine) -> None:
    try:
        await m.connect()
    except HostKeyError as error:
        assert_type(error.presented, str)
        assert_type(error.expected, tuple[str, ...])
    except ConnectError as error:
        assert_type(error.retryable, bool)
    except ConnectionLost as error:
        assert_type(error.outcome, Literal["not_started", "unknown", "finished"])
        assert_type(error.result, PartialResult | None)
    except RemoteException as error:
        assert_type(error.remote_traceback, str)
    except FileError as error:
        assert_type(error, FileError)
    except RemoteError as error:
        assert_type(error.host, str)


def builtins(
    failed: CommandFailed, address: AddressError, timeout: ConnectTimeout, missing: FileMissing, refused: TunnelRefused
) -> None:
    process: subprocess.CalledProcessError = failed
    value: ValueError = address
    late: TimeoutError = timeout
    absent: FileNotFoundError = missing
    no: ConnectionRefusedError = refused
    connection: ConnectionError = address
    assert all((process, value, late, absent, no, connection))
    assert_type(file_error(2, "/far"), FileError)


def fleets(error: FleetError) -> None:
    assert_type(error.exceptions, tuple[Exception | ExceptionGroup[Exception], ...])
    assert_type(error.report, Report[Any])
    group: ExceptionGroup[Exception] = error
    assert_type(group.message, str)
