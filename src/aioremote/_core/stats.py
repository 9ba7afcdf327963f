"""A `FileStat` made quickly: trees have thousands, and its own constructor takes four times as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from aioremote.types import FileStat

__all__ = ["file_stat", "same_time"]


def _setter(name: str) -> Callable[[FileStat, int], None]:
    return cast("Callable[[FileStat, int], None]", vars(FileStat)[name].__set__)


_new = object.__new__
_mode, _size, _uid, _gid = _setter("st_mode"), _setter("st_size"), _setter("st_uid"), _setter("st_gid")
_atime, _mtime, _ctime = _setter("st_atime_ns"), _setter("st_mtime_ns"), _setter("st_ctime_ns")
_inode, _device, _links = _setter("st_ino"), _setter("st_dev"), _setter("st_nlink")


def file_stat(
    mode: int, size: int, uid: int, gid: int, atime: int, mtime: int, ctime: int, inode: int, device: int, links: int
) -> FileStat:
    """Return the same as ``FileStat(st_mode=mode, …)``; times in nanoseconds."""
    made = _new(FileStat)
    _mode(made, mode)
    _size(made, size)
    _uid(made, uid)
    _gid(made, gid)
    _atime(made, atime)
    _mtime(made, mtime)
    _ctime(made, ctime)
    _inode(made, inode)
    _device(made, device)
    _links(made, links)
    return made


def same_time(one: int, other: int) -> bool:
    """Whether two times are equal as far as both sides tell: some only know whole seconds."""
    if one % 10**9 and other % 10**9:
        return one == other
    return one // 10**9 == other // 10**9
