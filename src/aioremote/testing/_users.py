"""Login users for tests against a real sshd: made with useradd, shared by test processes that run side by side.

Only root can do this. Not for production accounts: a user made here is removed as soon as nobody uses it any more, with
its home and whatever it still runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import IO

from aioremote.testing._processes import end_processes, owned_by
from aioremote.testing._threads import Service

__all__ = ["MissingToolError", "TestUser", "create_user", "find_tool", "set_password"]

STATE_DIRECTORY = Path("/run/aioremote-testing")
SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")  # what useradd takes everywhere
GRACE_SECONDS = 2.0
MADE_HERE = "made by aioremote.testing\n"


class MissingToolError(RuntimeError):
    """A program or a right that the test needs is not there; the message says how to get it."""


def find_tool(name: str, hint: str) -> str:
    """Return the absolute path of a program, looked up where administrators' programs stand too.

    Raises:
        MissingToolError: it is not installed; `hint` says what to do.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")
    if path is None:
        raise MissingToolError(f"{name} is not installed: {hint}")
    return os.path.abspath(path)


class TestUser(Service):
    """A normal user with a home of its own, as ``with`` or ``async with`` block.

    The user is made when it does not exist. Several test processes may use one name at the same time; the last one to
    leave removes the user, if it was made here, with its home and its processes. A user that was there before stays.

    Args:
        name: Lower-case letters, digits, ``_`` and ``-``; at most 31.
        shell: The login shell: a path, a name looked up on PATH, or ``busybox`` for its sh.
        password: Set at the start; None leaves logins by password impossible (keys work).

    Raises:
        ValueError: `name` is no user name.
        MissingToolError: at the start: not root, or useradd or the shell is missing.
        RuntimeError: at the start: the user exists with another shell, or useradd failed.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, name: str, shell: str = "/bin/bash", *, password: str | None = None) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no user name: lower-case letters, digits, '_' and '-', at most 31")
        self.name = name
        self._wanted_shell = shell
        self._password = password
        self._use: IO[str] | None = None

    def __repr__(self) -> str:
        return f"TestUser({self.name!r}, {self._wanted_shell!r})"

    @property
    def home(self) -> Path:
        """The home directory; KeyError while the user does not exist."""
        return Path(pwd.getpwnam(self.name).pw_dir)

    @property
    def uid(self) -> int:
        """The numeric id; KeyError while the user does not exist."""
        return pwd.getpwnam(self.name).pw_uid

    @property
    def shell(self) -> str:
        """The path of the login shell; KeyError while the user does not exist."""
        return pwd.getpwnam(self.name).pw_shell

    def set_password(self, password: str) -> None:
        """Set the password for logins; see `set_password`."""
        set_password(self.name, password)

    def start(self) -> None:
        """Make the user if need be, hold it until `stop`, which is due after a failure too. Blocks some 50 ms."""
        if os.geteuid() != 0:
            raise MissingToolError("test users are made with useradd: run the tests as root")
        with _mutex():
            self._use = open(STATE_DIRECTORY / f"{self.name}.user", "a+", encoding="utf-8")  # noqa: SIM115 - until stop
            fcntl.flock(self._use, fcntl.LOCK_SH)
            self._make(self._use)
            if self._password is not None:
                set_password(self.name, self._password)

    def stop(self) -> None:
        """Let the user go; the last holder removes it, if it was made here. Blocks; does nothing the second time."""
        use, self._use = self._use, None
        if use is None:
            return
        with use, _mutex():
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process uses it and removes it later
            use.seek(0)
            if use.read() == MADE_HERE:
                _remove(self.name)
            os.unlink(use.name)

    def _make(self, use: IO[str]) -> None:
        shell, link_to = _resolve_shell(self.name, self._wanted_shell)
        try:
            existing = pwd.getpwnam(self.name)
        except KeyError:
            use.truncate(0)
            use.write(MADE_HERE)
            use.flush()
            # The password "*" matches nothing; useradd's own "!" would lock the account for keys too.
            _run("useradd", "--create-home", "--shell", shell, "--password", "*", self.name)
            if link_to is not None:
                link = Path(shell)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(link_to)
        else:
            if existing.pw_shell != shell:
                raise RuntimeError(f"user {self.name} exists with the shell {existing.pw_shell}, not {shell}")


def create_user(name: str, shell: str = "/bin/bash", *, password: str | None = None) -> TestUser:
    """Return a login user for tests, not made yet: use it as a ``with`` or ``async with`` block, see `TestUser`."""
    return TestUser(name, shell, password=password)


def set_password(user: str, password: str) -> None:
    """Set the password of a user that was made by `create_user` and is in use. Blocks.

    The account needs no PAM: sshd with ``UsePAM no`` and ``PasswordAuthentication yes`` takes it.

    Raises:
        ValueError: `user` was not made here (a test must not change real accounts), or the password holds a newline.
    """
    state = STATE_DIRECTORY / f"{user}.user"
    if not NAME.fullmatch(user) or not state.exists() or state.read_text(encoding="utf-8") != MADE_HERE:
        raise ValueError(f"{user} was not made by create_user: its password is left alone")
    if "\n" in password:
        raise ValueError("a password cannot hold a newline")
    _run("chpasswd", text=f"{user}:{password}\n")


@contextlib.contextmanager
def _mutex() -> Generator[None]:
    """One test process at a time makes or removes users: useradd gives up when /etc/passwd is locked."""
    STATE_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with open(STATE_DIRECTORY / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _resolve_shell(user: str, shell: str) -> tuple[str, str | None]:
    """Return the path for /etc/passwd, and what it is to be a link to (busybox acts by the name it is called with)."""
    name = os.path.basename(shell)
    if not shell.startswith("/") or name == "busybox":
        shell = find_tool(shell, f"apt-get install {name}")
    elif not os.access(shell, os.X_OK):
        raise MissingToolError(f"the login shell {shell} is not there or cannot be run: apt-get install {name}")
    if name == "busybox":
        return f"/home/{user}/.busybox/sh", shell
    return shell, None


def _remove(user: str) -> None:
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return
    end_processes(lambda: owned_by(uid), grace_seconds=GRACE_SECONDS)
    _run("userdel", "--remove", user)


def _run(name: str, *args: str, text: str = "") -> None:
    program = find_tool(name, "apt-get install passwd")
    done = subprocess.run([program, *args], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed with status {done.returncode}: {done.stderr.strip()}")
