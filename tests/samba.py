"""A real Samba of our own, and a server of named pipes beside it, as a daemon on Windows has one inside."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import pack, unpack_from

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
USER, PASSWORD = "root", "correct-horse-7"  # a login needs a user of this computer
CONF = """\
[global]
smb ports = {port}
interfaces = lo
bind interfaces only = yes
disable netbios = yes
server signing = mandatory
map to guest = {guests}
rpc start on demand helpers = no
passdb backend = tdbsam
load printers = no
printcap name = /dev/null
ncalrpc dir = {folder}/ncalrpc
private dir = {folder}/private
state directory = {folder}/state
cache directory = {folder}/cache
lock directory = {folder}/lock
pid directory = {folder}/pid
log file = {folder}/log
"""


@dataclass(frozen=True)
class Samba:
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it with its children, which each serve a connection."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


@contextmanager
def run_samba(guests: str = "never") -> Iterator[Samba]:
    folder = Path(tempfile.mkdtemp(prefix="smb"))
    for name in ("ncalrpc", "private", "state", "cache", "lock", "pid"):
        (folder / name).mkdir()
    (folder / "ncalrpc/np").mkdir(mode=0o700)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = folder / "smb.conf"
    conf.write_text(CONF.format(port=port, folder=folder, guests=guests))
    env = {**os.environ, "PATH": PATH}
    pdbedit = ["pdbedit", "-s", str(conf), "-a", "-u", USER, "-t"]
    subprocess.run(pdbedit, input=f"{PASSWORD}\n" * 2, text=True, check=True, capture_output=True, env=env)
    process = subprocess.Popen(
        ["smbd", "-F", "--no-process-group", "-l", str(folder), "-s", str(conf)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    samba = Samba(port, folder, process)
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
        yield samba
    finally:
        samba.stop()
        shutil.rmtree(folder)


class PipeServer:
    """Passes a pipe on to a unix socket, as smbd hands it over: a preamble each way, then bytes."""

    def __init__(self, samba: Samba, target: str, name: str = "aioremote") -> None:
        self._path = samba.folder / "ncalrpc/np" / name
        self._target = target

    async def __aenter__(self) -> "PipeServer":
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            assert asked[:4] == b"NPAM"
            (level,) = unpack_from("<I", asked, 4)
            answer = b"NPAM" + pack("<IIHH4xQI", level, level, 1, 0xFF, 65536, 0)
            writer.write(len(answer).to_bytes(4, "big") + answer)
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(move(reader, far_writer))
                group.create_task(move(far_reader, writer))
        finally:
            writer.close()


async def move(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
