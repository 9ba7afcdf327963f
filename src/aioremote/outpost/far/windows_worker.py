"""A worker on Windows: as `worker`, but started on its own, and everything comes over its stream."""

import os
import signal
import socket
import threading
from _thread import interrupt_main

from .packets import CALL, PIN
from .surroundings import Surroundings
from .windows_handover import take_order
from .worker import Worker
from .zygote import complain, renew_streams

__all__ = ["WindowsWorker", "main"]


class WindowsWorker(Worker):
    """The worker that this process is.

    Args:
        bell: what comes there interrupts the call that runs.
        stream: packets both ways.
        packages: what may be imported from the near end.
    """

    def __init__(self, bell: "socket.socket", stream: "socket.socket", packages: "list[str]") -> "None":
        super().__init__(bell, stream, packages)
        self._bell = bell

    def run(self) -> "None":
        """Serve until the outpost is gone, or wants this worker no more."""
        signal.signal(signal.SIGINT, self._on_cancel)
        threading.Thread(target=self._listen, daemon=True).start()
        untouched = Surroundings()
        while not untouched.changed():
            kind, number, body = self.receive()
            if kind == PIN:
                self._run_pinned()
            elif kind == CALL:
                self._call(number, body)

    def _listen(self) -> "None":
        try:
            rung = self._bell.recv(1)
        except OSError:
            rung = b""
        if rung:
            interrupt_main()


def main() -> "None":
    """Be a worker until the outpost wants it no more."""
    order, (bell, stream) = take_order()
    try:
        renew_streams()
        WindowsWorker(bell, stream, order["packages"]).run()
    except BaseException:  # noqa: BLE001  # a worker that cannot serve has to end
        complain()
    finally:
        os._exit(0)
