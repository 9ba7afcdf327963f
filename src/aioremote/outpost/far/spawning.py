"""Starting a program exactly: argv without a shell, a session of its own, errors told before anything runs.

``posix_spawn`` where Python has it (3.8), since a fork copies the outpost's page tables.
"""

import errno
import os
import signal

from .orders import StartError
from .pipes import set_size
from .supervisor import open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    from .escapees import Marks
    from .orders import Order

    _Streams = Union["list[int]", bytes]  # input, output and errors, all above 2; or the path of a terminal

__all__ = ["Spawner"]

SHELL = b"/bin/sh"
# Python ignores these, and what is ignored stays so after exec.
_RESTORED = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)]


class Spawner(object):
    """Starts programs in what was the environment and the directory of the login, with a mark each."""

    def __init__(self, marks: "Marks") -> "None":
        self._marks = marks
        self._env = _first_environment()
        self._spawns = hasattr(os, "posix_spawn")
        self._home = -1
        self._null = os.open(os.devnull, os.O_RDONLY)
        for fd in open_descriptors():
            if fd > 2:
                try:
                    os.set_inheritable(fd, False)
                except OSError:
                    pass

    def start(self, order: "Order", number: "int") -> "tuple[int, list[int]]":
        """Start a program with the mark of that number.

        Returns:
            Its process id, and this end of its streams: input (where there is some), output, errors; or of its
            terminal, twice: to read from and to write to.

        Raises:
            StartError: it cannot be started.
            OSError: nothing can be started now (no process, no descriptor, no memory).
        """
        ours: "list[int]" = []
        theirs: "list[int]" = []
        try:
            if order.size is None:
                _make_pipes(ours, theirs, stdin=order.stdin)
                pid = self._spawn(order, number, theirs if order.stdin else [self._null, *theirs])
            else:
                _make_terminal(ours, theirs, order.size)
                pid = self._spawn(order, number, os.fsencode(os.ttyname(theirs[0])))
            for fd in ours:
                os.set_blocking(fd, False)
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        return pid, ours

    def _spawn(self, order: "Order", number: "int", streams: "_Streams") -> "int":
        env = self._environment(order, number)
        if order.cwd is None:
            return self._find_and_start(order, env, streams)
        self._enter(order.cwd)
        try:
            return self._find_and_start(order, env, streams)
        finally:
            os.fchdir(self._home)

    def _environment(self, order: "Order", number: "int") -> "dict[bytes, bytes]":
        if not order.env and not number:
            return self._env
        env = dict(self._env)
        for name, value in order.env.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
        env.update(self._marks.variable(number))
        return env

    def _enter(self, cwd: "bytes") -> "None":
        """Go there for a moment: no program is told where to start otherwise."""
        if self._home < 0:
            self._home = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
        try:
            os.chdir(cwd)
        except OSError as error:
            raise StartError("cwd", error.errno or errno.ENOENT) from error

    def _find_and_start(self, order: "Order", env: "dict[bytes, bytes]", streams: "_Streams") -> "int":
        program, path = order.argv[0], b""
        if b"/" not in program:
            path = env.get(b"PATH") or os.fsencode(os.defpath)
            program = _find(program, path)
        try:
            return self._start(program, order.argv, env, streams)
        except OSError as error:
            if error.errno == errno.ENOEXEC:  # as execvp(3) does
                return self._start(SHELL, [SHELL, program, *order.argv[1:]], env, streams)
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise
            raise StartError("program", error.errno or errno.ENOENT, path) from error

    def _start(self, program: "bytes", argv: "list[bytes]", env: "dict[bytes, bytes]", streams: "_Streams") -> "int":
        if self._spawns:
            try:
                return os.posix_spawn(
                    program, argv, env, file_actions=_actions(streams), setsid=True, setsigdef=_RESTORED
                )
            except NotImplementedError:  # an old libc
                self._spawns = False
        return _fork_and_exec(program, argv, env, streams)


def _make_pipes(ours: "list[int]", theirs: "list[int]", *, stdin: "bool") -> "None":
    """Add both ends of the pipes of a program: its input, if any, its output, its errors."""
    for is_input in (True, False, False) if stdin else (False, False):
        reader, writer = os.pipe()
        ours.append(writer if is_input else reader)
        theirs.append(reader if is_input else writer)


def _make_terminal(ours: "list[int]", theirs: "list[int]", size: "tuple[int, int]") -> "None":
    master, slave = os.openpty()
    ours.append(master)
    theirs.append(slave)
    ours.append(os.dup(master))  # since a descriptor is watched for one thing at a time
    set_size(slave, size)


def _close(fds: "list[int]") -> "None":
    for fd in fds:
        os.close(fd)


def _actions(streams: "_Streams") -> "list[tuple[int, int, int]]":
    if isinstance(streams, list):
        return [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
    # A session leader that opens a terminal gets it as its controlling one.
    first: "Any" = (os.POSIX_SPAWN_OPEN, 0, streams, os.O_RDWR, 0)
    return [first, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]


def _find(program: "bytes", path: "bytes") -> "bytes":
    """Return the first such program on the path that may be run."""
    places = [(folder or b".") + b"/" + program for folder in path.split(b":")]
    for place in places:
        if os.access(place, os.X_OK) and not os.path.isdir(place):
            return place
    denied = any(os.path.isfile(place) for place in places)
    raise StartError("program", errno.EACCES if denied else errno.ENOENT, path)


def _fork_and_exec(program: "bytes", argv: "list[bytes]", env: "dict[bytes, bytes]", streams: "_Streams") -> "int":
    """Do the same by the standard library, whose fork touches less memory than one of our own."""
    import fcntl
    import subprocess
    import termios

    def take_terminal() -> "None":
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    stdin, stdout, stderr = streams if isinstance(streams, list) else [os.open(streams, os.O_RDWR | os.O_NOCTTY)] * 3
    try:
        process = subprocess.Popen(
            argv,
            executable=program,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            start_new_session=True,
            preexec_fn=None if isinstance(streams, list) else take_terminal,  # noqa: PLW1509  # there are none
        )
    finally:
        if not isinstance(streams, list):
            os.close(stdin)
    process.returncode = 0  # others wait for it
    return process.pid


def _first_environment() -> "dict[bytes, bytes]":
    """Return the environment that this Python was started in: under LANG=C it adds LC_CTYPE to its own (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        words = []
    env: "dict[bytes, bytes]" = {}
    for word in words:
        name, sign, value = word.partition(b"=")
        if sign and name:
            env.setdefault(name, value)
    return env or dict(os.environb)
