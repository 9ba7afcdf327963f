"""What both ends say about sockets: where one is, and the words of a connection's channel.

All words are messages, so each comes after the bytes before it. None is a SIGNAL, REJECT or RESET: of those a link
takes some hundred a second for long, and connections may be refused and reset far more often.
"""

__all__ = ["ABORT", "ACCEPTED", "BROKEN", "CLOSE", "ENDED", "REFUSES", "pack_place", "unpack_place"]

ACCEPTED = "accepted"  # the kind of the channels that the far end opens
ENDED = b"e"  # of either end: half-closed, no more bytes come
CLOSE = b"c"  # the near end's last: close when all is written, read nothing more
ABORT = b"a"  # the near end's last: reset the socket
BROKEN = b"r"  # the far end's last, with the errno's name: the socket was reset
REFUSES = b"x"  # the far end's only word, with the errno's name and a text: there is no connection


def pack_place(host: "str", port: "int", path: "bytes") -> "bytes":
    """Return a port or the path of a unix socket, as a channel's opening tells it."""
    return b"u" + path if path else b"t%d %s" % (port, host.encode("utf-8", "surrogateescape"))


def unpack_place(header: "bytes") -> "tuple[str, int, bytes]":
    """Return host, port and path."""
    if header[:1] == b"u":
        return "", 0, header[1:]
    port, _, host = header[1:].partition(b" ")
    return host.decode("utf-8", "surrogateescape"), int(port), b""
