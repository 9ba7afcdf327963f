"""A daemon on Windows: the named pipe it listens on, and the processes of its sessions. Imported there alone.

The pipe is made here and not by asyncio's `start_serving_pipe`, which lets everybody on the network in who may log in:
ours has an access list, and is a stream of bytes. Not for what an outpost does there (`outpost.far.windows_outpost`).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import aioremote.outpost.far
from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import ConfigError
from aioremote.outpost.far.windows_handover import order
from aioremote.outpost.far.windows_kernel import CREATE_NO_WINDOW, FOREIGN, Job, own_python
from aioremote.transports.greeting import GREETING

__all__ = ["ACCESS", "Outpost", "PipeListener", "check_name"]

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

_log = logging.getLogger("aioremote.daemon")

ACCESS = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GRGW;;;OW)"
"""Who may open the pipe: the system, administrators, and who owns it, which is the daemon's user. Nobody inherits."""

WAITING = 4  # instances that wait for a client each
_BUFFER_BYTES = 65536
_DUPLEX, _OVERLAPPED, _FIRST_INSTANCE = 0x3, 0x40000000, 0x80000  # Source: winbase.h, as all these
_BYTES, _REJECT_REMOTE = 0x0, 0x8
_UNLIMITED = 255
_REVISION = 1
_END_SECONDS = 2.0
_PAUSE_SECONDS = 1.0
_NAME = re.compile(r"\\\\\.\\pipe\\[^\\/:*?\"<>|]{1,200}", re.IGNORECASE)
_START = """\
import os, sys
folder, entry = sys.argv[1:]
names = [name[:-3] for name in os.listdir(folder) if name.endswith(".py")]
sources = {name: open(os.path.join(folder, name + ".py"), encoding="utf-8").read() for name in names}
for name in ("children", "crew", "outputs", "pipes", "polling", "spawning", "supervisor"):
    sources[name] = "from .windows_%s import *" % name
stage1 = type(sys)("aioremote_outpost.stage1")
exec(compile(sources["stage1"], "aioremote/outpost/far/stage1.py", "exec"), stage1.__dict__)
sys.meta_path.insert(0, stage1.Sources(stage1.PACKAGE, sources, {}))
__import__(stage1.PACKAGE + "." + entry)
sys.modules[stage1.PACKAGE + "." + entry].main()
"""


def check_name(name: str) -> None:
    r"""Raise ConfigError where this is no pipe of this machine, as ``\\.\pipe\NAME``, or this is no Windows."""
    if os.name != "nt":  # not sys.platform, by which type checkers would skip the rest
        raise ConfigError(f"listen={name!r}: only Windows has named pipes; give ADDRESS:PORT, or a path")
    if not _NAME.fullmatch(name):
        raise ConfigError(rf"listen={name!r}: give a pipe of this machine, \\.\pipe\NAME")


