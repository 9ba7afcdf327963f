"""What addresses are read to, and that nothing starts for those that cannot be read."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote import (
    Address,
    AddressError,
    CommandMachine,
    Fleet,
    LocalMachine,
    Machine,
    SshMachine,
    addresses,
    connect,
    register_transport,
)
from aioremote.addresses import known_schemes, parse_address
from aioremote.cli import main

SCHEMES = ["daemon", "exec", "local", "openssh", "smb", "ssh", "unix"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("web1", Address("ssh", "web1")),
        ("john@web1:2222", Address("ssh", "web1", "john", 2222)),
        ("SSH://john@[::1]:22/", Address("ssh", "::1", "john", 22)),
        ("::1", Address("ssh", "::1")),
        ("local:", Address("local")),
        ("openssh://john@web1:3", Address("openssh", "web1", "john", 3)),
        ("exec:docker exec -i web", Address("exec", path="docker exec -i web")),
        ("daemon://[::1]:10101", Address("daemon", "::1", None, 10101)),
        ("unix:///run/x.sock", Address("unix", path="/run/x.sock")),
        ("unix:/run/x.sock", Address("unix", path="/run/x.sock")),
        ("smb://shop;john@nas:445/aioremote", Address("smb", "nas", "shop;john", 445, "/aioremote")),
        ("smb://nas", Address("smb", "nas")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=x", "a;b", "web1\n", "-x@web1", "%h", "web1:0", "web1:x", "ssh://john:secret@web1"),
        *("ftp://web1", "local:x", "local://", "exec:", "exec:  ", "exec:'", "exec:-x", "exec:a\nb", "unix:", "unix:x"),
        *("unix:////x", "unix:///x/", "daemon:web1", "daemon://", "daemon://john@web1", "daemon://web1/x"),
        *("daemon://-oX", "openssh://web1/x", "openssh://a;b", "openssh://-x@web1", "openssh://[::1", "openssh://%h"),
        *("smb://nas/", "smb://nas/a/b", "smb://a;b;c@nas/x", "smb://john:secret@nas/x", "openssh://@web1"),
    ],
)
def test_promise_97_what_cannot_be_read_names_the_known_schemes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(AddressError, match="known schemes are daemon, exec, local, openssh, smb, ssh, unix") as caught:
        connect(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40), st.sampled_from(["", *(f"{scheme}:" for scheme in SCHEMES), "ssh://", "smb://", "x://"]))
def test_any_text_is_an_address_or_an_address_error(text: str, start: str) -> None:
    try:
        parse_address(start + text)
    except AddressError:
        pass


def test_an_address_gives_its_machine() -> None:
    for text, kind, shown in (
        ("local:", LocalMachine, "local:"),
        ("exec:docker exec -i 'my web'", CommandMachine, "exec:docker exec -i 'my web'"),
        ("web1", SshMachine, "ssh://web1"),
    ):
        machine = connect(text)
        assert type(machine) is kind
        assert str(machine) == shown
    machine = connect("john@web1:2222", user="mary", port=1, config=None)
    assert (machine.address.user, machine.address.port) == ("john", 2222)
    with pytest.raises(TypeError):
        connect("local:", keyfile="x")


def test_promise_96_reading_an_address_imports_no_road_and_starts_nothing() -> None:
    code = "import sys, aioremote.addresses as a; a.parse_address('ssh://web1'); a.parse_address('smb://nas/x');"
    code += "print([m for m in ('asyncssh', 'aioremote.machines', 'subprocess') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "asyncssh" not in told.stdout
    assert "machines" not in told.stdout


def test_the_name_stays_the_function_s() -> None:
    import aioremote.fleet

    assert callable(aioremote.connect)


async def test_a_scheme_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_added", {})
    seen: list[object] = []

    def factory(address: Address, **keywords: Any) -> Machine:
        seen.append((address, keywords))
        return LocalMachine()

    register_transport("lab", factory)
    assert type(connect("lab://john@rack1:7/shelf", colour="red")) is LocalMachine
    assert seen == [(Address("lab", "rack1", "john", 7, "/shelf"), {"colour": "red"})]
    assert parse_address("lab:any thing") == Address("lab", path="any thing")
    assert "lab" in known_schemes()
    for name in ("lab", "ssh", "Lab", "", "a b"):
        with pytest.raises(ValueError, match="scheme"):
            register_transport(name, factory)
    with pytest.raises(TypeError):
        register_transport("other", "text")  # type: ignore[arg-type]
    async with Fleet("lab://rack[1-2]") as fleet:
        report = await fleet.run("echo", "hi")
    assert [report[host].stdout for host in ("lab://rack1", "lab://rack2")] == ["hi\n", "hi\n"]


def test_entry_points_add_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("lab", "tests.test_addresses:local_factory", "aioremote.transports")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([point]).select(group=group))
    monkeypatch.setattr(EntryPoint, "load", lambda _: local_factory)
    assert type(connect("lab://rack1")) is LocalMachine
    assert "lab" in known_schemes()


def local_factory(address: Address) -> Machine:
    return LocalMachine()


async def test_addresses_are_hosts_of_a_fleet() -> None:
    async with Fleet(["local:", "exec:env A=1,2"], allow_exec=True) as fleet:
        report = await fleet.shell("echo $A")
    assert {host: result.stdout for host, result in report.items()} == {"local:": "\n", "exec:env A=1,2": "1,2\n"}
    for hosts in ("exec:touch x", ["local:", "exec:touch x"]):
        with pytest.raises(AddressError, match="allow_exec"):
            Fleet(hosts)
    with pytest.raises(AddressError, match="unknown scheme"):
        Fleet("web1,ftp://web1")
    with pytest.raises(ValueError, match="twice"):
        Fleet("local:,local:")


def test_addresses_are_hosts_of_the_command_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["shell", "local:", "echo hi"]) == 0
    assert capfd.readouterr().out == "hi\n"
    assert main(["run", "exec:env A=1 B=*", "--", "true"]) == 2
    assert "allow" in capfd.readouterr().err
    assert main(["run", "--allow-exec", "exec:env A=1 B=*", "--", "printenv", "B"]) == 0
    assert capfd.readouterr().out == "*\n"
