"""`aioremote keygen` and `serve`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from aioremote import DaemonMachine

CLI = (sys.executable, "-m", "aioremote")


async def test_keygen_and_serve(tmp_path: Path) -> None:
    """A key is never overwritten; SIGHUP reloads; SIGINT ends the daemon."""
    key = str(tmp_path / "key")
    pipe = asyncio.subprocess.PIPE
    made = await asyncio.create_subprocess_exec(*CLI, "keygen", key, stdout=pipe)
    pin = (await made.communicate())[0].decode().strip()
    assert os.stat(key).st_mode & 0o777 == 0o600
    again = await asyncio.create_subprocess_exec(*CLI, "keygen", key, stderr=pipe)
    assert b"exists" in (await again.communicate())[1]
    words = ("serve", "--listen", "127.0.0.1:0", "--key", key, "--authorized", f"{key}.crt")
    server = await asyncio.create_subprocess_exec(*CLI, *words, stderr=pipe)
    assert server.stderr is not None
    port = int((await server.stderr.readline()).rsplit(b":", 1)[1])
    server.send_signal(signal.SIGHUP)
    async with DaemonMachine("127.0.0.1", port, keyfile=key, server_fingerprint=pin) as machine:
        assert (await machine.run("echo", "in")).stdout == "in\n"
    server.send_signal(signal.SIGINT)
    await server.communicate()
