"""What a channel can be opened for. Each service is compiled when it is first wanted: no bootstrap waits for it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .handlers import Handler
    from .serve import Outpost

__all__ = ["SERVICES"]


def _echo(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .probes import Echo

    return Echo(outpost, number, header)


def _discard(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .probes import Discard

    return Discard(outpost, number, header)


def _source(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .probes import Source

    return Source(outpost, number, header)


def _processes(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .programs import Processes

    SERVICES["process"] = service = Processes(outpost)
    return service(outpost, number, header)


def _calls(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .pool import Pool

    return Pool(outpost, number, header)


def _call(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .calls import pinned

    return pinned(outpost, number, header)


def _files(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    from .files import Files

    return Files(outpost, number, header)


def _connect(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    return _sockets(outpost)["connect"](outpost, number, header)


def _listen(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    return _sockets(outpost)["listen"](outpost, number, header)


def _sockets(outpost: "Outpost") -> "dict[str, Callable[[Outpost, int, bytes], Handler]]":
    from .sockets import Sockets

    sockets = Sockets(outpost)
    SERVICES["connect"], SERVICES["listen"] = sockets.connect, sockets.listen
    return SERVICES


SERVICES: "dict[str, Callable[[Outpost, int, bytes], Handler]]" = {
    "echo": _echo,
    "discard": _discard,
    "source": _source,
    "process": _processes,
    "calls": _calls,
    "call": _call,
    "files": _files,
    "connect": _connect,
    "listen": _listen,
}
