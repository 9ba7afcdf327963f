"""A daemon behind a named pipe, through a real Samba."""

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from tests.samba import PASSWORD, USER, PipeServer, Samba, move, run_samba

from aioremote import AuthenticationError, ConnectError, ConnectionLost, SmbMachine, connect
from aioremote.daemon import DaemonConfig, serve
from aioremote.errors import ConnectTimeout
from aioremote.testing.checks import until

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Tamper = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def samba() -> Iterator[Samba]:
    with run_samba() as made:
        yield made


@asynccontextmanager
async def behind_a_pipe(samba: Samba) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        async with serve(DaemonConfig(listen=f"{folder}/s")), PipeServer(samba, f"{folder}/s"):
            yield


@pytest_asyncio.fixture
async def pipe(samba: Samba) -> AsyncIterator[Samba]:
    async with behind_a_pipe(samba):
        yield samba
    await until(lambda: not left_threads())


def left_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("smb ", "msg_worker"))]


def to(samba: Samba, **keywords: object) -> SmbMachine:
    settings = {"username": USER, "password": PASSWORD, "port": samba.port, **keywords}
    return SmbMachine("127.0.0.1", **settings)  # type: ignore[arg-type]


async def test_commands_python_and_much_data_go_through(pipe: Samba) -> None:
    data = os.urandom(3_000_000)
    async with to(pipe) as machine:
        assert (await machine.run("cat", input=data)).stdout_bytes == data
        assert await machine.python.call(os.getpid) != os.getpid()
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(machine.run("echo", str(number))) for number in range(30)]
        assert [run.result().stdout for run in runs] == [f"{number}\n" for number in range(30)]


async def test_a_slow_reader_holds_the_server_back(pipe: Samba) -> None:
    async with to(pipe) as machine, machine.start("head", "-c", "20000000", "/dev/zero") as process:
        assert process.stdout is not None
        size = len(await process.stdout.receive())
        assert await machine.run("true")  # the other channels go on
        async for chunk in process.stdout:
            size += len(chunk)
        assert size == 20_000_000


async def test_an_address_leads_there(pipe: Samba) -> None:
    async with connect(f"smb://{USER}@127.0.0.1:{pipe.port}/aioremote", password=PASSWORD) as machine:
        assert (await machine.run("echo", "in")).stdout == "in\n"


