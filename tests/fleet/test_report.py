"""What came of a run: outcomes, their report in the order given, its errors, its folded output, its JSON."""

import base64
import json
import pickle
import random
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote.errors import (
    AuthenticationError,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    ConnectTimeout,
    FleetError,
    RemoteError,
)
from aioremote.fleet.report import Outcome, Report, ReportBuilder
from aioremote.types import PartialResult, Result


def result(host: str, stdout: bytes = b"up\n", stderr: bytes = b"", returncode: int = 0, **more: Any) -> Result:
    return Result(
        args=("uptime",),
        host=host,
        elapsed=0.5,
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        returncode=returncode,
        **more,
    )


def build(outcomes: Iterable[Outcome[Any]]) -> Report[Any]:
    builder = ReportBuilder[Any]()
    for outcome in outcomes:
        builder.add(outcome)
    return builder.build()


def mixed() -> Report[Result]:
    bad = result("web04", b"half\n", b"no disk\n", 3)
    partial = PartialResult(args=("uptime",), host="web05", elapsed=10.0, stdout_bytes=b"so far")
    outcomes: list[Outcome[Result]] = [
        *(Outcome.of_value(f"web0{n}", n - 1, value=result(f"web0{n}")) for n in (1, 2, 3)),
        Outcome.of_error("web04", 3, error=CommandFailed(bad), value=bad, elapsed=1.0),
        Outcome.of_error("web05", 4, error=CommandTimeout("web05: out of time", host="web05", result=partial)),
        Outcome.of_error("db1", 5, error=ConnectTimeout("db1: no answer in 15 s", host="db1")),
        Outcome.of_error("web06", 6, error=ConnectionLost("web06: lost", host="web06", outcome="unknown")),
        Outcome.of_skipped("web07", 7, reason="the failure budget is spent"),
    ]
    random.Random(5).shuffle(outcomes)
    return build(outcomes)


def test_promise_88_every_host_has_one_place_in_the_order_given() -> None:
    report = mixed()
    assert list(report) == ["web01", "web02", "web03", "web04", "web05", "db1", "web06", "web07"]
    assert list(report.ok) == ["web01", "web02", "web03"]
    assert list(report.failed) == ["web04", "web05", "web06"]
    assert list(report.unreachable) == ["db1"]
    assert list(report.skipped) == ["web07"]
    assert len(report) == 8
    assert "web07" in report
    assert "web08" not in report
    assert [outcome.index for outcome in report.outcomes] == list(range(8))


def test_promise_88_a_thousand_hosts_in_any_order_of_arrival() -> None:
    outcomes: list[Outcome[int]] = [
        Outcome.of_error(f"h{n}", n, error=RemoteError(f"h{n}: no", host=f"h{n}"))
        if n % 33 == 0
        else Outcome.of_value(f"h{n}", n, value=n)
        for n in range(1000)
    ]
    arrived = random.Random(88).sample(outcomes, len(outcomes))
    report = build(arrived)
    assert list(report) == [f"h{n}" for n in range(1000)]
    assert dict(report.ok) == {f"h{n}": n for n in range(1000) if n % 33}
    assert {host: error.host for host, error in report.failed.items() if isinstance(error, RemoteError)} == {
        f"h{n}": f"h{n}" for n in range(0, 1000, 33)
    }


def test_a_host_gives_its_result_also_when_its_command_failed() -> None:
    report = mixed()
    assert report["web01"].stdout == "up\n"
    assert report["web04"].returncode == 3
    error = report.failed["web04"]
    assert isinstance(error, CommandFailed)
    assert error.result is report["web04"]


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("web05", CommandTimeout),
        ("db1", ConnectTimeout),
        ("web06", ConnectionLost),
        ("web07", RemoteError),
        ("x", KeyError),
    ],
)
def test_a_host_without_a_result_raises_its_error(host: str, kind: type[Exception]) -> None:
    report = mixed()
    with pytest.raises(kind):
        report[host]
    assert report.get(host) is None
    assert report.get(host, result(host)).host == host


@pytest.mark.parametrize(
    ("error", "connected", "state"),
    [
        (ConnectTimeout("x"), None, "unreachable"),
        (AuthenticationError("x"), None, "unreachable"),
        (ConnectionLost("x", outcome="not_started"), None, "unreachable"),
        (ConnectionLost("x", outcome="unknown"), None, "failed"),
        (CommandTimeout("x"), None, "failed"),
        (ValueError("x"), None, "failed"),
        (ConnectTimeout("x"), True, "failed"),
        (OSError("x"), False, "unreachable"),
    ],
)
def test_never_connected_is_unreachable_and_all_else_failed(
    error: Exception, connected: bool | None, state: str
) -> None:
    outcome: Outcome[Result] = Outcome.of_error("web1", 0, error=error, connected=connected)
    assert (outcome.state, outcome.ok, outcome.result, outcome.error) == (state, False, None, error)


