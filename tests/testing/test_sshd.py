import asyncio
import contextlib
import multiprocessing
import os
import pwd
import select
import signal
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest

from aioremote.testing import _ports, _users, sshd
from aioremote.testing._processes import list_processes
from aioremote.testing.sshd import MissingToolError, Sshd, SshdError, TestUser, create_user, set_password

SHELLS = ["/bin/bash", "dash", "zsh", "fish", "tcsh", "busybox"]


def connect(server: Sshd, host: str | None = None, **options: object) -> object:
    """Connect as a careful client does: host key checked, nothing of the machine's own configuration read."""
    defaults = {
        "username": "root",
        "client_keys": [str(server.keyfile)],
        "known_hosts": str(server.known_hosts),
        "config": None,
        "agent_path": None,
    }
    if "sock" not in options:
        defaults["port"] = server.port
    return asyncssh.connect(host or server.host, **(defaults | options))


def native(server: Sshd, *args: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["ssh", "-F", str(server.ssh_config), *args], capture_output=True, text=True, timeout=30, **options
    )


def unique(stem: str) -> str:
    """Return a user name that no other run of these tests has."""
    return f"aior-{stem}-{os.getpid()}"


def alive(pid: int) -> bool:
    return any(entry.pid == pid for entry in list_processes())


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(descriptor):
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(5000))


async def test_a_client_with_the_key_runs_commands() -> None:
    async with Sshd() as server, connect(server) as connection:
        result = await connection.run("id -un; printenv SHLVL; true", check=True)
        assert result.stdout == "root\n6\n"  # the 5 of the configuration, counted up by bash


async def test_the_fingerprint_and_known_hosts_are_those_of_the_server() -> None:
    async with Sshd(host_key_types=("ed25519", "ecdsa")) as server:
        async with connect(server, server_host_key_algs=["ssh-ed25519"]) as connection:
            assert connection.get_server_host_key().get_fingerprint() == server.host_key_fingerprint
        async with connect(server, server_host_key_algs=["ecdsa-sha2-nistp256"]) as connection:
            shown = connection.get_server_host_key().export_public_key().decode().split()[:2]
            assert " ".join(shown) == server.host_keys["ecdsa"]
        async with Sshd() as other:
            with pytest.raises(asyncssh.HostKeyNotVerifiable):
                await connect(server, known_hosts=str(other.known_hosts))


async def test_nothing_remains_after_the_block() -> None:
    async with Sshd() as server:
        directory, pid = server.directory, server.pid
        async with connect(server) as connection:
            result = await connection.run("nohup sleep 1000 >/dev/null 2>&1 & echo $!", check=True)
            left = int(result.stdout)
        assert alive(left), "OpenSSH leaves a command without a terminal running"
        assert left in server.session_pids()
    assert not alive(left)
    assert not alive(pid)
    assert not directory.exists()
    with pytest.raises(RuntimeError, match="does not run"):
        server.keyfile  # noqa: B018
    assert "Server listening on" in server.log


async def test_a_command_that_ignores_term_is_killed_at_the_end() -> None:
    async with Sshd() as server, connect(server) as connection:
        process = await connection.create_process("trap '' TERM HUP; echo $$; while :; do sleep 1000; done")
        pid = int(await process.stdout.readline())
        assert pid in server.session_pids()
        await asyncio.to_thread(server.stop)
        assert not alive(pid)


def test_a_plain_with_block_serves_the_native_client() -> None:
    with Sshd() as server:
        done = native(server, "127.0.0.1", "cat; exit 7", input="text")
        by_name = native(server, "localhost", "echo by name")
    assert (done.stdout, done.returncode) == ("text", 7)
    assert by_name.stdout == "by name\n"


async def test_several_addresses_share_one_port() -> None:
    async with Sshd(listen=("127.0.0.1", "127.0.0.2", "127.0.0.3")) as server:
        for host in server.addresses:
            async with connect(server, host) as connection:
                result = await connection.run("set -- $SSH_CONNECTION; echo $3 $4", check=True)
                assert result.stdout == f"{host} {server.port}\n"


async def test_servers_side_by_side_have_ports_of_their_own() -> None:
    async with Sshd() as one, Sshd() as two:
        assert one.port != two.port
        async with connect(one), connect(two):
            pass


async def test_a_port_taken_meanwhile_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    thief = _ports.bind_all(["127.0.0.1"])
    thief[0].listen()
    taken = thief[0].getsockname()[1]
    offers = iter([taken])

    def offer(hosts: "list[str]", port: int = 0) -> "list[object]":
        stolen = next(offers, None)
        return _ports.bind_all(hosts) if stolen is None else [thief[0].dup()]

    monkeypatch.setattr(sshd, "bind_all", offer)
    async with Sshd() as server:
        assert server.port != taken
        async with connect(server):
            pass
    thief[0].close()


