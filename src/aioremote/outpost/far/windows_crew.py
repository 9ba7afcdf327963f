"""What stands for `crew` on Windows, where nothing can be forked: each worker is a Python of its own.

A thread a worker starts it, hands it its sockets, and waits for its end.
"""

import os
import subprocess
import sys
import threading

from .windows_handover import order
from .windows_kernel import Job, own_python
from .windows_member import WindowsMember

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from .owner import Owner
    from .windows_outpost import WindowsOutpost

__all__ = ["Crew"]

NO_WORKER = 9  # the status of workers that have not started


class Crew(object):
    """All workers of an outpost."""

    def __init__(self, outpost: "WindowsOutpost") -> "None":
        self.outpost: "WindowsOutpost" = outpost

    def start(self, packages: "list[str]", owner: "Owner") -> "WindowsMember":
        """Start a worker; it takes calls when its owner is told so."""
        member = WindowsMember(self.outpost, owner)
        sockets = member.sockets()
        arguments = member, packages, sockets, member.theirs[2:]
        threading.Thread(target=self._live, args=arguments, daemon=True).start()
        return member

    def _live(
        self, member: "WindowsMember", packages: "list[str]", sockets: "list[socket.socket]", outputs: "list[int]"
    ) -> "None":
        """Be a worker's thread."""
        post = self.outpost.post
        try:
            process, job = _start(packages, sockets, outputs)
        except OSError as error:
            text = "aioremote: no worker starts: %s\n" % error
            post(lambda: self.outpost.complain(text))
            post(lambda: member.on_ended(NO_WORKER))
            return
        finally:
            for sock in sockets:
                sock.close()
            for fd in outputs:
                os.close(fd)
        post(lambda: _started(member, process.pid, job))
        code = process.wait()
        post(lambda: member.on_ended(code << 8))  # as a wait status


def _start(
    packages: "list[str]", sockets: "list[socket.socket]", outputs: "list[int]"
) -> "tuple[subprocess.Popen[bytes], Job]":
    program, environment = own_python()
    process = subprocess.Popen(
        [program, *sys.orig_argv[1:-1], "windows_worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=outputs[0],
        stderr=outputs[1],
    )
    assert process.stdin is not None
    try:
        job = Job()
        job.add(process.pid)
        process.stdin.write(order(process.pid, sockets, packages=packages))
        process.stdin.close()
    except BaseException:
        process.kill()
        raise
    return process, job


def _started(member: "WindowsMember", pid: "int", job: "Job") -> "None":
    member.pid, member.job = pid, job
    if member.interrupted:
        member.kill()
    else:
        member.owner.on_started(member)
