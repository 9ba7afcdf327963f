"""Machines over a machine's connection: as another user, and inside what a command enters.

A part of `aioremote.machine`, which says how a machine is made of a transport. Views with another directory or
environment are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from aioremote.transports.sudo.transport import SudoTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioremote.machine import Machine
    from aioremote.protocols import PasswordProvider, Transport

__all__ = ["MachineViews"]


class MachineViews:
    """What a machine has of these."""

    transport: Transport

    def _around(self, transport: Transport, *, scoped: bool) -> Machine:
        """Return a machine over a transport around this one's, with the calling task's scopes or without."""
        raise NotImplementedError

    def sudo(self, user: str = "root", *, password: str | PasswordProvider | None = None) -> Machine:
        """Return this machine as another user, over the same connection. sudo has to be installed there.

        Commands, scopes and paths of the machine returned are that user's; its connections and listeners are still
        opened by the login. Each program is started through ``/bin/sh``, so sudoers has to allow that. Closing it ends
        its own processes only; closing this machine closes it too.

        Args:
            user: the target user; its login shell is never used.
            password: the one that sudo asks for: a str, or an async function that gets a PasswordRequest and returns a
                str, which is asked when sudo asks. `ask_once` shares one among machines. None where none is needed.

        Raises:
            AddressError: `user` cannot be a user name. When something is run: AuthenticationError where sudo does not
                let the login through, UnsupportedError where there is no sudo.
        """
        return self._around(SudoTransport(self.transport, user=user, password=password), scoped=True)

    def within(
        self,
        prefix: Sequence[str],
        *,
        joins: Literal["exec", "shell"] = "exec",
        outpost: Literal["auto", "always", "never"] = "auto",
    ) -> Machine:
        """Return a machine inside this one: ``m.within(["docker", "exec", "-i", "web"])``. Shares the connection.

        Where there is a Python inside, everything goes through one run of the command; without, each program is a run
        of its own, and only /bin/sh is needed. Programs are ended from inside. Closing it ends what runs inside;
        closing this machine closes it too.

        Args:
            prefix: the command that enters, word by word; what is to run inside is appended. It has to pass standard
                input on (``-i`` for docker, podman and kubectl).
            joins: "exec" appends the words as they are; "shell" quotes them as one word, for a command that feeds a
                shell (``ssh``, ``su -c``).
            outpost: "auto" uses a Python inside where there is one, "always" requires it, "never" leaves it alone.

        Raises:
            ValueError, TypeError: a prefix that is no list of words. When something is run: ConnectError where the
                command ends before the program has begun, with what it said.
        """
        from aioremote.transports.command import CommandTransport  # 15 ms, for those who use it

        return self._around(CommandTransport(self.transport, prefix, joins=joins, outpost=outpost), scoped=False)