async def test_max_sessions_refuses_the_next_session() -> None:
    async with Sshd(max_sessions=1) as server, connect(server) as connection, connection.create_process("cat"):
        with pytest.raises(asyncssh.ChannelOpenError, match="open failed"):
            await connection.run("true")


async def test_extra_config_wins_and_match_blocks_come_last() -> None:
    extra = "PermitRootLogin no\nMatch User nobody\n  PermitRootLogin yes"
    async with Sshd(extra_config=extra, max_startups="1:100:1") as server:
        text = (server.directory / "private" / "sshd_config").read_text()
        assert text.index("PermitRootLogin no") < text.index("UsePAM no") < text.index("Match User nobody")
        assert "MaxStartups 1:100:1" in text
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server)


async def test_a_bad_configuration_is_a_clear_error() -> None:
    server = Sshd(extra_config="NoSuchKeyword yes")
    with pytest.raises(SshdError, match="NoSuchKeyword"):
        await server.__aenter__()
    with pytest.raises(RuntimeError, match="does not run"):
        server.keyfile  # noqa: B018


async def test_an_address_of_another_machine_is_a_clear_error() -> None:
    with pytest.raises(OSError, match="assign"):
        await Sshd(listen=("192.0.2.1",)).__aenter__()


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="host_key_types"):
        Sshd(host_key_types=())
    with pytest.raises(ValueError, match="SetEnv"), Sshd(environment={"A": 'b"c'}):
        pass


async def test_the_environment_reaches_every_session() -> None:
    async with Sshd(environment={"COLOUR": "light blue"}) as server, connect(server) as connection:
        assert (await connection.run("echo $COLOUR", check=True)).stdout == "light blue\n"


async def test_inetd_socket_is_a_connection_without_a_port() -> None:
    async with Sshd(listen=()) as server:
        with pytest.raises(RuntimeError, match="does not listen"):
            server.port  # noqa: B018
        connections = [await connect(server, "localhost", sock=server.inetd_socket()) for _ in range(3)]
        for connection in connections:
            assert (await connection.run("id -u", check=True)).stdout == "0\n"
            connection.close()
            await connection.wait_closed()
        await server.wait_for_log("Disconnected from user root")
    assert not server.session_pids()


def test_proxy_command_serves_the_native_client_without_a_port() -> None:
    with Sshd(listen=()) as server:
        done = native(server, "-o", f"ProxyCommand={server.proxy_command}", "localhost", "echo through")
    assert done.stdout == "through\n", done.stderr


async def test_another_key_is_authorized_on_request(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with Sshd() as server:
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server, client_keys=[key])
        server.authorize(key.export_public_key().decode())
        async with connect(server, client_keys=[key]):
            pass


async def test_wait_for_log_tells_what_was_missing() -> None:
    async with Sshd() as server:
        async with connect(server):
            await server.wait_for_log("Accepted publickey for root")
        with pytest.raises(TimeoutError, match="Server listening"):
            await server.wait_for_log("no such line", timeout=0.01)


async def test_a_cancel_while_it_starts_leaves_nothing() -> None:
    server = Sshd()
    started = asyncio.Event()

    async def use() -> None:
        started.set()
        async with server:
            pytest.fail("it was cancelled before")

    task = asyncio.get_running_loop().create_task(use())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.session_pids()
    with pytest.raises(RuntimeError, match="does not run"):
        server.keyfile  # noqa: B018


def test_a_test_process_that_is_killed_leaves_nothing() -> None:
    program = (
        "import os, signal, subprocess; from aioremote.testing.sshd import Sshd\n"
        "server = Sshd(); server.start()\n"
        "command = ['ssh', '-F', server.ssh_config, server.host, 'sleep 1000 >/dev/null 2>&1 & echo $!']\n"
        "left = subprocess.check_output(command, text=True).strip()\n"
        "print(server.directory, server._guard._process.pid, server.pid, left, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    directory, *pids = killed.stdout.split()
    assert all(gone(int(pid)) for pid in pids)
    assert not Path(directory).exists()


async def test_a_stopped_server_is_ended_too() -> None:
    async with Sshd() as server, connect(server):
        pids = {server.pid, *server.session_pids()}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the half of an sshd that authenticates ends about now
                os.kill(pid, signal.SIGSTOP)
        await asyncio.to_thread(server.stop)
        assert not any(alive(pid) for pid in pids)


async def test_a_missing_sshd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_users, "SEARCH_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    sshd.sshd_program.cache_clear()
    with pytest.raises(MissingToolError, match="apt-get install openssh-server"):
        await Sshd().__aenter__()


async def test_a_privilege_directory_that_cannot_be_made_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sshd, "PRIVILEGE_DIRECTORY", tmp_path / "file" / "sshd")
    with pytest.raises(MissingToolError, match="cannot be made"):
        await Sshd().__aenter__()


