"""Single operations on files, as a helper process does them for its outpost: one answer for each order, in their order.

Pickled orders come from the near end only.
"""

import os
import pickle
from collections import OrderedDict

from .block_sums import read_at
from .file_frames import DONE, ENTRY, TROUBLE, Records, pack_error, pack_stat, record, stat_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["FileCalls"]

BATCH_ENTRIES = 1000
_HANDLE_BYTES = 4


class FileCalls(object):
    """Open files and listings of one channel.

    Args:
        sock: where orders come from and answers go.
    """

    def __init__(self, sock: "socket.socket") -> "None":
        self._sock = sock
        self._next = 1
        self._files: "dict[int, int]" = {}
        self._listings: "OrderedDict[int, Iterator[os.DirEntry[bytes]]]" = OrderedDict()

    def run(self) -> "None":
        """Serve until no more orders can come."""
        records = Records()
        while True:
            data = self._sock.recv(262144)
            if not data:
                return
            answers = [self._answer(body) for body in records.feed(data)]
            if answers:
                self._sock.sendall(b"".join(answers))

    def _answer(self, body: "bytes") -> "bytes":
        path = b""
        try:
            name, args = pickle.loads(body)
            path = args[0] if isinstance(args[0], bytes) else b""
            call: "Callable[..., bytes | None]" = getattr(self, "do_" + name)
            return record(DONE, call(*args) or b"")
        except OSError as error:
            return pack_error(error, path)
        except Exception as error:  # noqa: BLE001  # the next order may do
            return record(TROUBLE, ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace"))

    # by path

    def do_exists(self, path: "bytes") -> "bytes":
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return b"0"
        return b"1"

    def do_stat(self, path: "bytes", follow: "bool") -> "bytes":
        return pack_stat(os.stat(path) if follow else os.lstat(path))

    def do_mkdir(self, path: "bytes", mode: "int") -> "None":
        os.mkdir(path, mode)

    def do_rmdir(self, path: "bytes") -> "None":
        os.rmdir(path)

    def do_unlink(self, path: "bytes") -> "None":
        os.unlink(path)

    def do_rename(self, path: "bytes", target: "bytes") -> "None":
        os.rename(path, target)

    def do_chmod(self, path: "bytes", mode: "int") -> "None":
        os.chmod(path, mode)

    def do_chown(self, path: "bytes", uid: "int", gid: "int", follow: "bool") -> "None":
        os.chown(path, uid, gid, follow_symlinks=follow)

    def do_utime(self, path: "bytes", times: "tuple[int, int] | None") -> "None":
        if times is None:
            os.utime(path)
        else:
            os.utime(path, ns=times)

    def do_symlink(self, path: "bytes", target: "bytes") -> "None":
        os.symlink(target, path)

    def do_link(self, path: "bytes", target: "bytes") -> "None":
        os.link(target, path)

    def do_readlink(self, path: "bytes") -> "bytes":
        return os.readlink(path)

    def do_realpath(self, path: "bytes") -> "bytes":
        return os.path.realpath(path)

    # listings

    def do_scan(self, path: "bytes") -> "bytes":
        """Answer with a handle, 0 where all is told, and the first entries."""
        listing = os.scandir(path)
        told, more = _entries(listing)
        if not more:
            return b"\0" * _HANDLE_BYTES + told
        handle = self._handle()
        self._listings[handle] = listing
        return handle.to_bytes(_HANDLE_BYTES, "big") + told

    def do_more(self, path: "bytes", handle: "int") -> "bytes":
        """Answer likewise with the next ones."""
        told, more = _entries(self._listings[handle])
        if not more:
            del self._listings[handle]
        return (handle if more else 0).to_bytes(_HANDLE_BYTES, "big") + told

    def do_leave(self, path: "bytes", handle: "int") -> "None":
        self._listings.pop(handle, None)

    # open files

    def _handle(self) -> "int":
        self._next += 1
        return self._next - 1

    def do_open(self, path: "bytes", flags: "list[str]", mode: "int") -> "bytes":
        """Answer with a handle; flags are names, since their numbers are each system's own."""
        number = getattr(os, "O_CLOEXEC", 0)
        for name in flags:
            number |= getattr(os, name)
        fd = os.open(path, number, mode)
        handle = self._handle()
        self._files[handle] = fd
        return handle.to_bytes(_HANDLE_BYTES, "big")

    def do_read(self, path: "bytes", handle: "int", offset: "int", count: "int") -> "bytes":
        return read_at(self._files[handle], offset, count)

    def do_write(self, path: "bytes", handle: "int", offset: "int", data: "bytes") -> "None":
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._files[handle], rest, offset)
            rest, offset = rest[written:], offset + written

    def do_fstat(self, path: "bytes", handle: "int") -> "bytes":
        return pack_stat(os.fstat(self._files[handle]))

    def do_truncate(self, path: "bytes", handle: "int", size: "int") -> "None":
        os.ftruncate(self._files[handle], size)

    def do_sync(self, path: "bytes", handle: "int") -> "None":
        os.fsync(self._files[handle])

    def do_close(self, path: "bytes", handle: "int") -> "None":
        fd = self._files.pop(handle, None)
        if fd is not None:
            os.close(fd)


def _entries(listing: "Iterator[os.DirEntry[bytes]]") -> "tuple[bytes, bool]":
    """Return some entries, and whether there may be more."""
    told: "list[bytes]" = []
    for entry in listing:
        try:
            fields = stat_fields(entry.stat(follow_symlinks=False))
        except FileNotFoundError:  # gone meanwhile
            continue
        told += (ENTRY.pack(len(entry.name), *fields), entry.name)
        if len(told) >= 2 * BATCH_ENTRIES:
            return b"".join(told), True
    return b"".join(told), False
