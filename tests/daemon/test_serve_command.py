"""`aioremote serve` as a process: what it refuses, what SIGHUP and SIGTERM do."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.daemon.served import served, started

from aioremote import ConnectError, ConnectionLost
from aioremote.daemon import make_key
from aioremote.testing.checks import marked_processes, until


async def test_sighup_reads_the_files_again(tmp_path: Path) -> None:
    """Who is in stays in; files that cannot be used change nothing."""
    make_key(tmp_path / "second")
    async with served(tmp_path) as daemon, daemon.machine() as first:
        await first.ping()
        (tmp_path / "client.crt").write_text((tmp_path / "second.crt").read_text())
        daemon.process.send_signal(signal.SIGHUP)
        assert await daemon.line() == "reloaded"
        async with daemon.machine("second") as second:
            assert (await second.run("echo", "in")).stdout == "in\n"
        with pytest.raises(ConnectError):
            await daemon.machine().connect()
        assert (await daemon.line()).startswith("127.0.0.1 was not let in: ")
        (tmp_path / "server").chmod(0o644)
        daemon.process.send_signal(signal.SIGHUP)
        assert "mode 0644 lets others in: chmod 600" in await daemon.line()
        assert (await first.run("echo", "still")).stdout == "still\n"
        async with daemon.machine("second") as second:
            await second.ping()


async def test_sigterm_lets_sessions_end(tmp_path: Path) -> None:
    async with served(tmp_path) as daemon:
        async with daemon.machine() as machine:
            async with machine.start("cat") as process:
                daemon.process.send_signal(signal.SIGTERM)
                assert await daemon.line() == "ending: 1 sessions, which have 30 s"
                with pytest.raises(ConnectError):
                    await daemon.machine().connect()
                await process.stdin.send(b"still")
                assert await process.stdout.receive() == b"still"
            assert daemon.process.returncode is None
        async with asyncio.timeout(10):
            assert await daemon.process.wait() == 0


@pytest.mark.parametrize("words", [("--drain", "0.2"), ("--drain", "600")])
async def test_what_does_not_end_is_ended(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Promise 73: after the time that it has, or at the second SIGTERM, with all that it runs."""
    mark = f"aioremote-mark-{os.getpid()}-{words[1]}"
    async with served(tmp_path, *words) as daemon, daemon.machine() as machine:
        process = await machine.start("sleep", "600", env={"MARK": mark})
        assert process.pid > 1
        daemon.process.send_signal(signal.SIGTERM)
        assert (await daemon.line()).startswith("ending: 1")
        if words[1] == "600":
            daemon.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await daemon.process.wait() in (0, 128 + signal.SIGTERM)
        with pytest.raises(ConnectionLost):
            await process.wait()
        await until(lambda: not marked_processes(mark))
        await process.aclose()


async def test_it_does_not_start_unsafely(tmp_path: Path) -> None:
    """Promise 107."""
    make_key(tmp_path / "k")
    make_key(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    good = ("--authorized", str(tmp_path / "k.crt"), "--key")
    for words, told in (
        ((), b"there is no anonymous access"),
        ((*good, str(tmp_path / "open")), b"mode 0644 lets others in: chmod 600"),
        ((*good, str(tmp_path / "k"), "--listen", "0.0.0.0:0"), b"is not loopback: allow_remote (--allow-remote)"),
    ):
        process = await started(*words)
        _, text = await process.communicate()
        assert told in text
        assert b"Traceback" not in text
        assert process.returncode == 2
