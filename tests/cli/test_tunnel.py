"""`aioremote tunnel`: ssh's words, live counters or plain lines, a quiet end."""

import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.cli.harness import HOSTS, PATIENCE, Cli, Terminal

from aioremote.cli.forwards import Forward, read_forward, read_socks
from aioremote.testing.sshd import Sshd
from aioremote.types import Endpoint

HOST = HOSTS[0]
LINE = re.compile(r"(\S+) (->|<-) 127\.0\.0\.1 (->|<-) (\S+): (\w+)(.*)\n")


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends everything back; gives its port, which is near and far here."""

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near:
                while data := near.recv(65536):
                    near.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def first_line(process: "subprocess.Popen[bytes]") -> tuple[str, ...]:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    found = LINE.fullmatch(line)
    assert found, f"{line!r} {process.stderr.read() if process.stderr else ''!r}"
    return found.groups()


def say(port: int, data: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: stream.recv(65536), b""))


def port_of(place: str) -> int:
    return int(place.rpartition(":")[2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_tunnel_says_its_port_and_ends_quietly(cli: Cli, echo: int, number: signal.Signals) -> None:
    """Promise 131: port 0 reports the real one; after the end nothing listens there."""
    process = cli.start("tunnel", *cli.ssh, HOST, f"0:127.0.0.1:{echo}")
    near, _, _, far, state, _ = first_line(process)
    assert (far, state) == (f"127.0.0.1:{echo}", "open")
    assert say(port_of(near)) == b"hello"
    process.send_signal(number)
    shown, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert errors == b""
    assert shown.decode() == (
        f"{near} -> {HOST} -> {far}: closed after 1 connection, 0 refused, 5 B sent, 5 B received\n"
    )
    with pytest.raises(ConnectionRefusedError):
        say(port_of(near))


def test_every_kind_at_once(cli: Cli, echo: int) -> None:
    """The words of -L, -R and -D; each is told when all are open."""
    words = ["-L", f"0:127.0.0.1:{echo}", "-R", f"0:127.0.0.1:{echo}", "-D", "127.0.0.1:0"]
    process = cli.start("tunnel", *cli.ssh, *words, HOST)
    lines = [first_line(process) for _ in range(3)]
    assert [(line[1], line[4]) for line in lines] == [("->", "open"), ("<-", "open"), ("->", "open")]
    assert say(port_of(lines[0][0])) == b"hello"
    assert say(port_of(lines[1][3])) == b"hello"
    assert lines[2][3] == "SOCKS"
    request = b"\5\1\0\5\1\0\1\x7f\0\0\1" + echo.to_bytes(2, "big") + b"hello"
    assert say(port_of(lines[2][0]), request) == b"\5\0\5\0\0\1" + bytes(6) + b"hello"


def test_reverse_takes_every_spec_the_other_way(cli: Cli, echo: int) -> None:
    process = cli.start("tunnel", *cli.ssh, "--reverse", HOST, f"0:127.0.0.1:{echo}")
    near, arrow, _, far, _, _ = first_line(process)
    assert (near, arrow) == (f"127.0.0.1:{echo}", "<-")
    assert say(port_of(far)) == b"hello"


def test_json_has_one_document_for_each_change(cli: Cli, echo: int) -> None:
    process = cli.start("tunnel", *cli.ssh, "--json", HOST, f"0:127.0.0.1:{echo}")
    assert process.stdout is not None
    opened = json.loads(process.stdout.readline())
    assert say(opened["lport"]) == b"hello"
    process.send_signal(signal.SIGINT)
    closed = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert opened == {
        "tunnel": 0,
        "host": HOST,
        "kind": "local",
        "near": f"localhost:{opened['lport']}",
        "far": f"127.0.0.1:{echo}",
        "lport": opened["lport"],
        "dport": echo,
        "state": "open",
        "connections": 0,
        "active": 0,
        "refused": 0,
        "bytes_sent": 0,
        "bytes_received": 0,
        "error": None,
    }
    assert closed == opened | {"state": "closed", "connections": 1, "bytes_sent": 5, "bytes_received": 5}


def test_a_target_that_refuses_is_told_and_the_tunnel_lives(cli: Cli) -> None:
    """Promise 131."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        process = cli.start("tunnel", *cli.ssh, HOST, f"0:127.0.0.1:{unused.getsockname()[1]}")
        near = first_line(process)[0]
        with pytest.raises(ConnectionResetError):
            say(port_of(near), b"")
        assert process.stderr is not None
        assert b"refused" in process.stderr.readline()
        assert process.poll() is None


def test_a_lost_link_ends_it_with_255(make_cli: Callable[[Sshd], Cli], echo: int) -> None:
    """Promise 131; API: 255 connection."""
    with Sshd() as server:
        cli = make_cli(server)
        process = cli.start("tunnel", *cli.ssh, HOST, f"0:127.0.0.1:{echo}")
        first_line(process)
    shown, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 255
    assert b": closed after 0 connections" in shown
    assert errors.startswith(b"aioremote: 127.0.0.1: the link was lost")
    assert errors.count(b"\n") == 1


