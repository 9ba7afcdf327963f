"""A pseudo-terminal, set up as an ssh client asked for it. Knows nothing of ssh's messages."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping

__all__ = ["CONTROLLING_TERMINAL", "Terminal"]

# A session leader without a controlling terminal gets the first one it opens; the shell then gives way to the command.
CONTROLLING_TERMINAL = ("/bin/sh", "-c", 'exec 0<>"$1" 1>&0 2>&0; shift; exec "$@"', "sh")

# Source: RFC 4254, section 8: opcodes of terminal modes. Control characters:
CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    6: termios.VEOL,
    7: termios.VEOL2,
    8: termios.VSTART,
    9: termios.VSTOP,
    10: termios.VSUSP,
    12: termios.VREPRINT,
    13: termios.VWERASE,
    14: termios.VLNEXT,
}
INPUT, OUTPUT, LOCAL, CONTROL_CHARACTERS = 0, 1, 3, 6  # places in what tcgetattr returns
FLAGS = {
    30: (INPUT, termios.IGNPAR),
    33: (INPUT, termios.ISTRIP),
    34: (INPUT, termios.INLCR),
    35: (INPUT, termios.IGNCR),
    36: (INPUT, termios.ICRNL),
    38: (INPUT, termios.IXON),
    39: (INPUT, termios.IXANY),
    40: (INPUT, termios.IXOFF),
    41: (INPUT, termios.IMAXBEL),
    50: (LOCAL, termios.ISIG),
    51: (LOCAL, termios.ICANON),
    53: (LOCAL, termios.ECHO),
    54: (LOCAL, termios.ECHOE),
    55: (LOCAL, termios.ECHOK),
    56: (LOCAL, termios.ECHONL),
    57: (LOCAL, termios.NOFLSH),
    58: (LOCAL, termios.TOSTOP),
    59: (LOCAL, termios.IEXTEN),
    60: (LOCAL, termios.ECHOCTL),
    61: (LOCAL, termios.ECHOKE),
    70: (OUTPUT, termios.OPOST),
    72: (OUTPUT, termios.ONLCR),
    73: (OUTPUT, termios.OCRNL),
    74: (OUTPUT, termios.ONOCR),
    75: (OUTPUT, termios.ONLRET),
}


class Terminal:
    """A pseudo-terminal. Its far end is hung up when the near end and every copy of it are closed.

    Args:
        kind: Value of TERM.
        size: Columns, rows, width and height in pixels.
        modes: Values by opcode (RFC 4254, section 8); unknown ones are left out.
    """

    def __init__(self, kind: str, size: tuple[int, int, int, int], modes: Mapping[int, int]) -> None:
        self.kind = kind
        self._master, self._slave = os.openpty()
        self._open = {self._master, self._slave}
        self.name = os.ttyname(self._slave)
        self.resize(size)
        self._set_modes(modes)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """Set columns, rows, width and height in pixels; the kernel tells the programs in the foreground (WINCH)."""
        if self._master not in self._open:
            return
        columns, rows, width, height = (min(value, 0xFFFF) for value in size)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))

    def take_far_end(self) -> int:
        """Return the far end, open; the caller closes it."""
        self._open.discard(self._slave)
        return self._slave

    def copy_near_end(self) -> int:
        """Return another descriptor of the near end; the caller closes it."""
        return os.dup(self._master)

    def close(self) -> None:
        """Close what is open here; does nothing the second time."""
        while self._open:
            os.close(self._open.pop())

    def _set_modes(self, modes: Mapping[int, int]) -> None:
        attributes = termios.tcgetattr(self._slave)
        for code, value in modes.items():
            if code in FLAGS:
                place, flag = FLAGS[code]
                attributes[place] = attributes[place] | flag if value else attributes[place] & ~flag
            elif code in CHARACTERS and value < 255:  # 255: none, as the client's system has it
                attributes[CONTROL_CHARACTERS][CHARACTERS[code]] = bytes([value])
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
