"""Real servers for real clients, on loopback: PostgreSQL and Redis from the distribution's packages, and any other."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

__all__ = ["free_port", "on_a_free_port", "postgres", "program", "redis", "served"]

TRIES = 10  # for a port that nobody takes between our asking and the server's start


@contextlib.contextmanager
def served(argv: Sequence[str], ready: str, **options: object) -> Iterator[None]:
    """Run a server until the end of the block; it is ready when it has said so. OSError where it ends before."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    try:
        said = ""
        for line in process.stdout:
            said += line
            if ready in line:
                break
        else:
            raise OSError(f"{argv[0]} has ended: {said}")
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL: fast; Redis: at once
        process.stdout.close()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def program(name: str) -> str:
    """Return the path of a server's program; a missing one fails the test."""
    folders = os.pathsep.join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))
    found = shutil.which(name, path=f"{folders}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed: apt-get install postgresql redis-server"
    return found


def on_a_free_port(stack: contextlib.ExitStack, serve: Callable[[int], AbstractContextManager[None]]) -> int:
    """Start a server that is told its port, for as long as the stack lives; returns the port."""
    for _ in range(TRIES):
        port = free_port()
        with contextlib.suppress(OSError):
            stack.enter_context(serve(port))
            return port
    raise AssertionError("no port was free")


@contextlib.contextmanager
def postgres() -> Iterator[int]:
    """Run a new PostgreSQL with the role "app", which needs no password; gives its port."""
    folder = tempfile.mkdtemp(prefix="aioremote-postgres-")
    try:
        shutil.chown(folder, "postgres", "postgres")  # it refuses to run as root
        as_its_user = {"user": "postgres", "group": "postgres", "cwd": folder}
        make = [program("initdb"), "-D", f"{folder}/data", "-U", "app", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, **as_its_user)  # type: ignore[call-overload]
        run = [program("postgres"), "-D", f"{folder}/data", "-c", "fsync=off"]
        run += ["-c", f"unix_socket_directories={folder}", "-c", "listen_addresses=127.0.0.1"]
        with contextlib.ExitStack() as stack:
            yield on_a_free_port(stack, lambda port: served([*run, "-p", str(port)], "ready to accept", **as_its_user))
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def redis(*options: str) -> Iterator[int]:
    """Run a new Redis that keeps nothing; gives its port."""
    run = [program("redis-server"), "--bind", "127.0.0.1", "--save", "", *options]
    with contextlib.ExitStack() as stack:
        yield on_a_free_port(stack, lambda port: served([*run, "--port", str(port)], "Ready to accept"))
