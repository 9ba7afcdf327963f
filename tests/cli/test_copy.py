"""`aioremote copy` and `sync`: scp's words, a bar on a terminal, silence in a pipe, statuses that scripts can read."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cli.harness import HOSTS, Cli
from tests.conformance.test_transfers import tree

from aioremote import AddressError
from aioremote.cli.ends import EndWord, read_end

HOST = f"root@{HOSTS[0]}"


def quiet(done: "subprocess.CompletedProcess[bytes]") -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True)
    (root / "a b").write_bytes(b"a")
    (root / "deep" / "big").write_bytes(os.urandom(3_000_000))
    return root


def test_words() -> None:
    """The first colon before any slash ends a host, unless it is in brackets."""
    for word, host, path in (
        ("web1:/srv/app", "web1", "/srv/app"),
        ("web1:", "web1", "."),
        ("web1:~", "web1", "."),
        ("web1:~/x", "web1", "x"),
        ("web1:a:b", "web1", "a:b"),
        ("[::1]:x", "::1", "x"),
        ("web1:x\ny", "web1", "x\ny"),
    ):
        end = read_end(word)
        assert end.host is not None
        assert (end.host.host, end.path) == (host, path)
    deploy = read_end("deploy@web1:app/")
    assert deploy.host is not None
    assert (deploy.host.user, deploy.path) == ("deploy", "app/")
    for word in ("app", "./a:b", "/a:b", "../x"):
        assert read_end(word) == EndWord(word)
    for word in ("", ":x", "ssh://web1/x", "sftp://web1:22/x"):
        with pytest.raises(ValueError, match="HOST:PATH"):
            read_end(word)
    with pytest.raises(AddressError):
        read_end("web 1:x")


def test_there_and_back(cli: Cli, source: Path, tmp_path: Path) -> None:
    """In a pipe nothing is said."""
    quiet(cli("copy", *cli.ssh, str(source), f"{HOST}:{tmp_path}/there"))
    assert tree(tmp_path / "there") == tree(source)
    quiet(cli("copy", *cli.ssh, "--verify", "--preserve", f"{HOST}:{tmp_path}/there", str(tmp_path / "back")))
    assert tree(tmp_path / "back") == tree(source)
    quiet(cli("copy", *cli.ssh, f"{HOST}:{tmp_path}/there/a b", f"root@{HOSTS[1]}:{tmp_path}/across"))
    assert (tmp_path / "across").read_bytes() == b"a"
    quiet(cli("copy", *cli.ssh, "--resume", str(source / "deep" / "big"), f"{HOST}:{tmp_path}/resumed"))
    assert (tmp_path / "resumed").read_bytes() == (source / "deep" / "big").read_bytes()
    done = cli("copy", *cli.ssh, "--json", "--engine", "tar", str(source), f"{HOST}:{tmp_path}/new/")
    report = json.loads(done.stdout)
    assert (report["files"], report["bytes"], report["engine"], report["skipped"]) == (2, 3_000_001, "tar", [])
    assert tree(tmp_path / "new" / "source") == tree(source)


def test_what_is_left_out_is_told(cli: Cli, source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe\x1b[2J")
    done = cli("copy", *cli.ssh, str(source), f"{HOST}:{tmp_path}/there")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"aioremote: left out: pipe\\x1b[2J: a pipe\n"


def test_sync(cli: Cli, source: Path, tmp_path: Path) -> None:
    """A dry run lists; --delete and --exclude do as in `Machine.sync`."""
    there = tmp_path / "there"
    quiet(cli("sync", *cli.ssh, str(source), f"{HOST}:{there}"))
    assert tree(there) == tree(source)
    (there / "stray").write_bytes(b"x")
    (there / "keep.log").write_bytes(b"x")
    (source / "a b").write_bytes(b"other")
    words = ("sync", *cli.ssh, "--delete", "--exclude", "*.log", str(source), f"{HOST}:{there}")
    done = cli(*words, "--dry-run")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"delete stray\nsend a b\n", b"")
    assert (there / "stray").exists()
    report = json.loads(cli(*words, "--json").stdout)
    assert (report["sent"], report["deleted"], report["unchanged"]) == (["a b"], ["stray"], 1)
    assert tree(there) == {**tree(source), "keep.log": b"x"}
    quiet(cli("sync", *cli.ssh, "--checksum", f"{HOST}:{there}", str(tmp_path / "back")))
    assert tree(tmp_path / "back") == tree(there)


def test_on_a_terminal_a_bar_counts(cli: Cli, source: Path, tmp_path: Path) -> None:
    """Files, bytes and rate while it copies, one line in the end; nothing of the bar stays."""
    terminal = cli.terminal("copy", *cli.ssh, str(source), f"{HOST}:{tmp_path}/there")
    assert terminal.finish() == 0
    assert b"2/2 files" in terminal.plain
    assert b"3.0/3.0 MB" in terminal.plain
    assert terminal.plain.strip().splitlines()[-1].startswith(b"aioremote: 2 files: 3.0 MB in ")
    again = cli.terminal("sync", *cli.ssh, str(source), f"{HOST}:{tmp_path}/there")
    assert again.finish() == 0
    assert b"sent, 0 deleted," in again.plain


def test_statuses(cli: Cli, source: Path, tmp_path: Path) -> None:
    """1 for files, 255 for connections, 2 for this command line; one line each; nothing half done."""
    far = f"{HOST}:{tmp_path}/there"
    for words, status, said in (
        (("copy", *cli.ssh, str(tmp_path / "none"), far), 1, b"none: No such file"),
        (("copy", *cli.ssh, f"{HOST}:{tmp_path}/none", str(tmp_path / "x")), 1, b"none: No such file"),
        (("copy", *cli.ssh, "--keep", f"{source}/a b", f"{HOST}:{source}/deep/big"), 1, b"big"),
        (("copy", *cli.ssh, "--resume", str(source), far), 2, b"resume is for one file"),
        (("sync", *cli.ssh, f"{source}/a b", far), 1, b"Not a directory"),
        (("copy", *cli.ssh, "-p", "1", str(source), far), 255, b"refused"),
        (("copy", *cli.ssh, str(source), "ssh://web1/x"), 2, b"HOST:PATH"),
        (("copy", *cli.ssh, str(source)), 2, b"DST"),
        (("copy", *cli.ssh, "--engine", "pigeon", str(source), far), 2, b"pigeon"),
    ):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (status, b""), done
        assert said in done.stderr, done.stderr
        assert done.stderr.startswith(b"aioremote: ")
        assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "there").exists()


def test_interrupted(cli: Cli, tmp_path: Path) -> None:
    """Ctrl-C: 130, the target is as it was and nothing is left beside it."""
    source = tmp_path / "source" / "file"
    source.parent.mkdir()
    with open(source, "wb") as file:
        file.write(b"x")
        file.truncate(200_000_000_000)  # sparse: long to go through
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"old")
    process = cli.start("copy", *cli.ssh, str(source), f"{HOST}:{tmp_path}/there")
    while len(os.listdir(tmp_path / "there")) == 1:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"interrupted" in said
    assert {name: (tmp_path / "there" / name).read_bytes() for name in os.listdir(tmp_path / "there")} == {
        "file": b"old"
    }
