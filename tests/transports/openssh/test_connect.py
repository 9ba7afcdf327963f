"""How a master comes about, and every way in which it does not."""

import asyncio
import os
import socket
import tempfile
from pathlib import Path

import pytest
from tests.transports.openssh.conftest import PASSWORD, Maker

from aioremote import HostKeys, OpenSshMachine, PasswordRequest, SshMachine
from aioremote.errors import (
    AddressError,
    AuthenticationError,
    ConfigError,
    ConnectError,
    ConnectTimeout,
    HostKeyError,
    UnsupportedError,
)
from aioremote.testing.sshd import Sshd, TestUser

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a;b", "a\nb", "%h", ""])
def test_a_host_that_is_no_name_is_refused(make: Maker, host: str) -> None:
    """Promise 97."""
    with pytest.raises(ValueError, match="host name"):
        OpenSshMachine(host)


def test_a_user_that_is_no_name_is_refused() -> None:
    """Promise 97."""
    with pytest.raises(ValueError, match="user name"):
        OpenSshMachine("host", user="-x")


async def test_keys_and_ssh_config(make: Maker, aioremote_sshd: Sshd, tmp_path: Path) -> None:
    """The user's own ssh_config is read by ssh itself: aliases and all."""
    config = tmp_path / "config"
    config.write_text(
        f"Host alias\n  HostName {aioremote_sshd.host}\n  Port {aioremote_sshd.port}\n"
        f"  IdentityFile {aioremote_sshd.keyfile}\n  SendEnv LANG\n  LogLevel QUIET\n  LocalCommand exit 9\n"
    )
    known = HostKeys.strict(aioremote_sshd.known_hosts)
    async with OpenSshMachine("alias", config=config, host_keys=known, outpost="never") as machine:
        assert (await machine.run("echo", "fine")).stdout == "fine\n"


async def test_native_is_a_keyword_of_ssh_machines(aioremote_sshd: Sshd) -> None:
    known = HostKeys.strict(aioremote_sshd.known_hosts)
    async with SshMachine(
        aioremote_sshd.host, port=aioremote_sshd.port, keyfile=aioremote_sshd.keyfile, host_keys=known,
        config=None, native=True,
    ) as machine:  # fmt: skip
        assert machine.address.scheme == "openssh"
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
    with pytest.raises(UnsupportedError, match="via="):
        SshMachine("host", native=True, via=machine)


async def test_a_pinned_key(make: Maker, aioremote_sshd: Sshd) -> None:
    async with make(host_keys=HostKeys.pinned(aioremote_sshd.host_key_fingerprint)) as machine:
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
    other = "SHA256:" + "A" * 43
    with pytest.raises(HostKeyError):
        await make(host_keys=HostKeys.pinned(other)).connect()


async def test_an_unknown_key_is_refused(make: Maker, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    with pytest.raises(HostKeyError, match="unknown"):
        await make(host_keys=HostKeys.strict(empty)).connect()
    assert not empty.exists()


async def test_a_new_key_is_written_down_and_a_changed_one_refused(
    make: Maker, aioremote_sshd: Sshd, tmp_path: Path
) -> None:
    known = tmp_path / "known hosts 100%"
    async with make(host_keys=HostKeys.accept_new(known)) as machine:
        await machine.run("true")
    line = known.read_text().splitlines()[0].split()
    other = tmp_path / "other"
    process = await asyncio.create_subprocess_exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other))
    assert await process.wait() == 0
    known.write_text(f"{line[0]} {other.with_suffix('.pub').read_text()}")
    with pytest.raises(HostKeyError, match=r"has changed: presented SHA256:") as caught:
        await make(host_keys=HostKeys.accept_new(known)).connect()
    assert caught.value.presented == aioremote_sshd.host_key_fingerprint


def test_a_callback_is_not_for_openssh(make: Maker) -> None:
    with pytest.raises(UnsupportedError, match="callback"):
        make(host_keys=HostKeys.callback(lambda *_: True))


async def test_a_wrong_login_is_refused(make: Maker) -> None:
    with pytest.raises(AuthenticationError):
        await make(user="nobody-of-this-name").connect()


async def test_a_password_is_seen_by_nobody_else(make: Maker, password_server: Sshd, password_user: TestUser) -> None:
    """Not in the arguments or the environment of any process, nor in a file of the master's directory."""
    asked: list[PasswordRequest] = []
    seen: list[bytes] = []

    async def provider(request: PasswordRequest) -> str:
        asked.append(request)
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                for part in ("cmdline", "environ"):
                    try:
                        seen.append(Path("/proc", name, part).read_bytes())
                    except OSError:
                        continue
        return PASSWORD if request.attempt > 1 else "wrong"

    async with make(password_server, user=password_user.name, password=provider, keyfile=()) as machine:
        assert (await machine.run("id", "-un")).stdout.strip() == password_user.name
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                for part in ("cmdline", "environ"):
                    try:
                        seen.append(Path("/proc", name, part).read_bytes())
                    except OSError:
                        continue
    assert [request.attempt for request in asked] == [1, 2]
    assert "password" in asked[0].prompt.lower()
    assert not any(PASSWORD.encode() in text for text in seen)


async def test_a_wrong_password_is_told(make: Maker, password_server: Sshd, password_user: TestUser) -> None:
    with pytest.raises(AuthenticationError):
        await make(password_server, user=password_user.name, password="wrong", keyfile=()).connect()


async def test_what_a_provider_raises_is_the_cause(make: Maker, password_server: Sshd, password_user: TestUser) -> None:
    async def provider(request: PasswordRequest) -> str:
        raise LookupError(request.host)

    with pytest.raises(AuthenticationError) as caught:
        await make(password_server, user=password_user.name, password=provider, keyfile=()).connect()
    assert isinstance(caught.value.__cause__, LookupError)


async def test_an_unknown_host(make: Maker) -> None:
    with pytest.raises(AddressError):
        await make(host="no-such-host.invalid").connect()


async def test_a_refused_port(make: Maker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectError, match="refused"):
            await make(port=taken.getsockname()[1]).connect()


async def test_a_silent_server(make: Maker) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectTimeout):
            await make(port=silent.getsockname()[1], connect_timeout=0.5).connect()


async def test_a_missing_program(make: Maker) -> None:
    with pytest.raises(UnsupportedError, match="no-such-ssh"):
        await make(program="no-such-ssh").connect()


async def test_a_program_that_is_too_old(make: Maker, tmp_path: Path) -> None:
    old = tmp_path / "ssh"
    old.write_text("#!/bin/sh\necho OpenSSH_7.4p1, OpenSSL 1.0.2k >&2\n")
    old.chmod(0o755)
    with pytest.raises(UnsupportedError, match=r"OpenSSH 7\.4, too old: 8\.5"):
        await make(program=str(old)).connect()


async def test_a_bad_configuration(make: Maker, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("NoSuchWord yes\n")
    with pytest.raises(ConfigError, match=r"(?i)nosuchword"):
        await make(config=config).connect()


def test_a_control_path_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="control path too long"):
        OpenSshMachine.attach("/tmp/" + "x" * 110)


async def test_a_socket_without_a_master(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="no OpenSSH master"):
        await OpenSshMachine.attach(tmp_path / "none").connect()


async def test_nothing_is_left_of_a_master(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, as the path of a socket has to be
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        async with make() as machine:
            (directory,) = Path(folder).iterdir()
            assert directory.stat().st_mode & 0o777 == 0o700
            await machine.run("true")
        assert not list(Path(folder).iterdir())
