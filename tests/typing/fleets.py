"""What the type checkers are to know of fleets. Checked, never run."""

from collections.abc import Iterator, Mapping
from typing import Any, assert_type

from aioremote import Fleet, HostKeys, Line, LocalMachine, Machine, Outcome, Report, Result, SshMachine
from aioremote.fleet.report import Json, State


def names() -> Iterator[str]:
    yield "web1"


async def constructors(machine: SshMachine, local: LocalMachine, jump: Machine) -> None:
    assert_type(Fleet("web[01-40],db1"), Fleet)
    Fleet("web*", config="/etc/ssh/ssh_config", limit=10, user="deploy", keyfile="key", host_keys=HostKeys.strict())
    Fleet(["web1", machine, local], keep_open=True)
    Fleet(names(), keep_open=5, via=jump, connect_timeout=5)
    Fleet([machine], keep_open=None)
    Fleet("web1", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Fleet("web1", port="22")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Fleet([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    async with Fleet("web1") as fleet:
        assert_type(fleet, Fleet)


async def running(fleet: Fleet) -> None:
    report = await fleet.run("uptime", timeout=10, fail_fast=True)
    assert_type(report, Report[Result])
    assert_type(report["web1"], Result)
    assert_type(report["web1"].stdout, str)
    assert_type(report.get("web1"), Result | None)
    assert_type(report.ok, Mapping[str, Result])
    assert_type(report.failed, Mapping[str, Exception])
    assert_type(report.unreachable, Mapping[str, Exception])
    assert_type(report.gathered(), list[tuple[str, str]])
    assert_type(report.outcomes, tuple[Outcome[Result], ...])
    assert_type(report.to_json(), list[dict[str, Json]])
    report.raise_for_failures()
    for host, result in report.items():
        assert_type(host, str)
        assert_type(result, Result)
    assert_type(
        await fleet.shell("ls", input="x", env={"A": 1}, ok_codes=(0, 1), max_output_bytes=None), Report[Result]
    )
    assert_type(fleet.partial, Report[object] | None)
    await fleet.run("ls", shell=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fleet.run("ls", timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def streaming(fleet: Fleet) -> None:
    async for outcome in fleet.stream("uptime", timeout=5):
        assert_type(outcome, Outcome[Result])
        assert_type(outcome.host, str)
        assert_type(outcome.result, Result | None)
        assert_type(outcome.error, Exception | None)
        assert_type(outcome.state, State)
        assert_type(outcome.get(), Result)
    async with fleet.stream("uptime") as outcomes:
        assert_type(await anext(outcomes), Outcome[Result])


async def lines(fleet: Fleet) -> None:
    async for line in fleet.lines("tail", "-F", "log", line_timeout=5, check=False):
        assert_type(line, Line)
    async with fleet.lines("tail", timeout=5) as found:
        async for line in found:
            assert_type(line.host, str)
    fleet.lines("cat", input="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def length(machine: Machine) -> int:
    return len(machine.host)


async def nothing(machine: Machine) -> None:
    await machine.ping()


async def mapping(fleet: Fleet) -> None:
    report = await fleet.map(length, timeout=5)
    assert_type(report, Report[int])
    assert_type(report["web1"], int)
    assert_type(await fleet.map(nothing), Report[None])
    assert_type(await fleet.map(Machine.ping), Report[float])
    assert_type(await fleet.map(lambda m: m.run("ls")), Report[Result])


async def streaming_values(fleet: Fleet) -> None:
    async with fleet.stream_map(length, timeout=5, fail_fast=True) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome[int])
            assert_type(outcome.result, int | None)


def whatever(report: Report[Any]) -> None:
    """Code that does not care what the values are."""
    assert_type(report.summary(), str)
