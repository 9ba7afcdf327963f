"""What is known of far files, as `stat` of GNU, busybox and BSD tells it, or else `ls`."""

from __future__ import annotations

import stat

from aioremote.types import FileEntry, FileStat

__all__ = ["ENTRY_FIELDS", "FORMATS", "LOOK", "LS", "SCAN", "parse_listing", "parse_stat"]

# busybox takes the precision for nothing, and tells whole seconds.
FORMATS = b"""
gnu='%f %s %u %g %.9X %.9Y %.9Z %i %d %h'
bsd='%Xp %z %u %g %Fa %Fm %Fc %i %d %l'
if stat -c %f / >/dev/null 2>&1; then how=gnu
elif stat -f %p / >/dev/null 2>&1; then how=bsd
else how=ls
fi
"""
LS = b"""set -f; set -- $(ls -ldn $how -- "$f"); printf '%s %s %s %s 0 0 0 0 0 %s' "$1" "$5" "$3" "$4" "$2" """
LOOK = (
    FORMATS
    + b"""
case $how in
gnu) exec stat $2 -c "$gnu" "$1" ;;
bsd) exec stat $2 -f "$bsd" "$1" ;;
esac
if [ "$2" = -L ]; then [ -e "$1" ]; else [ -e "$1" ] || [ -L "$1" ]; fi || why_missing "$1"
how=$2; f=$1; """
    + LS
)
# A name holds no slash: a slash and a newline end it.
SCAN = (
    FORMATS
    + b"""
[ -e "$1" ] || why_missing "$1"
[ -d "$1" ] || exit 43
if [ ! -r "$1" ] || [ ! -x "$1" ]; then exit 41; fi
cd -P "$1" || exit 1
case $how in
gnu) find . ! -name . -prune -exec stat -c "$gnu %n/" {} + ;;
bsd) find . ! -name . -prune -exec stat -f "$bsd %N/" {} + ;;
*) find . ! -name . -prune -exec sh -c 'for f; do how=; ( """
    + LS.replace(b"'", b"'\\''")
    + b""" ); printf " %s/\\\\n" "$f"; done' sh {} + ;;
esac
exit 0
"""
)
ENTRY_FIELDS = 10
_TYPES = {
    "-": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
}


def parse_stat(line: bytes) -> FileStat:
    """Return what one line tells.

    Raises:
        ValueError: it is none.
    """
    mode, size, uid, gid, atime, mtime, ctime, ino, dev, nlink = line.decode("ascii").split()
    return FileStat(
        st_mode=_mode(mode),
        st_size=int(size.rstrip(",")),  # a device's number, from ls
        st_uid=int(uid),
        st_gid=int(gid),
        st_atime_ns=_nanoseconds(atime),
        st_mtime_ns=_nanoseconds(mtime),
        st_ctime_ns=_nanoseconds(ctime),
        st_ino=int(ino),
        st_dev=int(dev),
        st_nlink=int(nlink),
    )


def parse_listing(listing: bytes) -> list[FileEntry]:
    """Return the entries of a directory."""
    found: list[FileEntry] = []
    for record in listing.split(b"/\n"):
        fields = record.split(b" ", ENTRY_FIELDS)
        head, slash, name = fields[-1].partition(b"/")
        if len(fields) == ENTRY_FIELDS + 1 and head == b"." and slash:  # else one that has gone meanwhile, in ls
            found.append(FileEntry(name, parse_stat(b" ".join(fields[:ENTRY_FIELDS]))))
    return found


def _nanoseconds(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))


def _mode(text: str) -> int:
    """Return the mode, from hexadecimal or as ls shows it."""
    if len(text) < ENTRY_FIELDS:
        return int(text, 16)
    mode = _TYPES.get(text[0], 0)
    for number, letter in enumerate(text[1:10]):
        mode |= (letter in "rwxst") << (8 - number)
    for position, bit in ((3, 0o4000), (6, 0o2000), (9, 0o1000)):
        mode |= bit if text[position] in "sStT" else 0
    return mode
