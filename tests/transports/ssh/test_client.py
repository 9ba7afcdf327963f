"""The connection itself: what is negotiated, what a hostile server can do to it, and what of asyncssh it leans on."""

import ast
import asyncio
import logging
import os
import re
import secrets
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from asyncssh import constants
from tests.transports.ssh.conftest import PASSWORD, MachineMaker
from tests.transports.ssh.servers import between, recording_server

import aioremote
from aioremote import AuthenticationError, ConnectError, ConnectionLost, HostKeys, SshMachine
from aioremote.testing.checks import until
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.sshd import Sshd

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

FOLDER = Path(aioremote.__file__).parent / "transports" / "ssh"
PRIVATE_USERS = ("client.py", "negotiation.py", "packets.py", "channels.py")


def pinned(server: Sshd) -> HostKeys:
    return HostKeys.pinned(server.host_key_fingerprint)


# --- the floor --------------------------------------------------------------------------------------------------------


def run_with_asyncssh(version: str, program: str) -> str:
    """Run a program with an asyncssh that says that it is of some version; returns what it prints."""
    text = f"import asyncssh; asyncssh.__version__ = {version!r}\n" + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["2.24.0", "2.14.2", "1.99", "2.9.9rc1"])
def test_an_asyncssh_below_the_floor_is_refused(version: str) -> None:
    """Promise 98."""
    program = """
        import asyncio, aioremote
        try:
            import aioremote.transports.ssh.dial
        except ImportError as error:
            print(error)
        async def main():
            try:
                await aioremote.SshMachine("127.0.0.1", port=1, config=None).connect()
            except aioremote.UnsupportedError as error:
                print(error)
        asyncio.run(main())
    """
    first, second = run_with_asyncssh(version, program).splitlines()
    for line in (first, second):
        assert f"asyncssh {version} is too old" in line
        assert "asyncssh>=2.24.1" in line
    assert "127.0.0.1" in second


@pytest.mark.parametrize("version", ["2.24.1", "2.25.0", "3.0", "2.24.1+local"])
def test_a_later_asyncssh_is_taken(version: str, aioremote_sshd: Sshd) -> None:
    """Promise 98. One that was not tried goes without the packets of our own, and works."""
    server = aioremote_sshd
    program = f"""
        import asyncio
        from aioremote import HostKeys, SshMachine
        async def main():
            known = HostKeys.strict({str(server.known_hosts)!r})
            keyfile = {str(server.keyfile)!r}
            async with SshMachine("127.0.0.1", port={server.port}, keyfile=keyfile, host_keys=known, config=None) as m:
                print((await m.run("wc", "-c", input=b"x" * 500_000)).stdout)
        asyncio.run(main())
    """
    assert run_with_asyncssh(version, program).strip() == "500000"


def private_names() -> Iterator[tuple[str, str]]:
    """Yield (file, name) for every private name of asyncssh that our connection uses."""
    for file in PRIVATE_USERS:
        tree = ast.parse((FOLDER / file).read_text())
        ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        used: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
                used.add(node.attr)
        yield from ((file, name) for name in sorted(used - ours))


def test_what_is_private_in_asyncssh_is_still_there() -> None:
    """Who changes these names breaks us; this says which."""
    source = "".join(path.read_text() for path in Path(asyncssh.__file__).parent.rglob("*.py"))
    ours = "".join((FOLDER / file).read_text() for file in PRIVATE_USERS)
    missing = [
        (file, name)
        for file, name in private_names()
        if not re.search(rf"(self\.|def ){name}\b", source) and not re.search(rf"self\.{name}(:| =|, )", ours)
    ]
    assert missing == []
    overridden = re.findall(r"def (_force_close|_cleanup|_recv_\w+|_send|_validate_\w+|_match_\w+)\(", ours)
    assert overridden
    assert [name for name in overridden if not re.search(rf"def {name}\(", source)] == []


# --- what is negotiated -----------------------------------------------------------------------------------------------


def name_lists(kexinit: bytes) -> list[list[str]]:
    """Take a KEXINIT apart. RFC 4253, section 7.1: type, 16 bytes of cookie, ten lists of names."""
    found: list[list[str]] = []
    at = 17
    for _ in range(10):
        (length,) = struct.unpack_from(">I", kexinit, at)
        found.append(kexinit[at + 4 : at + 4 + length].decode().split(","))
        at += 4 + length
    return found


