"""The far half of writing a tree: the script that unpacks, and gives each file its place by a rename."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioremote.transports.shell_files import touch_time

if TYPE_CHECKING:
    from aioremote.types import FileStat

__all__ = ["WRITE", "quoted", "touch_line"]

# For the entries of one directory that are none themselves; $0 is the directory they belong into, which is known to be
# no link. Given a directory, mv and ln look at the name in it, and follow no link there.
_PUT = b"""
if [ "$keep" ]; then
 have=$($bits "$@") || exit 1
 want=$(cd "$0/" && $bits "$@" 2>/dev/null)
 for f; do
  mode=${have%%"$nl"*}; have=${have#*"$nl"}
  if [ ! -e "$0/$f" ] && [ ! -L "$0/$f" ]; then continue; fi
  old=${want%%"$nl"*}; want=${want#*"$nl"}
  if [ -f "$0/$f" ] && [ ! -L "$0/$f" ] && [ ! -L "$f" ] && [ "$mode" != "$old" ]; then
   chmod "$old" "$f" || exit 1
  fi
 done
fi
if [ "$over" ]; then exec mv -f "$@" "$0/"; fi
for f; do
 if [ -e "$0/$f" ] || [ -L "$0/$f" ]; then printf '%s: File exists\n' "$0/$f" >&2; exit 1; fi
done
exec ln "$@" "$0/"
"""
# $1 root, $2 the directory above it, $3 its name, $4 the temporary directory's, $5 tree or file, $6 options of tar,
# $7 whether files may be replaced, $8 whether they keep their permissions, $9 what is to be made durable, ${10} whether
# hashes are compared. Standard input is an archive: tree/ is what is to be there, parts/ what files are put together
# from, hashed names files and hashes what they hash to, whole comes last, the others are lines for this shell.
WRITE = (
    b"""
root=$1; name=$3; over=$7; keep=$8; durable=$9; nl='
'
if [ "$5" = tree ] && [ -d "$root" ]; then cd -P "$root/" || exit 41; from=/$name
else
 if [ "$5" = tree ]; then
  if [ -e "$root" ] || [ -L "$root" ]; then exit 43; fi
 elif [ -d "$root" ] && [ ! -L "$root" ]; then exit 42
 fi
 [ -d "$2" ] || why_missing "$root"
 cd -P "$2" || exit 41
 from=
fi
base=${PWD%/}
T=$base/$4
put='"""
    + _PUT.replace(b"'", b"'\\''")
    + b"""'
if stat -c %a / >/dev/null 2>&1; then bits='stat -c %a'
elif stat -f %Lp / >/dev/null 2>&1; then bits='stat -f %Lp'
elif [ "$keep" ]; then exit 50
fi
export put bits over keep nl
mask=$(umask)
mkdir -m 700 "$T" || exit 1
trap 'rm -rf "$T"' 0
trap 'exit 143' 1 2 13 15
umask 0
echo "$mask"

join() {
 at=$1; to=$2; shift 2
 (
  cd "$T" && exec 1<>"$to" || exit 1
  [ "$at" = 0 ] || dd bs=1 seek="$at" count=0 conv=notrunc 2>/dev/null || exit 1
  cat "$@" && rm -f "$@"
 ) || exit 1
}
finish() {
 [ "$(wc -c <"$T/$3")" -eq "$1" ] || dd if=/dev/null of="$T/$3" bs=1 seek="$1" count=0 2>/dev/null || exit 1
 chmod "$2" "$T/$3" || exit 1
}
fresh() { [ ! -d "$T/tree/$name$1" ]; }
flush() { sync "$1" 2>/dev/null || sync; }
merge() {
 ( cd "$1" && find . ! -name . -prune ! -type d -exec sh -c "$put" "$2" {} + ) || return 1
 for s in "$1"/* "$1"/.[!.]* "$1"/..?*; do
  if [ -L "$s" ] || [ ! -d "$s" ]; then continue; fi
  t=$2/${s##*/}
  if [ -L "$t" ]; then exit 43
  elif [ -d "$t" ]; then ( merge "$s" "$t" ) || exit $?
  elif [ -e "$t" ]; then exit 43
  else mv -f "$s" "$2/" || exit 1
  fi
 done
}

if [ "${10}" ]; then
 if command -v sha256sum >/dev/null; then hash=sha256sum
 elif command -v shasum >/dev/null; then hash='shasum -a 256'
 else exit 52
 fi
fi
tar -x $6 -p -o -f - -C "$T" || exit 1
[ -f "$T/whole" ] || exit 1
cd "$T" && . ./before || exit 1
if [ "${10}" ]; then
 xargs -0 $hash <hashed | sed -n 's/^[\\\\]*\\([0-9a-f]\\{64\\}\\) .*/\\1/p' >found
 cmp found hashes >&2 || exit 51
fi
cd "$base/" || exit 1
[ "$durable" != file ] || flush "$T/tree/$name" || exit 1
merge "$T/tree$from" "$base" || exit 1
[ "$5" = file ] || [ "$from" ] || cd "./$name" || exit 1
. "$T/fresh" || exit 1
after=$(cat "$T/after")
rm -rf "$T"
eval "$after" || exit 1
case $durable in
file) flush "$base/" ;;
tree) sync -f . 2>/dev/null || sync ;;
esac
exit 0
"""
)


def quoted(text: bytes) -> bytes:
    """Return text as one word of a shell's line."""
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


def touch_line(found: FileStat, place: bytes) -> bytes:
    """Return the line that gives a file, by its quoted path, the times of another."""
    times = touch_time(found.st_atime_ns), touch_time(found.st_mtime_ns)
    return b"TZ=UTC0 touch -a -t %s %s && TZ=UTC0 touch -m -t %s %s || exit 1\n" % (times[0], place, times[1], place)
