"""Traffic for tunnels, in processes of its own: ``target`` serves, ``load PORT KIND AMOUNT`` measures through a port.

The first byte of a connection tells the target what to do: "u" read all, "d" and a size write that much, "e" echo.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

__all__ = ["load", "target"]

BLOCK = bytes(256 * 1024)
AT_ONCE = 32


def _serve(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = connection.recv(1)
        if kind == b"u":
            while connection.recv(len(BLOCK)):
                pass
            connection.sendall(b"k")
        elif kind == b"d":
            left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
            while left > 0:
                connection.sendall(BLOCK[:left])
                left -= len(BLOCK)
        elif kind == b"e":
            while data := connection.recv(65536):
                connection.sendall(data)


def _target() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def target() -> Iterator[int]:
    """Run the target; gives its port."""
    command = [sys.executable, "-m", "benchmarks._traffic", "target"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def load(port: int, kind: str, amount: int) -> list[str]:
    """Return the command that measures through `port`: prints one number as JSON."""
    return [sys.executable, "-m", "benchmarks._traffic", "load", str(port), kind, str(amount)]


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _up(port: int, size: int) -> float:
    """MB/s."""
    with _connect(port) as connection:
        began = time.perf_counter()
        connection.sendall(b"u")
        for _ in range(size // len(BLOCK)):
            connection.sendall(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"k"
        return size / 1e6 / (time.perf_counter() - began)


def _down(port: int, size: int) -> float:
    """MB/s."""
    got = 0
    with _connect(port) as connection:
        began = time.perf_counter()
        connection.sendall(b"d" + size.to_bytes(8, "big"))
        while data := connection.recv(len(BLOCK)):
            got += len(data)
        assert got == size
        return size / 1e6 / (time.perf_counter() - began)


def _once(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"e!")
        assert connection.recv(1) == b"!"


def _connects(port: int, count: int) -> float:
    """Connections a second, each with one byte there and back."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(_once, port) for _ in range(count)]:
            done.result()
    return count / (time.perf_counter() - began)


def _round_trip(port: int, count: int) -> float:
    """Median microseconds of 64 bytes there and back."""
    taken = []
    with _connect(port) as connection:
        connection.sendall(b"e")
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(bytes(64))
            assert len(connection.recv(64, socket.MSG_WAITALL)) == 64
            taken.append(time.perf_counter() - began)
    return sorted(taken)[count // 2] * 1e6


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "target":
        _target()
    port, kind, amount = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    print(json.dumps({"up": _up, "down": _down, "connects": _connects, "round_trip": _round_trip}[kind](port, amount)))


if __name__ == "__main__":
    main()
