"""The guard: one POSIX-sh loop at the far end that ends process groups.

It needs no Python there. It is told, on one channel per connection, which groups run; it ends a group on request (TERM,
half a second, KILL), and all of them when its input ends or falls silent: so a lost link kills too, for root logins as
well, where OpenSSH refuses the "signal" request, and as another user, whom a login cannot signal. It is opened lazily,
since a one-shot command of a fleet should not pay for it.

Its limits: a program that leaves its session and group (``setsid``) is not found. A server that allows one session has
no room for it: there a second connection ends what has to end, and nothing does when the link is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from aioremote._core.deadline import Reminders
from aioremote.errors import RemoteError
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote.protocols import OutputStream

__all__ = [
    "GRACE_SECONDS",
    "GUARD_AFTER_SECONDS",
    "GUARD_OPEN_AFTER_SECONDS",
    "Guard",
    "GuardHome",
    "GuardProcess",
    "Registration",
    "end_script",
]

T = TypeVar("T")

GRACE_SECONDS = 0.5  # between TERM and KILL
GUARD_AFTER_SECONDS = 1.0  # a command that has run so long is told to the guard, which is opened for that
GUARD_OPEN_AFTER_SECONDS = 0.1  # the same where it is open; at once costs every short command a tenth more CPU

# One group's end. A group is all processes that a command started without leaving its session; where pkill exists,
# other groups of the same session (job control) end too. Runs in a subshell, so several ends go on at once.
# A process whose number names no group was started by a wrapper (ForceCommand): its group is the wrapper's. Where that
# is none that can be named (0 inside a container), or the one of this very script, only the process is meant.
_END = """
group_of() {
 found=$1
 kill -0 "-$1" && return
 if read -r stat <"/proc/$1/stat"; then set -- "$1" ${stat##*") "}; found=$4
 else found=; kill -0 "$1" && found=$(ps -o pgid= -p "$1"); found=${found##* }; fi
}
aim() {
 group_of "$1"; target=-$found
 case $found in ''|0|1|*[!0-9]*|"$own") target=$1 ;; esac
}
end() {
 trap - TERM
 group=${target#-}
 kill -TERM "$target" && { command -v pkill >/dev/null && pkill -TERM -s "$group"; n=0
 while [ $n -lt 25 ] && kill -0 "$target"; do sleep 0.02 || { sleep 1; break; }; n=$((n+1)); done; }
 kill -KILL "$target"; command -v pkill >/dev/null && pkill -KILL -s "$group"
 echo "gone $1"
}
group_of $$; own=$found
"""

# The loop reads through a relay, because no POSIX shell can stop a `read` after a time: the watcher of the heartbeat
# ends the relay, and the loop sees the end of its input. It is no `cat`: that of busybox waits for 16 MiB where its
# input is a socket. dash's kill knows no `--`; bash reports killed jobs on stderr, hence 2>/dev/null; TERM is not
# ignored, since that would be handed down to the watcher's sleep. Between the sleep's fork and the next word, only `$!`
# knows it, and a child that has not become `sleep` yet may lose a TERM, not a KILL. What a number means is found out
# when it is told, as a process that a wrapper started may end before its children.
_SCRIPT = (
    """
exec 2>/dev/null
trap '' HUP PIPE INT
"""
    + _END
    + """
watch() {
 last=$! nap=
 trap '[ "$nap" ] || [ "$!" = "$last" ] || nap=$!; kill -KILL $nap; exit' TERM
 sleep SILENCE & nap=$!
 wait $nap
 kill -KILL $1
}
sh -c 'echo "r $$"; while read -r line; do echo "$line" || exit; done' | {
groups=' '
watcher=
relay=
known() {
 case $groups in *" $1="*) target=${groups#*" $1="}; target=${target%% *} ;; *) aim "$1" ;; esac
}
forget() {
 case $groups in *" $1="*) rest=${groups#*" $1="}; groups="${groups%%" $1="*} ${rest#* }" ;; esac
}
while read -r verb group name; do
 case $verb in
 r) relay=$group; echo ready; watch $relay >/dev/null </dev/null & watcher=$! ;;
 .) kill $watcher; wait $watcher; watch $relay >/dev/null </dev/null & watcher=$! ;;
 +) aim "$group"; groups="$groups$group=$target " ;;
 -) forget "$group" ;;
 k) known "$group"; forget "$group"; end $group </dev/null & ;;
 s) known "$group"; kill "-$name" "$target" ;;
 o) kill "-${name% *}" $(pgrep -g "$group" | grep -vx "$group" || echo "${name#* }") ;;
 esac