async def test_strict_key_exchange_is_negotiated(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    """Promise 99: in the transcript."""
    server = aioremote_sshd
    async with between(server.host, server.port) as link:
        async with make(port=link.port, host_keys=pinned(server)) as machine:
            await machine.run("true")
        kexinit = link.said["client"][0]
        assert kexinit[0] == constants.MSG_KEXINIT
        assert "kex-strict-c-v00@openssh.com" in name_lists(kexinit)[0]
        assert "kex-strict-s-v00@openssh.com" in name_lists(link.said["server"][0])[0]
        assert {payload[0] for payload in link.said["client"]} <= {20, 21, 30}  # nothing but the exchange itself


async def test_a_proposal_is_remembered_but_never_its_cookie(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    """Two connections say the same with cookies of their own (RFC 4253, section 7.1), and both are strict."""
    server = aioremote_sshd
    said: list[bytes] = []
    for _ in range(2):
        async with between(server.host, server.port) as link:
            async with make(port=link.port, host_keys=pinned(server)) as machine:
                await machine.run("true")
                assert machine.transport._link.connection._strict_kex  # type: ignore[attr-defined]
            said.append(link.said["client"][0])
    first, second = said
    assert first[17:] == second[17:]
    assert first[1:17] != second[1:17]


async def test_the_cheap_algorithms_come_first_and_group_exchange_not_at_all(
    make: MachineMaker, aioremote_sshd: Sshd
) -> None:
    """FACTS 14."""
    server = aioremote_sshd
    async with between(server.host, server.port) as link:
        async with make(port=link.port, host_keys=pinned(server)):
            pass
        exchanges, host_keys, ciphers, _, macs, *_ = name_lists(link.said["client"][0])
    assert exchanges[0] == "curve25519-sha256"
    assert not [name for name in exchanges if "group-exchange" in name or "sha1" in name]
    assert ciphers[0] == "aes128-gcm@openssh.com"
    assert not [name for name in ciphers if "cbc" in name or "arcfour" in name]
    assert host_keys[0] == "ssh-ed25519"
    assert not [name for name in macs if "md5" in name]


INJECTED = {
    "ignore": bytes([constants.MSG_IGNORE]) + struct.pack(">I", 3) + b"abc",
    "debug": bytes([constants.MSG_DEBUG, 0]) + struct.pack(">I", 3) + b"abc" + struct.pack(">I", 0),
    "unimplemented": bytes([constants.MSG_UNIMPLEMENTED]) + struct.pack(">I", 0),
    "service accept": bytes([constants.MSG_SERVICE_ACCEPT]) + struct.pack(">I", 12) + b"ssh-userauth",
    "ext info": bytes([constants.MSG_EXT_INFO]) + struct.pack(">I", 0),
    "userauth success": bytes([constants.MSG_USERAUTH_SUCCESS]),
    "userauth failure": bytes([constants.MSG_USERAUTH_FAILURE]) + struct.pack(">I", 8) + b"password" + b"\0",
    "global request": bytes([constants.MSG_GLOBAL_REQUEST]) + struct.pack(">I", 1) + b"x" + b"\0",
    "no such type": bytes([250]),
}


@pytest.mark.parametrize(
    "before", [constants.MSG_KEXINIT, 31, constants.MSG_NEWKEYS], ids=["kexinit", "reply", "newkeys"]
)
@pytest.mark.parametrize("packet", INJECTED, ids=str)
async def test_an_injected_packet_ends_the_connection_before_anything_is_sent(
    make: MachineMaker, aioremote_sshd: Sshd, packet: str, before: int
) -> None:
    """Promise 99 (the Terrapin attack): whatever it is and wherever it stands before the keys are in use."""
    server = aioremote_sshd
    accepted = server.log.count("Accepted publickey")
    async with between(server.host, server.port, inject=INJECTED[packet], before=before) as link:
        with pytest.raises(ConnectError) as caught:
            await make(port=link.port, host_keys=pinned(server), connect_timeout=5).connect()
    assert type(caught.value) is ConnectError
    assert "\n" not in str(caught.value)
    assert server.log.count("Accepted publickey") == accepted


async def test_the_same_road_without_a_packet_more_connects(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    server = aioremote_sshd
    async with between(server.host, server.port) as link, make(port=link.port, host_keys=pinned(server)) as machine:
        await machine.run("true")


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"]


@pytest.mark.parametrize("cipher", CIPHERS)
async def test_bytes_are_exact_through_many_key_exchanges(make: MachineMaker, config: Path, cipher: str) -> None:
    """Promise 86: rekey every MiB, both ways at once."""
    config.write_text(f"Ciphers {cipher}\nRekeyLimit 1M\n")
    data = os.urandom(1 << 20) * 6
    with Sshd(extra_config="RekeyLimit 1M") as server:
        async with make(server, config=config) as machine:
            async with asyncio.TaskGroup() as group:
                back = group.create_task(machine.run("cat", input=data))
                down = group.create_task(machine.run("head", "-c", "4000000", "/dev/zero"))
                small = [group.create_task(machine.run("echo", number)) for number in range(5)]
            assert back.result().stdout_bytes == data
            assert down.result().stdout_bytes == bytes(4_000_000)
            assert [task.result().stdout for task in small] == [f"{number}\n" for number in range(5)]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("piece_bytes", [1, 7, 21])
async def test_bytes_are_exact_however_they_are_split(
    make: MachineMaker, aioremote_sshd: Sshd, config: Path, cipher: str, piece_bytes: int
) -> None:
    """STYLE 41: one byte at a time."""
    config.write_text(f"Ciphers {cipher}\n")
    server = aioremote_sshd
    async with (
        between(server.host, server.port, piece_bytes=piece_bytes) as link,
        make(port=link.port, host_keys=pinned(server), config=config, guard="never") as machine,
    ):
        assert (await machine.run("head", "-c", "5000", "/dev/zero")).stdout_bytes == bytes(5000)


@pytest.mark.parametrize("cipher", CIPHERS)
async def test_a_changed_byte_is_never_a_result(
    make: MachineMaker, aioremote_sshd: Sshd, config: Path, cipher: str
) -> None:
    """Nothing that was not authenticated is believed: length, body or tag, at connect or later."""
    config.write_text(f"Ciphers {cipher}\n")
    server = aioremote_sshd
    for at in (0, 3, 5, 40, 300, 900, 1000, 1500, 3000):
        async with between(server.host, server.port, flip_at=at) as link:
            machine = make(
                port=link.port, host_keys=pinned(server), config=config, guard="never", keepalive=0.1, connect_timeout=1
            )
            with pytest.raises((ConnectError, ConnectionLost)):
                await read_zeros(machine)
            await machine.aclose()


async def read_zeros(machine: SshMachine) -> None:
    await machine.connect()
    result = await machine.run("head", "-c", "30000", "/dev/zero")
    assert result.stdout_bytes == bytes(30000)


# --- a server that wants more than it should --------------------------------------------------------------------------


async def test_a_server_opens_nothing_towards_us(tmp_path: Path) -> None:
    """Promise 71: no forward that was not asked for, no agent, no display, no session; and the connection serves on."""
    async with recording_server(password=PASSWORD) as seen:
        known = HostKeys.strict(seen.known_hosts(tmp_path / "known_hosts"))
        machine = SshMachine("127.0.0.1", port=seen.port, user="me", password=PASSWORD, host_keys=known, config=None)
        async with machine:
            server = seen.live[0]
            for call in (
                server.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", 22),
                server.create_unix_connection(asyncssh.SSHUNIXSession, "/run/socket"),
                server.create_x11_connection(asyncssh.SSHTCPSession),
                server.create_agent_connection(asyncssh.SSHUNIXSession),
            ):
                with pytest.raises(asyncssh.ChannelOpenError):
                    await call
            assert await machine.ping() >= 0


async def test_another_host_key_in_the_middle_ends_the_connection(tmp_path: Path) -> None:
    """Promise 94: a key exchange later on shows the same key or none is trusted."""
    async with recording_server(password=PASSWORD) as seen:
        known = HostKeys.strict(seen.known_hosts(tmp_path / "known_hosts"))
        machine = SshMachine("127.0.0.1", port=seen.port, user="me", password=PASSWORD, host_keys=known, config=None)
        async with machine:
            server = seen.live[0]
            other = asyncssh.load_keypairs([asyncssh.generate_private_key("ssh-ed25519")])[0]
            for algorithm in list(server._server_host_keys):
                server._server_host_keys[algorithm] = other
            server._send_kexinit()
            server._kexinit_sent = True
            await until(lambda: machine.state == "lost")
            with pytest.raises(ConnectionLost):
                await machine.ping()


async def test_a_disconnect_in_the_middle_says_what_the_server_said(tmp_path: Path) -> None:
    async with recording_server(password=PASSWORD) as seen:
        known = HostKeys.strict(seen.known_hosts(tmp_path / "known_hosts"))
        machine = SshMachine("127.0.0.1", port=seen.port, user="me", password=PASSWORD, host_keys=known, config=None)
        async with machine:
            seen.live[0].disconnect(asyncssh.DISC_BY_APPLICATION, "closing time \x1b]0;gotcha\x07")
            await until(lambda: machine.state == "lost")
            with pytest.raises(ConnectionLost) as caught:
                await machine.ping()
        assert "\x1b" not in str(caught.value)


async def test_a_server_that_takes_no_key_of_ours_is_no_result() -> None:
    async with EmbeddedServer(faults=aioremote.testing.embedded.Faults(refuse_auth=True)) as server:
        host_keys = HostKeys.strict(server.known_hosts)
        machine = SshMachine(
            server.host, port=server.port, user="root", keyfile=server.keyfile, host_keys=host_keys, config=None
        )
        with pytest.raises(AuthenticationError):
            await machine.connect()
        assert server.accepted == 1


async def test_nothing_is_logged(make: MachineMaker, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 111: asyncssh's own log shows whole command lines; ours has none, at the most verbose level."""
    secret = f"secret-{secrets.token_hex(8)}"
    asyncssh.set_debug_level(3)
    try:
        with caplog.at_level(logging.DEBUG):
            async with make() as machine:
                await machine.run("echo", secret, env={"TOKEN": secret}, input=secret)
                async with machine.start("cat", "-", secret) as process:
                    assert process.stdin is not None
                    await process.stdin.send(secret.encode())
    finally:
        asyncssh.set_debug_level(1)
    assert secret not in caplog.text


async def test_it_is_the_packets_of_our_own_that_are_used(make: MachineMaker) -> None:
    """With the asyncssh that is installed, and AES-GCM; else the benchmarks measure something else."""
    async with make() as machine:
        connection = machine.transport._link.connection  # type: ignore[attr-defined]
        assert connection._sealing_cipher() is not None
        assert connection._opening_cipher() is not None
