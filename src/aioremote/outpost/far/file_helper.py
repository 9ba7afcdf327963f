"""A process that serves one "files" channel, forked from the outpost, which must not wait for a disk.

It ends with its socket; what writes a tree removes then what is not whole.
"""

import errno
import itertools
import os
import pickle
import signal
import stat

from .file_frames import (
    BLOCK_BYTES,
    DIGESTS,
    DONE,
    FINISH,
    FOUND,
    PIECE,
    SKIPPED,
    SUMS,
    TROUBLE,
    UNREAD,
    VERIFY,
    Records,
    Told,
    pack_error,
    pack_piece,
    record,
)
from .supervisor import stand_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from .tree_reader import TreeReader
    from .tree_writer import TreeWriter

__all__ = ["become_helper", "prepare"]

READ_BYTES = 1048576
DIGEST_BYTES = 32
HELD_ENTRIES = 100000  # of a listing, until the near end has judged its digest
FEW_ENTRIES = 500  # cost less than a round trip


def prepare(order: "bytes") -> "tuple[str, bytes, dict[str, Any]]":
    """Read an order, and compile in the process that forks what is needed for it: for this helper and later ones.

    Args:
        order: pickled by the near end: "calls", or one of `_ACTS`; with a path and options where it has some.
    """
    name, path, options = pickle.loads(order)
    __import__("%s.%s" % (__package__, _NEEDED.get(name, "file_calls")))
    return name, path, options


def become_helper(sock: "socket.socket", order: "tuple[str, bytes, dict[str, Any]]") -> "NoReturn":
    """Serve in a process that was just forked, and exit.

    Args:
        sock: the only thing that it keeps.
        order: as `prepare` has read it.
    """
    try:
        stand_apart(sock.fileno())
        name, path, options = order
        if name not in ("write", "patch"):  # which have to clean up, and end with their input
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if name == "calls":
            from .file_calls import FileCalls

            FileCalls(sock).run()
        else:
            sock.sendall(_told(_ACTS[name], sock, path, options))
    except OSError:  # nobody listens any more
        pass
    finally:
        os._exit(0)


