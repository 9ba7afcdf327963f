"""What ps prints, read without any ps: the formats of procps, the BSDs and busybox."""

import os
import subprocess
from pathlib import Path

import pytest

from aioremote.inspection import PROCESSES_SCRIPT, read_processes
from aioremote.types import ProcessInfo

# macOS and FreeBSD: no headers asked for, so none; uid -2 is macOS's nobody; a state has flags behind its letter.
BSD = """\
    1     0 Ss   /sbin/launchd
  312    -2 S    /usr/sbin/mDNSResponder -a  b
  999   501 R+   ps -A -ww -o pid= -o uid= -o state= -o args=
 1000   501 Z    (zombie)
 1001   501 SW+  -zsh
"""
PROCPS = """\
      1       0 S /sbin/init splash
      2       0 I [kthreadd]
   4242    1000 S sleep  60
   4243    1000 Z
"""
BUSYBOX = """\
PID   USER     STAT COMMAND
    1 root     S    /sbin/init
    2 root     SW   [kthreadd]
   77 a-long-n S N  nice me
  780 4242     D<   busy
  781 gone     R    left
  782 one-of-t R    cut
123456 root     S    wide
\0root:x:0:0:root:/root:/bin/ash
a-long-name:x:1234:1234::/home/a:/bin/ash
one-of-two:x:1:1::/:/bin/ash
one-of-them:x:2:2::/:/bin/ash
"""
OPENWRT = """\
  PID USER       VSZ STAT COMMAND
    1 root      1632 S    /sbin/procd
  980 dnsmasq   1332 S N  /usr/sbin/dnsmasq -C /var/etc/dnsmasq.conf
\0root:x:0:0:root:/root:/bin/ash
dnsmasq:x:453:453:dnsmasq:/var/run/dnsmasq:/bin/false
"""
WITHOUT_STATE = "PID   USER     COMMAND\n    1 root     /sbin/init -x\n\0root:x:0:0:root:/root:/bin/ash\n"


def test_lines_of_the_bsds() -> None:
    assert read_processes(BSD) == [
        ProcessInfo(1, 0, "S", "/sbin/launchd"),
        ProcessInfo(312, -2, "S", "/usr/sbin/mDNSResponder -a  b"),
        ProcessInfo(1000, 501, "Z", "(zombie)"),
        ProcessInfo(1001, 501, "S", "-zsh"),
    ]


def test_lines_of_procps() -> None:
    assert read_processes(PROCPS) == [
        ProcessInfo(1, 0, "S", "/sbin/init splash"),
        ProcessInfo(2, 0, "I", "[kthreadd]"),
        ProcessInfo(4242, 1000, "S", "sleep  60"),
        ProcessInfo(4243, 1000, "Z", ""),
    ]


def test_tables_of_busybox() -> None:
    assert read_processes(BUSYBOX) == [
        ProcessInfo(1, 0, "S", "/sbin/init"),
        ProcessInfo(2, 0, "S", "[kthreadd]"),
        ProcessInfo(77, 1234, "S", "nice me"),
        ProcessInfo(780, 4242, "D", "busy"),
        ProcessInfo(781, -1, "R", "left"),
        ProcessInfo(782, -1, "R", "cut"),
        ProcessInfo(123456, 0, "S", "wide"),
    ]
    assert read_processes(OPENWRT) == [
        ProcessInfo(1, 0, "S", "/sbin/procd"),
        ProcessInfo(980, 453, "S", "/usr/sbin/dnsmasq -C /var/etc/dnsmasq.conf"),
    ]
    assert read_processes(WITHOUT_STATE) == [ProcessInfo(1, 0, "?", "/sbin/init -x")]


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "PID USER COMMAND\n", "ps: unknown option\n1 x\n"])
def test_nothing_is_made_of_anything_else(text: str) -> None:
    assert read_processes(text) == []


@pytest.mark.parametrize("ps", ["/bin/ps", "/bin/busybox"], ids=["procps", "busybox"])
def test_the_real_ones_are_understood(ps: str, tmp_path: Path) -> None:
    (tmp_path / "ps").symlink_to(ps)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(["sleep", "61.5"]) as child:
        shown = subprocess.run(["/bin/sh", "-c", PROCESSES_SCRIPT], env=env, capture_output=True, text=True, check=True)
        child.kill()
    found = {process.pid: process for process in read_processes(shown.stdout)}
    assert found[child.pid] == ProcessInfo(child.pid, os.getuid(), "S", "sleep 61.5")
    assert 1 in found
    assert not [process for process in found.values() if "-o pid=" in process.args]
