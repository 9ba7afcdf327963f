"""On a terminal: far bytes are escaped, a live display shows how far it is, secrets are asked for."""

import re
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest
from tests.cli.harness import HOSTS, Cli

from aioremote.testing.sshd import Sshd, TestUser

HOST = HOSTS[0]
ALL = "127.0.0.[1-4]"
EVIL = r"\033]52;c;cHduZWQ=\007\033[2J\302\233\rA\342\200\256B\n"
ESCAPED = rb"\x1b]52;c;cHduZWQ=\x07\x1b[2J\x9b\rA\u202eB"
PASSWORD = "s3cr3t-pa55word"


def test_one_hosts_output_is_escaped(cli: Cli) -> None:
    """Promise 110."""
    terminal = cli.terminal("run", HOST, *cli.ssh, "--", "sh", "-c", f"printf '{EVIL}'; printf '{EVIL}' >&2")
    assert terminal.finish() == 0
    assert terminal.shown == (ESCAPED + b"\r\n") * 2  # \r\n is the terminal's own newline


def test_raw_lets_everything_through(cli: Cli) -> None:
    """Promise 110."""
    terminal = cli.terminal("run", HOST, *cli.ssh, "--raw", "--", "printf", EVIL)
    assert terminal.finish() == 0
    assert terminal.shown == b"\x1b]52;c;cHduZWQ=\x07\x1b[2J\xc2\x9b\rA\xe2\x80\xaeB\r\n"


@pytest.mark.parametrize("options", [(), ("--gather",), ("--json",)], ids=["lines", "gather", "json"])
def test_the_output_of_several_hosts_is_escaped(cli: Cli, options: tuple[str, ...]) -> None:
    """Promise 110."""
    terminal = cli.terminal("run", ALL, *cli.ssh, *options, "--", "sh", "-c", f"printf '{EVIL}'; printf '{EVIL}' >&2")
    assert terminal.finish() == 0
    for evil in (b"\x1b]52", b"\x07", b"\x1b[2J\xc2", b"\xc2\x9b", b"\rA", b"\xe2\x80\xae"):
        assert evil not in terminal.shown
    if options != ("--json",):
        assert terminal.plain.count(ESCAPED) == (2 if options else 8)


def test_only_the_stream_that_is_a_terminal_is_escaped(cli: Cli) -> None:
    """Promise 110."""
    terminal = cli.terminal(
        "run", HOST, *cli.ssh, "--", "sh", "-c", r"printf '\033\n'; printf '\033\n' >&2", stdout=subprocess.PIPE
    )
    assert terminal.finish() == 0
    assert terminal.process.stdout is not None
    assert (terminal.process.stdout.read(), terminal.shown) == (b"\x1b\n", b"\\x1b\r\n")


def test_errors_are_escaped_in_a_pipe_too(cli: Cli) -> None:
    """Promise 110: raw only with --raw, and messages never."""
    ended = cli("run", HOST, *cli.ssh, "--", "no\x1b]52;such\u202e")
    assert (ended.returncode, ended.stderr.count(b"\n")) == (127, 1)
    assert rb"no\x1b]52;such\u202e" in ended.stderr


def test_progress_is_shown_below_the_lines_and_taken_away(cli: Cli) -> None:
    line = 'set -- $SSH_CONNECTION; echo here; [ "$3" = 127.0.0.4 ] && exec sleep 1000; [ "$3" != 127.0.0.2 ]'
    terminal = cli.terminal("shell", ALL, line, *cli.ssh, "--timeout", "5")
    terminal.read_until(b"1 running")
    assert b"3/4" in terminal.plain
    assert b"2 ok" in terminal.plain
    assert b"1 failed" in terminal.plain
    assert terminal.finish() == 1
    assert terminal.plain.count(b": here\r\n") == 4
    last = terminal.plain.rstrip().rpartition(b"\n")[2]
    assert b"4 hosts: 2 ok, 2 failed (127.0.0.[2,4])" in last
    assert terminal.shown.endswith(b"\x1b[?25h") or terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(
        b"\x1b[?25l"
    )


def test_many_lines_on_a_terminal_all_come(cli: Cli) -> None:
    terminal = cli.terminal("run", "127.0.0.[1-2]", *cli.ssh, "--", "seq", "20000")
    assert terminal.finish() == 0
    for host in HOSTS[:2]:
        lines = re.findall(re.escape(host).encode() + rb": (\d+)\r\n", terminal.plain)
        assert lines == [b"%d" % number for number in range(1, 20001)]


