"""A worker: a process that runs one call at a time, in its main thread.

Small calls come one by one through a queue that the outpost can take back from; a pinned worker gets everything over
its stream. What calls mean is in `running`; who starts workers, in `zygote`.
"""

import os
import select
import signal
import socket
import struct
import sys
from _thread import allocate_lock

from . import running
from .packets import CALL, CREDIT, DEFINE, ERROR, HEAD, ITEM, MODULE, PIN, QUESTION, RESULT, STOP, UNPIN
from .sections import join, split
from .surroundings import Surroundings
from .values import pack_up, unpack_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    _Buffer: "TypeAlias" = "bytes | bytearray | memoryview"

__all__ = ["Cancelled", "Worker"]

READ_BYTES = 262144
MAX_CALL_BYTES = 131072  # in the queue
RIGHTS = struct.Struct("2i")  # descriptors for 1 and 2 that may come with PIN
HIGH_FD = 700  # where functions that close everything do not look
ITEMS_AHEAD = 16


class Cancelled(BaseException):
    """The near end wants this call no more."""


class Worker(object):
    """The worker that this process is.

    Args:
        queue: small calls, one message each.
        stream: packets both ways.
        packages: what may be imported from the near end.
    """

    def __init__(self, queue: "socket.socket", stream: "socket.socket", packages: "list[str]") -> "None":
        self._queue = _moved(queue)
        self._stream = _moved(stream)
        self._pid = os.getpid()
        self._read = b""  # from the stream, not used yet
        self._busy = False
        self._number = 0
        self._runner = running.Runner(self, packages)
        self._credit = 0
        self._stopped = False
        self._asking = allocate_lock()

    def run(self) -> "None":
        """Serve until the outpost is gone, or wants this worker no more."""
        signal.signal(signal.SIGINT, self._on_cancel)
        untouched = Surroundings()
        while True:
            message, extra, _, _ = self._queue.recvmsg(MAX_CALL_BYTES, socket.CMSG_SPACE(RIGHTS.size))
            if not message:
                return
            _, number, kind = HEAD.unpack_from(message)
            if kind == PIN:
                for _, _, content in extra:
                    _redirect(*RIGHTS.unpack(content))
                    untouched = Surroundings()
                self._run_pinned()
            else:
                self._call(number, memoryview(message)[HEAD.size :])
            if untouched.changed():
                return

    def _run_pinned(self) -> "None":
        while True:
            kind, number, body = self.receive()
            if kind == UNPIN:
                self._runner.forget()
                return
            if kind == CALL:
                self._call(number, body)

    def _call(self, number: "int", body: "_Buffer") -> "None":
        """Run one call and answer it."""
        self._number, self._credit, self._stopped = number, ITEMS_AHEAD, False
        kind, sections = self._outcome(body)
        if os.getpid() != self._pid:  # a child that the function has forked and not ended
            self._leave()
        running.flush()
        self.send(kind, *join(sections))

    def _outcome(self, body: "_Buffer") -> "tuple[bytes, Any]":
        """Return what a request has led to."""
        try:
            self._busy = True
            try:
                request: "Any" = unpack_down(split(body))
                return RESULT, pack_up(self._runner.run(*request))
            finally:
                self._busy = False
        except Cancelled:
            self._leave()
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the call's
            if os.getpid() != self._pid:
                self._leave(_status(error))
            return ERROR, self._runner.describe(error)

    def _on_cancel(self, number: "int", frame: "object") -> "None":
        if self._busy and os.getpid() == self._pid:
            self._busy = False
            raise Cancelled
        self._leave()

    def _leave(self, status: "int" = 0) -> "None":
        running.flush()
        os._exit(status)

    # the stream

    def send(self, kind: "bytes", *parts: "_Buffer", number: "int | None" = None) -> "None":
        """Send a packet; blocks until the outpost has taken it."""
        head = HEAD.pack(sum(map(len, parts)), self._number if number is None else number, kind)
        if sum(map(len, parts)) <= 65536:
            self._stream.sendall(head + b"".join(parts))
            return
        self._stream.sendall(head)
        for part in parts:
            self._stream.sendall(part)

    def receive(self) -> "tuple[bytes, int, _Buffer]":
        """Return the next packet."""
        self._fill(HEAD.size)
        length, number, kind = HEAD.unpack_from(self._read)
        data, self._read = self._read[HEAD.size : HEAD.size + length], self._read[HEAD.size + length :]
        if len(data) == length:
            return kind, number, data
        body = bytearray(length)
        view = memoryview(body)
        view[: len(data)] = data
        done = len(data)
        while done < length:
            count = self._stream.recv_into(view[done:])
            if not count:
                self._leave()
            done += count
        return kind, number, view

    def _fill(self, count: "int") -> "None":
        while len(self._read) < count:
            data = self._stream.recv(READ_BYTES)
            if not data:
                self._leave()
            self._read += data

    # what a running call asks for

    def function(self, digest: "bytes") -> "bytes":
        """Return a shipment that the near end has sent."""
        return bytes(self._ask(DEFINE, digest))

    def module(self, name: "str") -> "Any":
        """Return (source, file, whether it is a package) of a module that the near end has, else None."""
        return running.loads(self._ask(MODULE, name.encode("utf-8", "replace")))

    def ask(self, handle: "int", arguments: "tuple[Any, ...]", keywords: "dict[str, Any]") -> "Any":
        """Let the near end call something of its own, and return what it says: a pair of whether it went well."""
        if os.getpid() != self._pid:
            raise RuntimeError("only the process that was called can call back")
        return unpack_down(split(self._ask(QUESTION, *join(pack_up((handle, arguments, keywords))))))

    def _ask(self, question: "bytes", *parts: "_Buffer") -> "_Buffer":
        with self._asking:
            self.send(question, *parts)
            while True:
                kind, number, body = self.receive()
                if kind == question:
                    return body
                self._note(kind, number)

    def _note(self, kind: "bytes", number: "int") -> "None":
        if kind == CREDIT:
            self._credit += number
        elif kind == STOP:
            self._stopped = True

    def give(self, item: "Any") -> "bool":
        """Send an item of a generator, when there is credit; returns whether another is wanted."""
        sections = pack_up(item)
        running.flush()
        self.send(ITEM, *join(sections))
        self._credit -= 1
        while not self._stopped and (self._credit < 1 or self._has_more()):
            kind, number, _ = self.receive()
            self._note(kind, number)
        return not self._stopped

    def _has_more(self) -> "bool":
        return bool(self._read) or bool(select.select([self._stream], [], [], 0)[0])


def _redirect(out: "int", err: "int") -> "None":
    """Write to these from now on."""
    for fd, standard in ((out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)


def _status(error: "BaseException") -> "int":
    """Return the status of a child that ends with an exception, as Python would; what is no SystemExit is shown."""
    if isinstance(error, SystemExit) and isinstance(error.code, (int, type(None))):
        return (error.code or 0) & 255
    if isinstance(error, SystemExit):
        sys.stderr.write("%s\n" % error.code)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    return 1


def _moved(sock: "socket.socket") -> "socket.socket":
    """Return a socket on a high descriptor, where functions that close all they know do not look."""
    try:
        import fcntl

        number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    except (ImportError, OSError):
        return sock
    moved = socket.socket(sock.family, sock.type, sock.proto, fileno=number)
    sock.close()
    return moved
