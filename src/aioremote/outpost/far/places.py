"""What both ends say about sockets: where one is, and the words of a connection's channel."""

__all__ = ["ACCEPTED", "BROKEN", "CLOSE", "PEER_ENDED", "pack_place", "unpack_place"]

ACCEPTED = "accepted"  # the kind of the channels that the far end opens
PEER_ENDED = b"e"  # a message: the socket's peer sends nothing more
BROKEN = b"r"  # a message, the errno's name after it: the connection was reset
CLOSE = b"c"  # a message, or a signal after the near end's EOF: close when all is written, read nothing more


def pack_place(host: "str", port: "int", path: "bytes") -> "bytes":
    """Return a port or the path of a unix socket, as a channel's opening tells it."""
    return b"u" + path if path else b"t%d %s" % (port, host.encode("utf-8", "surrogateescape"))


def unpack_place(header: "bytes") -> "tuple[str, int, bytes]":
    """Return host, port and path."""
    if header[:1] == b"u":
        return "", 0, header[1:]
    port, _, host = header[1:].partition(b" ")
    return host.decode("utf-8", "surrogateescape"), int(port), b""
