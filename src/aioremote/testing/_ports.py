"""One free port on several loopback addresses, and what known_hosts calls it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

__all__ = ["bind_all", "known_hosts_name"]

SSH_PORT = 22
ATTEMPTS = 20


def bind_all(hosts: Sequence[str], port: int = 0) -> list[socket.socket]:
    """Return one bound socket for each of `hosts`, all on one port; 0 picks a port that is free everywhere.

    They do not listen yet. With SO_REUSEADDR on both sides another process can bind the port while these hold it, and
    the kernel hands it out to nobody else: a server that is about to be started finds it free.

    Raises:
        OSError: an address is not ours, the given port is taken, or no port was free on all of them.
    """
    for attempt in range(ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            for host in hosts:
                sockets.append(_bound(host, sockets[0].getsockname()[1] if sockets else port))
        except BaseException as error:
            for held in sockets:
                held.close()
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if not taken or port or attempt == ATTEMPTS - 1:
                raise
        else:
            return sockets
    raise AssertionError("the last attempt returns or raises")


def known_hosts_name(host: str, port: int) -> str:
    """Return the name of a server as known_hosts writes it: ``[host]:port``, the host alone for port 22.

    Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
    """
    return host if port == SSH_PORT else f"[{host}]:{port}"


def _bound(host: str, port: int) -> socket.socket:
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except BaseException:
        held.close()
        raise
    return held