def test_an_outcome_is_ok_or_has_an_error() -> None:
    with pytest.raises(ValueError, match="web1"):
        Outcome("web1", 0, state="failed")
    with pytest.raises(ValueError, match="web1"):
        Outcome("web1", 0, state="ok", value=1, error=RemoteError("x"))


def test_one_outcome_a_host() -> None:
    builder = ReportBuilder[int]()
    builder.add(Outcome.of_value("web1", 0, value=1))
    with pytest.raises(ValueError, match="web1"):
        builder.add(Outcome.of_value("web1", 1, value=1))
    assert len(builder) == 1
    with pytest.raises(ValueError, match="more than one"):
        Report([Outcome.of_value("web1", 0, value=1), Outcome.of_value("web1", 1, value=1)])


def test_a_report_so_far_is_a_report() -> None:
    builder = ReportBuilder[int]()
    assert builder.build().summary() == "0 hosts"
    builder.add(Outcome.of_value("web2", 1, value=2))
    early = builder.build()
    builder.add(Outcome.of_value("web1", 0, value=1))
    assert (list(early), list(builder.build())) == (["web2"], ["web1", "web2"])


def test_none_is_a_value_of_a_mapped_function() -> None:
    report = build([Outcome.of_value("web1", 0, value=None), Outcome.of_value("web2", 1, value=0)])
    assert report["web1"] is None
    assert dict(report.ok) == {"web1": None, "web2": 0} == dict(report)
    report.raise_for_failures()


def test_raise_for_failures_names_the_hosts_and_holds_every_error() -> None:
    report = mixed()
    with pytest.raises(FleetError) as caught:
        report.raise_for_failures()
    error = caught.value
    assert error.message == "4 of 8 hosts failed: web[04-06],db1; 1 not started: web07"
    assert error.report is report
    assert [getattr(one, "host", "") for one in error.exceptions] == ["web04", "web05", "db1", "web06", "web07"]
    with pytest.raises(ExceptionGroup) as group:
        report.raise_for_failures()
    matched, _ = group.value.split(ConnectTimeout)
    assert isinstance(matched, FleetError)
    assert len(matched.exceptions) == 1
    assert matched.report is report


def test_raise_for_failures_says_the_count_of_many_and_stays_short() -> None:
    hosts = [f"web{n * n:06d}" for n in range(500)]
    report = build(Outcome.of_error(host, n, error=RemoteError("no", host=host)) for n, host in enumerate(hosts))
    with pytest.raises(FleetError) as caught:
        report.raise_for_failures()
    assert caught.value.message.startswith("500 of 500 hosts failed: web[000000-000001,000004")
    assert caught.value.message.endswith("…")
    assert len(caught.value.message) < 300


def test_no_failures_no_error() -> None:
    build([Outcome.of_value("web1", 0, value=1)]).raise_for_failures()


def test_summary_and_repr_are_one_line() -> None:
    report = mixed()
    assert report.summary() == "8 hosts: 3 ok, 3 failed, 1 unreachable, 1 skipped"
    assert repr(report) == "<Report of 8 hosts: 3 ok, 3 failed, 1 unreachable, 1 skipped>"
    assert build([Outcome.of_value("web1", 0, value=1)]).summary() == "1 host: 1 ok"


def test_identical_outputs_are_folded() -> None:
    outcomes = [Outcome.of_value(f"web{n:02d}", n, value=result(f"web{n:02d}")) for n in range(1, 40)]
    outcomes.insert(0, Outcome.of_value("db1", 0, value=result("db1", b"down\n")))
    assert build(outcomes).gathered() == [("db1", "down\n"), ("web[01-39]", "up\n")]


def test_outputs_of_failed_commands_are_gathered_too_and_lost_ones_are_not() -> None:
    report = mixed()
    assert report.gathered() == [("web[01-03]", "up\n"), ("web04", "half\n")]
    assert report.gathered("stderr") == [("web[01-03]", ""), ("web04", "no disk\n")]
    assert report.gathered(stream="both") == [("web[01-03]", "up\n"), ("web04", "half\nno disk\n")]
    with pytest.raises(ValueError, match="'both'"):
        report.gathered("all")  # type: ignore[arg-type]


def test_outputs_are_the_same_when_their_bytes_are() -> None:
    texts = [b"a\xff", b"a\xfe", b"a\xff"]
    report = build(Outcome.of_value(f"h{n}", n, value=result(f"h{n}", text)) for n, text in enumerate(texts))
    assert report.gathered() == [("h[0,2]", "a\ufffd"), ("h1", "a\ufffd")]
    split = [result("h0", b"ab", b"c"), result("h1", b"a", b"bc")]
    assert len(build(Outcome.of_value(r.host, n, value=r) for n, r in enumerate(split)).gathered("both")) == 2


