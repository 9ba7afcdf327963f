"""Which hosts a fleet is made of: ranges, collections, iterators, machines, ssh_config; first checked, then read."""

import gc
import itertools
import pickle
import subprocess
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote._core.names import HostName
from aioremote.errors import AddressError, ConfigError
from aioremote.fleet.gather import fold_hosts
from aioremote.fleet.hosts import HasAddress, HostSource, Target, config_hosts
from aioremote.types import Address


@dataclass(frozen=True)
class Spot:
    """Something with a host and an address, which is all that a fleet asks of a machine here."""

    host: str
    scheme: str = "ssh"

    @property
    def address(self) -> Address:
        return Address(self.scheme, self.host)


def keys(hosts: Any) -> list[str]:
    return [target.key for target in HostSource[HasAddress](hosts)]


def test_promise_88_the_order_given_is_kept() -> None:
    text = "web[08-11],db1,app[3,1]"
    assert keys(text) == ["web08", "web09", "web10", "web11", "db1", "app3", "app1"]
    assert [target.index for target in HostSource[Spot](text)] == list(range(7))


def test_a_target_has_the_host_as_given_and_its_parts() -> None:
    (first, second) = HostSource[Spot](["john@web1:2222", Spot("db1")])
    assert first == Target(0, "john@web1:2222", name=HostName("web1", "john", 2222))
    assert second == Target(1, "ssh://db1", machine=Spot("db1"))
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize(
    "hosts",
    [
        ["web[1-2]", "db1"],
        ("web1", "web2", "db1"),
        {"web1": 1, "web2": 2, "db1": 3},
        ["web1,web2", "db1"],
        "web[1-2],db1",
        iter(["web1", "web[2]", "db1"]),
        (name for name in ("web1", "web2", "db1")),
    ],
    ids=lambda hosts: hosts if isinstance(hosts, str) else type(hosts).__name__,
)
def test_a_string_a_collection_and_an_iterator_are_read_alike(hosts: Any) -> None:
    source = HostSource[Spot](hosts)
    for _ in range(2):
        assert [target.key for target in source] == ["web1", "web2", "db1"]
    assert source.total == 3


@pytest.mark.parametrize(
    "key", ["root@web1", "root@web1:22", "web1:22", "::1", "[::1]:2222", "root@[fe80::1%eth0]", "ssh://root@web1:22"]
)
def test_addresses_are_kept_as_given(key: str) -> None:
    assert keys(key) == keys([key]) == keys(f"x, {key}")[1:] == [key]


def test_machines_are_called_by_their_address() -> None:
    spots = [Spot("web1"), Spot("::1"), Spot("", "local")]
    targets = list(HostSource(spots))
    assert [target.key for target in targets] == ["ssh://web1", "ssh://[::1]", "local:"]
    assert [target.machine for target in targets] == spots


TWICE: list[Callable[[], Any]] = [
    lambda: "web[1-3],db1,web2",
    lambda: "web[1,1-3]",
    lambda: ["web1", "db1", "web1"],
    lambda: ["web1", "web[1-2]"],
    lambda: [Spot("web1"), Spot("web1")],
    lambda: [f"web{number}" for number in range(20_000)] + ["web7"],
    lambda: "web[1-30000],web[7]",
    lambda: iter(["web1", "db1", "web1"]),
]


@pytest.mark.parametrize("hosts", TWICE)
def test_a_host_given_twice_is_a_value_error_that_names_it(hosts: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"'(web[127]|ssh://web1)' is given twice"):
        keys(hosts())


@pytest.mark.parametrize("hosts", TWICE[:-2])
def test_a_host_given_twice_is_found_before_anything_starts(hosts: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="given twice"):
        HostSource(hosts())


@pytest.mark.parametrize("hosts", ["", [], (), {}, set()])
def test_no_hosts_at_all_is_a_value_error(hosts: Any) -> None:
    with pytest.raises(ValueError, match=r"needs hosts.*web\[01-40\]"):
        HostSource(hosts)