class PipeListener:
    r"""A named pipe that clients are let in by, at several instances at once so that nobody else can take its name.

    Args:
        name: as ``\\.\pipe\NAME``.
        protocol: makes what a client's transport is given to.
        remote: whether clients of other machines, through SMB, may open it.
        spawn: starts a task.

    Raises:
        ConfigError: another process has this pipe, or the event loop cannot serve one.
    """

    def __init__(self, name: str, protocol: Callable[[], asyncio.Protocol], *, remote: bool, spawn: Spawn) -> None:
        self._name = name
        self._protocol = protocol
        self._kind = _BYTES | (0 if remote else _REJECT_REMOTE)
        self._loop: Any = asyncio.get_running_loop()
        if not isinstance(self._loop, import_module("asyncio").ProactorEventLoop):
            raise ConfigError(f"listen={name!r}: this needs asyncio's usual loop for Windows, ProactorEventLoop")
        self._descriptor = _descriptor(ACCESS)
        self._waiting: list[Any] = [self._first()]
        self._waiting += [self._made() for _ in range(WAITING - 1)]
        self._tasks = [spawn(self._accept(), "pipe") for _ in range(WAITING)]

    def _first(self) -> Any:
        taken = f"listen={self._name!r}: another process has this pipe"
        if _exists(self._name):
            raise ConfigError(taken)
        try:
            return self._made(_FIRST_INSTANCE)
        except PermissionError as error:
            raise ConfigError(taken) from error

    def _made(self, flag: int = 0) -> Any:
        security = _Security(ctypes.sizeof(_Security), self._descriptor, 0)
        told = ctypes.addressof(security)
        mode, size = _DUPLEX | _OVERLAPPED | flag, _BUFFER_BYTES
        handle = _api().CreateNamedPipe(self._name, mode, self._kind, _UNLIMITED, size, size, 0, told)
        return import_module("asyncio.windows_utils").PipeHandle(handle)

    async def _accept(self) -> None:
        """Let one client in after the other, until cancelled."""
        while True:
            try:
                pipe = self._waiting.pop() if self._waiting else self._made()
            except OSError as error:  # no handle is left, say: who waits is let in later
                _log.warning("cannot accept: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            try:
                await self._loop._proactor.accept_pipe(pipe)  # the loop's only way to its port
            except OSError:  # a client that has left again
                pipe.close()
                continue
            except BaseException:
                pipe.close()
                raise
            self._loop._make_duplex_pipe_transport(pipe, self._protocol(), extra={"addr": self._name})

    def close(self) -> None:
        """Let no one in any more."""
        for task in self._tasks:
            task.cancel()
        while self._waiting:
            self._waiting.pop().close()


class _Security(ctypes.Structure):
    """SECURITY_ATTRIBUTES."""

    _fields_ = (("size", ctypes.c_uint32), ("descriptor", ctypes.c_void_p), ("inherit", ctypes.c_int))


def _descriptor(text: str) -> ctypes.c_void_p:
    """Return a security descriptor, which lives as long as the process."""
    made = ctypes.c_void_p()
    convert = FOREIGN.WinDLL("advapi32", use_last_error=True).ConvertStringSecurityDescriptorToSecurityDescriptorW
    if not convert(text, _REVISION, ctypes.byref(made), None):
        raise FOREIGN.WinError(FOREIGN.get_last_error())
    return made


def _exists(name: str) -> bool:
    try:
        _api().WaitNamedPipe(name, 1)
    except FileNotFoundError:
        return False
    except OSError:  # all its instances are taken
        return True
    return True


def _api() -> Any:
    return import_module("_winapi")  # which multiprocessing uses too


class Outpost:
    """The process that serves one client, in a job: its end is the end of all that it has started."""

    def __init__(self, process: asyncio.subprocess.Process, job: Job) -> None:
        self._process = process
        self._job = job

    @classmethod
    async def start(cls, far: Any, options: dict[str, float]) -> Outpost:
        """Start it; it speaks over the socket `far`, of which it gets a copy."""
        folder = str(Path(aioremote.outpost.far.__file__).parent)
        program, environment = own_python()
        process = await asyncio.create_subprocess_exec(
            program, "-B", "-c", _START, folder, "windows_outpost",
            env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL, creationflags=CREATE_NO_WINDOW,
        )  # fmt: skip
        assert process.stdin is not None
        outpost = None
        try:
            outpost = cls(process, Job())
            outpost._job.add(process.pid)
            process.stdin.write(order(process.pid, [far], greeting=GREETING, options=options))
            process.stdin.close()
        except BaseException:
            process.kill()
            await bounded_cleanup(process.wait(), _END_SECONDS)
            raise
        return outpost

    async def wait(self) -> None:
        """Wait for its end, and end what it has left behind."""
        await self._process.wait()
        self._job.end()

    def kill(self) -> None:
        """End it with all that it has started, as far as that has not ended."""
        self._job.end()
