"""`demo` needs no host, and what it shows is true."""

import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.cli.harness import Cli, gone, interrupt
from tests.pace import in_time

ROWS = re.compile(rb"(web\d\d) +(ok|exit 3) +\d+\.\d\d s")


def check(plain: bytes) -> int:
    """Check what was shown in the end, and return the far pid that it is about."""
    assert dict(ROWS.findall(plain)) == {
        b"web%02d" % number: b"exit 3" if number == 13 else b"ok" for number in range(1, 21)
    }
    assert re.search(rb"web\[01-17\] +app 2\.4\.1", plain)
    assert re.search(rb"web\[18-20\] +app 2\.5\.0", plain)
    assert re.search(rb"running +kill -0 \d+: alive", plain)
    found = re.search(rb"cancelled +kill -0 (\d+): gone", plain)
    assert found
    return int(found[1])


def test_it_ends_well_in_plain_text_when_piped(cli: Cli, tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    began = time.monotonic()
    ended = cli("demo", "--save-svg", str(picture))
    assert in_time(time.monotonic() - began, 20)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\x1b" not in ended.stdout
    assert ended.stdout.isascii()
    assert gone(check(ended.stdout))
    assert b"async for outcome in fleet.stream(" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100
    shown = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert "web[01-17]" in shown
    assert "http" not in picture.read_text().replace("http://www.w3.org/2000/svg", "")


def test_on_a_terminal_the_table_fills(cli: Cli) -> None:
    terminal = cli.terminal("demo")
    terminal.read_until(b"waiting")
    assert b"running" in terminal.plain
    assert terminal.finish() == 0
    check(terminal.plain[terminal.plain.rindex(b"waiting") :])
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")


def test_ctrl_c_ends_it(cli: Cli) -> None:
    """Promise 93."""
    terminal = cli.terminal("demo")
    terminal.read_until(b"waiting")
    interrupt(terminal.process)
    assert terminal.finish() == 130
    assert b"Traceback" not in terminal.shown


def test_a_closed_pipe_ends_it_quietly(cli: Cli) -> None:
    """Promise 113."""
    process = cli.start("demo")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