def test_an_iterator_of_no_hosts_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="needs hosts"):
        keys(iter([]))


@pytest.mark.parametrize(
    "hosts", [None, 3, b"web1", [b"web1"], [None], [["web1"]], Spot("web1"), [Address("ssh", "x")]]
)
def test_something_else_is_a_type_error(hosts: Any) -> None:
    with pytest.raises(TypeError):
        HostSource(hosts)


DANGEROUS = [
    "-oProxyCommand=x",
    "a;b",
    "a\nb",
    "web1\n",
    " web1",
    "a b",
    "-x@web1",
    "%h@web1",
    "",
    "web[1-",
    "web1:0",
    "@a;b",
    "*",
]


@pytest.mark.parametrize("name", DANGEROUS)
def test_promise_97_a_dangerous_host_is_refused_before_anything_starts(name: str) -> None:
    good = [f"web{number}" for number in range(12_000)]
    with pytest.raises(AddressError) as caught:
        HostSource([*good, name])
    assert isinstance(caught.value, ValueError)
    if name:
        with pytest.raises(AddressError):
            HostSource(name)
        with pytest.raises(AddressError):
            HostSource(f"{name},web[1-100000]")


@pytest.mark.parametrize("name", DANGEROUS)
def test_promise_97_an_iterator_never_gives_out_a_dangerous_host(name: str) -> None:
    targets = iter(HostSource[Spot](iter(["web1", name, "web2"])))
    assert next(targets).key == "web1"
    with pytest.raises(AddressError):
        next(targets)


@pytest.mark.parametrize(
    "hosts", ["web1:[65534-65536]", "web1:[22,70000,23]", "web[1-100000]:[22,0]", "web[1-9]:[0-9]"]
)
def test_the_ports_of_a_range_are_checked_ahead(hosts: str) -> None:
    with pytest.raises(AddressError, match="65535"):
        HostSource(hosts)


def test_every_name_of_a_range_is_checked_when_it_comes() -> None:
    targets = iter(HostSource[Spot](iter(["web1:[1-6][5530-5539]"])))
    names = list(itertools.islice(targets, 50))
    assert names[-1].key == "web1:55539"
    with pytest.raises(AddressError, match="65536"):
        list(targets)


# --- laziness ---------------------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    work()  # what is imported or cached once is not of interest
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def count(targets: Iterable[object]) -> int:
    return sum(1 for _ in targets)


@pytest.mark.parametrize("text", ["web[1-100000]", "r[1-100]n[1-1000],x", "web[1-100000],db[1-100000]"])
def test_the_first_hundred_of_a_hundred_thousand_cost_a_hundred(text: str) -> None:
    def first() -> int:
        return count(itertools.islice(HostSource[Spot](text), 100))

    source = HostSource[Spot](text)
    assert first() == 100
    assert peak_bytes(lambda: count(itertools.islice(source, 100))) < 64 * 1024


def test_a_range_is_never_expanded_whole() -> None:
    source = HostSource[Spot]("web[1-100000]")
    assert source.total == 100_000
    assert peak_bytes(lambda: count(itertools.islice(source, 20_000))) < 64 * 1024
    assert HostSource[Spot]("web[1-999999999999]").total == 999_999_999_999
    assert HostSource[Spot]("web[1-999999999999],db[1-3]").total == 1_000_000_000_002


def test_an_iterator_is_read_only_as_far_as_hosts_are_asked_for() -> None:
    read = 0

    def names() -> Iterator[str]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield f"web{number}"

    source = HostSource[Spot](names())
    assert (read, source.total) == (0, None)
    assert count(itertools.islice(source, 100)) == 100
    assert read == 100
    first, second = iter(source), iter(source)
    pairs = [(next(first).key, next(second).key) for _ in range(200)]
    assert pairs == [(f"web{number}", f"web{number}") for number in range(200)]
    assert read == 200
    assert (count(source), source.total, read) == (100_000, 100_000, 100_000)


