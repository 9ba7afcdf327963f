"""Runs programs: one channel, one program, in a session and a process group of its own.

What is read in one turn of the loop goes out at its end, so that a program that ends at once is told in one message.
How programs are started is in `programs` and `spawning`, what is said in `orders`, who ends them in `supervisor`.
"""

import errno
import signal

from .frames import cost
from .handlers import CANCELLED, REFUSED, Handler
from .orders import END_TREE, ERRORS, OUTPUT, RESIZE, SEND_SIGNAL, STDIN_BROKEN, Ending, pack_ending, unpack_order
from .pipes import Input, Output, TerminalInput, set_size
from .supervisor import kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .orders import Order
    from .programs import Processes
    from .serve import Outpost

__all__ = ["Process"]

DRAIN_SECONDS = 0.5  # for output that another process holds open after the program's own end
SAID_LAST = 262144  # bytes of output after the near end has asked for the end, and may not be reading any more
IN_ONE_MESSAGE = 32768  # bytes of output that go with the status
MAX_ORDER_BYTES = 16777216
MOST_ESCAPED = 1000  # that are told of


class Process(Handler):
    """One program, or an order for one that is still coming."""

    def __init__(self, home: "Processes", outpost: "Outpost", number: "int", header: "bytes") -> "None":
        self._home = home
        self._outpost = outpost
        self._number = number
        self._order: "Order | None" = None
        self._parts: "list[bytes]" = []  # of an order that comes as a message; then input for who waits to be started
        self._no_more = False  # input
        self._early: "list[bytes]" = []  # signals for who waits to be started
        self._pid = 0
        self._mark = 0
        self._stdin: "Input | None" = None
        self._terminal = -1
        self._outputs: "dict[bytes, Output]" = {}
        self._pieces: "list[tuple[bytes, bytes]]" = []  # which stream, and what it brought in this turn
        self._said = OUTPUT  # which stream the other end takes bytes for
        self._planned = False
        self._held = False  # the near end is slow
        self._status: "int | None" = None
        self._unread = 0  # bytes that the program has left behind
        self._ending = False
        self._drain = False  # something else holds the output open, and is not waited for
        self._wanted = True  # by the near end
        self._escaped: "list[int]" = []  # from a tree that was ended
        self._left: "int | None" = None  # bytes of output that may still be told of a tree that is being ended
        self._over = False
        if header:
            self._order = unpack_order(header)
            self._home.start(self)

    # the beginning

    @property
    def order(self) -> "Order":
        """What to start."""
        assert self._order is not None
        return self._order

    def refuse(self, what: "str", number: "int", path: "bytes" = b"") -> "None":
        """Tell the near end what stood in the way; nothing runs."""
        text = "%s %s %s" % (what, errno.errorcode.get(number, "EIO"), path.decode("utf-8", "replace"))
        self._over = True
        self._outpost.reject(self._number, REFUSED, text)

    def adopt(self, pid: "int", fds: "list[int]", number: "int") -> "None":
        """Take a program that runs now, and its mark's number; nobody is told of it before its group is known."""
        order = self.order
        outpost = self._outpost
        self._pid, self._mark = pid, number
        outpost.children.add(pid, self._on_exit)
        if order.guarded:
            outpost.groups.add(pid, number)
        outpost.accept(self._number, b"%d" % pid)
        if order.size is not None:
            self._terminal, writer = fds
            self._stdin = TerminalInput(outpost, writer, self._typed)
            self._no_more = not order.stdin
        else:
            self._outputs[ERRORS] = Output(outpost, fds.pop(), ERRORS, self._take)
            if order.stdin:
                self._stdin = Input(outpost, fds[0], self._typed)
        self._outputs[OUTPUT] = Output(outpost, fds[-1] if order.size is None else fds[0], OUTPUT, self._take)
        if self._stdin is not None:
            for data in self._parts:
                self._stdin.write(data)
            if self._no_more:
                self._stdin.end()
        for signalled in self._early:
            self.on_signal(signalled)

    # what the near end says

    def on_message(self, data: "bytes", more: "bool") -> "None":
        if self._order is not None:
            return
        self._outpost.grant(self._number, cost(data))
        self._parts.append(data)
        if sum(map(len, self._parts)) > MAX_ORDER_BYTES:
            self.refuse("start", errno.E2BIG)
        elif not more:
            self._order = unpack_order(b"".join(self._parts))
            self._parts = []
            self._home.start(self)

    def on_data(self, data: "bytes") -> "None":
        if self._stdin is None:  # no more than there is credit for
            self._parts.append(data)
        else:
            self._stdin.write(data)

    def on_eof(self) -> "None":
        self._no_more = True
        if self._stdin is not None:
            self._stdin.end()

    def _typed(self, count: "int", *, broken: "bool" = False) -> "None":
        """Take note that input has gone to the program, or will never."""
        if broken and self._wanted and not self._over:
            self._outpost.send_message(self._number, STDIN_BROKEN)
        if count:
            self._outpost.grant(self._number, count)

    def on_signal(self, data: "bytes") -> "None":
        what, rest = data[:1], data[1:].decode("ascii", "replace")
        if what == END_TREE:
            self.end()
        elif not self._pid:
            self._early.append(data)
        elif what == SEND_SIGNAL and self._status is None:
            number = getattr(signal, "SIG" + rest, None)
            if isinstance(number, signal.Signals):
                kill((self._pid,), number)
        elif what == RESIZE and self._terminal >= 0 and OUTPUT in self._outputs:
            columns, rows = rest.split()
            set_size(self._terminal, (int(columns), int(rows)))

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self._wanted = False
        self.end()

    def on_lost(self, text: "str") -> "None":
        self._wanted = False
        if self._order is None or self._order.guarded or not self._pid:
            self._outpost.holds.add(self)
            self.end()
        elif self._stdin is not None:
            self._stdin.end()

    def on_writable(self) -> "None":
        self._held = False
        for output in list(self._outputs.values()):
            output.resume()

    # the end

    def end(self) -> "None":
        """End the tree, unless that has begun."""
        if self._over or self._ending:
            return
        self._ending = True
        if self._pid:
            self._left = SAID_LAST
            if not self._wanted:
                self._close_outputs()
            self.on_writable()  # what is too much is dropped from now on
            self._outpost.groups.end(self._pid, self._tree_ended, self._mark)
            return
        self._home.forget(self)
        self._over = True
        self._outpost.holds.discard(self)
        if self._wanted:
            self._outpost.reject(self._number, CANCELLED, "ended before it was started")

    def _tree_ended(self, escaped: "list[int]") -> "None":
        self._ending = False
        self._escaped = escaped[:MOST_ESCAPED]
        self._plan()
        if self._status is not None and self._outputs:
            self._outpost.later(DRAIN_SECONDS, self._stop_draining)

    def _on_exit(self, status: "int") -> "None":
        self._status = status
        if not self._ending:
            self._outpost.groups.remove(self._pid)
        if not self._held:
            for output in list(self._outputs.values()):
                output.read_rest()
        self._unread = sum([output.waiting() for output in self._outputs.values()])
        if self._outputs and not self._ending:
            self._outpost.later(DRAIN_SECONDS, self._stop_draining)
        self._plan()

    def _stop_draining(self) -> "None":
        if self._outputs and self._wanted and (self._held or self._unread > 0):
            self._outpost.later(DRAIN_SECONDS, self._stop_draining)
        elif self._outputs:
            self._drain = True
            self._close_outputs()
            self._plan()

    def _close_outputs(self) -> "None":
        outputs, self._outputs = self._outputs, {}
        for output in outputs.values():
            output.close()

    # what the program says

    def _take(self, which: "bytes", data: "bytes") -> "None":
        """Take what an output brought, b"" at its end."""
        if data:
            self._unread -= len(data)
            self._pieces.append((which, data))
        else:
            self._outputs.pop(which).close()
        self._plan()

    def _plan(self) -> "None":
        if not self._planned:
            self._planned = True
            self._outpost.later(0.0, self._report)

    def _report(self) -> "None":
        self._planned = False
        if self._over:
            return
        is_over = self._status is not None and not self._outputs and not self._ending
        if is_over:
            self._finish()
            return
        self._send_pieces()

    def _send_pieces(self) -> "None":
        pieces, self._pieces = self._pieces, []
        outpost, welcome = self._outpost, True
        for which, data in pieces if self._left is None else self._last(pieces):
            if which != self._said:
                self._said = which
                outpost.send_message(self._number, which)
            welcome = outpost.send(self._number, data)
        if not welcome and not self._held and self._left is None:
            self._held = True
            for output in self._outputs.values():
                output.pause()

    def _last(self, pieces: "list[tuple[bytes, bytes]]") -> "list[tuple[bytes, bytes]]":
        """Return what may still be said."""
        said: "list[tuple[bytes, bytes]]" = []
        for which, data in pieces:
            part = data[: self._left or 0]
            self._left = (self._left or 0) - len(part)
            if part:
                said.append((which, part))
        return said

    def _finish(self) -> "None":
        """Tell the end, and let go of everything."""
        self._over = True
        outpost = self._outpost
        outpost.groups.remove(self._pid)
        if self._stdin is not None:
            self._stdin.close()
        if self._wanted:
            if sum(len(data) for _, data in self._pieces) > IN_ONE_MESSAGE:
                self._send_pieces()
            outpost.send_message(self._number, pack_ending(self._how()), end=True)
        outpost.holds.discard(self)
        self._home.ended()

    def _how(self) -> "Ending":
        status = self._status or 0
        number = status & 127  # Windows has no os.WTERMSIG
        return Ending(
            -number or status >> 8,
            _signal_name(number) if number else "",
            core_dumped=bool(number and status & 128),
            held=self._drain,
            output=b"".join([data for which, data in self._pieces if which == OUTPUT]),
            errors=b"".join([data for which, data in self._pieces if which == ERRORS]),
            escaped=self._escaped,
        )


def _signal_name(number: "int") -> "str":
    try:
        return signal.Signals(number).name[3:]
    except ValueError:  # a real-time signal without a name
        return str(number)
