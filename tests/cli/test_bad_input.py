"""What cannot work is said in one line that names it and what to do, without a traceback."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import HOSTS, Cli
from tests.pace import in_time

from aioremote.testing.sshd import Sshd

HOST = HOSTS[0]


def one_line(ended: "subprocess.CompletedProcess[bytes]") -> tuple[int, str]:
    lines = ended.stderr.decode().splitlines()
    assert ended.stdout == b""
    assert len(lines) == 1, lines
    assert lines[0].startswith("aioremote: ")
    assert "Traceback" not in lines[0]
    return ended.returncode, lines[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run",), ["HOSTS"]),
        (("run", "web1"), ["no program", "--"]),
        (("run", "web1", "--"), ["no program"]),
        (("run", "web1", "--", ""), ["name is empty"]),
        (("run", "web1", "--gather"), ["--gather", "--"]),
        (("run", "web1", "ls", "--", "-l"), ["'ls'", "--"]),
        (("run", "web[1-", "--", "true"), ["web[1-", "never closed", "web[01-40]"]),
        (("run", "-oProxyCommand=touch x", "--", "true"), ["-o"]),
        (("shell", "--", "-web", "true"), ["'-web'", "starts with '-'"]),
        (("run", "web1,-oProxyCommand=x", "--", "true"), ["-oProxyCommand=x"]),
        (("run", "web1;id", "--", "true"), ["';'"]),
        (("run", "web1,web1", "--", "true"), ["'web1'", "twice"]),
        (("run", "", "--", "true"), ["hosts"]),
        (("run", "web1:99999", "--", "true"), ["99999"]),
        (("run", "me:secret@web1", "--", "true"), ["password"]),
        (("run", "web1", "-l", "-x;", "--", "true"), ["-x;"]),
        (("run", "web*", "--config", "none", "--", "true"), ["web*", "no ssh config"]),
        (("run", "web1", "-p", "0", "--", "true"), ["-p"]),
        (("run", "web1", "--timeout", "nan", "--", "true"), ["--timeout", "seconds"]),
        (("run", "web1", "--limit", "0", "--", "true"), ["--limit"]),
        (("run", "web1", "--json", "--gather", "--", "true"), ["--json", "--gather"]),
        (("run", "web1", "-i", "/no/such/key", "--", "true"), ["/no/such/key"]),
        (("run", "web1", "--config", "/no/such/config", "--", "true"), ["/no/such/config"]),
        (("run", "web1", "--known-hosts", "/no/such/known_hosts", "--", "true"), ["/no/such/known_hosts"]),
        (("frobnicate",), ["frobnicate"]),
        (("hosts", "web[3-1]"), ["web[3-1]"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_line_that_cannot_be_used_is_status_2(cli: Cli, args: tuple[str, ...], words: list[str]) -> None:
    """Promise 113, promise 97."""
    status, line = one_line(cli(*args))
    assert status == 2
    assert all(word in line for word in words), line
    assert "secret" not in line


def test_an_argument_with_a_nul_is_refused_before_anything_starts(cli: Cli) -> None:
    """Promise 113; no shell can pass such an argument, a program that calls main() can."""
    code = "import sys; from aioremote.cli import main; sys.exit(main(['run', 'web1', '--', 'echo', 'a\\0b']))"
    status, line = one_line(cli(code=code))
    assert (status, "NUL" in line) == (2, True)


def test_a_name_that_does_not_resolve(cli: Cli) -> None:
    """Promise 113."""
    status, line = one_line(cli("run", "no-such-host.invalid", "--config", "none", "--", "true"))
    assert status == 255
    assert "no-such-host.invalid" in line
    assert "does not resolve" in line


def test_a_port_where_nothing_listens(cli: Cli) -> None:
    """Promise 113."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port = bound.getsockname()[1]
        status, line = one_line(cli("run", f"{HOST}:{port}", *cli.ssh, "--", "true"))
    assert (status, f"{HOST}:{port}" in line, "refused" in line) == (255, True, True)


def test_a_server_that_stays_silent(cli: Cli) -> None:
    """Promise 113, promise 122."""
    with socket.create_server((HOST, 0)) as silent:
        began = time.monotonic()
        place = f"{HOST}:{silent.getsockname()[1]}"
        status, line = one_line(cli("run", place, *cli.ssh, "--connect-timeout", "1", "--", "true"))
    assert in_time(time.monotonic() - began, 10)
    assert (status, place in line, "--connect-timeout" in line) == (255, True, True)


def test_a_key_that_the_server_does_not_take(cli: Cli, tmp_path: Path) -> None:
    """Promise 113."""
    key = make_key(tmp_path / "other")
    other_key(cli, key)
    status, line = one_line(cli("run", HOST, *cli.ssh, "-l", "root", "--", "true"))
    assert (status, "root" in line, "-i" in line) == (255, True, True)


def other_key(cli: Cli, key: Path) -> None:
    cli.ssh[cli.ssh.index("-i") + 1] = str(key)


