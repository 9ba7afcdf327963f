"""The service "files": a helper process for each channel, whose bytes pass through here. What they mean is its own."""

import os
import signal
import socket
from collections import deque

from .file_frames import END, STOP
from .file_helper import become_helper, prepare
from .frames import USUAL_LENGTH, cost
from .handlers import Handler
from .polling import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .serve import Outpost

__all__ = ["Files"]

READ_BYTES = 262144
WRITE_WINDOW = 2097152  # of a tree that is written: on a long road less is a round trip more
BUFFER_BYTES = 1048576  # asked for; fewer turns of the loop for the same bytes


class Files(Handler):
    """One channel and its helper.

    Args:
        outpost: whose loop carries the bytes.
        number: the channel's.
        header: what the helper is for.
    """

    def __init__(self, outpost: "Outpost", number: "int", header: "bytes") -> "None":
        self._outpost = outpost
        self._number = number
        order = prepare(header)
        self._sock, there = socket.socketpair()
        for end in (self._sock, there):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        try:
            self._pid: "int" = os.fork()
        except OSError:
            self._sock.close()
            there.close()
            raise
        if not self._pid:
            become_helper(there, order)
        there.close()
        self._sock.setblocking(False)
        self._unsent: "deque[bytes]" = deque()
        self._first = memoryview(b"")  # what is left of the first
        self._ended = False  # by the near end, after what is unsent
        self._deaf = False  # the helper takes nothing more
        self._held = False  # the near end is slow
        self._told = False  # the near end knows that this is over, or does not care
        self._events = READ
        outpost.children.add(self._pid, self._on_exit)
        outpost.accept(number)
        if order[0] == "write":
            outpost.widen(number, WRITE_WINDOW)
        outpost.watch(self._sock.fileno(), self._on_ready)

    # what the near end says

    def on_data(self, data: "bytes") -> "None":
        if self._deaf:
            self._outpost.grant(self._number, cost(data))
            return
        self._unsent.append(data)
        if len(self._unsent) == 1:
            self._first = memoryview(data)
            self._write()

    def on_message(self, data: "bytes", more: "bool") -> "None":
        self.on_data(data)

    def on_signal(self, data: "bytes") -> "None":
        if data == STOP:
            self._stop_writing()
        elif data == END:
            self._kill()

    def on_eof(self) -> "None":
        self._ended = True
        if not self._unsent:
            self._stop_writing()

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self._drop()

    def on_lost(self, text: "str") -> "None":
        self._drop()

    def on_writable(self) -> "None":
        self._held = False
        self._set_events()

    # the helper

    def _on_ready(self, mask: "int") -> "None":
        if mask & WRITE:
            self._write()
        if mask & READ and self._sock.fileno() >= 0:
            self._read()

    def _write(self) -> "None":
        used = 0
        try:
            while self._unsent:
                self._first = self._first[self._sock.send(self._first) :]
                if not self._first:
                    used += cost(self._unsent.popleft())
                    self._first = memoryview(self._unsent[0] if self._unsent else b"")
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # it has ended, and has said why
            self._stop_writing()
        if used:
            self._outpost.grant(self._number, used)
        if self._ended and not self._unsent:
            self._stop_writing()
        self._set_events()

    def _stop_writing(self) -> "None":
        """Let the helper see the end of its input at once, and drop what it has not got."""
        self._deaf = True
        unsent, self._unsent = self._unsent, deque()
        for data in unsent:
            self._outpost.grant(self._number, cost(data))
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._set_events()

    def _read(self) -> "None":
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        send = self._outpost.send_message if len(data) <= USUAL_LENGTH else self._outpost.send
        if not send(self._number, data):
            self._held = True
            self._set_events()

    def _set_events(self) -> "None":
        events = (0 if self._held else READ) | (WRITE if self._unsent else 0)
        if events != self._events and self._sock.fileno() >= 0:
            self._events = events
            self._outpost.watch(self._sock.fileno(), self._on_ready, events)

    # its end

    def _close(self) -> "None":
        if self._sock.fileno() >= 0:
            self._stop_writing()
            self._outpost.watch(self._sock.fileno(), self._on_ready, 0)
            self._sock.close()
            if self._pid:
                self._outpost.holds.add(self)
            self._tell_end()

    def _drop(self) -> "None":
        """Nobody wants it any more; what writes a tree ends when it has cleaned up."""
        self._told = True
        self._close()
        self._kill()

    def _kill(self) -> "None":
        if self._pid:
            try:
                os.kill(self._pid, signal.SIGTERM)
            except OSError:
                pass

    def _on_exit(self, status: "int") -> "None":
        self._pid = 0
        self._outpost.holds.discard(self)
        self._tell_end()

    def _tell_end(self) -> "None":
        """Say that this was all, when the helper has gone and all that it said is told."""
        if not self._told and not self._pid and self._sock.fileno() < 0:
            self._told = True
            self._outpost.eof(self._number)
