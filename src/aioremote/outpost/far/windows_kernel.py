"""What the outposts of Windows ask its kernel for: jobs, whose processes end together, and pipes to be waited for.

The floor imports this everywhere; it is of use on Windows alone. Not for named pipes, which are the daemon's.
"""

import ctypes
import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CREATE_NO_WINDOW",
    "CREATE_SUSPENDED",
    "FOREIGN",
    "Job",
    "ReadEnd",
    "new_pipe",
    "own_python",
    "resume",
]

FOREIGN: "Any" = ctypes  # with what only Windows has
KILL_ON_JOB_CLOSE = 0x2000  # Source: winnt.h, as all these
EXTENDED_LIMITS = 9
CREATE_SUSPENDED = 0x4
CREATE_NO_WINDOW = 0x08000000
INBOUND, OVERLAPPED, FIRST_INSTANCE = 0x1, 0x40000000, 0x80000
GENERIC_WRITE, OPEN_EXISTING = 0x40000000, 3
PIPE_BYTES = 65536
SUSPEND_RESUME = 0x0800
SET_QUOTA_AND_TERMINATE = 0x0101  # what a process is opened with that is to be put into a job


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, of which only the flags are used."""

    _fields_ = [
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priorities", ctypes.c_uint32 * 2),
        ("transfers", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    ]


class Job(object):
    """Processes that end together, with all that they start: at the latest when nobody holds this any more.

    Its only handle is here, so that the kernel ends them when this process dies, however it does.
    """

    def __init__(self) -> "None":
        self._kernel = _kernel()
        self._handle = self._kernel.CreateJobObjectW(None, None)
        if not self._handle or not self._limit(KILL_ON_JOB_CLOSE):
            raise _last_error("a job")

    def _limit(self, flags: "int") -> "bool":
        limits = _Limits(flags=flags)
        told = ctypes.byref(limits)
        handle = ctypes.c_void_p(self._handle)
        return bool(self._kernel.SetInformationJobObject(handle, EXTENDED_LIMITS, told, ctypes.sizeof(limits)))

    def add(self, pid: "int") -> "None":
        """Put in a process that waits for a word from here, so that it has started nothing yet."""
        process = _process(self._kernel, pid, SET_QUOTA_AND_TERMINATE)
        done = self._kernel.AssignProcessToJobObject(ctypes.c_void_p(self._handle), process)
        error = _last_error("process %d in a job" % pid)
        self._kernel.CloseHandle(process)
        if not done:
            raise error

    def end(self) -> "None":
        """End all its processes at once. May be called twice."""
        if self._handle:
            self._kernel.TerminateJobObject(ctypes.c_void_p(self._handle), 1)
            self._close()

    def release(self) -> "None":
        """Let its processes be, as far as no other job has them."""
        if self._handle:
            self._limit(0)
            self._close()

    def _close(self) -> "None":
        self._kernel.CloseHandle(ctypes.c_void_p(self._handle))
        self._handle = None


def resume(pid: "int") -> "None":
    """Let a process run that was started suspended."""
    kernel = _kernel()
    process = _process(kernel, pid, SUSPEND_RESUME)
    status = FOREIGN.WinDLL("ntdll").NtResumeProcess(process)
    kernel.CloseHandle(process)
    if status:
        raise OSError("process %d cannot run: status %#x" % (pid, status & 0xFFFFFFFF))


class ReadEnd(object):
    """Our end of a pipe that somebody else writes to.

    Its handle is an overlapped one: with any other, to look while a thread waits would wait too.
    """

    def __init__(self, handle: "int") -> "None":
        self._handle = handle
        self._waiting: "Any" = None

    def wait(self) -> "bool":
        """Wait until there is something to read; False where nobody can write there any more, or after `cancel`.

        A read of no bytes is what waits: so the bytes stay where they are for who reads them.
        """
        try:
            self._waiting, _ = _api().ReadFile(self._handle, 0, overlapped=True)
            return int(self._waiting.GetOverlappedResult(True)[1]) == 0
        except OSError:
            return False

    def cancel(self) -> "None":
        """End the wait of another thread."""
        if self._waiting is not None:
            self._waiting.cancel()

    def count(self) -> "int":
        """Return how many bytes can be read without waiting, -1 where no more will come."""
        try:
            return int(_api().PeekNamedPipe(self._handle, 0)[0])
        except OSError:
            return -1

    def read(self, count: "int") -> "bytes":
        """Read bytes that are there."""
        reading, _ = _api().ReadFile(self._handle, count, overlapped=True)
        reading.GetOverlappedResult(True)
        return bytes(reading.getbuffer())

    def close(self) -> "None":
        """Give it up; nothing may wait."""
        _api().CloseHandle(self._handle)


def new_pipe() -> "tuple[ReadEnd, int]":
    """Return both ends of a pipe: ours, and a descriptor to be handed on and closed."""
    api = _api()
    crt: "Any" = import_module("msvcrt")
    name = r"\\.\pipe\aioremote-%d-%s" % (os.getpid(), os.urandom(16).hex())
    ours = api.CreateNamedPipe(name, INBOUND | FIRST_INSTANCE | OVERLAPPED, 0, 1, PIPE_BYTES, PIPE_BYTES, 0, 0)
    theirs = api.CreateFile(name, GENERIC_WRITE, 0, 0, OPEN_EXISTING, 0, 0)
    api.ConnectNamedPipe(ours, overlapped=True).GetOverlappedResult(True)
    return ReadEnd(ours), int(crt.open_osfhandle(theirs, 0))


def own_python() -> "tuple[str, dict[str, str]]":
    """Return what a process of this Python is started by: program and environment.

    The program of a virtual environment would be a starter, and Python a child of it that nobody here knows.
    """
    program = str(getattr(sys, "_base_executable", None) or sys.executable)
    environment = dict(os.environ)
    if program != sys.executable:
        environment["__PYVENV_LAUNCHER__"] = sys.executable  # by this, Python finds the environment
    return program, environment


def _kernel() -> "Any":
    kernel = FOREIGN.WinDLL("kernel32", use_last_error=True)
    for name in ("CreateJobObjectW", "OpenProcess"):
        getattr(kernel, name).restype = ctypes.c_void_p
    return kernel


def _process(kernel: "Any", pid: "int", access: "int") -> "ctypes.c_void_p":
    process = kernel.OpenProcess(access, 0, pid)
    if not process:
        raise _last_error("process %d" % pid)
    return ctypes.c_void_p(process)


def _api() -> "Any":
    return import_module("_winapi")  # which multiprocessing uses too


def _last_error(about: "str") -> "OSError":
    error: "OSError" = FOREIGN.WinError(FOREIGN.get_last_error())
    error.filename = about
    return error
