"""A session by name: one process that runs the calls of many clients, one after another, and keeps its state.

A daemon starts it and hands it clients; it ends with the daemon. A client that goes while its call runs interrupts
this call alone. Not for who gets in (the daemon), nor for the client's side (`guests`).
"""

import json
import os
import select
import signal
import socket
import struct

from . import running
from .packets import CALL, HEAD
from .worker import Worker
from .zygote import renew_streams, socket_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["ACTIVE", "RELEASED", "main"]

RELEASED = struct.Struct(">I")  # said to the daemon: the number of a guest that is out
ACTIVE = struct.Struct(">I")  # in the file: the number of the guest whose call runs, or 0
DESCRIPTORS = 4  # place, stream, stdout, stderr
MAX_ORDER = 65536
MAX_CALL_BYTES = 1073741824
READ_BYTES = 262144


class _Left(BaseException):
    """The client whose call runs has gone."""


class _Guest(object):
    """One client's place."""

    def __init__(self, number: "int", packages: "list[str]", descriptors: "list[int]") -> "None":
        place, stream, self.out, self.err = descriptors
        self.number: "int" = number
        self.packages: "list[str]" = packages
        self.place: "socket.socket" = socket_on(place)
        self.stream: "socket.socket" = socket_on(stream)
        self.data: "bytearray" = bytearray()
        self.objects: "set[int]" = set()
        _wake_at_end(self.place)

    def has_left(self) -> "bool":
        """Whether the client is gone; nothing else ever comes on its place."""
        return _ended(self.place)

    def read(self) -> "bool":
        """Read what has come; returns whether there is a whole packet, or raises OSError, ValueError."""
        data = self.stream.recv(READ_BYTES, socket.MSG_DONTWAIT)
        if not data:
            raise OSError("closed")
        self.data += data
        return self.has_packet()

    def has_packet(self) -> "bool":
        """Whether a whole packet has come."""
        if len(self.data) < HEAD.size:
            return False
        length = HEAD.unpack_from(self.data)[0]
        if length > MAX_CALL_BYTES:
            raise ValueError("a call of %d bytes, at most %d are allowed" % (length, MAX_CALL_BYTES))
        return len(self.data) - HEAD.size >= int(length)

    def close(self) -> "None":
        """Give up what belongs to the place."""
        self.place.close()
        self.stream.close()
        os.close(self.out)
        os.close(self.err)


class _Session(Worker):
    """The process: a worker whose stream is that of the client whose turn it is."""

    def __init__(self, daemon: "socket.socket", active_fd: "int") -> "None":
        self._idle = socket.socketpair()
        super().__init__(self._idle[0], self._idle[1], [])
        self._daemon = daemon
        self._active_fd = active_fd
        self._null = os.open(os.devnull, os.O_RDWR)
        self._guests: "dict[int, _Guest]" = {}
        self._guest: "_Guest | None" = None
        self._silence()
        signal.signal(signal.SIGIO, self._on_end)  # before the first one comes, which would else end the process
        _wake_at_end(daemon)

    def run(self) -> "None":
        """Serve until the daemon is gone."""
        while True:
            waiting = {guest.stream.fileno(): guest for guest in self._guests.values()}
            waiting.update({guest.place.fileno(): guest for guest in self._guests.values()})
            ready = select.select([self._daemon.fileno(), *waiting], [], [])[0]
            if self._daemon.fileno() in ready:
                self._admit()
            for guest in {waiting[fd] for fd in ready if fd in waiting}:
                self._serve(guest)

    def _admit(self) -> "None":
        size = socket.CMSG_SPACE(DESCRIPTORS * 4)
        order, extra, _, _ = self._daemon.recvmsg(MAX_ORDER, size)
        if not order:
            _end()
        for level, kind, content in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                asked = json.loads(order.decode())
                descriptors = struct.unpack("%di" % DESCRIPTORS, content)
                self._guests[asked["number"]] = _Guest(asked["number"], asked["packages"], list(descriptors))

    def _serve(self, guest: "_Guest") -> "None":
        """Read what a client says, and run its call when it is there as a whole."""
        try:
            if guest.has_left():
                raise _Left
            if guest.read():
                self._run_call_of(guest)
        except BlockingIOError:
            pass
        except (_Left, OSError, ValueError):
            self._release(guest)

    def _run_call_of(self, guest: "_Guest") -> "None":
        runner, first = self._runner, self._runner.last_object
        runner.importer.allow(guest.packages, {})
        self._stream, self._read, guest.data = guest.stream, bytes(guest.data), bytearray()
        self._guest = guest
        os.pwrite(self._active_fd, ACTIVE.pack(guest.number), 0)
        for output, fd in ((guest.out, 1), (guest.err, 2)):
            os.dup2(output, fd)
        try:
            if guest.has_left():  # before the daemon could know that its call begins
                raise _Left
            while self._read:
                kind, number, body = self.receive()
                if kind == CALL:
                    self._call(number, body)
        finally:
            self._guest = None
            os.pwrite(self._active_fd, ACTIVE.pack(0), 0)
            running.flush()
            self._silence()
            guest.objects.update(range(first + 1, runner.last_object + 1))

    def _release(self, guest: "_Guest") -> "None":
        del self._guests[guest.number]
        self._runner.run("drop", list(guest.objects), (), {}, running.SESSION, None)
        guest.close()
        self._daemon.sendall(RELEASED.pack(guest.number))

    def _silence(self) -> "None":
        """Nobody hears what threads print between two calls."""
        for fd in (0, 1, 2):
            os.dup2(self._null, fd)

    def _on_end(self, number: "int", frame: "object") -> "None":
        if os.getpid() != self._pid:
            return
        if _ended(self._daemon):
            _end()
        if self._busy and self._guest is not None and self._guest.has_left():
            self._busy = False
            raise _Left

    def _outcome(self, body: "bytes | bytearray | memoryview") -> "tuple[bytes, list[tuple[bytes, bytes]]]":
        kind, sections = super()._outcome(body)
        if self._guest is not None and self._guest.has_left():
            raise _Left
        return kind, sections

    def _leave(self, status: "int" = 0) -> "None":
        if os.getpid() != self._pid:  # a child that the function has forked
            super()._leave(status)
        raise _Left


def _ended(sock: "socket.socket") -> "bool":
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _wake_at_end(sock: "socket.socket") -> "None":
    """Ask for a signal when something comes, or the other end goes."""
    import fcntl

    fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags | os.O_ASYNC)


def _end() -> "NoReturn":
    """End with all that calls have started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main(read_fd: "int", write_fd: "int", err_fd: "int", nonce: "str", options: "dict[str, int]") -> "None":
    """Be the session; the daemon is at the other end of `read_fd`, which `write_fd` is too."""
    os.close(write_fd)
    renew_streams()
    _Session(socket_on(read_fd), options["active_fd"]).run()