def test_an_unknown_host_key(cli: Cli, tmp_path: Path) -> None:
    """Promise 113, promise 94."""
    empty = tmp_path / "known_hosts"
    empty.touch()
    status, line = one_line(cli("run", HOST, *cli.ssh, "--known-hosts", str(empty), "--", "true"))
    assert status == 255
    assert cli.server.host_key_fingerprint in line
    assert "--host-keys" in line
    assert empty.read_text() == ""


def test_a_changed_host_key(cli: Cli, tmp_path: Path, make_cli: Callable[[Sshd], Cli]) -> None:
    """Promise 113, promise 94."""
    with Sshd() as other:
        wrong = tmp_path / "known_hosts"
        wrong.write_text(f"[{HOST}]:{cli.server.port} {other.host_keys['ed25519']}\n")
        for policy in ("strict", "accept-new"):
            ended = cli("run", HOST, *cli.ssh, "--known-hosts", str(wrong), "--host-keys", policy, "--", "true")
            status, line = one_line(ended)
            assert status == 255
            assert cli.server.host_key_fingerprint in line
            assert other.host_key_fingerprint in line
            assert "ssh-keygen -R" in line


def test_accept_new_writes_the_key_down(cli: Cli, tmp_path: Path) -> None:
    """Promise 94."""
    known_hosts = tmp_path / "known_hosts"
    for policy in ("accept-new", "strict"):
        ended = cli("run", HOST, *cli.ssh, "--known-hosts", str(known_hosts), "--host-keys", policy, "--", "echo", "in")
        assert (ended.returncode, ended.stdout) == (0, b"in\n")


@pytest.mark.parametrize("program", ["no-such-program", "./no/such/program"])
def test_a_program_that_is_not_there(cli: Cli, program: str) -> None:
    """Promise 113."""
    status, line = one_line(cli.run(HOST, program))
    assert (status, program in line) == (127, True)


def test_a_program_that_may_not_be_executed(cli: Cli) -> None:
    """Promise 113."""
    status, line = one_line(cli.run(HOST, "/etc/passwd"))
    assert (status, "/etc/passwd" in line) == (126, True)


def test_a_line_given_as_a_program_gets_a_hint(cli: Cli) -> None:
    status, line = one_line(cli.run(HOST, "ls -l"))
    assert (status, "shell" in line) == (127, True)


def make_key(path: Path, passphrase: str = "") -> Path:
    """Make a key; encrypted as PKCS #8, since OpenSSH's own way needs a further package."""
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-m", "PKCS8", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def test_a_key_file_that_is_none(cli: Cli, tmp_path: Path) -> None:
    """Promise 113."""
    wrong = tmp_path / "key"
    wrong.write_text("no key\n")
    other_key(cli, wrong)
    status, line = one_line(cli("run", HOST, *cli.ssh, "--", "true"))
    assert (status, str(wrong) in line, "-i" in line) == (2, True, True)


def test_an_unreadable_key_file_and_a_folder(cli: Cli, tmp_path: Path) -> None:
    """Promise 113."""
    other_key(cli, tmp_path)
    status, line = one_line(cli("run", HOST, *cli.ssh, "--", "true"))
    assert (status, str(tmp_path) in line) == (2, True)


def test_an_encrypted_key_without_its_passphrase_and_with_it(cli: Cli, tmp_path: Path) -> None:
    """Promise 113, promise 111."""
    key = make_key(tmp_path / "key", "open sesame")
    cli.server.authorize(key.with_suffix(".pub").read_text())
    other_key(cli, key)
    status, line = one_line(cli("run", HOST, *cli.ssh, "--", "true"))
    assert (status, str(key) in line, "--ask-passphrase" in line) == (2, True, True)
    terminal = cli.terminal("run", HOST, *cli.ssh, "--ask-passphrase", "--", "echo", "in")
    terminal.read_until(b"Passphrase")
    terminal.send(b"open sesame\n")
    assert terminal.finish() == 0
    assert terminal.shown.endswith(b"in\r\n")
    assert b"sesame" not in terminal.shown


def test_an_ssh_config_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    """Promise 113."""
    config = tmp_path / "config"
    config.write_text("Host web1\n  Port many\n")
    status, line = one_line(cli("run", "web1", "--config", str(config), "--", "true"))
    assert (status, str(config) in line, "--config" in line) == (2, True, True)
    config.write_text('Host "web1\n')
    status, line = one_line(cli("hosts", "web*", "--config", str(config)))
    assert (status, f"{config}:1" in line) == (2, True)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(cli: Cli, missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from aioremote.cli import main; sys.exit(main(['-h']))"
    status, line = one_line(cli(code=code))
    assert (status, missing in line, "pip install 'aioremote[cli]'" in line) == (2, True, True)


def test_importing_main_loads_neither_click_nor_rich(cli: Cli) -> None:
    code = (
        "import sys; from aioremote.cli import main; sys.exit(any(name in sys.modules for name in ('click', 'rich')))"
    )
    assert cli(code=code).returncode == 0


def test_the_program_is_installed_under_its_name() -> None:
    assert shutil.which("aioremote") is None or subprocess.run(["aioremote", "--version"], check=True)
