"""How a process of Windows gets its sockets: as the first line of its input, with what else it is told."""

import json
import os
import socket
import sys
from base64 import b64decode, b64encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["order", "take_order"]


def order(pid: "int", sockets: "list[socket.socket]", **told: "object") -> "bytes":
    """Return the line for a process: its ends of these sockets, and what else it is told."""
    share: "Any" = getattr(socket.socket, "share", None)  # which only Windows has, as `fromshare`
    shares = [b64encode(share(sock, pid)).decode() for sock in sockets]
    return json.dumps(dict(told, sockets=shares)).encode() + b"\n"


def take_order() -> "tuple[dict[str, Any], list[socket.socket]]":
    """Return what this process is told, and its sockets; from then on nothing can read its input."""
    told = json.loads(sys.stdin.buffer.readline().decode())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    take: "Any" = getattr(socket, "fromshare", None)
    return told, [take(b64decode(share)) for share in told["sockets"]]
