"""A server that lets authorised clients use this machine: `serve`, over TLS with keys or tokens, or a unix socket.

Each client gets an outpost process of its own; losing the client ends it with everything it runs.
"""

from aioremote.daemon.config import DaemonConfig
from aioremote.daemon.keys import make_key, make_token
from aioremote.daemon.server import Daemon, serve

__all__ = ["Daemon", "DaemonConfig", "make_key", "make_token", "serve"]
