"""What is in a far tree, and what its files hash to, as one far program tells it. Pure texts and their reading."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence

from aioremote._core.pieces import Listed
from aioremote.errors import FileError, file_error
from aioremote.transports.shell_stat import ENTRY_FIELDS, FORMATS, LS, parse_stat
from aioremote.types import FileStat

__all__ = ["DIGESTS", "LIST", "is_odd", "parse_digests", "parse_tree"]

# No path of find's holds "//": with a newline it ends one. Three parts, with "=//" between: entries; directories that
# cannot be listed; links, each with the length of its text and the text. What goes meanwhile is left out.
LIST = (
    FORMATS
    + b"""
[ -e "$1" ] || why_missing "$1"
[ -d "$1" ] || exit 43
if [ ! -r "$1" ] || [ ! -x "$1" ]; then exit 41; fi
cd -P "$1" || exit 1
exec 2>/dev/null
case $how in
gnu) find . ! -name . -exec stat -c "$gnu %n//" {} + ;;
bsd) find . ! -name . -exec stat -f "$bsd %N//" {} + ;;
*) find . ! -name . -exec sh -c 'for f; do how=; ( """
    + LS.replace(b"'", b"'\\''")
    + b""" ); printf " %s//\\\\n" "$f"; done' sh {} + ;;
esac
printf '=//\\n'
find . -type d -exec sh -c 'for d; do if [ ! -r "$d" ] || [ ! -x "$d" ]; then printf "%s//\\n" "$d"; fi; done' sh {} +
printf '=//\\n'
find . -type l -exec sh -c 'for l; do t=$(readlink -n -- "$l"; echo .); t=${t%.}
printf "%s %s//\\n%s\\n" "${#t}" "$l" "$t"; done' sh {} +
exit 0
"""
)
# Of paths with NUL between, from standard input; and of those in $1 and following, one line each.
DIGESTS = b"""
if command -v sha256sum >/dev/null; then hash=sha256sum
elif command -v shasum >/dev/null; then hash='shasum -a 256'
else exit 0
fi
exec 2>/dev/null
for f; do if [ -f "$f" ]; then $hash <"$f" || echo; else echo; fi; done
echo =
exec xargs -0 $hash
"""
_DIGEST = re.compile(rb"([0-9a-f]{64}) [ *](.*)")
_END = b"//\n"
_MARK = b"=" + _END


def parse_tree(listing: bytes, root: bytes, host: str) -> Iterator[Listed]:
    """Yield the entries, a directory before what is in it, those that cannot be listed once more with the error."""
    entries, _, rest = _cut(listing)
    unread, _, links = _cut(rest)
    targets = dict(_links(links))
    for record in entries.split(_END)[:-1]:
        fields = record.split(b" ", ENTRY_FIELDS)
        if len(fields) == ENTRY_FIELDS + 1 and fields[-1].startswith(b"./"):  # else one that has gone meanwhile, in ls
            path, found = fields[-1][2:], parse_stat(b" ".join(fields[:ENTRY_FIELDS]))
            if not found.is_symlink() or path in targets:
                yield Listed(path, found, targets.get(path, b""))
    for record in unread.split(_END)[:-1]:
        yield Listed(record[2:], FileStat(st_mode=stat.S_IFDIR, st_size=0), error=_denied(root, record[2:], host))


def _cut(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Split at the first mark: it stands at the beginning, or behind the end of a record."""
    if text.startswith(_MARK):
        return b"", _MARK, text[len(_MARK) :]
    before, mark, after = text.partition(_END + _MARK)
    return before + _END, mark, after


def _links(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while (end := text.find(_END, at)) >= 0:
        length, _, path = text[at:end].partition(b" ")
        start = end + len(_END)
        at = start + int(length) + 1
        yield path[2:], text[start : at - 1]


def _denied(root: bytes, path: bytes, host: str) -> FileError:
    return file_error(13, os.fsdecode(os.path.join(root, path)), host=host)


def is_odd(path: bytes) -> bool:
    """Whether a line cannot tell a path as it is: some programs write other signs for these."""
    return any(sign in path for sign in (b"\n", b"\r", b"\\"))


def parse_digests(text: bytes, odd: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return digests by path; `odd` are those that `DIGESTS` got as operands."""
    first, _, rest = text.partition(b"=\n")
    told = zip(odd, (line[:64] for line in first.split(b"\n")), strict=False)
    lines = (found.groups() for line in rest.split(b"\n") if (found := _DIGEST.fullmatch(line)))
    pairs = [*told, *((path, digest) for digest, path in lines)]
    return {path: bytes.fromhex(digest.decode()) for path, digest in pairs if len(digest) == 64}
