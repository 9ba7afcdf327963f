"""What a server process writes to stderr, collected by a thread: it needs no running loop and never fills its pipe."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["ServerLog"]

MAX_LINES = 200_000


class ServerLog:
    """The last 20,000 lines of one or several processes, in the order they came."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._open = 0

    @property
    def text(self) -> str:
        """All lines kept so far."""
        with self._changed:
            return "\n".join(self._lines)

    def follow(self, descriptor: int) -> None:
        """Collect from a pipe until its end; the descriptor is closed then."""
        with self._changed:
            self._open += 1
        thread = threading.Thread(target=self._read, args=(descriptor,), name="aioremote-testing-log", daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def wait_for(self, ready: Callable[[list[str]], bool], *, timeout: float) -> bool:
        """Wait until `ready` is true of the lines, at most `timeout` seconds, or until nothing can follow. Blocks.

        Returns:
            What `ready` said last.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while not ready(list(self._lines)):
                left = end - time.monotonic()
                if left <= 0 or not self._open:
                    return ready(list(self._lines))
                self._changed.wait(left)
            return True

    def join(self, timeout: float) -> None:
        """Wait for the ends of all pipes, at most `timeout` seconds each."""
        for thread in self._threads:
            thread.join(timeout)

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8", errors="backslashreplace") as pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line.rstrip("\r\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()
