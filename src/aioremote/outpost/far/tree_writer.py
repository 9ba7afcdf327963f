"""Writes a file or a tree on this side: what both ends of a transfer do where they write. Blocking.

Each file is written beside its target first, then put in its place. Directories are reached by descriptors, so that no
link below the root is followed. Not for where the pieces come from, nor for judging them.
"""

import os
import stat
from binascii import hexlify
from collections import OrderedDict

from .file_frames import MISMATCH, Told, pack_error, record
from .tree_reader import below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["TEMP_MARK", "Failed", "Mismatch", "Options", "TreeWriter"]

TEMP_MARK = b".aioremote-"  # as in _core/pieces
_OPEN_FOLDERS = 64
_HOLE_BYTES = 4096  # zeros that fill more than a page are not written
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# Windows can import this, no more: it has no dir_fd, by which everything here is opened.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOEXEC


class Failed(Told):
    """What the system said, and of which path; the cause is the OSError.

    Attributes:
        error: the cause.
        path: the final path of what was to be written.
    """

    def __init__(self, error: "OSError", path: "bytes") -> "None":
        super().__init__(error, path)
        self.error: "OSError" = error
        self.path: "bytes" = path

    def told(self) -> "bytes":
        return pack_error(self.error, self.path)


class Mismatch(Told):
    """What was written is not what was sent.

    Attributes:
        path: the final path of the file.
    """

    def __init__(self, path: "bytes") -> "None":
        super().__init__(path)
        self.path: "bytes" = path

    def told(self) -> "bytes":
        return record(MISMATCH, self.path)


class Options(object):
    """How a writer treats what it writes: the far end's `TreeOptions`."""

    def __init__(
        self,
        *,
        preserve: "bool" = False,
        preserve_special: "bool" = False,
        overwrite: "bool" = True,
        durable: "bool" = True,
    ) -> "None":
        self.preserve: "bool" = preserve
        self.preserve_special: "bool" = preserve_special
        self.overwrite: "bool" = overwrite
        self.durable: "bool" = durable

    def mode(self, found: "Any", umask: "int", existing: "int | None" = None) -> "int":
        """Return the permissions for a file, as `TreeOptions.mode`."""
        kept: "int" = found.st_mode & (0o7777 if self.preserve_special else 0o775)
        if self.preserve:
            return kept
        return kept & ~umask if existing is None else existing & 0o777


class _Growing(object):
    """A file of which parts are to come.

    Attributes:
        folder: a descriptor of its own.
        fd: of the temporary file.
        temp: its name.
    """

    def __init__(self, folder: "int", fd: "int", temp: "bytes") -> "None":
        self.folder: "int" = folder
        self.fd: "int" = fd
        self.temp: "bytes" = temp


