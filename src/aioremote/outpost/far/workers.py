"""The outpost's side of a worker: feeding it, hearing it, ending it.

Not for how it starts (`crew`), which call goes to it (`pool`), nor for what it does (`worker`).
"""

import os
import signal
import socket
import struct
from collections import deque

from .outputs import ERR, OUT, Outputs
from .packets import DEFINE, HEAD, LARGE, MODULE, PIN
from .polling import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .owner import Owner
    from .serve import Outpost

__all__ = ["GRACE_SECONDS", "READ_BYTES", "Member", "unwatched"]

READ_BYTES = 262144
HIGH_WATER = 262144
TAIL_BYTES = 4096  # of a worker's output that is kept for errors
GRACE_SECONDS = 0.5  # between the signal that a function may answer and the one that it cannot


class Member(object):
    """One worker, as the outpost sees it.

    Attributes:
        pid: its process, and its process group; 0 until it has started.
        owner: whom to tell.
        tails: the last of what it wrote, by descriptor, while nobody wanted it.
        interrupted: it was told to end.
        numbers: of the calls that it has got and not answered, in order.
        since: when the first of these began, as far as is known.
    """

    def __init__(self, outpost: "Outpost", owner: "Owner") -> "None":
        self.pid: "int" = 0
        self.owner: "Owner" = owner
        self.tails: "dict[int, bytes]" = {OUT: b"", ERR: b""}
        self.interrupted: "bool" = False
        self.ended: "bool" = False
        self.numbers: "deque[int]" = deque()
        self.since: "float" = 0.0
        self._outpost = outpost
        self._queue, self._taken = _queue_pair()
        self._stream, stream = socket.socketpair()
        self._outputs = Outputs(outpost, self._on_output)
        self._used = False
        self._queue.setblocking(False)
        self._stream.setblocking(False)  # but not the queue's other end: the worker's is the same, and waits
        self.theirs: "list[int]" = [self._taken.fileno(), stream.detach(), *self._outputs.theirs]
        self._rest = b""
        self._left = 0  # of a long packet's body
        self._unsent: "deque[memoryview]" = deque()
        self._unsent_bytes = 0
        self._events = READ
        self._held = False
        self._outpost.watch(self._stream.fileno(), self._on_stream)

    # towards it

    def post(self, message: "bytes") -> "bool":
        """Put a message into its queue; False where there is no room."""
        self._used = True
        try:
            self._queue.send(message)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # it is gone, and its end will be told
            return False
        return True

    def pin(self, *, output: "bool") -> "None":
        """Let calls come over its stream from now on.

        With `output` what it writes comes through pipes of their own: what processes of earlier calls still write is
        nobody's.
        """
        theirs = self._outputs.renew() if output and self._used else []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("%di" % len(theirs), *theirs))]
        self._used = True
        try:
            self._queue.sendmsg([HEAD.pack(0, 0, PIN)], rights if theirs else [])
        except OSError:  # it is gone, and its end will be told
            pass
        for fd in theirs:
            os.close(fd)

    def take_back(self) -> "list[bytes]":
        """Return what it has not taken from its queue yet; it does not get that any more."""
        returned: "list[bytes]" = []
        try:
            while True:
                message = self._taken.recv(READ_BYTES, socket.MSG_DONTWAIT)
                if not message:
                    break
                returned.append(message)
        except OSError:
            pass
        return returned

    def write(self, data: "bytes") -> "bool":
        """Write to its stream; returns whether more is welcome (else wait for `on_drained`)."""
        if not self.ended:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
            self._send()
        return self._unsent_bytes <= HIGH_WATER

    def _send(self) -> "None":
        try:
            while self._unsent:
                sent = self._stream.send(self._unsent[0])
                self._unsent_bytes -= sent
                if sent == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # it is gone
            self._unsent.clear()
            self._unsent_bytes = 0
        self._set_events()

    def _set_events(self) -> "None":
        events = (0 if self._held else READ) | (WRITE if self._unsent else 0)
        if events != self._events and not self.ended:
            self._events = events
            self._outpost.watch(self._stream.fileno(), self._on_stream, events)

    def hold(self, held: "bool") -> "None":
        """Read nothing from it, or again."""
        if held != self._held and not self.ended:
            self._held = held
            self._set_events()
            self._outputs.watch(not held)

    # from it

    def _on_stream(self, mask: "int") -> "None":
        if mask & WRITE:
            waited = self._unsent_bytes > 0
            self._send()
            if waited and not self._unsent:
                self.owner.on_drained(self)
        if mask & READ and not self.ended:
            self._receive()

    def _receive(self) -> "bool":
        try:
            data = self._stream.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._held = True  # its end will be told by the zygote
            self._set_events()
            return False
        self._feed(data)
        self.owner.on_read()
        return True

    def _feed(self, data: "bytes") -> "None":
        if self._rest:
            data, self._rest = self._rest + data, b""
        start, size = 0, len(data)
        while start < size:
            if self._left:
                end = min(size, start + self._left)
                self._left -= end - start
                self.owner.on_piece(self, data[start:end], not self._left)
                start = end
                continue
            if size - start < HEAD.size:
                break
            length, number, kind = HEAD.unpack_from(data, start)
            end = start + HEAD.size + length
            if length > LARGE:
                self._left = length
                end = start + HEAD.size
                self.owner.on_large(self, kind, number, data[start:end])
            elif end > size:
                break
            elif kind in (DEFINE, MODULE):
                self.owner.on_question(self, kind, data[start + HEAD.size : end])
            else:
                self.owner.on_packet(self, kind, number, data[start:end])
            start = end
        self._rest = data[start:]

    def _on_output(self, which: "int", data: "bytes") -> "None":
        self.owner.on_output(self, which, data)

    def drain(self) -> "None":
        """Tell all output that has been written until now."""
        self._outputs.drain()

    def keep(self, which: "int", data: "bytes") -> "None":
        """Remember the last of output that nobody wants."""
        self.tails[which] = (self.tails[which] + data)[-TAIL_BYTES:]

    def sleeps(self) -> "bool":
        """Tell whether it waits for something else than a processor, as far as can be known."""
        try:
            with open("/proc/%d/stat" % self.pid, "rb") as file:
                return file.read().rpartition(b") ")[2][:1] != b"R"
        except OSError:
            return True

    # its end

    def interrupt(self) -> "None":
        """Let the running function end, and kill what is still there after a while."""
        if not self.interrupted and not self.ended:
            self.interrupted = True
            self._outpost.holds.add(self)
            if self.pid:
                _kill(self.pid, signal.SIGINT, group=False)
            self._outpost.later(GRACE_SECONDS, self.kill)

    def kill(self) -> "None":
        """Kill it with its process group."""
        if self.pid and not self.ended:
            _kill(self.pid, signal.SIGKILL)

    def retire(self) -> "None":
        """Let it end when it has nothing to do."""
        try:
            self._queue.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def on_ended(self, status: "int") -> "None":
        """It has ended: tell what it had still said."""
        self.kill()  # what it has left behind
        while self._receive():
            pass
        self.drain()
        returned = self.take_back()
        outpost = self._outpost
        outpost.watch(self._stream.fileno(), unwatched, 0)
        self.ended = True
        for sock in (self._queue, self._taken, self._stream):
            sock.close()
        self._outputs.close()
        outpost.holds.discard(self)
        self.owner.on_ended(self, status, returned)


def _queue_pair() -> "tuple[socket.socket, socket.socket]":
    """Return the writing and the reading end of a queue that keeps messages apart."""
    if not hasattr(socket, "AF_UNIX"):  # Windows, where it carries no messages (`windows_member`)
        return socket.socketpair()
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError):  # macOS
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def _kill(pid: "int", number: "int", *, group: "bool" = True) -> "None":
    try:
        (os.killpg if group else os.kill)(pid, number)
    except OSError:
        pass


def unwatched(_: "int") -> "None":
    """For a descriptor that is not watched any more."""
