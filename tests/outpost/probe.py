"""An entry module of the tests' own, shipped to every Python: it answers each line with what it evaluates to."""

import ast
import os
import traceback

STREAMS = []


def main(read_fd: "int", write_fd: "int", err_fd: "int", nonce: "str", options: "dict[str, object]") -> "None":
    was_blocking = os.get_blocking(read_fd)
    os.set_blocking(read_fd, True)
    with os.fdopen(read_fd, "rb") as source:
        STREAMS.extend([source, write_fd])
        for line in iter(source.readline, b""):
            try:
                value = eval(line, dict(globals(), options=options, nonce=nonce, was_blocking=was_blocking))
            except Exception:
                value = traceback.format_exc()
            os.write(write_fd, (ascii(value) + "\n").encode())


def fail() -> "str":
    """Return the traceback of a failure in this module."""
    try:
        raise KeyError("on purpose")  # this line is looked for
    except KeyError:
        return traceback.format_exc()


def call(shipment: "bytes", *args: "object") -> "object":
    """Call a function that was shipped."""
    from .rebuild import rebuild

    return rebuild(shipment)(*args)


def importing(packages: "list[str]", known: "dict[str, tuple[str, str, bool]]") -> "None":
    """Import these packages from the near end."""
    from .importer import Importer

    importer = Importer(ask)
    importer.allow(packages, known)
    importer.install()


def ask(name: "str") -> "tuple[str, str, bool] | None":
    """Ask the near end for a module, in the middle of an answer."""
    source, write_fd = STREAMS
    os.write(write_fd, b"?%s\n" % ascii(name).encode())
    return ast.literal_eval(source.readline().decode())
