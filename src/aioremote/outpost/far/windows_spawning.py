"""What stands for `spawning` on Windows: starting a program by its argv, in a job of its own.

Windows hands a program one line, which it takes apart itself: argv arrives exactly where it does so as C's runtime
does. Batch files take it apart in another way, through which arguments become commands: they are refused.
"""

import errno
import os
import subprocess

from .orders import StartError
from .windows_kernel import CREATE_NO_WINDOW, CREATE_SUSPENDED, Job, ReadEnd, new_pipe, resume
from .windows_supervisor import PROGRAMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .escapees import Marks
    from .orders import Order

__all__ = ["Spawner"]

ENDINGS = ("", ".exe", ".com")
BATCH_FILES = (".bat", ".cmd")


class Spawner(object):
    """Starts programs.

    Args:
        marks: none are given.
    """

    def __init__(self, marks: "Marks") -> "None":
        pass

    def start(self, order: "Order", number: "int") -> "tuple[int, list[int | ReadEnd]]":
        """Start a program.

        Returns:
            Its process id, and this end of its streams: input (where there is some), output, errors.

        Raises:
            StartError: it cannot be started.
            OSError: nothing can be started now.
        """
        if order.size is not None:
            raise StartError("program", errno.ENOTTY)
        environment = _environment(order)
        cwd = None if order.cwd is None else os.fsdecode(order.cwd)
        if cwd is not None and not os.path.isdir(cwd):
            raise StartError("cwd", errno.ENOTDIR if os.path.exists(cwd) else errno.ENOENT)
        program = _find(os.fsdecode(order.argv[0]), cwd or os.getcwd(), environment)
        ours: "list[int | ReadEnd]" = []
        theirs: "list[int]" = []
        for _ in ("stdout", "stderr"):
            reading, writing = new_pipe()
            ours.append(reading)
            theirs.append(writing)
        stdin = subprocess.DEVNULL
        if order.stdin:
            stdin, writing = os.pipe()
            ours.insert(0, writing)
            theirs.append(stdin)
        try:
            pid = _spawn(program, order, cwd, environment, (stdin, theirs[0], theirs[1]))
        except BaseException:
            for end in ours:
                os.close(end) if isinstance(end, int) else end.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return pid, ours


def _environment(order: "Order") -> "dict[str, str]":
    environment = dict(os.environ)
    for name, value in order.env.items():
        if value is None:
            environment.pop(os.fsdecode(name).upper(), None)
        else:
            environment[os.fsdecode(name).upper()] = os.fsdecode(value)
    return environment


def _find(name: "str", cwd: "str", environment: "dict[str, str]") -> "str":
    """Return the file of a program: in PATH where its name has no folder, and never where it is only by chance."""
    folders = [cwd] if os.path.dirname(name) else environment.get("PATH", "").split(os.pathsep)
    for folder in filter(None, folders):
        for ending in ENDINGS:
            path = os.path.join(folder, name + ending)
            if os.path.isfile(path):
                if path.rstrip(" .").lower().endswith(BATCH_FILES):
                    raise StartError("program", errno.ENOEXEC)
                return path
    raise StartError("program", errno.ENOENT)


def _spawn(
    program: "str", order: "Order", cwd: "str | None", environment: "dict[str, str]", streams: "tuple[int, int, int]"
) -> "int":
    stdin, stdout, stderr = streams
    job = Job()
    try:
        process = subprocess.Popen(
            [os.fsdecode(word) for word in order.argv],
            executable=program,
            cwd=cwd,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            creationflags=CREATE_SUSPENDED | CREATE_NO_WINDOW,
        )
    except OSError as error:
        raise StartError("program", error.errno or errno.ENOEXEC) from error
    try:
        job.add(process.pid)
        resume(process.pid)
    except BaseException:
        process.kill()
        raise
    PROGRAMS[process.pid] = process, job
    return process.pid