done
kill $watcher
for pair in $groups; do target=${pair#*=}; end ${pair%%=*} </dev/null >/dev/null & done
wait
}
"""
)


def end_script(group: int) -> bytes:
    """Return a program for /bin/sh that ends one group, for where no loop can be had."""
    return f"exec 2>/dev/null{_END}aim {group}; end {group}\n".encode()


_OPENING_SECONDS = 1.0  # that an end waits for the loop; then it goes another way
_MOST_OPENINGS = 4


class GuardProcess(Protocol):
    """The far loop as a process of a transport."""

    @property
    def stdout(self) -> OutputStream:
        """What it reports."""
        ...

    def write_now(self, data: bytes) -> None:
        """Write a few bytes without waiting."""
        ...

    def write_eof(self) -> None:
        """End its input, and so the loop."""
        ...


class GuardHome(Protocol):
    """What has a guard: a connection, or one that is used as another user.

    Attributes:
        closing: whether its end has begun; no loop is opened then.
    """

    closing: bool

    def spawn(self, coro: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run something in the background for as long as there is a guard."""
        ...

    def begin_guard(self, spec: ProcessSpec) -> GuardProcess | None:
        """Ask for the guard's session now, before any other's; None where that is not possible."""
        ...

    async def open_guard(self, spec: ProcessSpec, begun: GuardProcess | None) -> GuardProcess | None:
        """Start the loop, on what `begin_guard` gave if it gave something; None where there is no room for it."""
        ...

    def guard_is_open(self) -> None:
        """Have the guard told of the commands that run already."""
        ...

    def is_lost(self) -> bool:
        """Whether nothing can be opened any more."""
        ...


