"""What the outposts of Windows ask its kernel for: jobs, whose processes end together, and when a pipe can be read.

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
    "own_python",
    "resume",
    "wait_readable",
    "waiting_bytes",
]

FOREIGN: "Any" = ctypes  # with what only Windows has
KILL_ON_JOB_CLOSE = 0x2000  # Source: winnt.h, as all these
EXTENDED_LIMITS = 9
CREATE_SUSPENDED = 0x4
CREATE_NO_WINDOW = 0x08000000
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


def wait_readable(fd: "int") -> "bool":
    """Wait until a pipe has something to read; False where nobody can write to it any more.

    A read of no bytes is what waits: so the bytes stay where they are for who reads them.
    """
    count = ctypes.c_uint32()
    return bool(_kernel().ReadFile(_handle_of(fd), ctypes.byref(count), 0, ctypes.byref(count), None))


def waiting_bytes(fd: "int") -> "int":
    """Return how many bytes of a pipe can be read without waiting, -1 where no more will come."""
    count = ctypes.c_uint32()
    there = _kernel().PeekNamedPipe(_handle_of(fd), None, 0, None, ctypes.byref(count), None)
    return count.value if there else -1


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


def _handle_of(fd: "int") -> "ctypes.c_void_p":
    crt: "Any" = import_module("msvcrt")
    return ctypes.c_void_p(crt.get_osfhandle(fd))


def _last_error(about: "str") -> "OSError":
    error: "OSError" = FOREIGN.WinError(FOREIGN.get_last_error())
    error.filename = about
    return error
