"""ssh_config: what it says is done, what it runs is known, and with config=None nothing of it happens."""

import asyncio
import os
import secrets
import signal
import subprocess
from pathlib import Path

import pytest

from aioremote import AuthenticationError, ConfigError, ConnectError, HostKeyError, HostKeys, SshMachine
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.ssh import options
from aioremote.transports.ssh.settings import SshSettings

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@pytest.fixture(autouse=True)
def no_other_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, and no agent."""
    home = tmp_path / "near-home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where the config of a test stands; it need not exist."""
    return tmp_path / "ssh config"


def block(server: Sshd, name: str = "web1", *more: str) -> str:
    """Return the lines that make a name lead to a server."""
    lines = [
        f"Host {name}",
        f"HostName {server.host}",
        f"Port {server.port}",
        f"IdentityFile {server.keyfile}",
        f"UserKnownHostsFile {server.known_hosts}",
        *more,
    ]
    return "\n    ".join(lines) + "\n"


async def ask(config: Path | None, host: str = "web1", *argv: str, **keywords: object) -> str:
    """Run a command on a host of the config and return what it says."""
    async with SshMachine(host, config=config, **keywords) as machine:  # type: ignore[arg-type]
        return (await machine.run(*(argv or ("id", "-un")))).stdout.strip()


# --- what it says is done ---------------------------------------------------------------------------------------------


async def test_an_alias_says_everything(config: Path, aioremote_sshd: Sshd, aioremote_user: TestUser) -> None:
    config.write_text(block(aioremote_sshd, "web*", f"User {aioremote_user.name}"))
    assert await ask(config) == aioremote_user.name
    assert await ask(config, "web2") == aioremote_user.name
    assert await ask(config, user="root") == "root"  # what is given wins


async def test_the_machine_keeps_the_name_it_was_given(config: Path, aioremote_sshd: Sshd) -> None:
    config.write_text(block(aioremote_sshd))
    async with SshMachine("web1", config=config) as machine:
        assert (machine.host, str(machine)) == ("web1", "ssh://web1")
        assert (await machine.run("true")).host == "web1"
    config.write_text(block(aioremote_sshd, "web1", "Port 1"))
    with pytest.raises(ConnectError) as caught:
        await ask(config, port=1)
    assert f"web1 ({aioremote_sshd.host}:1)" in str(caught.value)


async def test_the_default_config_is_read(no_other_credentials: Path, aioremote_sshd: Sshd) -> None:
    """DESIGN 7: a bare host name works."""
    (no_other_credentials / ".ssh" / "config").write_text(block(aioremote_sshd))
    async with SshMachine("web1") as machine:
        await machine.run("true")
    with pytest.raises(ConnectError):
        await ask(None)


async def test_a_changed_config_counts_at_once(config: Path, aioremote_sshd: Sshd, aioremote_user: TestUser) -> None:
    for user in ("root", aioremote_user.name, "root"):
        config.write_text(block(aioremote_sshd, "web1", f"User {user}"))
        assert await ask(config) == user


async def test_a_changed_include_counts_at_once(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd, aioremote_user: TestUser
) -> None:
    """Promise 96."""
    included = tmp_path / "included"
    config.write_text(f"Include {included}\n")
    for user in ("root", aioremote_user.name):
        included.write_text(block(aioremote_sshd, "web1", f"User {user}"))
        assert await ask(config) == user


