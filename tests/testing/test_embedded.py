import asyncio
import contextlib
import os
import pwd
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from aioremote.testing._processes import list_processes
from aioremote.testing.embedded import EmbeddedServer, Faults, ServerKeys

ALL_BYTES = bytes(range(256))
ME = pwd.getpwuid(os.getuid()).pw_name


def connect(server: EmbeddedServer, number: int = 0, **options: object) -> "object":
    """Connect as a careful client does: host key checked, nothing of the machine's own configuration read."""
    host = server.hosts[number]
    defaults = {
        "username": ME,
        "client_keys": [str(server.keyfile)],
        "known_hosts": str(server.known_hosts),
        "config": None,
        "agent_path": None,
    }
    return asyncssh.connect(host.host, host.port, **(defaults | options))


@contextlib.asynccontextmanager
async def connected(**options: object) -> "AsyncIterator[tuple[EmbeddedServer, asyncssh.SSHClientConnection]]":
    async with EmbeddedServer(**options) as server, connect(server) as connection:
        yield server, connection


async def run(connection: asyncssh.SSHClientConnection, command: "str | bytes", **options: object) -> "object":
    return await connection.run(command, encoding=None, **options)


def alive(pid: int) -> bool:
    return any(entry.pid == pid for entry in list_processes())


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(5):
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


async def write_for(writer: "asyncssh.SSHWriter[bytes]", seconds: float) -> None:
    """Write 64 MiB; TimeoutError when that is not taken in time."""
    async with asyncio.timeout(seconds):
        for _ in range(64):
            writer.write(bytes(1024 * 1024))
            await writer.drain()


async def first_line(process: "asyncssh.SSHClientProcess[str]") -> str:
    return (await process.stdout.readline()).strip()


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 127, 255])
async def test_an_exit_status_is_told(status: int) -> None:
    """Promise 50."""
    async with connected() as (_, connection):
        result = await run(connection, f"exit {status}")
        assert (result.exit_status, result.exit_signal) == (status, None)


@pytest.mark.parametrize("name", ["TERM", "KILL", "HUP", "USR1", "PIPE"])
async def test_a_signal_is_told_by_name(name: str) -> None:
    """Promise 50."""
    async with connected() as (_, connection):
        result = await run(connection, f"kill -{name} $$")
        assert result.exit_signal[0] == name
        assert result.exit_status == -1 or result.exit_status is None


async def test_a_signal_of_this_system_carries_its_domain() -> None:
    async with connected() as (_, connection):
        result = await run(connection, "kill -XCPU $$")
        assert result.exit_signal[0] == "XCPU@openssh.com"


async def test_a_core_dump_is_told(tmp_path: Path) -> None:
    """Promise 50."""
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        async with connected(home=tmp_path) as (_, connection):
            result = await run(connection, "kill -SEGV $$")
            expected = subprocess.run(["sh", "-c", "sh -c 'kill -SEGV $$'; :"], cwd=tmp_path, capture_output=True)
        name, core = result.exit_signal[:2]
        assert name == "SEGV"
        assert core == (b"core dumped" in expected.stderr), pattern
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)


async def test_all_three_streams_are_exact() -> None:
    """Promise 47: any bytes, any amount."""
    data = ALL_BYTES * 8192
    async with connected() as (_, connection):
        result = await run(connection, "tee /dev/stderr", input=data)
    assert result.stdout == data
    assert result.stderr == data


async def test_the_end_of_the_input_leaves_the_output_open() -> None:
    async with connected() as (_, connection):
        result = await run(connection, "cat; echo and more", input=b"input\n")
        assert result.stdout == b"input\nand more\n"


async def test_a_command_line_may_be_any_bytes() -> None:
    """Promise 45: what is no UTF-8 either."""
    line = bytes(range(1, 256)).replace(b"'", b"").replace(b"\n", b"")
    async with connected() as (server, connection):
        result = await run(connection, b"printf %s '" + line + b"'")
        assert result.stdout == line
        assert server.requests[0].encode("utf-8", "surrogateescape").endswith(line + b"'")


async def test_a_command_line_with_nul_is_refused() -> None:
    async with connected() as (_, connection):
        with pytest.raises(asyncssh.ChannelOpenError):
            await run(connection, "echo \0")
        assert (await run(connection, "echo fine")).stdout == b"fine\n"