def test_what_cannot_be_opened_opens_nothing(cli: Cli, echo: int) -> None:
    """Promise 72: the second of two fails, and the first is not left open; one line, status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = cli("tunnel", *cli.ssh, HOST, f"0:127.0.0.1:{echo}", f"127.0.0.1:{port}:127.0.0.1:{echo}")
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.decode() == (
        f"aioremote: cannot listen on 127.0.0.1:{port}: it is taken; port 0 picks a free one\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no tunnel is given"),
        (("-L", "80"), "'80' is no tunnel"),
        (("0:web:0",), "port 0"),
    ],
    ids=str,
)
def test_what_is_no_tunnel_is_told_in_one_line(cli: Cli, words: tuple[str, ...], said: str) -> None:
    """Wrong arguments, before anything is sent: one line, status 2."""
    ended = cli("tunnel", *cli.ssh, HOST, *words)
    assert ended.returncode == 2
    assert said in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1


def test_no_connection_is_255(cli: Cli) -> None:
    ended = cli("tunnel", "-p", "1", "--config", "none", HOST, "0:80")
    assert ended.returncode == 255
    assert b"connection refused" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def test_a_table_counts_on_a_terminal(cli: Cli, echo: int) -> None:
    """Deliver 7: state, connections and bytes each way, while it runs; Ctrl-C leaves them on the screen."""
    terminal = cli.terminal("tunnel", *cli.ssh, HOST, f"0:127.0.0.1:{echo}", "-D", "0")
    terminal.read_until(b"received")
    near = _shown(terminal, rb"localhost:(\d+) -> 127\.0\.0\.1 -> 127")
    assert say(int(near[1]), b"x" * 1500) == b"x" * 1500
    _shown(terminal, rb"open +0 +1 +0 +1\.5 kB +1\.5 kB")
    terminal.send(b"\x03")
    assert terminal.finish() == 130
    closed = rb"closed +0 +1 +0 +1\.5 kB +1\.5 kB\s+localhost:\d+ -> 127\.0\.0\.1 -> SOCKS +closed"
    assert re.search(closed, terminal.plain)
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")


def _shown(terminal: Terminal, pattern: bytes) -> re.Match[bytes]:
    while (found := re.search(pattern, terminal.plain)) is None:
        terminal.read_more()
    return found


@pytest.mark.parametrize(
    ("word", "near", "far"),
    [
        ("5433:5432", Endpoint("localhost", 5433), Endpoint("localhost", 5432)),
        ("5433:db:5432", Endpoint("localhost", 5433), Endpoint("db", 5432)),
        ("*:80:web:8080", Endpoint("0.0.0.0", 80), Endpoint("web", 8080)),
        ("10.0.0.1:80:web:8080", Endpoint("10.0.0.1", 80), Endpoint("web", 8080)),
        ("[::1]:80:[fe80::2]:81", Endpoint("::1", 80), Endpoint("fe80::2", 81)),
        ("80:[::1]:81", Endpoint("localhost", 80), Endpoint("::1", 81)),
        ("/tmp/a:/run/b", Endpoint("", 0, "/tmp/a"), Endpoint("", 0, "/run/b")),
        ("/tmp/a:db:5432", Endpoint("", 0, "/tmp/a"), Endpoint("db", 5432)),
        ("/tmp/a:5432", Endpoint("", 0, "/tmp/a"), Endpoint("localhost", 5432)),
        ("2375:/run/docker.sock", Endpoint("localhost", 2375), Endpoint("", 0, "/run/docker.sock")),
    ],
)
def test_the_words_are_those_of_ssh(word: str, near: Endpoint, far: Endpoint) -> None:
    assert read_forward(word) == Forward("local", near, far)
    assert read_forward(word, reverse=True) == Forward("reverse", far, near)


@pytest.mark.parametrize(
    "word", ["", "80", "a:b:c:d:e", "80:web:port", ":80:web:80", "::1:80:/run/b", "80:web:", "²:80"]
)
def test_words_that_are_no_tunnel(word: str) -> None:
    with pytest.raises(ValueError, match="is no tunnel"):
        read_forward(word)


def test_a_port_out_of_range() -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        read_forward("70000:web:80")
    with pytest.raises(ValueError, match="not on a path"):
        read_socks("/tmp/x")


def test_the_words_of_a_proxy() -> None:
    assert read_socks("1080") == Forward("socks", Endpoint("localhost", 1080), None)
    assert read_socks("[::1]:1080") == Forward("socks", Endpoint("::1", 1080), None)


def test_a_host_of_another_road(cli: Cli, echo: int) -> None:
    """A host is any address: here a program, behind whose Python connections go on."""
    process = cli.start("tunnel", "--config", "none", "--allow-exec", "exec:env", f"0:127.0.0.1:{echo}")
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert " -> exec:env -> " in line, line
    assert line.endswith(": open\n")
    assert say(port_of(line.split()[0])) == b"hello"
    process.send_signal(signal.SIGINT)
    assert b" closed after 1 connection" in process.communicate(timeout=PATIENCE)[0]


@pytest.mark.parametrize(
    ("host", "told"),
    [("web[1-3]", "'web[1-3]' names 3 hosts"), ("exec:sh", "--allow-exec"), ("what://x", "what"), ("-oX", "-oX")],
)
def test_a_host_that_cannot_be_used_starts_nothing(cli: Cli, host: str, told: str) -> None:
    shown = cli("tunnel", *cli.ssh, "--", host, "0:127.0.0.1:80")
    assert shown.returncode == 2
    assert told in shown.stderr.decode()
    assert shown.stdout == b""