def test_a_failing_iterator_fails_again_instead_of_looking_complete() -> None:
    def names() -> Iterator[str]:
        yield "web1"
        raise OSError("inventory gone")

    source = HostSource[Spot](names())
    for _ in range(2):
        targets = iter(source)
        assert next(targets).key == "web1"
        with pytest.raises(OSError, match="inventory gone"):
            next(targets)


@given(st.sets(st.from_regex(r"(web|db-|r1n)[0-9]{1,4}(\.x)?", fullmatch=True), min_size=1))
def test_folded_hosts_are_the_same_fleet(hosts: set[str]) -> None:
    assert set(keys(fold_hosts(hosts))) == hosts
    assert keys(sorted(hosts)) == sorted(hosts)


# --- ssh_config -------------------------------------------------------------------------------------------------------

CONFIG = """\
# Host commented
Host web1 web2 !web9 web* "web 3"
    HostName 10.0.0.1
host=db1
    HostName=10.0.0.2
HOST "db2"   # Host not-this
    HostName 10.0.0.3
Match host web4
    HostName 10.0.0.4
  Include more.d/*.conf {absolute}
Host\tweb1 a;b -x [::1] Web5 %h
Host *
    HostName 10.0.0.9
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an ssh_config and what it includes."""
    (tmp_path / ".ssh" / "more.d").mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text(CONFIG.replace("{absolute}", str(tmp_path / "apart")))
    (tmp_path / ".ssh" / "more.d" / "b.conf").write_text("Host app2\n")
    (tmp_path / ".ssh" / "more.d" / "a.conf").write_text("Host app1\n  HostName 10.0.0.5\n")
    (tmp_path / "apart").write_bytes(b"Host far1 b\xff\nInclude ~/nowhere none.conf\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("home")
def test_config_hosts_are_the_concrete_names_in_the_order_of_the_file() -> None:
    assert config_hosts() == ["web1", "web2", "db1", "db2", "app1", "app2", "far1", "Web5"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web*", ["web1", "web2", "Web5"]),
        ("WEB?", ["web1", "web2", "Web5"]),
        ("db1", ["db1"]),
        ("*1", ["web1", "db1", "app1", "far1"]),
        ("w.b1", []),
        ("[wd]*", []),
        ("web", []),
    ],
)
@pytest.mark.usefixtures("home")
def test_config_hosts_match_a_pattern_as_ssh_does(pattern: str, names: list[str]) -> None:
    assert config_hosts("~/.ssh/config", pattern) == names


@pytest.mark.parametrize(
    ("name", "address"), [("web1", "10.0.0.1"), ("db1", "10.0.0.2"), ("db2", "10.0.0.3"), ("Web5", "10.0.0.9")]
)
def test_ssh_reads_the_same_hosts_from_the_file(home: Path, name: str, address: str) -> None:
    config = home / ".ssh" / "config"
    assert name in config_hosts(config)
    read = subprocess.run(
        ["ssh", "-G", "-F", config, "--", name], check=True, capture_output=True, text=True, timeout=20
    )
    assert f"hostname {address}" in read.stdout.splitlines()


def test_config_files_that_cannot_be_used_are_config_errors(home: Path) -> None:
    with pytest.raises(ConfigError, match="missing: No such file"):
        config_hosts(home / "missing")
    (home / "open").write_text("Host web1\nHost 'web2\n")
    with pytest.raises(ConfigError, match="open:2: a quote"):
        config_hosts(home / "open")
    (home / "loop").write_text(f"Host web1\nInclude {home}/loop\n")
    with pytest.raises(ConfigError, match="include"):
        config_hosts(home / "loop")
    (home / "folder").mkdir()
    (home / "into").write_text(f"Include {home}/folder\n")
    with pytest.raises(ConfigError, match="folder: Is a directory"):
        config_hosts(home / "into")


@pytest.mark.usefixtures("home")
def test_config_hosts_make_a_fleet() -> None:
    assert keys(config_hosts(pattern="db*")) == ["db1", "db2"]