async def test_the_command_runs_in_a_shell_as_sshd_runs_it(tmp_path: Path) -> None:
    async with connected(home=tmp_path, environment={"A": "b c"}) as (_, connection):
        result = await run(connection, 'pwd; echo "$0 $SHELL $A $USER $LOGNAME $HOME"; env | grep -c PYTEST')
    here = str(tmp_path)
    assert result.stdout.decode().splitlines() == [here, f"/bin/sh /bin/sh b c {ME} {ME} {here}", "0"]


async def test_the_shell_can_be_another() -> None:
    async with connected(shell="/usr/bin/fish") as (_, connection):
        result = await run(connection, "set greeting hello; echo $greeting $SHELL")
        assert result.stdout == b"hello /usr/bin/fish\n"


async def test_the_command_leads_a_session_of_its_own() -> None:
    async with connected() as (server, connection):
        process = await connection.create_process("echo $$; ps -o sid= -p $$; read x")
        pid, session = await first_line(process), await first_line(process)
        assert int(pid) == int(session)
        assert server.running == (int(pid),)
        process.stdin.write_eof()
        await process.wait()
        assert server.running == ()


async def test_only_variables_that_are_accepted_pass() -> None:
    async with connected(accept_environment=["LC_*"]) as (_, connection):
        result = await run(connection, "echo $LC_ALL,$OTHER", env={"LC_ALL": "C", "OTHER": "x"})
        assert result.stdout == b"C,\n"


async def test_a_login_shell_reads_commands_from_its_input() -> None:
    async with connected() as (server, connection):
        result = await connection.run(None, input="echo one\necho two >&2\nexit 3\n")
        assert (result.stdout, result.stderr, result.exit_status) == ("one\n", "two\n", 3)
        assert server.requests == ("login shell",)


async def test_a_missing_home_or_shell_refuses_the_command(tmp_path: Path) -> None:
    for options in ({"home": tmp_path / "none"}, {"shell": "/bin/none"}):
        async with connected(**options) as (_, connection):
            with pytest.raises(asyncssh.ChannelOpenError):
                await run(connection, "true")


async def test_an_unknown_subsystem_is_refused() -> None:
    async with connected() as (_, connection):
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process(subsystem="no-such")


