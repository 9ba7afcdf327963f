"""How fast is a named pipe behind a real Samba: a round trip, and bytes each way? Against the library, used plainly."""

from __future__ import annotations

import asyncio
import contextlib
import runpy
import struct
import threading
import uuid
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

from benchmarks._answers import Answer, Figure, Run, Verdict
from benchmarks._measure import ROOT, Entry, Measured, Site, compete
from benchmarks._meters import metered
from benchmarks.daemon_calls import nowhere

__all__ = ["ours", "plain", "run"]

ORDER = struct.Struct(">cQ")  # what is wanted, and how many bytes
PIPE = "speed"
SMALL = b"x" * 64
CHUNK_BYTES = 65535  # a pipe takes no more at once
GOAL = 0.9
UNITS = {"trips_per_s": "round trips/s", "down_mib_per_s": "MiB/s read", "up_mib_per_s": "MiB/s written"}


def _figures(trips: int, mib: int, times: dict[str, float]) -> Measured:
    return {
        "trips_per_s": trips / times["trips"],
        "down_mib_per_s": mib / times["down"],
        "up_mib_per_s": mib / times["up"],
    }


def ours(site: Site, trips: int, mib: int, port: int, user: str, password: str) -> Measured:
    """Use the transport of `SmbMachine`."""
    from aioremote.transports.smb_pipe import Login, open_pipe
    from aioremote.transports.tcp import DaemonEnd

    async def take(end: DaemonEnd, count: int) -> None:
        while count > 0:
            count -= len(await end.stdout.receive())

    async def work() -> Measured:
        end, times, size = DaemonEnd(), {}, mib * 2**20
        await open_pipe("127.0.0.1", port, PIPE, Login(user, password, ""), end)
        await end.write(ORDER.pack(b"e", trips * len(SMALL)))
        with metered() as used:
            for _ in range(trips):
                await end.write(SMALL)
                await take(end, len(SMALL))
        times["trips"] = used.wall_seconds
        with metered() as used:
            await end.write(ORDER.pack(b"d", size))
            await take(end, size)
        times["down"] = used.wall_seconds
        chunk = bytes(CHUNK_BYTES)
        with metered() as used:
            await end.write(ORDER.pack(b"u", size))
            for start in range(0, size, CHUNK_BYTES):
                await end.write(chunk[: size - start])
            await take(end, 1)
        times["up"] = used.wall_seconds
        await end.aclose()
        return _figures(trips, mib, times)

    return asyncio.run(work())


def plain(site: Site, trips: int, mib: int, port: int, user: str, password: str) -> Measured:
    """Use smbprotocol as its examples do, encrypted, in a thread beside an event loop."""
    from smbprotocol.connection import Connection, Dialects
    from smbprotocol.open import CreateDisposition, FilePipePrinterAccessMask, ImpersonationLevel, Open, ShareAccess
    from smbprotocol.session import Session
    from smbprotocol.tree import TreeConnect

    def work() -> Measured:
        connection: Any = Connection(uuid.uuid4(), "127.0.0.1", port)
        connection.connect(Dialects.SMB_3_1_1)
        session: Any = Session(connection, user, password, require_encryption=True)
        session.connect()
        tree: Any = TreeConnect(session, r"\\127.0.0.1\IPC$")
        tree.connect()
        handle: Any = Open(tree, PIPE)
        mask = FilePipePrinterAccessMask
        access = mask.FILE_READ_DATA | mask.FILE_WRITE_DATA | mask.SYNCHRONIZE
        sharing = ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE
        handle.create(ImpersonationLevel.Impersonation, access, 0, sharing, CreateDisposition.FILE_OPEN, 0)

        def take(count: int) -> None:
            while count > 0:
                count -= len(handle.read(0, min(count, CHUNK_BYTES)))

        times, size = {}, mib * 2**20
        handle.write(ORDER.pack(b"e", trips * len(SMALL)))
        with metered() as used:
            for _ in range(trips):
                handle.write(SMALL)
                take(len(SMALL))
        times["trips"] = used.wall_seconds
        with metered() as used:
            handle.write(ORDER.pack(b"d", size))
            take(size)
        times["down"] = used.wall_seconds
        chunk = bytes(CHUNK_BYTES)
        with metered() as used:
            handle.write(ORDER.pack(b"u", size))
            for start in range(0, size, CHUNK_BYTES):
                handle.write(chunk[: size - start])
            take(1)
        times["up"] = used.wall_seconds
        connection.disconnect(False)
        return _figures(trips, mib, times)

    async def beside() -> Measured:
        return await asyncio.to_thread(work)

    return asyncio.run(beside())


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be what a pipe leads to."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            wanted, count = ORDER.unpack(await reader.readexactly(ORDER.size))
            while count:
                if wanted == b"d":
                    piece = bytes(min(count, CHUNK_BYTES))
                else:
                    piece = await reader.read(min(count, CHUNK_BYTES))
                    if not piece:
                        return
                count -= len(piece)
                if wanted != b"u":
                    writer.write(piece)
                    await writer.drain()
            if wanted == b"u":
                writer.write(b"k")
    writer.close()


@contextlib.contextmanager
def _in_a_thread(serve: Callable[[asyncio.Event], Awaitable[None]]) -> Generator[None]:
    """Run servers in a loop of their own; what they are given is set when the block ends."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ending: list[asyncio.Event] = []

    async def work() -> None:
        ending.append(asyncio.Event())
        loop.call_soon(ready.set)
        await serve(ending[0])

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    thread.start()
    try:
        ready.wait()
        yield
    finally:
        loop.call_soon_threadsafe(ending[0].set)
        thread.join()
        loop.close()


@contextlib.contextmanager
def pipe_behind_samba() -> Generator[dict[str, object]]:
    """Run Samba with such a pipe, and yield what a contestant needs."""
    own: Any = runpy.run_path(str(ROOT / "tests" / "samba.py"))
    with own["run_samba"]() as samba:
        target = str(samba.folder / "target")

        async def serve(samba: Any, ending: asyncio.Event) -> None:
            server = await asyncio.start_unix_server(_serve, target)
            async with server, own["PipeServer"](samba, target, PIPE):
                await ending.wait()

        with _in_a_thread(partial(serve, samba)):
            while not (samba.folder / "ncalrpc/np" / PIPE).exists():
                threading.Event().wait(0.01)
            yield {"port": samba.port, "user": own["USER"], "password": own["PASSWORD"]}


def run(run: Run) -> Answer:
    """Compare through one Samba, encrypted both."""
    load = {"trips": run.pick(1500, 300), "mib": run.pick(64, 16)}
    with pipe_behind_samba() as given:
        entries = [
            Entry("aioremote", ours, nowhere(), {**load, **given}, note="an asyncio transport, replies checked"),
            Entry("smbprotocol", plain, nowhere(), {**load, **given}, note="blocking, in a thread"),
        ]
        values = compete(entries, run.pick(7, 3), run.say)
    return Answer(
        "smb_pipes",
        "a named pipe through Samba, SMB 3.1.1, encrypted",
        [Figure(name, values.spread(name, key), unit) for key, unit in UNITS.items() for name in values.rounds],
        [
            Verdict(f"smbprotocol, {unit}", GOAL, values.ratio("aioremote", "smbprotocol", key), at_least=True)
            for key, unit in UNITS.items()
        ],
        raw=values.rounds,
    )