def test_values_of_a_mapped_function_are_gathered_as_text() -> None:
    report = build(Outcome.of_value(f"h{n}", n, value=(3, n % 2)) for n in range(4))
    assert report.gathered() == [("h[0,2]", "(3, 0)"), ("h[1,3]", "(3, 1)")]


def test_names_that_cannot_be_folded_are_listed() -> None:
    hosts = ["root@web1:22", "root@web2:22", "[::1]:22", "web1", "web2"]
    report = build(Outcome.of_value(host, n, value=1) for n, host in enumerate(hosts))
    assert report.gathered() == [("root@web1:22,root@web2:22,[::1]:22,web[1-2]", "1")]


def test_reports_and_their_errors_pickle_whole() -> None:
    report = mixed()
    copy = pickle.loads(pickle.dumps(report))
    assert copy.to_json() == report.to_json()
    assert copy["web04"] == report["web04"]
    assert [type(error) for error in copy.failed.values()] == [CommandFailed, CommandTimeout, ConnectionLost]
    with pytest.raises(FleetError) as caught:
        report.raise_for_failures()
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is FleetError
    assert error.message == caught.value.message
    assert error.report["web01"] == report["web01"]
    assert [type(one) for one in error.exceptions] == [type(one) for one in caught.value.exceptions]


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["utf-8", "latin-1"]))
def test_promise_112_json_is_valid_and_exact_with_any_bytes(out: bytes, err: bytes, encoding: str) -> None:
    for errors in ("replace", "surrogateescape", "ignore"):
        value = result("web1", out, err, encoding=encoding, errors=errors)
        (entry,) = json.loads(json.dumps(build([Outcome.of_value("web1", 0, value=value)]).to_json(), allow_nan=False))
        json.dumps(entry, ensure_ascii=False).encode("utf-8")
        for name, exact in (("stdout", out), ("stderr", err)):
            held = entry.get(f"{name}_base64")
            assert (base64.b64decode(held) if held is not None else entry[name].encode()) == exact


def test_json_says_what_came_of_each_host() -> None:
    entries: dict[Any, Any] = {entry["host"]: entry for entry in mixed().to_json()}
    assert entries["web01"] == {
        "host": "web01",
        "index": 0,
        "state": "ok",
        "elapsed": 0.0,
        "args": ["uptime"],
        "returncode": 0,
        "signal": None,
        "stdout": "up\n",
        "stderr": "",
    }
    assert entries["web04"]["returncode"] == 3
    assert entries["web04"]["error"]["type"] == "CommandFailed"
    assert entries["web05"]["error"]["stdout"] == "so far"
    assert "returncode" not in entries["web05"]["error"]
    assert entries["db1"] == {
        "host": "db1",
        "index": 5,
        "state": "unreachable",
        "elapsed": 0.0,
        "error": {"type": "ConnectTimeout", "message": "db1: no answer in 15 s"},
    }
    assert entries["web07"]["error"]["message"] == "web07: not started: the failure budget is spent"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        ({"a": [1, 2.5, True, "é"]}, {"a": [1, 2.5, True, "é"]}),
        ((1, 2), [1, 2]),
        (float("nan"), "nan"),
        (b"\xff", "b'\\xff'"),
        ("\udcff", "'\\udcff'"),
        ({1}, "{1}"),
    ],
)
def test_promise_112_any_value_of_a_mapped_function_has_a_json_form(value: object, plain: object) -> None:
    (entry,) = build([Outcome.of_value("web1", 0, value=value)]).to_json()
    assert entry["value"] == plain
    json.dumps(entry, allow_nan=False, ensure_ascii=False).encode("utf-8")


class Connection:
    """Stands for what the frames of a failed host hold."""


def test_a_report_does_not_keep_alive_what_failed() -> None:
    held: list[weakref.ref[Connection]] = []

    def fail() -> None:
        connection = Connection()
        held.append(weakref.ref(connection))
        raise OSError("reset")

    def trouble() -> RemoteError:
        try:
            try:
                fail()
            except OSError as error:
                raise RemoteError("web1: reset", host="web1") from error
        except RemoteError as error:
            return error

    report = build([Outcome.of_error("web1", 0, error=trouble())])
    assert held[0]() is None
    assert isinstance(report.failed["web1"].__cause__, OSError)


def test_the_error_of_a_mapped_function_keeps_its_traceback() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        report = build([Outcome.of_error("web1", 0, error=error)])
    assert report.failed["web1"].__traceback__ is not None