class Events(asyncssh.SSHClientSession[bytes]):
    """Remembers what a channel brought, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[object] = asyncio.Queue()

    def data_received(self, data: bytes, datatype: "int | None") -> None:
        self.queue.put_nowait(data)

    def exit_status_received(self, status: int) -> None:
        self.queue.put_nowait(status)

    def eof_received(self) -> bool:
        self.queue.put_nowait("eof")
        return True

    def connection_lost(self, exc: "Exception | None") -> None:
        self.queue.put_nowait("closed")


async def test_the_exit_status_comes_before_the_end_of_the_output() -> None:
    """Promise 51: a child that holds stdout keeps the channel open, not the status back."""
    async with connected() as (_, connection):
        channel, events = await connection.create_session(Events, "sleep 1000 & echo $!", encoding=None)
        told = [await events.queue.get(), await events.queue.get()]  # in either order, as with OpenSSH
        told.remove(0)
        child = int(told[0])
        assert events.queue.empty()
        os.kill(child, signal.SIGKILL)
        assert await events.queue.get() == "closed"
        await channel.wait_closed()


async def test_closed_outputs_are_an_eof_while_the_command_runs() -> None:
    async with connected() as (_, connection):
        channel, events = await connection.create_session(Events, "exec >&- 2>&-; read x; exit 4", encoding=None)
        assert await events.queue.get() == "eof"
        channel.write_eof()
        assert [await events.queue.get(), await events.queue.get()] == [4, "closed"]


async def test_output_nobody_reads_holds_the_command_back() -> None:
    """Promise 128: memory stays bounded, nothing is lost."""
    total = 20_000_000
    async with connected() as (server, connection):
        process = await connection.create_process(f"exec head -c {total} /dev/zero", encoding=None, window=65536)
        count = len(await process.stdout.read(65536))
        for _ in range(10):
            await run(connection, "true")
        with open(f"/proc/{server.running[0]}/io") as file:
            written = next(int(line.split()[1]) for line in file if line.startswith("wchar:"))
        assert written < total / 4
        while data := await process.stdout.read(1024 * 1024):
            count += len(data)
        assert count == total
        assert (await process.wait()).exit_status == 0


async def test_input_nobody_reads_holds_the_client_back() -> None:
    async with connected(max_sessions=1) as (_, connection):
        process = await connection.create_process("exec sleep 1000", encoding=None)
        with pytest.raises(TimeoutError):
            await write_for(process.stdin, 0.5)
        process.channel.abort()
        await process.wait_closed()
        assert (await run(connection, "echo free")).stdout == b"free\n", "the session's slot is free again"


async def test_input_sent_before_a_close_still_arrives(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with connected() as (_, connection):
        process = await connection.create_process(f"read x < {fifo}; wc -c > {fifo}", encoding=None)
        process.stdin.write(bytes(500_000))
        process.close()
        await process.wait_closed()

        def talk() -> str:
            fifo.write_text("go\n")
            return fifo.read_text()

        assert int(await asyncio.to_thread(talk)) == 500_000


async def test_early_close_of_the_output_is_a_broken_pipe() -> None:
    """Promise 49."""
    async with connected() as (_, connection):
        result = await run(connection, "yes | head -n 1; echo done")
        assert result.stdout == b"y\ndone\n"
        async with connection.create_process("exec yes") as process:
            await process.stdout.readline()
            pid = (await run(connection, "pgrep -n -x yes")).stdout
        await gone(int(pid))


@pytest.mark.parametrize("name", ["TERM", "USR1", "KILL"])
async def test_the_signal_request_reaches_the_whole_group(name: str) -> None:
    async with connected() as (_, connection):
        process = await connection.create_process("sleep 1000 & echo $!; wait")
        child = int(await first_line(process))
        process.send_signal(name)
        result = await process.wait()
        assert result.exit_signal[0] == name
        await gone(child)


async def test_the_signal_request_can_be_refused_as_for_root() -> None:
    async with connected(allow_signals=False) as (server, connection):
        process = await connection.create_process("exec cat")
        process.send_signal("KILL")
        process.stdin.write("still here\n")
        assert await first_line(process) == "still here"
        assert len(server.running) == 1
        process.send_signal("NOSUCH")


# --- lifetime ---------------------------------------------------------------------------------------------------------


async def test_a_command_without_terminal_survives_its_connection_but_not_its_server() -> None:
    async with EmbeddedServer() as server:
        async with connect(server) as connection:
            process = await connection.create_process("echo $$; exec sleep 1000")
            pid = int(await first_line(process))
        async with connect(server):  # by now the server knows that the first connection has ended
            assert server.connections == 1
        assert alive(pid)
        assert server.running == (pid,)
    assert not alive(pid)


async def test_kill_on_disconnect_ends_the_group() -> None:
    async with EmbeddedServer(kill_on_disconnect=True) as server, connect(server) as connection:
        process = await connection.create_process("trap '' TERM; sleep 1000 & echo $$ $!; wait; wait")
        pids = [int(pid) for pid in (await first_line(process)).split()]
        connection.abort()
        for pid in pids:
            await gone(pid)


async def test_the_end_of_the_server_ends_every_process() -> None:
    async with EmbeddedServer() as server, connect(server) as connection:
        process = await connection.create_process(
            "trap '' TERM HUP; setsid sh -c 'echo $$; sleep 1000; :' & sleep 1000 & echo $! $$; wait; wait"
        )
        pids = [int(pid) for line in range(2) for pid in (await first_line(process)).split()]
        result = await connection.run("nohup sleep 1000 >/dev/null 2>&1 & echo $!")
        pids.append(int(result.stdout))
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        await server.aclose()
        assert not any(alive(pid) for pid in pids)
        await server.aclose()


async def test_the_server_ends_its_processes_even_when_cancelled() -> None:
    async with EmbeddedServer() as server, connect(server) as connection:
        process = await connection.create_process("trap '' TERM; echo $$; while :; do sleep 1000; done")
        pid = int(await first_line(process))
        closing = asyncio.get_running_loop().create_task(server.aclose())
        for _ in range(5):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not alive(pid)


async def test_no_descriptor_remains() -> None:
    async def use() -> None:
        async with connected(hosts=3) as (_, connection):
            await run(connection, "cat", input=b"x")
            await connection.run("true", term_type="vt100")
            left = await connection.create_process("exec sleep 1000")
            terminal = await connection.create_process("exec cat", term_type="vt100")
            async with connection.start_sftp_client() as sftp:
                await sftp.stat(".")
            del left, terminal

    await use()
    before = sorted(os.listdir("/proc/self/fd"))
    await use()
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- terminals --------------------------------------------------------------------------------------------------------


async def test_a_terminal_has_its_kind_and_size_and_follows_a_change() -> None:
    """Promise 56."""
    async with connected() as (_, connection):
        command = "trap 'stty size' WINCH; tty; echo $TERM $SSH_TTY; stty size; while :; do read line && break; done"
        process = await connection.create_process(command, term_type="vt220", term_size=(101, 37))
        tty = await first_line(process)
        assert tty.startswith("/dev/pts/")
        assert await first_line(process) == f"vt220 {tty}"
        assert await first_line(process) == "37 101"
        process.change_terminal_size(90, 20)
        assert await first_line(process) == "20 90"
        process.stdin.write("\n")
        assert (await process.wait()).exit_status == 0


async def test_control_c_interrupts_and_control_d_ends() -> None:
    """Promise 56."""
    async with connected() as (_, connection):
        process = await connection.create_process("trap 'echo caught' INT; cat; cat", term_type="vt100")
        process.stdin.write("echo\n")
        assert [await first_line(process), await first_line(process)] == ["echo", "echo"]
        process.stdin.write("\x03")
        assert await first_line(process) == "^Ccaught"
        process.stdin.write("text\n")
        assert [await first_line(process), await first_line(process)] == ["text", "text"]
        process.stdin.write("\x04")
        assert (await process.wait()).exit_status == 0


async def test_modes_of_the_terminal_are_the_clients() -> None:
    async with connected() as (_, connection):
        modes = {asyncssh.PTY_ECHO: 0, asyncssh.PTY_ONLCR: 0, asyncssh.PTY_VINTR: 0x18}
        process = await connection.create_process("stty -a; cat", term_type="vt100", term_modes=modes, encoding=None)
        shown = await process.stdout.readuntil(b"-extproc")
        assert b" -echo " in shown
        assert b"-onlcr" in shown
        assert b"intr = ^X;" in shown
        assert b"\r" not in shown
        process.stdin.write(b"cat runs\n")
        await process.stdout.readuntil(b"cat runs\n")
        process.stdin.write(b"\x18")
        assert (await process.wait()).exit_signal[0] == "INT"


async def test_the_end_of_a_connection_hangs_the_terminal_up() -> None:
    """As OpenSSH: with a terminal the command gets HUP (FACTS 5)."""
    async with EmbeddedServer() as server, connect(server) as connection:
        process = await connection.create_process("echo $$; exec sleep 1000", term_type="vt100")
        pid = int(await first_line(process))
        process.close()
        await gone(pid)


async def test_job_control_works_in_a_login_shell_with_terminal() -> None:
    """Promise 56."""
    async with connected(shell="/bin/bash") as (_, connection):
        process = await connection.create_process(None, term_type="dumb")
        process.stdin.write("set -m; sleep 1000 & kill %1; wait %1; echo over $?; exit\n")
        while "over 143" not in (line := await process.stdout.readline()):
            assert line, "the shell ended early"
        assert (await process.wait()).exit_status == 0


# --- files and forwarding ---------------------------------------------------------------------------------------------


async def test_sftp_starts_at_home(tmp_path: Path) -> None:
    async with connected(home=tmp_path) as (server, connection), connection.start_sftp_client() as sftp:
        async with sftp.open("new file", "wb") as file:
            await file.write(ALL_BYTES * 1000)
        assert (tmp_path / "new file").read_bytes() == ALL_BYTES * 1000
        assert await sftp.realpath(".") == str(tmp_path)
        assert await sftp.realpath(str(tmp_path)) == str(tmp_path)
        await sftp.mkdir("directory")
        await sftp.symlink("new file", "link")
        assert sorted(await sftp.listdir()) == [".", "..", "directory", "link", "new file"]
        await sftp.rename("new file", "directory/moved")
        assert (tmp_path / "directory" / "moved").exists()
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("nowhere")
        assert server.requests == ("sftp",)


async def test_ports_are_forwarded_to_the_far_side() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    target = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = target.sockets[0].getsockname()[1]
    async with target, connected() as (_, connection):
        reader, writer = await connection.open_connection("127.0.0.1", port, encoding=None)
        writer.write(ALL_BYTES)
        writer.write_eof()
        assert await reader.read() == ALL_BYTES
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection("127.0.0.1", nobody.getsockname()[1])


async def test_ports_are_forwarded_from_the_far_side() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncssh.SSHReader, writer: asyncssh.SSHWriter) -> None:
        received.put_nowait(await reader.read())
        writer.close()

    async with connected() as (_, connection):
        listener = await connection.start_server(lambda *_: serve, "127.0.0.1", 0, encoding=None)
        port = listener.get_port()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ALL_BYTES)
        writer.write_eof()
        assert await received.get() == ALL_BYTES
        writer.close()
        listener.close()
        await listener.wait_closed()


async def test_unix_sockets_are_forwarded_both_ways(tmp_path: Path) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
        received.put_nowait(await reader.read())
        writer.close()

    async with connected() as (_, connection):
        near, far = str(tmp_path / "near"), str(tmp_path / "far")
        async with await asyncio.start_unix_server(serve, near):
            _, writer = await connection.open_unix_connection(near, encoding=None)
            writer.write(b"to the far side")
            writer.write_eof()
            assert await received.get() == b"to the far side"
        listener = await connection.start_unix_server(lambda: serve, far, encoding=None)
        _, plain = await asyncio.open_unix_connection(far)
        plain.write(b"to the near side")
        plain.write_eof()
        assert await received.get() == b"to the near side"
        plain.close()
        listener.close()
        await listener.wait_closed()


async def test_forwarding_can_be_forbidden(tmp_path: Path) -> None:
    async with connected(allow_forwarding=False) as (_, connection):
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 1)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection(str(tmp_path / "x"))
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.start_server(lambda *_: None, "127.0.0.1", 0)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.start_unix_server(lambda: None, str(tmp_path / "y"))


# --- who may log in ---------------------------------------------------------------------------------------------------


async def test_keys_and_passwords_open_the_accounts_that_have_them() -> None:
    own = asyncssh.generate_private_key("ssh-ed25519")
    line = own.export_public_key().decode()
    async with EmbeddedServer(users={"alice": "sesame", "bob": None}, authorized_keys=[line]) as server:
        by_password = {"client_keys": None, "preferred_auth": "password"}
        async with connect(server, username="alice", password="sesame", **by_password) as connection:
            assert (await run(connection, "echo $USER")).stdout == b"alice\n"
        for user in ("alice", "bob"):
            async with connect(server, username=user, client_keys=[own]):
                pass
        for user, password in (("alice", "wrong"), ("bob", ""), ("bob", "sesame"), ("carol", "sesame")):
            with pytest.raises(asyncssh.PermissionDenied):
                await connect(server, username=user, password=password, **by_password)
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server, username="carol", client_keys=[own])
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server, username="bob", client_keys=[asyncssh.generate_private_key("ssh-ed25519")])


async def test_a_line_that_is_no_key_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="key"):
        EmbeddedServer(authorized_keys=["no key"])


async def test_the_banner_is_shown() -> None:
    shown = []

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            shown.append(msg)

    async with EmbeddedServer(banner="Keep out\n") as server, connect(server, client_factory=Client):
        assert shown == ["Keep out\n"]


async def test_the_session_too_many_fails_to_open_and_its_slot_comes_back() -> None:
    """As OpenSSH past MaxSessions (FACTS 7)."""
    async with connected() as (_, connection):
        held = [await connection.create_process("exec cat") for _ in range(10)]
        for _ in range(3):
            with pytest.raises(asyncssh.ChannelOpenError, match="open failed"):
                await run(connection, "true")
        held[0].stdin.write_eof()
        await held[0].wait()
        assert (await run(connection, "echo in")).stdout == b"in\n"


# --- hosts and faults -------------------------------------------------------------------------------------------------


async def test_hosts_share_a_port_and_differ_in_name() -> None:
    async with EmbeddedServer(hosts=12, name="web") as server:
        assert [host.name for host in server.hosts][::11] == ["web01", "web12"]
        assert len({(host.host, host.port) for host in server.hosts}) == 12
        assert {host.port for host in server.hosts} == {server.port}
        server.hosts[11].environment["ROLE"] = "spare"
        for number in (0, 11):
            async with connect(server, number) as connection:
                result = await run(connection, "echo $HOSTNAME $ROLE; set -- $SSH_CONNECTION; echo $3 $4")
                name, address = result.stdout.decode().splitlines()
                host = server.hosts[number]
                assert name == ("web01" if number == 0 else "web12 spare")
                assert address == f"{host.host} {host.port}"
        assert server.accepted == 2


async def test_servers_can_share_keys() -> None:
    keys = ServerKeys.generate()
    async with EmbeddedServer(keys=keys) as one, EmbeddedServer(keys=keys) as two:
        assert one.host_key_fingerprint == two.host_key_fingerprint
        async with connect(two, client_keys=[str(one.keyfile)]):
            pass
    async with EmbeddedServer() as one, EmbeddedServer() as two:
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await connect(one, known_hosts=str(two.known_hosts))


async def test_the_native_client_knows_every_host_by_name() -> None:
    async with EmbeddedServer(hosts=2, name="db") as server:
        command = ["ssh", "-F", str(server.ssh_config), "db02", "cat; echo $HOSTNAME; exit 9"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate(ALL_BYTES)
        assert (out, process.returncode) == (ALL_BYTES + b"db02\n", 9), err
        mode = server.keyfile.stat().st_mode & 0o777
    assert mode == 0o600
    assert not server.hosts


async def test_a_silent_host_accepts_and_says_nothing() -> None:
    """Promise 122 needs such a peer."""
    async with EmbeddedServer(hosts=2) as server:
        server.hosts[1].faults = Faults(silent=True)
        reader, writer = await asyncio.open_connection(server.hosts[1].host, server.port)
        writer.write(b"SSH-2.0-test\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        assert server.connections == 1
        async with connect(server, 0):
            pass
        await server.aclose()
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("limit", [0, 1, 70_000, 1_000_000])
async def test_a_host_can_drop_the_connection_after_so_many_bytes(limit: int) -> None:
    async with EmbeddedServer(faults=Faults(drop_after_bytes=limit)) as server, connect(server) as connection:
        process = await connection.create_process("head -c 2000000 /dev/zero", encoding=None)
        count = 0
        with contextlib.suppress(asyncssh.ConnectionLost):
            while data := await process.stdout.read(65536):
                count += len(data)
        await connection.wait_closed()
        assert count <= limit
        assert process.exit_status is None
        server.hosts[0].faults = Faults()
        async with connect(server) as again:
            assert len((await run(again, "head -c 2000000 /dev/zero")).stdout) == 2_000_000


async def test_a_host_can_refuse_every_login() -> None:
    async with EmbeddedServer(users={ME: "sesame"}, faults=Faults(refuse_auth=True)) as server:
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(server, password="sesame")


async def test_connections_can_be_dropped() -> None:
    async with EmbeddedServer() as server, connect(server) as connection:
        process = await connection.create_process("exec cat")
        server.drop_connections()
        await connection.wait_closed()
        assert process.exit_status is None
        async with connect(server):
            assert server.connections == 1


async def test_addresses_can_be_given() -> None:
    async with EmbeddedServer(listen=["127.0.0.77"]) as server:
        assert server.host == "127.0.0.77"
        async with connect(server):
            pass
    with pytest.raises(OSError, match="assign"):
        await EmbeddedServer(listen=["192.0.2.1"]).__aenter__()
    with pytest.raises(ValueError, match="needs a host"):
        EmbeddedServer(hosts=0)


async def test_a_thousand_hosts_are_cheap() -> None:
    async with EmbeddedServer(hosts=1000) as server:
        assert len(server.hosts) == 1000
        assert server.hosts[-1].name == "embedded1000"
        async with connect(server, 999) as connection:
            assert (await run(connection, "echo $HOSTNAME")).stdout == b"embedded1000\n"


async def test_a_server_that_does_not_run_says_so() -> None:
    server = EmbeddedServer()
    for name in ("port", "keyfile", "known_hosts", "ssh_config"):
        with pytest.raises(RuntimeError, match="does not run"):
            getattr(server, name)