class Guard:
    """The near side of the far loop.

    Args:
        home: what it guards.
        silence: seconds without a word from here after which the loop ends everything.

    Attributes:
        state: "closed" until first needed, "opening", "open", or "none" where it cannot be had.
    """

    def __init__(self, home: GuardHome, silence: float) -> None:
        self.state: str = "closed"
        self._home = home
        self._silence = silence
        self._process: GuardProcess | None = None
        self._pending: list[bytes] = []
        self._gone: dict[int, asyncio.Future[None]] = {}
        self._opened: asyncio.Event = asyncio.Event()
        self._known: set[int] = set()
        self._reminders: dict[float, Reminders] = {}
        self._openings = 1
        self._given_up = False

    def want(self) -> None:
        """Open the loop, unless that has begun."""
        if self.state == "closed" and not self._home.closing:
            self.state = "opening"
            script = _SCRIPT.replace("SILENCE", f"{self._silence:.3g}").encode()
            spec = ProcessSpec((b"/bin/sh", b"-c", script), guarded=False)
            self._home.spawn(self._open(spec, self._home.begin_guard(spec)), "guard")

    def give_up(self) -> None:
        """Give its session back for good: the server allows one, and commands need it."""
        self._openings, self._given_up = _MOST_OPENINGS, True
        if self._process is not None:
            self._process.write_eof()

    def reminders(self, after: float) -> Reminders:
        """Return what reminds of a group that has run for `after` seconds; fewer where the loop is open."""
        if self.state == "open":
            after = min(after, GUARD_OPEN_AFTER_SECONDS)
        found = self._reminders.get(after)
        if found is None:
            found = self._reminders[after] = Reminders(after)
        return found

    def add(self, group: int) -> None:
        """Say that a process group runs."""
        self._known.add(group)
        self._tell(f"+ {group}\n")

    def remove(self, group: int) -> None:
        """Say that a process group has ended."""
        if group in self._known:
            self._known.discard(group)
            self._tell(f"- {group}\n")

    def signal(self, group: int, name: str) -> None:
        """Send one signal to a process group."""
        self._tell(f"s {group} {name}\n")

    def signal_others(self, leader: int, name: str, pid: int) -> None:
        """Send one signal to a process group without its leader; to `pid` alone where the far side has no pgrep."""
        self._tell(f"o {leader} {name} {pid}\n")

    async def opened(self) -> None:
        """Open the loop, and wait until it has its session or cannot have one."""
        self.want()
        await self._opened.wait()

    async def end(self, group: int) -> bool:
        """End a process group and wait until it is gone.

        Returns:
            False where the loop cannot be had, or not yet: once it opens, it ends the group all the same.
        """
        if self.state == "none":
            return False
        gone = self._gone.get(group)
        if gone is None:
            gone = self._gone[group] = asyncio.get_running_loop().create_future()
            self._known.discard(group)
            self._tell(f"k {group}\n")  # done even if nobody waits for it any more
        with suppress(TimeoutError):
            async with asyncio.timeout(_OPENING_SECONDS):
                await self._opened.wait()
        if self._process is None or self.state == "none":
            return False
        await asyncio.wait({gone})
        return not gone.cancelled()

    def _tell(self, text: str) -> None:
        if self.state == "none":
            return
        self._pending.append(text.encode())
        self.want()
        self._flush()

    def _flush(self) -> None:
        if self._pending and self._process is not None:
            text = b"".join(self._pending)
            self._pending.clear()
            self._process.write_now(text)

    async def _open(self, spec: ProcessSpec, begun: GuardProcess | None) -> None:
        try:
            self._process = await self._home.open_guard(spec, begun)
            if self._process is None:
                return
            if self._given_up:
                self._process.write_eof()
            self._opened.set()  # orders wait in its input until the loop runs, and are done even if we are gone by then
            self._flush()
            await self._read(self._process)
        except (RemoteError, anyio.EndOfStream):
            return
        finally:
            self._close()

    async def _read(self, process: GuardProcess) -> None:
        rest = b""
        beat: asyncio.Task[None] | None = None
        try:
            while True:
                *lines, rest = (rest + await process.stdout.receive()).split(b"\n")
                for line in lines:
                    if line == b"ready":
                        beat = self._ready()
                    elif line.startswith(b"gone "):
                        self._settle(int(line[5:]))
        finally:
            if beat is not None:
                beat.cancel()

    def _ready(self) -> asyncio.Task[None]:
        self.state = "open"
        self._home.guard_is_open()
        return self._home.spawn(self._beat(), "heartbeat of the guard")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._silence / 6)
            self._tell(".\n")

    def _settle(self, group: int) -> None:
        gone = self._gone.pop(group, None)
        if gone is not None and not gone.done():
            gone.set_result(None)

    def _close(self) -> None:
        was_open, self.state, self._process = self.state == "open", "none", None
        self._opened.set()
        for gone in self._gone.values():
            gone.cancel()
        self._gone.clear()
        if was_open and self._openings < _MOST_OPENINGS and not self._home.is_lost():
            self._open_again()

    def _open_again(self) -> None:
        """Begin anew after somebody ended the loop at the far end."""
        self.state, self._opened = "closed", asyncio.Event()
        self._openings += 1
        self._pending = [f"+ {group}\n".encode() for group in self._known]
        if self._known:
            self.want()


class Registration:
    """What the guard is told of one process group: nothing of a short one, else its beginning and its end.

    Args:
        guard: who is told.
        group: the process group.
        after: seconds that it runs before the guard is told; fewer where the guard is open already.
    """

    __slots__ = ("_group", "_guard", "_reminders", "_told")

    def __init__(self, guard: Guard, group: int, after: float) -> None:
        self._guard = guard
        self._group = group
        self._told = False
        self._reminders: Reminders | None = guard.reminders(after)
        self._reminders.add(self.tell)

    def tell(self) -> None:
        """Tell the guard now, unless that was done or came to nothing."""
        if self._waits_no_more():
            self._told = True
            self._guard.add(self._group)

    def _waits_no_more(self) -> bool:
        """Have no reminder come any more; returns whether one was to come."""
        reminders, self._reminders = self._reminders, None
        if reminders is not None:
            reminders.remove(self.tell)
        return reminders is not None

    def forget(self, *, ending: bool) -> None:
        """Take note of the group's end, or that the guard is about to be asked for it (`ending`)."""
        self._waits_no_more()
        if self._told and not ending:
            self._told = False
            self._guard.remove(self._group)
