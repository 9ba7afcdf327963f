"""Machines behind machines: three servers with a user and keys of their own each, and one bastion for many."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tests.transports.ssh.test_loss import Over

from aioremote import (
    AuthenticationError,
    ClosedError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    Fleet,
    HostKeyError,
    HostKeys,
    Machine,
    Reconnect,
    SshMachine,
)
from aioremote.testing.checks import cancel_everywhere, no_leaks, until
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd, TestUser, create_user

pytestmark = pytest.mark.usefixtures("closed_at_the_end")

Hops = tuple["Hop", "Hop", "Hop"]
FORWARDS_ONLY = 0  # MaxSessions: no session at all, forwarding still permitted (sshd_config)


@dataclass
class Hop:
    """A server, who may log in to it, and what a machine on it needs."""

    server: Sshd
    user: str
    made: list[SshMachine]

    def machine(self, via: Machine | None = None, **keywords: object) -> SshMachine:
        needed = {
            "user": self.user,
            "port": self.server.port,
            "keyfile": self.server.keyfile,
            "host_keys": HostKeys.strict(self.server.known_hosts),
            "config": None,
            "via": via,
        }
        machine = SshMachine(self.server.host, **{**needed, **keywords})  # type: ignore[arg-type]
        self.made.append(machine)
        return machine

    def logins(self) -> int:
        """How often somebody has come in so far."""
        return self.server.log.count("Accepted publickey")


@pytest.fixture(scope="module")
def hops(aioremote_user: TestUser) -> Iterator[Hops]:
    """Three servers on addresses of their own: two that only forward, and one where commands run."""
    with ExitStack() as stack:
        users = [stack.enter_context(create_user(f"aioremote-hop{number}")).name for number in (1, 2)]
        made: list[SshMachine] = []
        found = [
            Hop(stack.enter_context(Sshd(listen=[f"127.0.0.{21 + number}"], max_sessions=sessions)), user, made)
            for number, (user, sessions) in enumerate(
                [(users[0], FORWARDS_ONLY), (users[1], FORWARDS_ONLY), (aioremote_user.name, None)]
            )
        ]
        yield found[0], found[1], found[2]


@pytest_asyncio.fixture
async def closed_at_the_end(hops: Hops, aioremote_no_leaks: None) -> AsyncIterator[None]:
    yield
    while hops[0].made:
        await hops[0].made.pop().aclose()


@pytest.fixture
def chain(hops: Hops) -> tuple[SshMachine, SshMachine, SshMachine]:
    """Three machines, each behind the one before; none is connected yet."""
    first = hops[0].machine()
    second = hops[1].machine(first)
    return first, second, hops[2].machine(second)


async def test_three_deep_with_a_user_and_keys_of_each(
    hops: Hops, chain: tuple[SshMachine, SshMachine, SshMachine]
) -> None:
    """`via=`: the last connects what it needs, and each server sees the one before; MaxSessions is no matter."""
    _, _, third = chain
    before = [hop.logins() for hop in hops]
    result = await third.shell("id -un; echo $SSH_CLIENT; head -c 2000000 /dev/zero", input=None)
    user, client, _ = result.stdout.split("\n", 2)
    assert user == hops[2].user
    assert client.startswith("127.0.0.")
    assert (await third.run("wc", "-c", input=b"x" * 2_000_000)).stdout == "2000000\n"
    assert [machine.state for machine in chain] == ["connected"] * 3
    assert [hop.logins() for hop in hops] == [number + 1 for number in before]
    async with third.tunnel(0, hops[0].server.port, dhost=hops[0].server.host) as tunnel:
        reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.lport)
        assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")
        writer.close()
        await writer.wait_closed()


async def test_a_cancelled_connect_through_three_leaves_nothing(hops: Hops) -> None:
    """Promise 58's likeness: at each suspension point of the way."""

    async def whole() -> None:
        first = hops[0].machine()
        second = hops[1].machine(first)
        third = hops[2].machine(second)
        try:
            await third.connect()
        finally:
            for machine in (third, second, first):
                await machine.aclose()

    async def check() -> None:
        async with no_leaks():
            pass

    assert await cancel_everywhere(whole, check) > 3


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_the_hop_that_refuses_the_login_is_named(hops: Hops, number: int) -> None:
    """`via=`: the kind of the error and its text are those of that hop."""
    last: SshMachine | None = None
    for index, hop in enumerate(hops):
        wrong = {"keyfile": hops[index - 1].server.keyfile} if index == number else {}
        last = hop.machine(last, **wrong)
    assert last is not None
    with pytest.raises(AuthenticationError) as caught:
        await last.connect()
    server = hops[number].server
    between = "".join(f"{hop.server.host}: no way through the machine in between: " for hop in hops[:number:-1])
    assert str(caught.value).startswith(f"{between}{server.host}:{server.port}: user ")
    assert caught.value.host == hops[number].server.host


async def test_each_hop_judges_keys_by_its_own_policy(hops: Hops, tmp_path: Path) -> None:
    """`via=`: what pins the first says nothing of the second."""
    first = hops[0].machine(host_keys=HostKeys.pinned(hops[0].server.host_key_fingerprint))
    pinned_to_another = HostKeys.pinned(hops[0].server.host_key_fingerprint)
    with pytest.raises(HostKeyError, match=hops[1].server.host):
        await hops[1].machine(first, host_keys=pinned_to_another).connect()
    known = tmp_path / "known"
    async with hops[1].machine(first, host_keys=HostKeys.accept_new(known)):
        pass
    assert f"[{hops[1].server.host}]:{hops[1].server.port} " in known.read_text()


