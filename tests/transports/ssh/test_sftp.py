"""Far files over SFTP where the server, the link or the limit of sessions is against us."""

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
from tests.transports.ssh.conftest import MachineMaker

from aioremote import (
    ConnectionLost,
    HostKeys,
    SshMachine,
    TransferProgress,
    UnsafePathError,
    UnsupportedError,
)
from aioremote.testing.checks import marked_processes
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd

FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
Listing = Sequence[tuple[bytes, int]]


class HostileFiles(asyncssh.SFTPServer):
    """Lists what it likes at /tree; every file has the same content, every link the same text."""

    listing: Listing = ()
    link = b"sub"

    def _attrs(self, mode: int) -> asyncssh.SFTPAttrs:
        return asyncssh.SFTPAttrs(permissions=mode, size=4, mtime=1, atime=1, uid=0, gid=0)

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return self._attrs(FOLDER)

    lstat = stat

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        if path == b"/tree" or self.deep:
            for name, mode in self.listing:
                yield asyncssh.SFTPName(name, b"", self._attrs(mode))

    deep = False

    def readlink(self, path: bytes) -> bytes:
        return self.link

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        return path

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return b"evil"[offset : offset + size]

    def close(self, file_obj: object) -> None:
        return None


@asynccontextmanager
async def hostile(
    tmp_path: Path, listing: Listing, *, link: bytes = b"sub", deep: bool = False
) -> AsyncIterator[SshMachine]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    files = type("Files", (HostileFiles,), {"listing": listing, "link": link, "deep": deep})

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    server = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], server_factory=Server, sftp_factory=files)
    async with (
        server,
        SshMachine(
            "127.0.0.1",
            port=server.get_port(),
            user="any",
            host_keys=HostKeys.pinned(key.get_fingerprint()),
            config=None,
        ) as machine,
    ):
        yield machine


def everything(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(top, name), root) for top, dirs, files in os.walk(root) for name in dirs + files
    }


@pytest.mark.parametrize(
    "listing",
    [
        [(b"../x", FILE)],
        [(b"/abs", FILE)],
        [(b"a/b", FILE)],
        [(b"..", FOLDER), (b"a/../../x", FOLDER)],
        [(b"", FILE)],
        [(b"nul\0x", FILE)],
        [(b"same", FILE), (b"same", FILE)],
        [(b"sub", LINK), (b"sub", FOLDER)],
        [(b"sub", FOLDER), (b"sub", LINK)],
    ],
    ids=str,
)
async def test_a_hostile_listing_touches_nothing_outside(tmp_path: Path, listing: Listing) -> None:
    """Promise 63."""
    (tmp_path / "in").mkdir()
    async with hostile(tmp_path, [(b"good", FILE), *listing]) as machine:
        with pytest.raises(UnsafePathError) as caught:
            await machine.download("/tree", tmp_path / "in" / "target")
    assert caught.value.host == "127.0.0.1"
    assert "\0" not in str(caught.value)
    assert everything(tmp_path) <= {"in", "in/target", "in/target/good"}


@pytest.mark.parametrize("link", [b"/etc", b"..", b"../outside", b"a/../../b", b""])
async def test_hostile_links_are_left_out(tmp_path: Path, link: bytes) -> None:
    """Promise 63: links that lead out; and names that differ by case only."""
    listing = [(b"link", LINK), (b"LINK", FOLDER), (b"link2", FILE), (b"a\\b", FILE)]
    async with hostile(tmp_path, listing, link=link) as machine:
        report = await machine.download("/tree", tmp_path / "target")
    assert [path for path, _ in report.skipped] == ["link"]
    assert everything(tmp_path) == {"target", "target/LINK", "target/link2", "target/a\\b"}


async def test_endless_depth_ends(tmp_path: Path) -> None:
    """Promise 63: each directory holds another."""
    async with hostile(tmp_path, [(b"deeper" * 20, FOLDER)], deep=True) as machine:
        with pytest.raises(UnsafePathError, match="longer than"):
            await machine.download("/tree", tmp_path / "target")


async def test_a_million_entries_of_no_use_are_refused_early(tmp_path: Path) -> None:
    """Promise 63: the second entry of the same name ends it."""
    async with hostile(tmp_path, [(b"x", FILE)] * 100_000) as machine:
        with pytest.raises(UnsafePathError, match="twice"):
            await machine.download("/tree", tmp_path / "target")


# --- cut links and killed servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
async def test_a_cut_link_leaves_the_old_content(
    over: Callable[..., SshMachine], proxy: TcpProxy, tmp_path: Path, share: float, down: bool
) -> None:
    """Promises 58 and 60: and what the lost link left is removed when the machine connects again."""
    size = 2 << 20
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    source, target = (tmp_path / "far", tmp_path / "near") if down else (tmp_path / "near", tmp_path / "far")
    (source / "source").write_bytes(os.urandom(size))
    (target / "target").write_text("old")
    async with over(proxy, reconnect=True) as machine:
        await machine.path("/").stat()
        proxy.cut_after(int(size * share), "received" if down else "sent")
        move = machine.download if down else machine.upload
        with pytest.raises(ConnectionLost):
            await move(str(source / "source"), str(target / "target"))
        assert (target / "target").read_text() == "old"
        if down:
            assert os.listdir(target) == ["target"]
        for _ in range(50):
            await machine.path("/").stat()
            if os.listdir(target) == ["target"]:
                break
        assert os.listdir(target) == ["target"]