async def test_promise_77_a_wrong_password_is_an_authentication_error(
    pipe: Samba, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    machine = to(pipe, password="wrong-battery-9")
    with pytest.raises(AuthenticationError, match="login of 'root' is refused") as caught:
        await machine.connect()
    await machine.aclose()
    told = [repr(machine), str(machine.address), repr(caught.value), repr(vars(machine.transport)), caplog.text]
    assert not any("battery" in text for text in told)
    assert caught.value.__cause__ is None


async def test_a_right_password_is_in_no_log(pipe: Samba, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with to(pipe) as machine:
        assert await machine.run("true")
    assert caplog.records
    assert PASSWORD not in caplog.text


async def test_a_missing_pipe_is_named(pipe: Samba) -> None:
    machine = to(pipe, pipe="elsewhere")
    with pytest.raises(ConnectError, match="pipe 'elsewhere': there is no such pipe"):
        await machine.connect()
    await machine.aclose()


async def test_a_guest_is_refused() -> None:
    with run_samba(guests="bad user") as samba:
        async with behind_a_pipe(samba):
            machine = to(samba, username="nobody-here")
            with pytest.raises(AuthenticationError, match="is refused"):
                await machine.connect()
            await machine.aclose()


async def test_nobody_listens() -> None:
    with run_samba() as samba:
        samba.stop()
        machine = to(samba)
        with pytest.raises(ConnectError):
            await machine.connect()
        await machine.aclose()


async def test_the_server_goes_away_in_mid_command() -> None:
    with run_samba() as samba:
        async with behind_a_pipe(samba), to(samba) as machine:
            await machine.connect()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(lost(machine))
                await until(lambda: machine.state == "connected")
                samba.stop()
            assert running.result()


async def lost(machine: SmbMachine) -> bool:
    with pytest.raises(ConnectionLost):
        await machine.run("sleep", "60")
    return True


async def test_a_server_that_says_nothing_is_a_timeout() -> None:
    async with mute() as port:
        machine = SmbMachine("127.0.0.1", username="u", password="p", port=port, connect_timeout=0.3)
        with pytest.raises(ConnectTimeout):
            await machine.connect()
        await machine.aclose()
    await until(lambda: not left_threads())


async def test_a_cancel_at_any_moment_of_connecting_leaves_nothing(pipe: Samba) -> None:
    for moment in range(12):
        machine = to(pipe)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(machine.run("sleep", "60"))
            asyncio.get_running_loop().call_later(moment * 0.003, task.cancel)
        assert task.cancelled()
        await machine.aclose()
    await until(lambda: not left_threads())


@pytest.mark.parametrize("keywords", [{"pipe": ""}, {"pipe": "a\\b"}, {"username": ""}])
def test_what_cannot_be_a_pipe_or_a_login_is_refused(keywords: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give a login"):
        SmbMachine("web1", **{"username": "me", "password": "secret", **keywords})  # type: ignore[arg-type]


@asynccontextmanager
async def mute() -> AsyncIterator[int]:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


# --- fail closed ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tampering(samba: Samba, tamper: Tamper) -> AsyncIterator[int]:
    """A proxy that gives each frame of the server to `tamper`, and passes on what that returns."""

    async def change(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                frame = tamper(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big")))
                writer.write(len(frame).to_bytes(4, "big") + frame)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", samba.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(move(reader, far_writer))
            group.create_task(change(far_reader, writer))

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


ENCRYPTED = b"\xfdSMB"


def plain(frame: bytes) -> bytes:
    """In place of an encrypted reply, one in clear text, unsigned: success of the command that is waited for."""
    if not frame.startswith(ENCRYPTED):
        return frame
    header = b"\xfeSMB" + (64).to_bytes(2, "little") + b"\0\0" + b"\0" * 4 + (3).to_bytes(2, "little") + b"\x01\0"
    header += (1).to_bytes(4, "little") + b"\0" * 4 + (3).to_bytes(8, "little") + b"\0" * 32
    return header + b"\x10\0\x02\0" + b"\0" * 12


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1]) if frame.startswith(ENCRYPTED) else frame


def greeted_otherwise(frame: bytes) -> bytes:
    """Change a byte of the negotiation: the server's GUID, which the keys are derived from."""
    if frame[12:14] == b"\0\0" and not frame.startswith(ENCRYPTED):
        return frame[:80] + bytes([frame[80] ^ 1]) + frame[81:]
    return frame


@pytest.mark.parametrize(
    ("tamper", "because"),
    [(plain, "not encrypted"), (flipped, "InvalidTag"), (greeted_otherwise, "pipe")],
)
async def test_what_is_tampered_with_is_refused(pipe: Samba, tamper: Tamper, because: str) -> None:
    async with tampering(pipe, tamper) as port:
        machine = to(pipe, port=port)
        with pytest.raises(ConnectError, match=because):
            await machine.connect()
        await machine.aclose()


async def test_a_plain_reply_in_mid_session_ends_it(pipe: Samba) -> None:
    changes: list[Tamper] = []
    road = tampering(pipe, lambda frame: changes[0](frame) if changes else frame)
    async with road as port, to(pipe, port=port) as machine:
        assert await machine.run("true")
        changes.append(plain)
        with pytest.raises(ConnectionLost):
            await machine.run("echo", "believed")


def reply_to_login(frame: bytes) -> bool:
    """Tell whether it is the reply that ends a login: SESSION_SETUP, with the status 0."""
    return frame.startswith(b"\xfeSMB") and frame[12:14] == b"\1\0" and frame[8:12] == bytes(4)


def unsigned_login(frame: bytes) -> bytes:
    flags = int.from_bytes(frame[16:20], "little") & ~8  # SMB2_FLAGS_SIGNED
    return frame[:16] + flags.to_bytes(4, "little") + frame[20:48] + bytes(16) + frame[64:]


def login_signed_otherwise(frame: bytes) -> bytes:
    return frame[:48] + bytes([frame[48] ^ 1]) + frame[49:]


def login_with_other_flags(frame: bytes) -> bytes:
    return frame[:66] + b"\4\0" + frame[68:]  # ENCRYPT_DATA, which this server does not set


@pytest.mark.parametrize("tamper", [unsigned_login, login_signed_otherwise, login_with_other_flags])
async def test_the_reply_that_ends_a_login_has_to_be_signed(pipe: Samba, tamper: Tamper) -> None:
    changed: list[bytes] = []

    def change(frame: bytes) -> bytes:
        if not reply_to_login(frame):
            return frame
        changed.append(frame)
        return tamper(frame)

    async with tampering(pipe, change) as port:
        machine = to(pipe, port=port)
        with pytest.raises(ConnectError, match="signature could not be verified"):
            await machine.connect()
        await machine.aclose()
    assert len(changed) == 1


async def test_the_proxy_alone_changes_nothing(pipe: Samba) -> None:
    async with tampering(pipe, lambda frame: frame) as port, to(pipe, port=port) as machine:
        assert (await machine.run("echo", "in")).stdout == "in\n"
