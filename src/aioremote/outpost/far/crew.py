"""Starts workers: the outpost's end of the zygote, which tells of their starts and ends."""

import json
import os
import socket
import struct

from .workers import READ_BYTES, Member, unwatched
from .zygote import ENDED, NEWS, ORDER, STARTED, fork_zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .owner import Owner
    from .serve import Outpost

__all__ = ["Crew"]

NO_ZYGOTE = 9  # KILL, the status of workers whose end nobody has seen


class Crew(object):
    """All workers of an outpost, and the zygote they come from."""

    def __init__(self, outpost: "Outpost") -> "None":
        self.outpost: "Outpost" = outpost
        self._zygote: "socket.socket | None" = None
        self._news = b""
        self._token = 0
        self._starting: "dict[int, Member]" = {}
        self._members: "dict[int, Member]" = {}
        self._groups = outpost.groups

    def start(self, packages: "list[str]", owner: "Owner") -> "Member":
        """Start a worker; it takes calls when its owner is told so."""
        if self._zygote is None:
            self._zygote = fork_zygote()
            self.outpost.watch(self._zygote.fileno(), self._on_news)
        self._token += 1
        member = self._starting[self._token] = Member(self.outpost, owner)
        names = json.dumps(packages).encode()
        rights = struct.pack("%di" % len(member.theirs), *member.theirs)
        order = ORDER.pack(self._token, len(names)) + names
        try:
            self._zygote.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            self._lose_zygote()
        for fd in member.theirs[1:]:
            os.close(fd)
        return member

    def _on_news(self, _: "int") -> "None":
        assert self._zygote is not None
        try:
            data = self._zygote.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lose_zygote()
            return
        data = self._news + data
        whole = len(data) - len(data) % NEWS.size
        self._news = data[whole:]
        for kind, about, value in NEWS.iter_unpack(data[:whole]):
            if kind == STARTED:
                self._started(about, value)
            elif kind == ENDED and about in self._members:
                self._groups.remove(about)
                self._members.pop(about).on_ended(value)

    def _started(self, token: "int", pid: "int") -> "None":
        member = self._starting.pop(token)
        if pid < 0:
            member.on_ended(NO_ZYGOTE)
            return
        member.pid = pid
        self._members[pid] = member
        self._groups.add(pid)
        if member.interrupted:
            member.kill()
        else:
            member.owner.on_started(member)

    def _lose_zygote(self) -> "None":
        """End all workers; the next one comes from a new zygote."""
        if self._zygote is not None:
            self.outpost.watch(self._zygote.fileno(), unwatched, 0)
            self._zygote.close()
        self._zygote, self._news = None, b""
        members = list(self._members.values()) + list(self._starting.values())
        self._members.clear()
        self._starting.clear()
        for member in members:
            if member.pid:
                self._groups.remove(member.pid)
            member.on_ended(NO_ZYGOTE)
