"""Machines that a command leads to: containers, other roots, other environments, with a Python there and without."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.transports.roots import make_docker, make_root

from aioremote import (
    AddressError,
    BootstrapError,
    ClosedError,
    CommandFailed,
    CommandMachine,
    CommandNotFound,
    ConnectError,
    ConnectionLost,
    DockerMachine,
    FileError,
    HostKeys,
    KubernetesMachine,
    LocalMachine,
    Machine,
    PodmanMachine,
    RemoteError,
    SshMachine,
    UnsupportedError,
)
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.command import CommandTransport

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")
TREE = "sleep 1000 & echo $$ $!; wait"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roots")
    make_root(folder / "small")
    (folder / "big").symlink_to("/")  # a container with a Python
    return folder


@pytest.fixture
def docker(tmp_path: Path, roots: Path) -> str:
    return make_docker(tmp_path, roots)


@pytest.fixture
def inside() -> Iterator[list[int]]:
    """Process ids to be seen from here, since all roots are on this computer."""
    pids: list[int] = []
    yield pids
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def host(near: str, server: Sshd) -> Machine:
    if near == "local":
        return LocalMachine()
    keys = HostKeys.strict(server.known_hosts)
    return SshMachine(server.host, port=server.port, keyfile=server.keyfile, host_keys=keys, config=None)


def first_inside(pid: int) -> int:
    """Return the process that a stand-in for docker has started, above one of its own."""
    while True:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text() == "setsid\n":
            return pid
        pid = parent


def is_plain(machine: Machine) -> bool:
    transport = machine.transport
    assert isinstance(transport, CommandTransport)
    return transport.version == (0, 0, 0)


async def test_a_root_without_python_runs_plain_commands(roots: Path) -> None:
    async with CommandMachine(["chroot", str(roots / "small")]) as machine:
        assert is_plain(machine)
        result = await machine.run("sh", "-c", 'echo "$WHO"; cat; pwd', env={"WHO": "it's me"}, input="in", cwd="/tmp")
        assert result.stdout == "it's me\nin/tmp\n"
        assert (await machine.run("echo", "a b", "", "*", "ü\n")).stdout == "a b  * ü\n\n"
        assert str(await machine.which("cat")) == "/bin/cat"
        with pytest.raises(CommandNotFound):
            await machine.run("python3")
        with pytest.raises(FileError, match="/no"):
            await machine.run("true", cwd="/no")
        with pytest.raises(CommandFailed) as caught:
            await machine.run("sh", "-c", "exit 3")
        assert caught.value.returncode == 3
        with pytest.raises(BootstrapError):
            await machine.python.eval("1")


async def test_a_python_inside_carries_everything(docker: str) -> None:
    async with DockerMachine("big", program=docker) as machine:
        assert not is_plain(machine)
        assert await machine.python.eval("1 + 2") == 3
        assert (await machine.run("echo", "one")).stdout == "one\n"


async def test_outpost_always_needs_a_python(roots: Path) -> None:
    machine = CommandMachine(["chroot", str(roots / "small")], outpost="always")
    with pytest.raises(BootstrapError):
        await machine.connect()
    await machine.aclose()


@pytest.mark.parametrize("container", ["small", "big"])
@pytest.mark.parametrize("near", ["local", "ssh"])
async def test_promise_1_a_cancel_ends_the_tree_inside(
    container: str, near: str, docker: str, inside: list[int], aioremote_sshd: Sshd
) -> None:
    """Ending `docker exec` would leave what it has started: that is another session, as with the real one."""
    async with host(near, aioremote_sshd) as base, base.within([docker, "exec", "-i", container]) as machine:
        async with machine.start_shell(TREE) as process:
            inside += map(int, (await process.stdout.receive()).split())
            assert all(map(alive, inside))
        await until(lambda: not any(map(alive, inside)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await machine.run("sleep", "1000")
        assert (await machine.run("echo", "on")).stdout == "on\n"


@pytest.mark.parametrize("container", ["small", "big"])
async def test_closing_the_outer_machine_ends_what_runs_inside(container: str, docker: str, inside: list[int]) -> None:
    async with LocalMachine() as base:
        machine = base.within([docker, "exec", "-i", container])
        process = await machine.start_shell(TREE)
        inside += map(int, (await process.stdout.receive()).split())
    await until(lambda: not any(map(alive, inside)))
    with pytest.raises(ClosedError):
        await machine.run("true")
    with pytest.raises(RemoteError):
        await process.wait()


async def test_closing_the_inner_machine_leaves_the_outer_one(docker: str) -> None:
    async with LocalMachine() as base:
        async with base.within([docker, "exec", "-i", "small"]) as machine:
            await machine.run("true")
        assert (await base.run("echo", "on")).stdout == "on\n"
        with pytest.raises(ClosedError):
            await machine.run("true")


async def test_a_container_that_goes_in_the_middle_is_no_success(docker: str) -> None:
    async with DockerMachine("big", program=docker) as machine:
        async with machine.start_shell("echo; sleep 1000") as process:
            await process.stdout.receive()
            os.kill(first_inside(int((await machine.shell("echo $PPID")).stdout)), signal.SIGKILL)
            with pytest.raises(ConnectionLost):
                await process.wait()
        with pytest.raises(ConnectionLost):
            await machine.run("true")
        await machine.transport.reconnect()
        assert (await machine.run("echo", "again")).stdout == "again\n"
    async with DockerMachine("small", program=docker) as machine, machine.start_shell("echo $$; sleep 1000") as process:
        os.killpg(int(await process.stdout.receive()), signal.SIGKILL)
        assert await process.wait() != 0


@pytest.mark.parametrize("outpost", ["auto", "never"])
async def test_what_cannot_be_entered_says_why(outpost: str, docker: str, roots: Path) -> None:
    for prefix, text in (
        ([docker, "exec", "-i", "gone"], "status 1 before the program began: Error .* No such container: gone"),
        (["/no/docker", "exec"], "there is no program '/no/docker'"),
        (["false"], "false: ended with status 1"),
        (["chroot", str(roots)], "/bin/sh"),
        (["sh", "-c", "kill -KILL $$"], "ended by SIGKILL"),
    ):
        machine = CommandMachine(prefix, outpost=outpost)  # type: ignore[arg-type]
        with pytest.raises(ConnectError, match=text):
            await machine.run("true")
        await machine.aclose()


async def test_a_command_that_passes_no_terminal_on_says_so() -> None:
    async with CommandMachine(["sh", "-c", 'cat | "$@"', "x"], outpost="never") as machine:
        with pytest.raises(UnsupportedError, match="passes no terminal"):
            await machine.run("echo", "hi", pty=True)
        with pytest.raises(UnsupportedError, match="passes no terminal"):
            await machine.run("echo", "hi", pty=True, env={"A": "1"})


async def test_secrets_stay_out_of_addresses_and_process_lists() -> None:
    async with CommandMachine(["env", "TOKEN=tr0ub4dor"], outpost="never") as machine:
        assert str(machine.address) == "exec:env TOKEN=..."
        assert "tr0ub4dor" not in repr(machine) + machine.host
        async with machine.start("sleep", "1000", env={"SECRET": "s3kret"}) as process:
            assert process.pid
            shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            assert "s3kret" not in shown


async def test_a_command_that_feeds_a_shell(aioremote_sshd: Sshd, aioremote_user: TestUser) -> None:
    server = aioremote_sshd
    ssh = ["ssh", "-T", "-p", str(server.port), "-i", str(server.keyfile), "-o", "BatchMode=yes", "-F", "none"]
    ssh += ["-o", f"UserKnownHostsFile={server.known_hosts}", "-l", aioremote_user.name, server.host]
    for outpost in ("never", "always"):
        async with CommandMachine(ssh, joins="shell", outpost=outpost) as machine:  # type: ignore[arg-type]
            words = ["a b", "it's", "!x", "\\", "$HOME", "ü\n", ""]
            assert (await machine.run("printf", "<%s>", *words)).stdout == "".join(f"<{word}>" for word in words)
            assert (await machine.run("id", "-un")).stdout.strip() == aioremote_user.name


async def test_another_pid_namespace() -> None:
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    async with CommandMachine(prefix) as machine:
        assert (await machine.run("sh", "-c", "echo $PPID")).stdout.strip() != str(os.getpid())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await machine.run("sleep", "1000")


async def test_a_user_inside_a_container(docker: str, aioremote_user: TestUser) -> None:
    async with DockerMachine("big", program=docker) as machine:
        assert (await machine.sudo(aioremote_user.name).run("id", "-un")).stdout.strip() == aioremote_user.name


async def test_promise_13_a_cancel_anywhere_leaves_nothing(docker: str) -> None:
    async with DockerMachine("small", program=docker) as machine:

        async def run() -> None:
            await machine.run("cat", input=b"x" * 100_000, env={"A": "1"})

        async def check() -> None:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"

        assert await cancel_everywhere(run, check) >= 3


@pytest.mark.parametrize("prefix", ["docker exec -i web", [b"env"], [1], [], [""], ["-x"], ["a\0b"]])
def test_a_prefix_is_a_list_of_words(prefix: list[str]) -> None:
    with pytest.raises((TypeError, ValueError)):
        CommandMachine(prefix)


def test_other_ways_are_refused() -> None:
    for keywords in ({"joins": "pipe"}, {"outpost": "maybe"}):
        with pytest.raises(ValueError, match="give"):
            CommandMachine(["env"], **keywords)  # type: ignore[arg-type]


def test_containers_and_pods_are_words() -> None:
    for machine, address in (
        (DockerMachine("web"), "exec:docker exec -i web"),
        (DockerMachine("web", user="1000:www"), "exec:docker exec -i --user=1000:www web"),
        (PodmanMachine("web"), "exec:podman exec -i web"),
        (KubernetesMachine("web-1"), "exec:kubectl exec -i web-1 --"),
        (
            KubernetesMachine("deployment/web", namespace="shop", container="app", context="blue"),
            "exec:kubectl exec -i --context=blue --namespace=shop --container=app deployment/web --",
        ),
    ):
        assert str(machine.address) == address


@pytest.mark.parametrize("name", ["", "-v", "a b", "a;b", "a\n", "$x", "--privileged", "a/b"])
def test_promise_97_a_container_s_name_is_no_option(name: str) -> None:
    with pytest.raises(AddressError):
        DockerMachine(name)
    with pytest.raises(AddressError):
        KubernetesMachine("web", namespace=name)
