"""The real command line against real servers: as a subprocess with pipes, or on a terminal of its own."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

import aioremote
from aioremote.testing.sshd import Sshd

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 5))
PATIENCE = 30.0  # seconds until a test gives up; nothing is measured against it
ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def gone(pid: int) -> bool:
    """Tell whether a process is dead, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def seconds_until_gone(pids: list[int], limit: float = PATIENCE) -> float:
    """Return how long it takes until all these processes are dead."""
    began = time.monotonic()
    processes = [psutil.Process(pid) for pid in pids if not gone(pid)]
    while time.monotonic() - began < limit and not all(gone(process.pid) for process in processes):
        select.select([], [], [], 0.01)
    return time.monotonic() - began


class Cli:
    """Runs ``python -m aioremote`` with a home that holds nothing."""

    def __init__(self, server: Sshd, home: Path, stack: ExitStack) -> None:
        self.server = server
        self.home = home
        self._stack = stack
        self.ssh = [
            *("-p", str(server.port), "--config", "none"),
            *("-i", str(server.keyfile), "--known-hosts", str(server.known_hosts)),
        ]
        package_root = str(Path(aioremote.__file__).parent.parent)
        self.env = os.environ | {"HOME": str(home), "PYTHONPATH": package_root, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):  # what runs the tests may have set the size of its own terminal
            self.env.pop(name, None)

    def command(self, *args: str, code: str = "") -> list[str]:
        """Return the words that start it; or those that start a piece of code in the same surroundings."""
        return [sys.executable, *(["-c", code] if code else ["-m", "aioremote"]), *args]

    def __call__(self, *args: str, code: str = "", **options: object) -> "subprocess.CompletedProcess[bytes]":
        """Run to the end; nothing on stdin."""
        defaults: dict[str, object] = {
            "capture_output": True,
            "env": self.env,
            "stdin": subprocess.DEVNULL,
            "timeout": PATIENCE,
        }
        return subprocess.run(self.command(*args, code=code), **(defaults | options))

    def run(self, hosts: str, *argv: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[bytes]":
        """Run a program on hosts of the server."""
        return self("run", hosts, *self.ssh, *options, "--", *argv)

    def start(self, *args: str, code: str = "", **options: object) -> "subprocess.Popen[bytes]":
        """Start with pipes; ended with the test."""
        process = subprocess.Popen(
            self.command(*args, code=code),
            env=self.env,
            **({"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        )
        self._stack.callback(_end, process)
        return process

    def terminal(self, *args: str, code: str = "", **options: object) -> "Terminal":
        """Start on a terminal of its own, which is its stdin, stdout and stderr unless given otherwise."""
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, b"\x20\x00\x64\x00\x00\x00\x00\x00")  # 32 rows, 100 columns
        process = subprocess.Popen(
            self.command(*args, code=code),
            env=self.env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # no thread runs here
            **({"stdin": far, "stdout": far, "stderr": far} | options),
        )
        os.close(far)
        self._stack.callback(os.close, near)
        self._stack.callback(_end, process)
        return Terminal(process, near)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class Terminal:
    """What happens on the terminal of a running command line."""

    def __init__(self, process: "subprocess.Popen[bytes]", near: int) -> None:
        self.process = process
        self._near = near
        self.shown = b""

    def read_until(self, text: bytes) -> bytes:
        """Read until the text was shown."""
        while text not in self.shown:
            self.read_more()
        return self.shown

    def read_more(self) -> None:
        """Read what comes next."""
        assert self._read(), f"ended: {self.shown!r}"

    def _read(self) -> bool:
        assert select.select([self._near], [], [], PATIENCE)[0], f"silent after {self.shown!r}"
        data = b""
        with suppress(OSError):  # EIO: the other side is closed
            data = os.read(self._near, 65536)
        self.shown += data
        return bool(data)

    def send(self, data: bytes) -> None:
        os.write(self._near, data)

    def finish(self) -> int:
        """Read to the end and return the exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    @property
    def plain(self) -> bytes:
        """What was shown, without the display's own cursor movements and colours."""
        return ANSI.sub(b"", self.shown)


def json_lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.decode("ascii").splitlines()]


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