async def test_a_server_in_between_that_forbids_forwarding_is_named(hops: Hops) -> None:
    with Sshd(listen=["127.0.0.24"], extra_config="AllowTcpForwarding no") as strict:
        async with Hop(strict, hops[0].user, []).machine() as bastion:
            with pytest.raises(ConnectError, match=r"127\.0\.0\.24.*forbids"):
                await hops[2].machine(bastion).connect()


async def test_the_time_to_connect_is_each_hop_s_own(hops: Hops) -> None:
    """`via=`: the one that is silent says so after its own time, and by its name."""
    async with TcpProxy(hops[1].server.host, hops[1].server.port) as silent:
        silent.accept_silently = True
        first = hops[0].machine()
        behind = SshMachine(silent.host, port=silent.port, config=None, via=first, connect_timeout=0.3)
        with pytest.raises(ConnectTimeout, match=rf"{silent.host}:{silent.port}.*within 0\.3 s"):
            await hops[2].machine(behind, connect_timeout=30).connect()


async def test_a_machine_is_wanted_in_between() -> None:
    with pytest.raises(TypeError, match=r"via='bastion'.*SshMachine"):
        SshMachine("web1", via="bastion")  # type: ignore[arg-type]


# --- one for many -----------------------------------------------------------------------------------------------------


async def test_a_hundred_hosts_share_one_connect_of_their_bastion(hops: Hops) -> None:
    """`via=`: all want it at once, it opens no session, and is the caller's to close."""
    bastion, before = hops[0].machine(), hops[0].logins()
    async with EmbeddedServer(hosts=100, name="web") as servers:
        names = [host.host for host in servers.hosts]
        async with Fleet(
            names,
            port=servers.hosts[0].port,
            keyfile=servers.keyfile,
            host_keys=HostKeys.strict(servers.known_hosts),
            config=None,
            connect_timeout=40,
            via=bastion,
        ) as fleet:
            assert (await fleet.run("echo", "fine")).summary() == "100 hosts: 100 ok"
            assert (await fleet.run("echo", "again")).ok
        assert hops[0].logins() == before + 1
        assert bastion.state == "connected"


async def test_max_startups_of_a_host_behind_a_bastion_is_respected(hops: Hops) -> None:
    """`via=`, promise 119: thirty logins at one server that drops from the tenth on, two machines before it."""
    first = hops[0].machine()
    second = hops[1].machine(first)
    machines = [hops[2].machine(second, connect_timeout=30) for _ in range(30)]
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(machine.connect())
    assert "MaxStartups" not in hops[2].server.log


async def test_a_bastion_that_cannot_be_reached_is_each_host_s_own_trouble(hops: Hops) -> None:
    """`via=`: nothing hangs, and the report says which machine it was."""
    bastion = hops[0].machine(keyfile=hops[1].server.keyfile)
    async with Fleet("127.0.0.[2-21]", user="x", config=None, via=bastion) as fleet:
        report = await fleet.run("true")
        assert len(report.unreachable) == 20
    for host, error in report.unreachable.items():
        assert isinstance(error, AuthenticationError)
        assert error.host == host
        assert str(error).startswith(f"{host}: no way through the machine in between: {hops[0].server.host}:")


# --- its loss and its end ---------------------------------------------------------------------------------------------


async def test_every_machine_behind_a_lost_one_is_lost(proxy: TcpProxy, over: Over, hops: Hops) -> None:
    """`via=`: also those that are two behind, and what runs there says how far it came and what broke."""
    first = over(proxy)
    second = hops[1].machine(first)
    behind = [hops[2].machine(second), hops[2].machine(second), hops[2].machine(first)]
    for machine in behind:
        await machine.connect()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_outcome(machine)) for machine in behind]
        for machine in behind:
            await machine.run("true")
        proxy.cut()
    for machine, task in zip(behind, running, strict=True):
        error = task.result()
        assert error.outcome == "unknown"
        assert error.host == hops[2].server.host
        assert machine.state == "lost"
        in_between = first if machine is behind[2] else second
        assert f"the way through {in_between.address} broke" in str(error)


async def _outcome(machine: SshMachine) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        await machine.run("sleep", "60")
    return caught.value


async def test_closing_a_machine_in_between_ends_those_behind_it(hops: Hops) -> None:
    first = await hops[0].machine().connect()
    behind = await hops[2].machine(first).connect()
    await first.aclose()
    await until(lambda: behind.state == "lost")
    with pytest.raises(ConnectionLost):
        await behind.run("true")
    with pytest.raises(ConnectError, match=r"machine in between.*closed") as caught:
        await hops[2].machine(first).connect()
    assert isinstance(caught.value.__cause__, ClosedError)


async def test_machines_behind_one_that_connects_again_do_so_too(proxy: TcpProxy, over: Over, hops: Hops) -> None:
    """Reconnect and `via=`: many lost one bastion, which is connected anew once for all."""
    policy = Reconnect(first_delay=0.02, most_delay=0.2)
    bastion = over(proxy, reconnect=policy)
    behind = [hops[2].machine(bastion, reconnect=policy) for _ in range(5)]
    for machine in behind:
        await machine.connect()
    proxy.cut()
    await until(lambda: all(machine.state == "lost" for machine in behind))
    accepted = proxy.accepted
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.run("echo", "back")) for machine in behind]
    assert [task.result().stdout for task in tasks] == ["back\n"] * 5
    assert proxy.accepted == accepted + 1