def _told(
    act: "Callable[[socket.socket, bytes, dict[str, Any]], None]",
    sock: "socket.socket",
    path: "bytes",
    options: "dict[str, Any]",
) -> "bytes":
    """Do it, and return the record that tells how it ended."""
    try:
        act(sock, path, options)
    except Told as error:
        return error.told()
    except (BrokenPipeError, ConnectionError):
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, (str, bytes)) else path
        text = (error.strerror or "") if error.errno == errno.EINVAL else ""
        return pack_error(error, os.fsencode(named), text)
    except Exception as error:  # noqa: BLE001  # told near
        return record(TROUBLE, ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace"))
    return record(DONE)


def _read(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .tree_reader import TreeReader

    reader = TreeReader(path, pack_piece)
    _send_read(sock, reader, reader.batches())


def _read_chosen(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    """Read the files that are asked for, once all are: whoever asks does not listen before."""
    from .tree_reader import TreeReader

    chosen: "list[tuple[bytes, _Stat]]" = []
    for body in _asked(sock):
        fields = PIECE.unpack_from(body)
        chosen.append((body[PIECE.size :], _Stat(fields[4], fields[5], fields[8], fields[9])))
    reader = TreeReader(path, pack_piece)
    _send_read(sock, reader, reader.chosen(chosen))


def _asked(sock: "socket.socket") -> "Iterator[bytes]":
    """Yield records until they are finished."""
    records = Records()
    while True:
        data = sock.recv(READ_BYTES)
        if not data:
            raise BrokenPipeError
        for body in records.feed(data):
            if body == FINISH:
                return
            yield body


def _send_read(sock: "socket.socket", reader: "TreeReader", batches: "Iterator[list[bytes]]") -> "None":
    for batch in batches:
        parts: "list[bytes]" = []
        if reader.files:
            parts.append(record(FOUND, b"%d %d" % (reader.files, reader.bytes)))
            reader.files = reader.bytes = 0
        parts += _skipped(reader)
        sock.sendall(b"".join(parts + batch))
    sock.sendall(b"".join(_skipped(reader)))


def _skipped(reader: "TreeReader") -> "list[bytes]":
    skipped, reader.skipped = reader.skipped, []
    return [record(SKIPPED, name, b"\0", why.encode("utf-8")) for name, why in skipped]


def _list(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .tree_lister import TreeDigest, list_tree

    batches = list_tree(path)
    if options.get("digest"):  # the near end asks for more where its own is another
        held: "list[tuple[list[tuple[bytes, os.stat_result, bytes]], list[tuple[bytes, OSError]]]]" = []
        count, digest = 0, TreeDigest()
        for found, failed in batches:
            held.append((found, failed))
            count += len(found)
            if failed or count > HELD_ENTRIES:
                break
            digest.add(found)
        else:
            sock.sendall(record(DIGESTS, digest.value()))
            if count > FEW_ENTRIES and not sock.recv(READ_BYTES):
                return
        batches = itertools.chain(held, batches)
    for found, failed in batches:
        told = [pack_piece(name, stat, target=target) for name, stat, target in found]
        for name, error in failed:
            told.append(record(UNREAD, errno.errorcode.get(error.errno or 0, "EIO").encode("ascii"), b"\0", name))
        sock.sendall(b"".join(told))


def _digest(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    """Hash the files that are asked for, once all are: whoever asks does not listen before."""
    from .tree_lister import file_digest

    paths = [name for body in _asked(sock) for name in body.split(b"\0")]
    for name in paths:
        sock.sendall(record(DIGESTS, file_digest(name) or bytes(DIGEST_BYTES)))


def _remove(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    import shutil  # loads what archives need: 3 ms that others do not wait for

    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    shutil.rmtree(path)  # by descriptors: no link that appears meanwhile is followed


class _Stat(object):
    """As much of a stat as a writer needs."""

    __slots__ = ("st_atime_ns", "st_mode", "st_mtime_ns", "st_size")

    def __init__(self, mode: "int", size: "int", atime: "int", mtime: "int") -> "None":
        self.st_mode: "int" = mode
        self.st_size: "int" = size
        self.st_atime_ns: "int" = atime
        self.st_mtime_ns: "int" = mtime


def _write(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .tree_writer import Options, TreeWriter

    writer = TreeWriter(path, Options(**options))
    records = Records()
    digest = b""
    try:
        while True:
            data = sock.recv(READ_BYTES)
            if not data:  # the near end has given up, or is gone
                return
            for body in records.feed(data):
                if body == FINISH:
                    writer.finish()
                    return
                if body[:1] == VERIFY:
                    digest = body[1:]
                else:
                    _write_piece(writer, body, digest)
                    digest = b""
    finally:
        writer.close()


def _write_piece(writer: "TreeWriter", body: "bytes", digest: "bytes") -> "None":
    fields = PIECE.unpack_from(body)
    start = PIECE.size + fields[1]
    end = start + fields[2]
    found = _Stat(fields[4], fields[5], fields[8], fields[9])
    writer.write(body[PIECE.size : start], found, body[end:], fields[3], fields[0] != b"p", body[start:end], digest)


# changed files


def _sums(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .patching import tell_sums
    from .tree_writer import Options, TreeWriter

    writer = TreeWriter(path, Options())
    try:
        told = tell_sums(writer, options["below"], options["size"], options["block"])
    finally:
        writer.close()
    for start in range(0, len(told), BLOCK_BYTES):
        sock.sendall(record(SUMS, told[start : start + BLOCK_BYTES]))


def _diff(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .block_sums import Sums, sums_bytes
    from .patching import Differ

    size, block = options["old_size"], options["block"]
    differ = Differ(path, options["size"], block)
    try:
        differ.scan()
        told, wanted = b"", sums_bytes(size, block)
        while len(told) < wanted:
            data = sock.recv(READ_BYTES)
            if not data:  # the near end has given up
                return
            told += data
        for order in differ.orders(Sums(told, size, block)):
            sock.sendall(record(order))
    finally:
        differ.close()


def _patch(sock: "socket.socket", path: "bytes", options: "dict[str, Any]") -> "None":
    from .patching import Patcher, Strayed
    from .tree_writer import Options, TreeWriter

    writer = TreeWriter(path, Options(preserve=True, durable=False))
    patcher = None
    records = Records()
    try:
        patcher = Patcher(writer, options["below"], _Stat(*options["stat"]))
        while True:
            data = sock.recv(READ_BYTES)
            if not data:  # the near end has given up, or is gone
                raise Strayed()
            for order in records.feed(data):
                if patcher.follow(order):
                    return
    finally:
        if patcher is not None:
            patcher.close()
        writer.close()


_NEEDED = {  # modules
    "diff": "patching",
    "digest": "tree_lister",
    "list": "tree_lister",
    "patch": "patching",
    "read": "tree_reader",
    "read chosen": "tree_reader",
    "remove": "tree_reader",
    "sums": "patching",
    "write": "tree_writer",
}

_ACTS = {
    "diff": _diff,
    "digest": _digest,
    "list": _list,
    "patch": _patch,
    "read": _read,
    "read chosen": _read_chosen,
    "remove": _remove,
    "sums": _sums,
    "write": _write,
}