async def test_a_killed_sftp_server_leaves_the_old_content(make: MachineMaker, tmp_path: Path) -> None:
    """Promise 58."""
    (tmp_path / "source").write_bytes(os.urandom(24 << 20))
    (tmp_path / "target").write_text("old")
    mark = "aioremote-mark-sftp"
    files = f"exec /usr/bin/env MARK={mark} /usr/lib/openssh/sftp-server"
    forced = f'case $SSH_ORIGINAL_COMMAND in internal-sftp) {files};; *) eval "$SSH_ORIGINAL_COMMAND";; esac'
    with Sshd(extra_config=f"ForceCommand {forced}") as sshd:
        async with make(sshd) as machine:

            def kill(_: TransferProgress) -> None:
                for pid in marked_processes(mark):
                    os.kill(pid, signal.SIGKILL)

            with pytest.raises(ConnectionLost):
                await machine.upload(tmp_path / "source", str(tmp_path / "target"), progress=kill)
            assert (tmp_path / "target").read_text() == "old"
            assert await machine.path(str(tmp_path / "target")).read_text() == "old"
            for _ in range(50):
                if sorted(os.listdir(tmp_path)) == ["source", "target"]:
                    break
                await machine.path("/").stat()
            assert sorted(os.listdir(tmp_path)) == ["source", "target"]


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_one_session_is_shared_by_commands_and_files(make: MachineMaker, tmp_path: Path) -> None:
    """A server with MaxSessions 1: the session for files gives way to commands, and they to it."""
    with Sshd(max_sessions=1) as server:
        async with make(server) as machine, asyncio.timeout(30):
            for number in range(5):
                path = machine.path(str(tmp_path / str(number)))
                await path.write_text("x")
                assert (await machine.run("cat", path)).stdout == "x"
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(machine.run("true"))
                    group.create_task(machine.path(str(tmp_path / "0")).read_text())


async def test_who_wants_the_session_while_it_opens_gets_it_afterwards(make: MachineMaker, tmp_path: Path) -> None:
    """Nobody asks again: the session for files has to remember that it is waited for."""
    (tmp_path / "a").write_text("x")
    with Sshd(max_sessions=1) as server:
        async with make(server, max_sessions=1) as machine, asyncio.timeout(20):
            await machine.run("true")
            await asyncio.sleep(0.1)
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(machine.path(str(tmp_path / "a")).read_text())
                for _ in range(5):  # it has its slot then, and no answer yet
                    await asyncio.sleep(0)
                assert await machine.run("true")
            assert reading.result() == "x"


async def test_many_tasks_share_one_session(make: MachineMaker, tmp_path: Path) -> None:
    """At most one sftp session a connection, however many ask at once."""
    async with EmbeddedServer() as server, make(server, user="root") as machine:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(machine.path(str(tmp_path / str(number))).write_text("x"))
        assert list(server.requests).count("sftp") == 1


@pytest.mark.parametrize(
    "config", ["ForceCommand echo hello", "ForceCommand /bin/false", "ForceCommand echo 'no sftp here, and much more'"]
)
async def test_a_server_without_sftp_says_so(make: MachineMaker, config: str) -> None:
    with Sshd(extra_config=config) as server:
        async with make(server) as machine, asyncio.timeout(20):
            for _ in range(3):
                files = await machine.transport.open_files("sftp")
                with pytest.raises(UnsupportedError, match="no far files"):
                    await files.stat(b"/")
            with pytest.raises(UnsupportedError, match="something else"):  # by plain programs either: none runs there
                await machine.path("/").stat()


@pytest.mark.parametrize(("outpost", "engine"), [("never", "tar"), ("auto", "outpost")])
async def test_without_sftp_files_go_by_what_there_is(
    make: MachineMaker, tmp_path: Path, outpost: str, engine: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    forced = 'case "$SSH_ORIGINAL_COMMAND" in internal-sftp*) exit 1;; esac; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    with Sshd(extra_config=f"ForceCommand {forced}") as server:
        async with make(server, outpost=outpost) as machine:
            assert await machine.path(str(tmp_path / "tree" / "a")).read_text() == "a"
            report = await machine.upload(tmp_path / "tree", str(tmp_path / "up"))
            assert (report.files, report.engine) == (1, engine)
            assert (await machine.download(str(tmp_path / "up"), tmp_path / "back")).engine == engine
    assert (tmp_path / "back" / "a").read_text() == "a"


async def test_a_server_for_files_only_serves_them(make: MachineMaker, tmp_path: Path) -> None:
    """Promise 132: and a new file's mode follows the far umask."""
    (tmp_path / "source").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    with Sshd(extra_config="ForceCommand internal-sftp -u 077") as server:
        async with make(server) as machine:
            await machine.upload(tmp_path / "source", str(tmp_path / "target"))
            await machine.upload(tmp_path / "tree", str(tmp_path / "up"))
            assert await machine.path(str(tmp_path / "target")).sha256()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "up").stat().st_mode & 0o777 == 0o700


async def test_a_cancel_at_any_moment_leaves_the_session_working(make: MachineMaker, tmp_path: Path) -> None:
    """The n-th turn of the loop, for n from 1 on."""
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / "tree" / str(number)).write_bytes(os.urandom(1000))
    async with make() as machine:
        await machine.upload(tmp_path / "tree", str(tmp_path / "far"))
        for turns in range(1, 60, 3):
            task = asyncio.get_running_loop().create_task(machine.upload(tmp_path / "tree", str(tmp_path / "far")))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert sorted(os.listdir(tmp_path / "far")) == ["0", "1", "2", "3", "4"]
        assert await machine.path(str(tmp_path / "far" / "0")).read_bytes()
