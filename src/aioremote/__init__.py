"""Remote execution for asyncio: commands on one host or thousands, over any transport.

Start with `SshMachine`, `LocalMachine` and `Fleet`; errors are in `aioremote.errors`, seams in `aioremote.protocols`.

Names are imported when they are first used: importing this package costs next to nothing and loads no transport.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioremote.addresses import connect, register_transport
    from aioremote.commands.command import Command, Pipeline
    from aioremote.commands.jobs import Job
    from aioremote.errors import (
        AddressError,
        AuthenticationError,
        BootstrapError,
        BusyError,
        CallTimeout,
        ChecksumMismatch,
        ClosedError,
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
        FileForbidden,
        FileInTheWay,
        FileMissing,
        FleetError,
        ForkedConnection,
        HostKeyError,
        IsAFolder,
        NotAFolder,
        OutputLimitExceeded,
        PythonNotFound,
        PythonTooOld,
        RemoteError,
        RemoteException,
        RemoteValueError,
        SessionEnded,
        ShipError,
        TransferError,
        TunnelError,
        TunnelPortError,
        TunnelRefused,
        UnsafePathError,
        UnsupportedError,
        WorkerDied,
    )
    from aioremote.files.file import RemoteFile, RemoteTextFile
    from aioremote.files.path import RemotePath
    from aioremote.files.transfer import copy
    from aioremote.fleet import Fleet, Outcome, Report
    from aioremote.host_keys import HostKey, HostKeys, InsecureHostKeyWarning
    from aioremote.machine import Machine
    from aioremote.machines import (
        CommandMachine,
        DaemonMachine,
        DockerMachine,
        KubernetesMachine,
        LocalMachine,
        OpenSshMachine,
        PodmanMachine,
        SmbMachine,
        SshMachine,
    )
    from aioremote.protocols import FarProcess, PasswordProvider, PasswordRequest, Transport
    from aioremote.python.handles import Callback, Items
    from aioremote.python.interpreter import Interpreter, PythonSession
    from aioremote.python.proxies import RemoteObject
    from aioremote.transports.passwords import ask_once
    from aioremote.tunnels.tunnel import Tunnel
    from aioremote.types import (
        Address,
        Capability,
        Endpoint,
        Exit,
        Facts,
        FileStat,
        JobStatus,
        Line,
        PartialResult,
        ProcessInfo,
        Reconnect,
        Result,
        SyncReport,
        Terminal,
        TransferProgress,
        TransferReport,
    )

__version__ = "0.1.0.dev0"

__all__ = [
    "Address",
    "AddressError",
    "AuthenticationError",
    "BootstrapError",
    "BusyError",
    "CallTimeout",
    "Callback",
    "Capability",
    "ChecksumMismatch",
    "ClosedError",
    "Command",
    "CommandError",
    "CommandFailed",
    "CommandKilled",
    "CommandMachine",
    "CommandNotFound",
    "CommandTimeout",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "DaemonMachine",
    "DockerMachine",
    "Endpoint",
    "Exit",
    "Facts",
    "FarProcess",
    "FileChanged",
    "FileError",
    "FileForbidden",
    "FileInTheWay",
    "FileMissing",
    "FileStat",
    "Fleet",
    "FleetError",
    "ForkedConnection",
    "HostKey",
    "HostKeyError",
    "HostKeys",
    "InsecureHostKeyWarning",
    "Interpreter",
    "IsAFolder",
    "Items",
    "Job",
    "JobStatus",
    "KubernetesMachine",
    "Line",
    "LocalMachine",
    "Machine",
    "NotAFolder",
    "OpenSshMachine",
    "Outcome",
    "OutputLimitExceeded",
    "PartialResult",
    "PasswordProvider",
    "PasswordRequest",
    "Pipeline",
    "PodmanMachine",
    "ProcessInfo",
    "PythonNotFound",
    "PythonSession",
    "PythonTooOld",
    "Reconnect",
    "RemoteError",
    "RemoteException",
    "RemoteFile",
    "RemoteObject",
    "RemotePath",
    "RemoteTextFile",
    "RemoteValueError",
    "Report",
    "Result",
    "SessionEnded",
    "ShipError",
    "SmbMachine",
    "SshMachine",
    "SyncReport",
    "Terminal",
    "TransferError",
    "TransferProgress",
    "TransferReport",
    "Transport",
    "Tunnel",
    "TunnelError",
    "TunnelPortError",
    "TunnelRefused",
    "UnsafePathError",
    "UnsupportedError",
    "WorkerDied",
    "ask_once",
    "connect",
    "copy",
    "register_transport",
]

_HOMES = {
    "aioremote.commands.command": ("Command", "Pipeline"),
    "aioremote.commands.jobs": ("Job",),
    "aioremote.addresses": ("connect", "register_transport"),
    "aioremote.files.file": ("RemoteFile", "RemoteTextFile"),
    "aioremote.files.path": ("RemotePath",),
    "aioremote.files.transfer": ("copy",),
    "aioremote.fleet": ("Fleet", "Outcome", "Report"),
    "aioremote.host_keys": ("HostKey", "HostKeys", "InsecureHostKeyWarning"),
    "aioremote.machine": ("Machine",),
    "aioremote.machines": (
        "CommandMachine",
        "DaemonMachine",
        "DockerMachine",
        "KubernetesMachine",
        "LocalMachine",
        "OpenSshMachine",
        "PodmanMachine",
        "SmbMachine",
        "SshMachine",
    ),
    "aioremote.protocols": ("FarProcess", "PasswordProvider", "PasswordRequest", "Transport"),
    "aioremote.python.handles": ("Callback", "Items"),
    "aioremote.python.interpreter": ("Interpreter", "PythonSession"),
    "aioremote.python.proxies": ("RemoteObject",),
    "aioremote.transports.passwords": ("ask_once",),
    "aioremote.tunnels.tunnel": ("Tunnel",),
    "aioremote.types": (
        "Address",
        "Capability",
        "Endpoint",
        "Exit",
        "Facts",
        "FileStat",
        "JobStatus",
        "Line",
        "PartialResult",
        "ProcessInfo",
        "Reconnect",
        "Result",
        "SyncReport",
        "Terminal",
        "TransferProgress",
        "TransferReport",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF.get(name, "aioremote.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
