"""The outpost's main loop: one thread, a selector, no asyncio.

It reads the link, hands what comes to the service that a channel was opened for, and writes what there is to write. A
service is a class of `Handler`s called with the outpost, the channel's number and the opening's header; whatever it
raises ends its channel only. Nothing here may block.
"""

import os
import time

from .flow import LOST, PROBE, Keepalive
from .frames import CLOSED, GOAWAY, HELLO, OPEN, Limits
from .handlers import FAILED, UNKNOWN, Handler, deliver
from .polling import WRITE, Poller
from .services import SERVICES
from .timers import Timers
from .wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .children import Children
    from .frames import Event
    from .supervisor import Groups
    from .timers import Timer

__all__ = ["SERVICES", "Outpost", "main"]

READ_BYTES = 262144
WRITE_BYTES = 131072
MOST_BUFFERS = 8  # written each from its own place; of more, which are small, a copy costs less
PIPE_BYTES = 1048576  # asked for; the usual 64 KiB cost a turn of the loop each
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ; fcntl has the name from Python 3.10 on. Source: linux/fcntl.h
FAREWELL_SECONDS = 2.0  # for services to end what they have started
WINDOW = 1048576
MAX_CHANNELS = 4096


class Outpost(object):
    """The far end of a link, and what services may ask of it.

    Attributes:
        wire: the protocol; services use the methods here instead.
        ending: why the link is over, "" while it stands.
        sessions_fd: where a daemon is asked for sessions by name, or -1.
        holds: what must be done before the process may end, as tokens that services add and remove.
        missing: what is not served here, as the near end is told (`frames.Limits`).
    """

    missing: "tuple[str, ...]" = ()

    def __init__(self, read_fd: "int", write_fd: "int", err_fd: "int", options: "dict[str, float]") -> "None":
        window = int(options.get("window", WINDOW))
        limits = Limits(window=window, max_channels=MAX_CHANNELS, missing=self.missing)
        self.wire: "Wire" = Wire(limits, near=False)
        self.ending: "str" = ""
        self.sessions_fd: "int" = int(options.get("sessions_fd", -1))
        self.holds: "set[object]" = set()
        self._read_fd = read_fd
        self._write_fd = os.dup(write_fd) if write_fd == read_fd else write_fd
        self._err_fd = err_fd
        self._reading = self._writing = False
        self._poller = Poller()
        self.watch: "Callable[..., None]" = self._poller.watch
        self._handlers: "dict[int, Handler]" = {}
        self._timers = Timers()
        self._unsent: "list[bytes | memoryview]" = []  # buffers; none is empty
        self._cut = False  # nothing more can be written
        now = time.monotonic()
        self._keepalive = Keepalive(options.get("keepalive", 15.0), int(options.get("keepalive_count", 3)), now)
        wire = self.wire
        self.accept: "Callable[..., None]" = wire.accept
        self.send: "Callable[..., bool]" = wire.send
        self.send_message: "Callable[..., bool]" = wire.send_message
        self.signal: "Callable[[int, bytes], None]" = wire.signal
        self.eof: "Callable[[int], None]" = wire.eof
        self.grant: "Callable[[int, int], None]" = wire.grant
        self.widen: "Callable[[int, int], None]" = wire.widen
        self.later: "Callable[[float, Callable[[], None]], Timer]" = self._timers.later
        self._kill_escapees = bool(options.get("kill_escapees"))
        self._groups: "Groups | None" = None
        self._children: "Children | None" = None

    # for services

    @property
    def groups(self) -> "Groups":
        """The process groups that end with the outpost; compiled, and its supervisor forked, when there is one."""
        if self._groups is None:
            from .escapees import Marks
            from .supervisor import Groups

            self._groups = Groups(self, Marks(wanted=self._kill_escapees))
            self.children.start()
        return self._groups

    @property
    def children(self) -> "Children":
        """Tells of the end of the outpost's own child processes."""
        if self._children is None:
            from .children import Children

            self._children = Children(self)
        return self._children

    def open(self, kind: "str", header: "bytes", handler: "Handler") -> "int":
        """Open a channel to the near end; raises WireError where that cannot be."""
        number = self.wire.open(kind, header)
        self._handlers[number] = handler
        return number

    def reset(self, number: "int", code: "int", text: "str") -> "None":
        """Give a channel up; its handler is not called any more."""
        self.wire.reset(number, code, text)
        self._handlers.pop(number, None)

    def reject(self, number: "int", code: "int", text: "str") -> "None":
        """Refuse a channel: nothing was done."""
        self.wire.reject(number, code, text)
        self._handlers.pop(number, None)

    def complain(self, text: "str") -> "None":
        """Write to the far stderr, which the near end keeps the last of."""
        try:
            os.write(self._err_fd, text.encode("utf-8", "replace"))
        except OSError:
            pass

    # the loop

    def run(self) -> "None":
        """Serve until the link is over and nothing is held."""
        self.watch(self._read_fd, self._read)
        self._reading = True
        self._flush()
        while not (self.ending and not self.holds):
            for fd, entry, mask in self._poller.ready(self._patience()):
                if self._poller.stands(fd, entry):
                    self._guard(0, entry[1], mask)
            for callback in self._timers.due():
                self._guard(0, callback)
            self._check_silence()
            self._flush()
        self._say_goodbye()
        self._poller.close()

    def _patience(self) -> "float | None":
        dues = [self._timers.next_due(), self._keepalive.due if self._keepalive.interval and not self.ending else None]
        known = [due for due in dues if due is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _check_silence(self) -> "None":
        now = time.monotonic()
        if self.ending or now < self._keepalive.due:
            return
        verdict = self._keepalive.check(now)
        if verdict == PROBE:
            self.wire.ping(now)
        elif verdict == LOST:
            self._end("the near end is silent", lost=True)

    def _read(self, _: "int") -> "None":
        try:
            data = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end("the link broke: %s" % error, lost=True)
            return
        if not data:
            self._end("the near end has closed the link", lost=True)
            return
        now = time.monotonic()
        self._keepalive.heard(now)
        for event in self.wire.receive(data, now):
            if event.channel:
                self._on_channel(event)
            elif event.kind == HELLO:
                self.wire.ping(now)  # while nothing else is under way: the cap on bulk goes by it
            elif event.kind in (GOAWAY, CLOSED):
                self._end(event.text or "the near end says goodbye", lost=False)
        for number in self.wire.ended():
            self._handlers.pop(number, None)

    def _on_channel(self, event: "Event") -> "None":
        number = event.channel
        if event.kind != OPEN:
            handler = self._handlers.get(number)
            if handler is not None:
                self._guard(number, deliver, handler, event)
        elif event.text in SERVICES:
            served = self._guard(number, SERVICES[event.text], self, number, event.data)
            if isinstance(served, Handler) and self.wire.is_open(number):
                self._handlers[number] = served
        else:
            self.wire.reject(number, UNKNOWN, "this outpost has no service %r" % event.text)

    def _guard(self, number: "int", function: "Callable[..., object]", *args: "object") -> "object":
        """Call what is not ours; what it raises ends its channel and shows on the far stderr."""
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001  # a service's trouble is its own
            import traceback  # 16 ms that an outpost without troubles does not wait for

            self.complain(traceback.format_exc())
            if number:
                self.reset(number, FAILED, "%s: %s" % (type(error).__name__, error))
            return None

    def _flush(self) -> "None":
        """Write what there is, as far as the link takes it now."""
        while not self._cut:
            if not self._unsent:
                if not self.wire.waits():
                    break
                self._unsent = self.wire.take(time.monotonic(), WRITE_BYTES)
                for number in self.wire.drained():
                    handler = self._handlers.get(number)
                    if handler is not None:
                        self._guard(number, handler.on_writable)
                for number in self.wire.ended():
                    self._handlers.pop(number, None)
                if not self._unsent:
                    break
            try:
                self._write()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._end("the link broke: %s" % error, lost=True)
        self._want_write(bool(self._unsent) and not self._cut)

    def _write(self) -> "None":
        """Write what the link takes now; bulk is written from where it was read to."""
        unsent = self._unsent
        if len(unsent) > MOST_BUFFERS:
            unsent[:] = [b"".join(unsent)]
        written = self._write_some(unsent)
        while unsent and written >= len(unsent[0]):
            written -= len(unsent.pop(0))
        if written:
            unsent[0] = memoryview(unsent[0])[written:]

    # what Windows has in another way (`windows_outpost`)

    def _receive(self) -> "bytes":
        return os.read(self._read_fd, READ_BYTES)

    def _write_some(self, buffers: "list[bytes | memoryview]") -> "int":
        return os.writev(self._write_fd, buffers)

    def _want_write(self, wanted: "bool") -> "None":
        if wanted != self._writing:
            self._writing = wanted
            self.watch(self._write_fd, _nothing, WRITE if wanted else 0)

    # the end

    def _end(self, why: "str", *, lost: "bool") -> "None":
        """Tell every service that the link is over; `lost` where nothing can be sent either."""
        if lost:
            self._cut = True
        if lost and self._reading:
            self._reading = False
            self.watch(self._read_fd, self._read, 0)
        if self.ending:
            return
        self.ending = why
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            self._guard(0, handler.on_lost, why)
        self.later(FAREWELL_SECONDS, self.holds.clear)

    def _say_goodbye(self) -> "None":
        """Answer a goodbye, now that everything has ended."""
        self.wire.goaway(0, self.ending)
        end = time.monotonic() + FAREWELL_SECONDS
        self._flush()
        while self._unsent and not self._cut and time.monotonic() < end:
            self._poller.ready(end - time.monotonic())
            self._flush()


def _nothing(_: "int") -> "None":
    """Writing is tried after each turn of the loop anyway."""


def _prepare(fd: "int") -> "None":
    os.set_blocking(fd, False)
    try:
        import fcntl

        fcntl.fcntl(fd, SET_PIPE_SIZE, PIPE_BYTES)
    except (ImportError, OSError):  # not a pipe, not Linux, or no more is allowed
        pass


def main(read_fd: "int", write_fd: "int", err_fd: "int", nonce: "str", options: "dict[str, float]") -> "None":
    """Serve the link on two descriptors until it ends.

    Args:
        read_fd: where the near end's bytes come; 0 and 1 are free for others.
        write_fd: where the near end reads.
        err_fd: takes what `Outpost.complain` is told.
        nonce: the word that stage 1 has answered with.
        options: "keepalive" (seconds, 0 for never), "keepalive_count", "window" (bytes a channel), "kill_escapees",
            "sessions_fd".
    """
    _prepare(read_fd)
    _prepare(write_fd)
    if "sessions_fd" in options:
        os.set_inheritable(int(options["sessions_fd"]), False)
    Outpost(read_fd, write_fd, err_fd, options).run()
