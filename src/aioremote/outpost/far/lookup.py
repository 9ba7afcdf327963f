"""Addresses of hosts. Numbers are read at once; a name may take seconds, so a child process looks it up.

Not a thread: the outpost forks, and what a thread holds at that moment stays locked in the child for ever.
"""

import json
import os
import signal
import socket

from .supervisor import open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .serve import Outpost

    _Answer = Callable[[list[tuple[int, Any]], str], None]

__all__ = ["Lookups", "numbers_of"]

MOST_CHILDREN = 16  # further names wait for their turn
MOST_SECONDS = 60  # of one look-up
MOST_BYTES = 16384  # of one answer; a pipe takes them all
LOOPBACK = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
EVERYWHERE = (("::", socket.AF_INET6), ("0.0.0.0", socket.AF_INET))  # noqa: S104  # who asks for it


def numbers_of(host: "str", port: "int") -> "list[tuple[int, Any]]":
    """Return the addresses of what needs no look-up, none for a name; IDNA's UnicodeError for what is neither."""
    if host.lower() == "localhost":
        return [(int(family), (address, port)) for address, family in LOOPBACK]
    if host in ("", "*"):
        return [(int(family), (address, port)) for address, family in EVERYWHERE]
    try:
        return _found(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST))  # noqa: TID251
    except socket.gaierror:
        return []


def _found(answers: "list[Any]") -> "list[tuple[int, Any]]":
    places: "list[tuple[int, Any]]" = []
    for family, _, _, _, address in answers:
        place = (int(family), tuple(address))
        if place not in places:
            places.append(place)
    return places


class Lookups(object):
    """Looks names up; several who ask for the same one at once share a look-up."""

    def __init__(self, outpost: "Outpost") -> "None":
        self._outpost = outpost
        self._asked: "dict[tuple[str, int], list[_Answer]]" = {}
        self._waiting: "list[tuple[str, int]]" = []
        self._running = 0

    def find(self, host: "str", port: "int", answer: "_Answer") -> "None":
        """Call `answer` with the addresses and "", or with none and the reason; perhaps at once."""
        try:
            known = numbers_of(host, port)
        except (UnicodeError, ValueError) as error:
            answer([], "%r is no host name: %s" % (host, error))
            return
        if known:
            answer(known, "")
            return
        asked = self._asked.setdefault((host, port), [])
        asked.append(answer)
        if len(asked) == 1:
            self._waiting.append((host, port))
            self._go_on()

    def _go_on(self) -> "None":
        while self._waiting and self._running < MOST_CHILDREN:
            question = self._waiting.pop(0)
            try:
                self._start(question)
            except OSError as error:
                self._tell(question, [], "no name can be looked up: %s" % error)

    def _start(self, question: "tuple[str, int]") -> "None":
        self._outpost.groups.start()
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if not pid:
            _look_up(writer, question)
        os.close(writer)
        os.set_blocking(reader, False)
        self._running += 1
        self._outpost.groups.add(pid)

        def ended(_: "int") -> "None":
            try:
                said = os.read(reader, MOST_BYTES)
            except OSError:
                said = b""
            os.close(reader)
            self._outpost.groups.remove(pid)
            self._running -= 1
            places: "list[tuple[int, list[Any]]]" = []
            why = "no answer in time"
            if said:
                places, why = json.loads(said.decode())
            self._tell(question, [(family, tuple(address)) for family, address in places], why)
            self._go_on()

        self._outpost.children.add(pid, ended)

    def _tell(self, question: "tuple[str, int]", places: "list[tuple[int, Any]]", why: "str") -> "None":
        for answer in self._asked.pop(question, ()):
            answer(places, why)


def _look_up(writer: "int", question: "tuple[str, int]") -> "NoReturn":
    """In the child: look up, write the answer to a pipe, and end."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(MOST_SECONDS)
        os.setsid()
        for fd in open_descriptors():
            if fd not in (0, 1, 2, writer):
                try:
                    os.close(fd)
                except OSError:
                    pass
        host, port = question
        try:
            places, why = _found(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)), ""  # noqa: TID251
        except (OSError, UnicodeError) as error:
            places, why = [], "%s: %s" % (host, getattr(error, "strerror", None) or error)
        said = json.dumps([places, why]).encode()
        os.write(writer, said if len(said) <= MOST_BYTES else b"")
    finally:
        os._exit(0)