class TreeWriter(object):
    """Writes one tree, called from one thread at a time.

    Args:
        root: its final path.
        options: how.
    """

    def __init__(self, root: "bytes", options: "Any") -> "None":
        self._root = root
        self._options = options
        self._folders: "OrderedDict[bytes, int]" = OrderedDict()  # open ones, the last used last
        self._growing: "dict[bytes, _Growing]" = {}
        self._later: "list[tuple[bytes, Any]]" = []  # directories whose permissions or times are set at the end
        self._fresh: "set[bytes]" = set()  # directories made here: nothing else is in them
        self._nonce = hexlify(os.urandom(6))
        self._temps = 0
        self._umask: "int | None" = None
        self._is_tree = False
        self._sync: "Callable[[int], None] | None" = None  # of all that was written, in the end

    def write(
        self,
        path: "bytes",
        found: "Any",
        data: "bytes" = b"",
        offset: "int" = 0,
        last: "bool" = True,
        target: "bytes" = b"",
        digest: "bytes" = b"",
    ) -> "None":
        """Write a piece.

        Raises:
            Failed: it could not be written.
            Mismatch: the file is not what `digest` tells; what was in its place is as it was.
        """
        try:
            kind = stat.S_IFMT(found.st_mode)
            if kind == stat.S_IFDIR:
                self._make_folder(path, found)
            elif kind == stat.S_IFLNK:
                self._make_link(path, target)
            elif path and last and path not in self._growing and len(data) == found.st_size <= _HOLE_BYTES * 8:
                self._write_small(path, found, data, digest)
            else:
                self._write_part(path, found, data, offset, last, digest)
        except OSError as error:
            raise Failed(error, below(self._root, path)) from error

    def open_existing(self, path: "bytes") -> "int":
        """Open for reading what is in a file's place, and return it; no link below the root is followed."""
        folder, name = self._place(path)
        try:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | _CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)

    def finish(self) -> "None":
        """Set what is left for the end, and let the disk have it."""
        path = b""
        try:
            for path, found in reversed(self._later):
                fd = self._folder(path)
                os.fchmod(fd, self._options.mode(found, self._learnt_umask(fd)))
                if self._options.preserve:
                    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            path = b""
            if self._sync is not None:
                self._sync(self._folder(b""))
        except OSError as error:
            raise Failed(error, below(self._root, path)) from error

    def close(self) -> "None":
        """Remove what is not whole, and close everything."""
        for growing in self._growing.values():
            os.close(growing.fd)
            _remove(growing.temp, growing.folder)
            os.close(growing.folder)
        for fd in self._folders.values():
            os.close(fd)
        self._growing, self._folders = {}, OrderedDict()

    # directories

    def _folder(self, path: "bytes") -> "int":
        """Return the descriptor of a directory of the tree, reached without following a link below the root."""
        known = self._folders.get(path)
        if known is not None:
            self._folders.move_to_end(path)
            return known
        if not path:
            fd = os.open(self._root, _FOLDER)
        else:
            above, _, name = path.rpartition(b"/")
            fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._folder(above))
        while len(self._folders) >= _OPEN_FOLDERS:
            os.close(self._folders.popitem(last=False)[1])
        self._folders[path] = fd
        return fd

    def _place(self, path: "bytes") -> "tuple[int, bytes]":
        """Return the directory, as a descriptor of the caller's own, and the name in it."""
        if not path:
            above, name = os.path.split(self._root)
            return os.open(above or b".", _FOLDER), name
        above, _, name = path.rpartition(b"/")
        return os.dup(self._folder(above)), name

    def _make_folder(self, path: "bytes", found: "Any") -> "None":
        mode = self._options.mode(found, 0)
        folder, name = self._place(path)
        try:
            os.mkdir(name or b".", mode | 0o700, dir_fd=folder)
            self._fresh.add(path)
            is_new = True
        except FileExistsError:
            is_new = False
        finally:
            os.close(folder)
        self._is_tree = True
        if self._options.durable and self._sync is None:
            self._sync = _file_system_sync()  # while the first files are under way
        self._folder(path)  # fails for what is no directory
        if self._options.preserve or (is_new and mode & 0o700 != 0o700):
            self._later.append((path, found))

    # links and files

    def _temp(self) -> "bytes":
        self._temps += 1
        return b"%s%s-%x.part" % (TEMP_MARK, self._nonce, self._temps)

    def _make_link(self, path: "bytes", target: "bytes") -> "None":
        folder, name = self._place(path)
        temp = self._temp()
        try:
            os.symlink(target, temp, dir_fd=folder)
            self._put(folder, temp, name)
        finally:
            os.close(folder)

    def _write_small(self, path: "bytes", found: "Any", data: "bytes", digest: "bytes") -> "None":
        """Write a whole file in as few calls as there can be: trees are full of them."""
        above, _, name = path.rpartition(b"/")
        folder = self._folder(above)
        temp = self._temp()
        options = self._options
        existing = None if above in self._fresh else _existing_mode(folder, name)
        kept = options.mode(found, 0, existing)
        as_made = existing is None and not options.preserve and not kept & 0o7000  # the system takes the umask off
        fd = os.open(temp, _NEW, kept if as_made else 0o600, dir_fd=folder)
        try:
            _write_fully(fd, data)
            self._verify(fd, path, digest)
            if not as_made:
                os.fchmod(fd, options.mode(found, self._learnt_umask(folder), existing))
            if options.preserve:
                os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            if options.durable and not self._is_tree:
                os.fsync(fd)
        except BaseException:
            _remove(temp, folder)
            raise
        finally:
            os.close(fd)
        self._put(folder, temp, name)

    def _write_part(
        self, path: "bytes", found: "Any", data: "bytes", offset: "int", last: "bool", digest: "bytes"
    ) -> "None":
        growing = self._growing.get(path)
        if growing is None:
            growing = self._growing[path] = self._begin(path)
        if len(data) <= _HOLE_BYTES or data[0] or data.count(0) < len(data):  # the rest stays a hole
            os.lseek(growing.fd, offset, os.SEEK_SET)
            _write_fully(growing.fd, data)
        if last:
            self._complete(growing, path, found, digest)

    def _begin(self, path: "bytes") -> "_Growing":
        folder, _ = self._place(path)
        temp = self._temp()
        try:
            self._learnt_umask(folder)
            fd = os.open(temp, _NEW, 0o600, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise
        return _Growing(folder, fd, temp)

    def _learnt_umask(self, folder: "int") -> "int":
        """Return the umask, known from a file made for that: asking the system would change it for all threads."""
        if self._umask is None:
            temp = self._temp()
            fd = os.open(temp, _NEW, 0o777, dir_fd=folder)
            try:
                os.unlink(temp, dir_fd=folder)
                self._umask = 0o777 & ~os.fstat(fd).st_mode
            finally:
                os.close(fd)
        return self._umask

    def _verify(self, fd: "int", path: "bytes", digest: "bytes") -> "None":
        if not digest:
            return
        from .tree_lister import open_digest  # only who verifies pays for OpenSSL

        if open_digest(fd) != digest:
            raise Mismatch(below(self._root, path))

    def _complete(self, growing: "_Growing", path: "bytes", found: "Any", digest: "bytes") -> "None":
        folder, name = growing.folder, os.path.basename(path or self._root)
        os.ftruncate(growing.fd, found.st_size)  # it may end with a hole
        self._verify(growing.fd, path, digest)
        is_new = path and path.rpartition(b"/")[0] in self._fresh
        existing = None if is_new else _existing_mode(folder, name)
        os.fchmod(growing.fd, self._options.mode(found, self._umask or 0, existing))
        if self._options.preserve:
            os.utime(growing.fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        durable = self._options.durable and not self._is_tree
        if durable:
            os.fsync(growing.fd)
        self._put(folder, growing.temp, name)
        if durable:
            os.fsync(folder)
        del self._growing[path]
        os.close(growing.fd)
        os.close(folder)

    def _put(self, folder: "int", temp: "bytes", name: "bytes") -> "None":
        """Give a temporary file its place, or remove it."""
        try:
            if self._options.overwrite:
                os.rename(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.link(temp, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                os.unlink(temp, dir_fd=folder)
        except BaseException:
            _remove(temp, folder)
            raise


def _remove(temp: "bytes", folder: "int") -> "None":
    try:
        os.unlink(temp, dir_fd=folder)
    except OSError:
        pass


def _write_fully(fd: "int", data: "bytes") -> "None":
    written = os.write(fd, data) if data else 0
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _existing_mode(folder: "int", name: "bytes") -> "int | None":
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_mode & 0o777 if stat.S_ISREG(found.st_mode) else None


def _file_system_sync() -> "Callable[[int], None]":
    """Return what lets the disk have the file system of a descriptor; of all of them where that cannot be had."""
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError, OSError):  # no Linux
        return lambda fd: os.sync()

    def sync(fd: "int") -> "None":
        if syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")

    return sync
