"""The values that pass between the layers: frozen, small, without secrets, and what they compute."""

import dataclasses
import inspect
import pickle

import pytest

from aioremote import types
from aioremote.types import (
    Address,
    Capability,
    Endpoint,
    Exit,
    ExitStatus,
    Facts,
    FileEntry,
    FileStat,
    JobStatus,
    Line,
    PartialResult,
    ProcessInfo,
    ProcessSpec,
    Reconnect,
    Result,
    SyncReport,
    Terminal,
    TransferProgress,
    TransferReport,
)

VALUES = [
    Address("ssh", "web1", "john", 22),
    Endpoint("web1", 80),
    Terminal(),
    ProcessSpec((b"ls",), b"/srv", {"A": b"1", "B": None}, Terminal(), stdin=False),
    ExitStatus(-9, "KILL", core_dumped=True),
    Exit(args=("ls",), host="web1", returncode=0, signal=None, stderr=""),
    PartialResult(args=("ls",), host="web1", elapsed=1.0, stdout_bytes=b"out"),
    Result(args=("ls",), host="web1", elapsed=1.0, stdout_bytes=b"out", returncode=0),
    JobStatus(state="exited", returncode=-9, signal="KILL", started=1.0, ended=2.0),
    Line("stderr", "text", "web1"),
    Facts(
        system="Linux",
        release="6",
        machine="x86_64",
        hostname="web1",
        user="john",
        uid=1000,
        home="/home/john",
        shell="/bin/sh",
        python=None,
        cpu_count=2,
    ),
    ProcessInfo(1, 0, "S", "init"),
    Reconnect(attempts=3),
    FileStat(st_mode=0o100644, st_size=5, st_mtime_ns=1_500_000_000),
    FileEntry(b"name", FileStat(st_mode=0o40755, st_size=0)),
    TransferProgress(path="a", done_bytes=1, total_bytes=2, files_done=0, files_total=1),
    SyncReport(sent=("a",), deleted=("b",), unchanged=1, bytes=2, elapsed=0.5, engine="sftp"),
    TransferReport(files=1, bytes=2, elapsed=0.5, engine="sftp", skipped=(("fifo", "a pipe"),)),
]


def test_every_kind_of_value_is_here() -> None:
    kinds = {kind for name in types.__all__ if inspect.isclass(kind := getattr(types, name))}
    assert {type(value) for value in VALUES} == kinds - {Capability}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_frozen_and_slotted_and_pickles(value: object) -> None:
    named = isinstance(value, (Line, FileEntry))
    name = value._fields[0] if named else dataclasses.fields(value)[0].name  # type: ignore[attr-defined, arg-type]
    with pytest.raises(AttributeError):
        setattr(value, name, "changed")
    with pytest.raises((AttributeError, TypeError)):
        value.no_such_attribute = 1  # type: ignore[attr-defined]
    assert not hasattr(value, "__dict__")
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("ssh", "web1"), "ssh://web1"),
        (Address("ssh", "web1", "john", 2222), "ssh://john@web1:2222"),
        (Address("ssh", "::1", port=22), "ssh://[::1]:22"),
        (Address("smb", "host", "user", path="/pipe"), "smb://user@host/pipe"),
        (Address("local"), "local:"),
        (Address("exec", path="docker exec -i web"), "exec:docker exec -i web"),
    ],
)
def test_an_address_reads_as_it_is_given(address: Address, text: str) -> None:
    assert str(address) == text


def test_an_address_has_no_place_for_a_secret() -> None:
    assert {field.name for field in dataclasses.fields(Address)} == {"scheme", "host", "user", "port", "path"}


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint(), "localhost:0"),
        (Endpoint("web1", 80), "web1:80"),
        (Endpoint("::1", 80), "[::1]:80"),
        (Endpoint(path="/run/socket"), "/run/socket"),
    ],
)
def test_an_endpoint_reads_as_it_is_given(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text


def test_a_specification_shows_no_environment() -> None:
    spec = ProcessSpec((b"deploy",), env={"TOKEN": b"s3cret"})
    assert "s3cret" not in repr(spec)
    assert ProcessSpec((b"ls",)).env == {}
    assert ProcessSpec((b"ls",)).env is not ProcessSpec((b"ls",)).env


def result(**keywords: object) -> Result:
    return Result(**{"args": ("ls", "a b"), "host": "web1", "elapsed": 0.5, "returncode": 0, **keywords})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("returncode", "ok_codes", "ok"),
    [(0, (0,), True), (1, (0,), False), (1, (0, 1), True), (-9, (0,), False), (0, (), False)],
)
def test_ok_is_a_status_in_ok_codes(returncode: int, ok_codes: tuple[int, ...], ok: bool) -> None:
    assert result(returncode=returncode, ok_codes=ok_codes).ok == ok


def test_promise_121_text_is_decoded_tolerantly_and_bytes_are_exact() -> None:
    value = result(stdout_bytes=b"caf\xc3\xa9\xff\r\n", stderr_bytes=b"\xfe")
    assert (value.stdout, value.stderr) == ("café\ufffd\r\n", "\ufffd")
    assert value.stdout_bytes == b"caf\xc3\xa9\xff\r\n"
    assert result(stdout_bytes=b"\xff", errors="surrogateescape").stdout == "\udcff"
    assert result(stdout_bytes=b"\xe9", encoding="latin-1").stdout == "é"
    with pytest.raises(UnicodeDecodeError):
        _ = result(stdout_bytes=b"\xff", errors="strict").stdout


def test_a_result_shows_no_output_and_reads_as_a_command() -> None:
    value = result(stdout_bytes=b"s3cret" * 1000)
    assert "s3cret" not in repr(value)
    assert value.command_line == "ls 'a b'"


def test_a_partial_result_has_no_returncode() -> None:
    partial = PartialResult(args=("ls",), host="web1", elapsed=1.0)
    assert not hasattr(partial, "returncode")
    assert not isinstance(partial, Result)
    assert isinstance(result(), PartialResult)


def test_a_result_has_everything_that_is_promised() -> None:
    value = result(returncode=-15, signal="TERM")
    assert (value.args, value.host, value.elapsed) == (("ls", "a b"), "web1", 0.5)
    assert (value.returncode, value.signal, value.ok) == (-15, "TERM", False)
    assert (value.output_truncated, value.input_unread, value.stages) == (False, False, ())


def test_a_line_is_a_cheap_tuple_with_names() -> None:
    line = Line("stdout", "text  ", "web1")
    source, text, host = line
    assert (source, text, host) == ("stdout", "text  ", "web1") == line
    assert line._replace(host="other").host == "other"
    assert Line("stdout", "text").host == ""


def test_capabilities_are_named_once() -> None:
    assert len({capability.value for capability in Capability}) == len(Capability)
    assert all(capability.value == capability.name.lower() for capability in Capability)