def test_a_pipe_gets_plain_lines_only(cli: Cli) -> None:
    terminal = cli.terminal("run", ALL, *cli.ssh, "--", "echo", "x", stdout=subprocess.PIPE)
    assert terminal.finish() == 0
    assert terminal.process.stdout is not None
    assert sorted(terminal.process.stdout.read().splitlines()) == [f"{host}: x".encode() for host in HOSTS]
    assert b"\x1b" not in terminal.shown


def test_ctrl_c_on_the_terminal_gives_it_back_as_it_was(cli: Cli) -> None:
    """Promise 93."""
    terminal = cli.terminal("run", ALL, *cli.ssh, "--", "sh", "-c", "echo up; exec sleep 1000")
    for host in HOSTS:
        terminal.read_until(f"{host}: ".encode())
    terminal.send(b"\x03")
    assert terminal.finish() == 130
    assert b"0 of 4 hosts done, 4 ended (127.0.0.[1-4])" in terminal.plain
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")


@pytest.fixture(scope="module")
def user() -> Iterator[TestUser]:
    with TestUser("aiorcli", password=PASSWORD) as user:
        yield user


@pytest.fixture(scope="module")
def password_server() -> Iterator[Sshd]:
    with Sshd(listen=HOSTS, password_authentication=True) as server:
        yield server


class TestPassword:
    """A secret is asked for once, and is nowhere to be seen."""

    @pytest.fixture
    def cli(self, password_server: Sshd, make_cli: Callable[[Sshd], Cli]) -> Cli:
        cli = make_cli(password_server)
        cli.ssh = [word for word in cli.ssh if word not in ("-i", str(password_server.keyfile))]
        return cli

    def test_it_is_asked_for_once_for_all_hosts_and_never_shown(self, cli: Cli, user: TestUser) -> None:
        """Promise 111."""
        line = "id -un; exec sleep 1000"
        terminal = cli.terminal("shell", ALL, line, *cli.ssh, "-l", user.name, "--ask-password", "--timeout", "8")
        terminal.read_until(b"Password: ")
        terminal.send(PASSWORD.encode() + b"\n")
        for host in HOSTS:
            terminal.read_until(f"{host}: ".encode())
        process = psutil.Process(terminal.process.pid)
        assert PASSWORD not in " ".join([*process.cmdline(), *process.environ().values()])
        terminal.send(b"\x03")
        assert terminal.finish() == 130
        assert terminal.plain.count(f": {user.name}\r\n".encode()) == 4
        assert terminal.shown.count(b"Password") == 1
        assert PASSWORD.encode() not in terminal.shown

    def test_a_wrong_one_is_told_in_one_line_without_it(self, cli: Cli, user: TestUser) -> None:
        """Promise 111, promise 113."""
        terminal = cli.terminal("run", HOST, *cli.ssh, "-l", user.name, "--ask-password", "--", "true")
        terminal.read_until(b"Password: ")
        terminal.send(b"wr0ng-one\n")
        assert terminal.finish() == 255
        assert terminal.plain.count(b"\n") == 2  # the prompt's line, and ours
        assert b"--ask-password" in terminal.plain
        assert b"wr0ng-one" not in terminal.shown

    def test_the_most_verbose_log_does_not_have_it(self, cli: Cli, user: TestUser) -> None:
        """Promise 111."""
        cli.env |= {"PYTHONASYNCIODEBUG": "1", "PYTHONSTARTUP": "", "PYTHONPATH": cli.env["PYTHONPATH"]}
        code = (
            "import logging, sys; logging.basicConfig(level=1); import asyncssh; asyncssh.set_debug_level(3);"
            "from aioremote.cli import main; sys.exit(main())"
        )
        terminal = cli.terminal("run", HOST, *cli.ssh, "-l", user.name, "--ask-password", "--", "id", "-un", code=code)
        terminal.read_until(b"Password: ")
        terminal.send(PASSWORD.encode() + b"\n")
        assert terminal.finish() == 0
        assert user.name.encode() in terminal.shown
        assert PASSWORD.encode() not in terminal.shown

    def test_without_a_terminal_it_is_not_read_from_standard_input(self, cli: Cli) -> None:
        ended = cli("run", HOST, *cli.ssh, "--ask-password", "--", "true", start_new_session=True)
        assert (ended.returncode, ended.stderr.count(b"\n")) == (2, 1)
        assert b"only be asked for on a terminal" in ended.stderr