async def test_hosts_of_one_block_share_their_options(
    config: Path, aioremote_sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    build = options._build

    def counted(settings: SshSettings, file: object, *rest: str | int | None) -> object:
        built.append(file)
        return build(settings, file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(options, "_build", counted)
    config.write_text(block(aioremote_sshd, "127.* localhost").replace(f"HostName {aioremote_sshd.host}", "Tag any"))
    for host in ("127.0.0.1", "localhost"):
        assert await ask(config, host) == "root"
    assert len(built) == 1


async def test_tokens_differ_from_host_to_host(config: Path, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    for name in ("web1", "web2"):
        (tmp_path / f"key-{name}").symlink_to(aioremote_sshd.keyfile)
    text = block(aioremote_sshd, "web*").replace(str(aioremote_sshd.keyfile), f"{tmp_path}/key-%n")
    config.write_text(text)
    assert await ask(config, "web1") == "root"
    assert await ask(config, "web2") == "root"
    with pytest.raises(ConfigError, match="key-web3"):
        await ask(config, "web3")


async def test_known_hosts_of_the_config_are_the_only_ones(config: Path, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    (tmp_path / "empty").write_text("")
    config.write_text(block(aioremote_sshd).replace(str(aioremote_sshd.known_hosts), str(tmp_path / "empty")))
    with pytest.raises(HostKeyError):
        await ask(config)
    assert await ask(config, host_keys=HostKeys.strict(aioremote_sshd.known_hosts)) == "root"


async def test_a_host_key_alias_is_what_known_hosts_is_asked_for(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"the-alias {aioremote_sshd.host_keys['ed25519']}\n")
    text = block(aioremote_sshd, "web1", "HostKeyAlias the-alias")
    config.write_text(text.replace(str(aioremote_sshd.known_hosts), str(known)))
    assert await ask(config) == "root"


async def test_strict_host_key_checking_no_does_not_switch_checks_off(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd
) -> None:
    """Promise 95."""
    text = block(aioremote_sshd, "web1", "StrictHostKeyChecking no")
    config.write_text(text.replace(str(aioremote_sshd.known_hosts), str(tmp_path / "none")))
    with pytest.raises(HostKeyError):
        await ask(config)


async def test_forward_agent_in_the_config_is_not_followed(config: Path, aioremote_sshd: Sshd, ssh_agent: Path) -> None:
    """Promise 96: only agent_forwarding=True does that."""
    config.write_text(block(aioremote_sshd, "web1", "ForwardAgent yes"))
    say = ("sh", "-c", "echo ${SSH_AUTH_SOCK-none}")
    assert await ask(config, "web1", *say) == "none"
    assert await ask(config, "web1", *say, agent_forwarding=True) != "none"


async def test_ciphers_of_the_config_are_used(config: Path, aioremote_sshd: Sshd) -> None:
    config.write_text(block(aioremote_sshd, "web1", "Ciphers aes256-ctr", "KexAlgorithms ecdh-sha2-nistp256"))
    async with SshMachine("web1", config=config, outpost="never") as machine:
        assert (await machine.run("wc", "-c", input=b"x" * 500_000)).stdout == "500000\n"
        connection = machine.transport._link.connection  # type: ignore[attr-defined]
        assert connection.get_extra_info("send_cipher") == "aes256-ctr"


# --- programs that it runs --------------------------------------------------------------------------------------------


async def test_without_config_nothing_is_started(
    no_other_credentials: Path, tmp_path: Path, aioremote_sshd: Sshd
) -> None:
    """Promise 96: Match exec and ProxyCommand would leave a witness."""
    witness = tmp_path / "witness"
    text = f"Match exec 'touch {witness}'\n    ProxyCommand touch {witness}\n"
    (no_other_credentials / ".ssh" / "config").write_text(text)
    known = HostKeys.strict(aioremote_sshd.known_hosts)
    keywords: dict[str, object] = {
        "port": aioremote_sshd.port,
        "keyfile": aioremote_sshd.keyfile,
        "host_keys": known,
    }
    assert await ask(None, aioremote_sshd.host, **keywords) == "root"
    assert not witness.exists()


async def test_match_exec_runs_its_program(config: Path, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    """Promise 96: documented at `config=`."""
    witness = tmp_path / "witness"
    config.write_text(f"Match exec 'touch {witness}'\n    User root\n{block(aioremote_sshd)}")
    assert await ask(config) == "root"
    assert witness.exists()


def netcat(tmp_path: Path) -> Path:
    """Return a program that connects its standard input and output to HOST PORT, as `nc` does."""
    program = tmp_path / "nc"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import os, socket, sys, threading\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def out():\n"
        "    while data := sock.recv(65536):\n"
        "        os.write(1, data)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=out, daemon=True).start()\n"
        "while data := os.read(0, 65536):\n"
        "    sock.sendall(data)\n"
    )
    program.chmod(0o755)
    return program


async def test_a_proxy_command_carries_the_connection_and_is_gone_at_the_end(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd, mark: str
) -> None:
    """Promise 96. The line goes through a shell, as with ssh."""
    witness = tmp_path / "witness"
    line = f"env MARK={mark} {netcat(tmp_path)} %h %p 2>/dev/null; touch '{witness}'"
    config.write_text(block(aioremote_sshd, "web1", f'ProxyCommand sh -c "{line}"'))
    async with SshMachine("web1", config=config) as machine:
        assert (await machine.run("wc", "-c", input=b"x" * 1_000_000)).stdout == "1000000\n"
        assert marked_processes(mark)
    assert not marked_processes(mark)
    assert witness.exists()  # it ended by itself, when its connection did
    assert not children()


def children() -> list[str]:
    """Return what is left of proxy commands among this process's children, zombies too."""
    ps = ["ps", "--ppid", str(os.getpid()), "-o", "stat=,args="]
    found = subprocess.run(ps, capture_output=True, text=True).stdout.splitlines()
    return [line for line in found if "sh -c exec" in line or "<defunct>" in line]


@pytest.mark.parametrize("stubborn", ["sleep 600", "trap '' TERM HUP; sleep 600; sleep 600"])
async def test_a_proxy_command_that_stays_is_ended(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd, mark: str, stubborn: str
) -> None:
    script = tmp_path / "stay"
    script.write_text(f'#!/bin/sh\n{netcat(tmp_path)} "$1" "$2"\nMARK={mark} sh -c "{stubborn}"\n')
    script.chmod(0o755)
    config.write_text(block(aioremote_sshd, "web1", f"ProxyCommand {script} %h %p"))
    async with SshMachine("web1", config=config) as machine:
        await machine.run("true")
    await until(lambda: not marked_processes(mark), seconds=1)
    assert not children()


async def test_a_proxy_command_that_dies_loses_the_link(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd, mark: str
) -> None:
    config.write_text(block(aioremote_sshd, "web1", f"ProxyCommand env MARK={mark} {netcat(tmp_path)} %h %p"))
    async with SshMachine("web1", config=config) as machine:
        for pid in marked_processes(mark):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: machine.state == "lost")
    assert not children()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/program %h", ("127", "not found")),
        ("sh -c 'echo no way, sorry >&2; exit 7'", ("status 7", "no way, sorry")),
        ("sh -c 'printf \"\\\\033]0;gotcha\\\\007\" >&2; exit 7'", ("status 7", "\\x1b")),
    ],
)
async def test_a_proxy_command_that_fails_says_why_at_once(
    config: Path, aioremote_sshd: Sshd, command: str, words: tuple[str, ...]
) -> None:
    config.write_text(block(aioremote_sshd, "web1", f"ProxyCommand {command}"))
    async with asyncio.timeout(5):
        with pytest.raises(ConnectError) as caught:
            await ask(config)
    text = str(caught.value)
    assert "ProxyCommand" in text
    assert "\n" not in text
    assert "\x1b" not in text
    for word in words:
        assert word in text


async def test_a_cancelled_connect_ends_its_proxy_command(config: Path, aioremote_sshd: Sshd, mark: str) -> None:
    config.write_text(block(aioremote_sshd, "web1", f"ProxyCommand env MARK={mark} sleep 600"))
    machine = SshMachine("web1", config=config)
    connecting = asyncio.get_running_loop().create_task(machine.connect())
    await until(lambda: marked_processes(mark))
    await machine.aclose()
    assert not marked_processes(mark)
    await asyncio.wait({connecting})
    assert connecting.exception() is not None
    assert not children()


async def test_a_server_on_a_pipe(config: Path, aioremote_sshd: Sshd) -> None:
    """FACTS 21: sshd -i as the proxy command, no port at all."""
    config.write_text(block(aioremote_sshd, "web1", f"ProxyCommand {aioremote_sshd.proxy_command}"))
    assert await ask(config) == "root"


async def test_proxy_command_none_is_none(config: Path, aioremote_sshd: Sshd) -> None:
    config.write_text(block(aioremote_sshd, "web1", "ProxyCommand none") + "Host *\n    ProxyCommand false\n")
    assert await ask(config) == "root"


# --- hosts in between -------------------------------------------------------------------------------------------------


async def test_proxy_jump_goes_through_each_host_in_turn(
    config: Path, aioremote_sshd: Sshd, aioremote_user: TestUser
) -> None:
    async with (
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as first,
        TcpProxy(aioremote_sshd.host, aioremote_sshd.port) as second,
    ):
        pinned = HostKeys.pinned(aioremote_sshd.host_key_fingerprint)
        config.write_text(
            block(aioremote_sshd, "web1", f"ProxyJump one,{aioremote_user.name}@two")
            + block(aioremote_sshd, "one").replace(f"Port {aioremote_sshd.port}", f"Port {first.port}")
            + block(aioremote_sshd, "two").replace(f"Port {aioremote_sshd.port}", f"Port {second.port}")
        )
        before = aioremote_sshd.log.count(f"Accepted publickey for {aioremote_user.name}")
        async with SshMachine("web1", config=config, host_keys=pinned) as machine:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            assert (first.accepted, second.accepted) == (1, 1)
        await until(lambda: not (first.active or second.active))
        assert aioremote_sshd.log.count(f"Accepted publickey for {aioremote_user.name}") == before + 1


async def test_a_host_in_between_is_checked_like_any_other(config: Path, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    """Promise 94."""
    text = block(aioremote_sshd, "jump").replace(str(aioremote_sshd.known_hosts), str(tmp_path / "none"))
    config.write_text(block(aioremote_sshd, "web1", "ProxyJump jump") + text)
    with pytest.raises(HostKeyError) as caught:
        await ask(config)
    assert caught.value.host == "jump"


@pytest.mark.parametrize("jump", ["web1", "jump", "-oProxyCommand=x", "a;b"])
async def test_jumps_in_a_circle_or_to_no_host_are_refused(config: Path, aioremote_sshd: Sshd, jump: str) -> None:
    config.write_text(block(aioremote_sshd, "*", f"ProxyJump {jump}"))
    async with asyncio.timeout(10):
        with pytest.raises(ConnectError) as caught:
            await ask(config)
    assert "\n" not in str(caught.value)


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Port nonsense\n",
        "Host web1\n  Port\n",
        "Match nonsense\n",
        'User "open\n',
        "IdentityFile ${NO_SUCH_NAME}\n",
    ],
)
async def test_a_malformed_config_says_where(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await ask(config)
    assert str(config) in str(caught.value)
    assert "config=None" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_config_that_is_no_text_says_so(config: Path) -> None:
    config.write_bytes(b"User \xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        await ask(config)


async def test_a_config_that_is_not_there_or_no_file_says_so(config: Path, tmp_path: Path) -> None:
    """A default one may be missing; one that was named may not."""
    for path in (config, tmp_path):
        with pytest.raises(ConfigError, match="cannot read ssh config"):
            await ask(path)


async def test_a_key_of_the_config_that_is_not_there_is_named(config: Path, aioremote_sshd: Sshd) -> None:
    config.write_text(block(aioremote_sshd).replace(str(aioremote_sshd.keyfile), "/no/such/key"))
    with pytest.raises((ConfigError, AuthenticationError)) as caught:
        await ask(config)
    assert "/no/such/key" in str(caught.value)


async def test_an_encrypted_key_of_the_config_is_opened_by_passphrase(
    config: Path, tmp_path: Path, aioremote_sshd: Sshd
) -> None:
    key, passphrase = tmp_path / "key", secrets.token_hex(4)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", key], check=True)
    aioremote_sshd.authorize(key.with_suffix(".pub").read_text())
    config.write_text(block(aioremote_sshd).replace(str(aioremote_sshd.keyfile), str(key)))
    assert await ask(config, passphrase=passphrase) == "root"
    with pytest.raises((ConfigError, AuthenticationError)) as caught:
        await ask(config)
    assert "\n" not in str(caught.value)