# --- users ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_user_with_each_login_shell_logs_in_and_is_gone_after(shell: str) -> None:
    name = unique(os.path.basename(shell))
    async with create_user(name, shell) as user, Sshd() as server:
        async with connect(server, username=user.name) as connection:
            result = await connection.run("pwd; id -u; sh -c 'readlink /proc/$PPID/exe'; true", check=True)
        home, uid, program = result.stdout.split()
        assert (home, int(uid)) == (str(user.home), user.uid)
        assert home != str(Path.home())
        assert program == os.path.realpath(user.shell)
        async with connect(server, username=user.name) as connection:
            lost = await connection.create_process("sleep 1000")
            await server.wait_for_log(f"Starting session: command for {user.name}")
    del lost
    assert not Path(home).exists()
    with pytest.raises(KeyError):
        pwd.getpwnam(name)


async def test_passwords_open_accounts_made_here() -> None:
    async with create_user(unique("pass"), password="sesame 1") as user, Sshd(password_authentication=True) as server:
        options = {"username": user.name, "client_keys": None, "preferred_auth": "password"}
        async with connect(server, password="sesame 1", **options):
            pass
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server, password="wrong", **options)
        await asyncio.to_thread(user.set_password, "changed")
        async with connect(server, password="changed", **options):
            pass


def test_passwords_of_real_accounts_are_left_alone() -> None:
    with pytest.raises(ValueError, match="not made by create_user"):
        set_password("root", "x")
    with create_user(unique("pass")) as user, pytest.raises(ValueError, match="newline"):
        user.set_password("a\nb")


def test_one_name_is_shared_and_removed_by_the_last() -> None:
    with create_user(unique("shared")) as one:
        with create_user(unique("shared")) as two:
            assert one.uid == two.uid
        assert one.home.is_dir()
        with pytest.raises(RuntimeError, match="exists with the shell"), create_user(unique("shared"), "zsh"):
            pass
    with pytest.raises(KeyError):
        pwd.getpwnam(unique("shared"))


def _use_a_user(name: str, rounds: int) -> None:
    for _ in range(rounds):
        with create_user(name) as user:
            assert user.home.is_dir()


def test_test_processes_side_by_side_do_not_collide() -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_use_a_user, args=(unique("many"), 3)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with pytest.raises(KeyError):
        pwd.getpwnam(unique("many"))


def test_a_user_left_by_a_crash_is_taken_over_and_removed() -> None:
    code = (
        "import os, sys; from aioremote.testing.sshd import create_user; create_user(sys.argv[1]).start(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, unique("crash")], check=False)
    assert pwd.getpwnam(unique("crash"))
    with create_user(unique("crash")):
        pass
    with pytest.raises(KeyError):
        pwd.getpwnam(unique("crash"))


def test_a_user_who_was_there_before_stays() -> None:
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", unique("before")], check=True)
    try:
        with create_user(unique("before"), "/bin/sh") as user, pytest.raises(ValueError, match="left alone"):
            user.set_password("x")
        assert pwd.getpwnam(unique("before"))
    finally:
        subprocess.run(["userdel", "--remove", unique("before")], check=True, stderr=subprocess.DEVNULL)


def test_what_a_user_left_running_is_ended() -> None:
    with create_user(unique("busy")) as user:
        busy = subprocess.Popen(["sleep", "1000"], user=user.uid)
    assert busy.wait() == -signal.SIGTERM


@pytest.mark.parametrize("name", ["", "Root", "a b", "../x", "x" * 40, "-rf"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no user name"):
        TestUser(name)


def test_a_missing_shell_says_what_to_install() -> None:
    with (
        pytest.raises(MissingToolError, match="apt-get install no-such-shell"),
        create_user(unique("none"), "no-such-shell"),
    ):
        pass
    with pytest.raises(KeyError):
        pwd.getpwnam(unique("none"))


def test_without_root_users_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingToolError, match="root"), create_user(unique("none")):
        pass


async def test_a_normal_user_can_run_a_server_for_itself() -> None:
    program = (
        "import os, subprocess, sys; from aioremote.testing.sshd import Sshd\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))\n"
        "with Sshd() as server:\n"
        "    sys.exit(subprocess.call(['ssh', '-F', server.ssh_config, server.host, 'id -un']))"
    )
    async with create_user(unique("self")) as user:
        done = subprocess.run(
            [sys.executable, "-c", program, str(user.uid), str(pwd.getpwnam(user.name).pw_gid)],
            capture_output=True,
            text=True,
        )
    assert done.stdout == user.name + "\n", done.stderr
