"""Runs argv with its standard input and output on one non-blocking socket, relayed to those of this process."""

import os
import select
import socket
import sys

near, far = socket.socketpair()
pid = os.fork()
if pid == 0:
    near.close()
    far.setblocking(False)
    os.dup2(far.fileno(), 0)
    os.dup2(far.fileno(), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
far.close()
sources = {0: near.fileno(), near.fileno(): 1}
while near.fileno() in sources:
    for fd in select.select(list(sources), [], [])[0]:
        data = os.read(fd, 65536)
        os.write(sources[fd], data)
        if not data:
            del sources[fd]
            if fd == 0:
                near.shutdown(socket.SHUT_WR)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
