"""The process that workers are forked from: it holds nothing of the outpost, has one thread, and collects its children.

The outpost forks it once, when the first worker is needed, and talks to it over a socket: `ORDER` with descriptors to
start a worker, `NEWS` of one that has started or ended. Not for what a worker does (`worker`).
"""

import gc
import json
import os
import select
import signal
import socket
import struct
import sys

from .worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["ENDED", "NEWS", "ORDER", "STARTED", "complain", "fork_zygote", "renew_streams", "socket_on"]

ORDER = struct.Struct(">II")  # a token, and the length of the packages' names that follow
NEWS = struct.Struct(">cIi")  # kind; token and pid, or pid and status
STARTED = b"s"
ENDED = b"e"
DESCRIPTORS = 4  # queue, stream, stdout, stderr


def fork_zygote() -> "socket.socket":
    """Fork it and return the socket to it; the caller has one thread."""
    here, there = socket.socketpair()
    if os.fork():
        there.close()
        return here
    try:
        here.close()
        _keep_only(there.fileno())
        _Zygote(there).run()
    except BaseException:  # noqa: BLE001
        complain()
    finally:
        os._exit(0)


def _keep_only(kept: "int") -> "None":
    """Close what belongs to the outpost, and read and write nothing where its stream may be."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        numbers = list(range(3, min(65536, os.sysconf("SC_OPEN_MAX"))))
    for number in numbers:
        if number > 2 and number != kept:
            try:
                os.close(number)
            except OSError:
                pass


class _Zygote(object):
    """Forks workers on demand and tells of their ends."""

    def __init__(self, outpost: "socket.socket") -> "None":
        self._outpost = outpost
        self._data = b""
        self._descriptors: "list[int]" = []

    def run(self) -> "None":
        """Serve until the outpost is gone."""
        if hasattr(gc, "freeze"):
            gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _nothing)
        wake, self._woken = os.pipe()
        for fd in (wake, self._woken):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._woken)
        self._wake = wake
        while True:
            ready = select.select([self._outpost.fileno(), wake], [], [])[0]
            if wake in ready:
                os.read(wake, 4096)
                self._collect()
            if self._outpost.fileno() in ready and not self._take():
                return

    def _collect(self) -> "None":
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._outpost.sendall(NEWS.pack(ENDED, pid, status))

    def _take(self) -> "bool":
        """Read an order or a part of one; returns whether the outpost is still there."""
        size = socket.CMSG_SPACE(DESCRIPTORS * 4)
        data, extra, _, _ = self._outpost.recvmsg(65536, size)
        for level, kind, content in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(content) // 4
                self._descriptors += struct.unpack("%di" % count, content[: count * 4])
        self._data += data
        while len(self._data) >= ORDER.size:
            token, length = ORDER.unpack_from(self._data)
            if len(self._data) < ORDER.size + length:
                break
            names = self._data[ORDER.size : ORDER.size + length]
            self._data = self._data[ORDER.size + length :]
            descriptors, self._descriptors = self._descriptors[:DESCRIPTORS], self._descriptors[DESCRIPTORS:]
            self._fork(token, json.loads(names.decode()), descriptors)
        return bool(data)

    def _fork(self, token: "int", packages: "list[str]", descriptors: "list[int]") -> "None":
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if not pid:
            self._become_worker(packages, descriptors)
        for fd in descriptors:
            os.close(fd)
        self._outpost.sendall(NEWS.pack(STARTED, token, pid))

    def _become_worker(self, packages: "list[str]", descriptors: "list[int]") -> "NoReturn":
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            queue, stream, out, err = descriptors
            os.dup2(out, 1)
            os.dup2(err, 2)
            for fd in (out, err, self._wake, self._woken):
                os.close(fd)
            self._outpost.close()
            for fd in self._descriptors:
                os.close(fd)
            renew_streams()
            Worker(socket_on(queue), socket_on(stream), packages).run()
        except BaseException:  # noqa: BLE001  # a worker that cannot serve has to end
            complain()
        finally:
            os._exit(0)


def socket_on(fd: "int") -> "socket.socket":
    """Return a socket on a descriptor; Python 3.6 has to be told its type."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    kind = probe.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    probe.detach()
    return socket.socket(socket.AF_UNIX, kind, 0, fileno=fd)


def renew_streams() -> "None":
    """Give Python its standard streams anew: text in UTF-8 whatever the locale, each line when it is written."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def complain() -> "None":
    """Show what is being handled on the standard error."""
    import traceback

    traceback.print_exc()


def _nothing(number: "int", frame: "object") -> "None":
    """A signal with a handler wakes the loop; what has ended is then collected."""
