"""Names in short: folding, reading ranges, and that ClusterShell's NodeSet agrees with both."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ClusterShell import NodeSet as node_set_module  # noqa: N813  # a module of that name
from ClusterShell.NodeSet import NodeSet
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aioremote.errors import AddressError
from aioremote.fleet.gather import NamePattern, fold_hosts, gather, read_hosts


@pytest.fixture(autouse=True, scope="module")
def _no_groups_of_this_machine() -> Iterator[None]:
    node_set_module.set_std_group_resolver_config("/nonexistent/groups.conf")
    yield
    node_set_module.set_std_group_resolver(None)


def expanded(text: str) -> list[str]:
    return [name for part in read_hosts(text) for name in ([part] if isinstance(part, str) else part)]


@pytest.mark.parametrize(
    ("hosts", "folded"),
    [
        ([], ""),
        (["web01"], "web01"),
        ([f"web{number:02d}" for number in range(1, 40)], "web[01-39]"),
        (["web3", "web1", "db1", "web2"], "web[1-3],db1"),
        (["web8", "web9", "web10", "web11"], "web[8-11]"),
        (["web8", "web9", "web09", "web10"], "web[8-9,09-10]"),
        (["web1", "web01", "web001"], "web[1,01,001]"),
        (["w0", "w00", "w1", "w01"], "w[0-1,00-01]"),
        (["web99", "web100", "web098"], "web[99,098,100]"),
        (["db1-2", "db1-3"], "db1-[2-3]"),
        (["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"], "10.0.[0-1].[1-2]"),
        (["10.0.0.1", "10.0.0.2", "10.0.1.2"], "10.0.0.[1-2],10.0.1.2"),
        (["web1.dc2.example.com", "web2.dc2.example.com"], "web[1-2].dc2.example.com"),
        (["1", "2"], "[1-2]"),
        (["x" + "9" * 30, "x1" + "0" * 30], "x[" + "9" * 30 + ",1" + "0" * 30 + "]"),
        (["root@web1", "root@web2", "web1:22", "::1", "web1", "web2"], "root@web1,root@web2,web1:22,::1,web[1-2]"),
        (["web٣", "web٤", "bücher1", "bücher2"], "web٣,web٤,bücher1,bücher2"),
        (["ssh://web1:22", "local:"], "ssh://web1:22,local:"),
    ],
)
def test_hosts_fold_in_the_order_of_first_appearance(hosts: list[str], folded: str) -> None:
    assert fold_hosts(hosts) == folded


NUMBER = st.from_regex(r"[0-9]{1,3}", fullmatch=True)
NAMES = st.lists(st.text("ab-._0129", min_size=1, max_size=7).filter(lambda name: name[0] not in "-._"), unique=True)
GRID = st.lists(
    st.builds("r{}c{}n{}".format, NUMBER, st.sampled_from("012"), st.sampled_from(["1", "2", "02"])), unique=True
)


@given(st.one_of(NAMES, GRID, st.lists(NUMBER.map("web{}".format), unique=True)))
@example(["0", "00", "1", "01"])
@example(["web" + "9" * 30, "web1" + "0" * 30, "web" + "9" * 18, "web1" + "0" * 18])
def test_folded_names_read_back_to_the_same_names_here_and_in_nodeset(hosts: list[str]) -> None:
    text = fold_hosts(hosts)
    assert sorted(NodeSet(text)) == sorted(hosts)
    assert sorted(expanded(text) if hosts else []) == sorted(hosts)


@given(st.lists(NUMBER.map("web{}.example.com".format), unique=True, min_size=1))
def test_folded_text_is_not_longer_than_nodeset_writes_it(hosts: list[str]) -> None:
    assert len(fold_hosts(hosts)) <= len(str(NodeSet.fromlist(hosts)))


SHORT = st.from_regex(r"[0-9]{1,2}|1[01][0-9]|0[01][0-9]", fullmatch=True)
RANGE = st.one_of(
    SHORT,
    st.builds("{}-{}".format, SHORT, SHORT),
    st.builds("{}-{}/{}".format, SHORT, SHORT, st.sampled_from("0123")),
    st.text("0123,", max_size=6),
)
BRACKETS = st.lists(RANGE, min_size=1, max_size=3).map(",".join).map("[{}]".format)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "web", "n-"]), BRACKETS), min_size=1, max_size=2),
    st.sampled_from(["", "z", ".x"]),
)
def test_a_range_reads_to_what_nodeset_reads_or_both_refuse_it(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(before + brackets for before, brackets in parts) + end
    assume(not re.search(r"\b0+-0+\b", text))  # NodeSet takes 0-00
    try:
        names = expanded(text)
    except AddressError:
        with pytest.raises(node_set_module.NodeSetParseError):
            NodeSet(text)
    else:
        assert set(names) == set(NodeSet(text))
        assert all(isinstance(part, NamePattern) and part.count() == len(names) for part in read_hosts(text))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("web[01-03],db1", ["web01", "web02", "web03", "db1"]),
        ("web[3,1-2]", ["web3", "web1", "web2"]),
        ("web[8-11]", ["web8", "web9", "web10", "web11"]),
        ("web[1-9/4]", ["web1", "web5", "web9"]),
        ("r[1-2]n[01-02].x", ["r1n01.x", "r1n02.x", "r2n01.x", "r2n02.x"]),
        ("[1-2]", ["1", "2"]),
        ("web1, db1 ,x", ["web1", "db1", "x"]),
        ("root@web[1-2]:2222", ["root@web1:2222", "root@web2:2222"]),
        ("[::1]:22,root@[fe80::1%eth0],::2", ["[::1]:22", "root@[fe80::1%eth0]", "::2"]),
        ("web1:[22-23]", ["web1:22", "web1:23"]),
        ("ssh://john@web[1-2]:22", ["ssh://john@web1:22", "ssh://john@web2:22"]),
    ],
)
def test_ranges_read_in_the_order_given(text: str, names: list[str]) -> None:
    assert expanded(text) == names


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("web[1-", 4),
        ("db1,web[1-", 8),
        ("web]", 4),
        ("web[1[2]]", 4),
        ("web[]", 5),
        ("web[1,]", 7),
        ("web[1,2-]", 7),
        ("web[a-b]", 5),
        ("web[-1]", 5),
        ("web[1 -2]", 5),
        ("web[٣]", 5),
        ("web[3-1]", 5),
        ("web[1-3,5-9/0]", 9),
        ("a[1]b[01-9]", 7),
        ("a,,b", 3),
        (",a", 1),
        ("a,", 3),
        ("a, ,b", 4),
        ("web[1-9]!", 10),
    ],
)
def test_a_malformed_range_is_an_address_error_with_place_and_example(text: str, character: int) -> None:
    with pytest.raises(AddressError) as caught:
        read_hosts(text)
    assert isinstance(caught.value, ValueError)
    assert caught.value.host == text
    message = str(caught.value)
    assert repr(text) in message
    assert f"character {character}:" in message
    assert "'web[01-40],db1'" in message


@pytest.mark.parametrize(
    "text",
    ["web[1-2];id", "-web[1-2]", "web[1-2]%h", "web[1-2]\n", "a$[1-2]", "x,-oProxyCommand=x", "web*", "web[1-9]!a;b"],
)
def test_promise_97_a_dangerous_name_around_a_range_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        read_hosts(text)


@pytest.mark.parametrize("text", ["john:hunter2@web[1-", "john:hunter2@web1,,", "web1,ssh://john:hunter2@web]"])
def test_a_password_in_a_malformed_range_is_not_repeated(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        read_hosts(text)
    assert "hunter2" not in str(caught.value) + caught.value.host


@given(st.text("web[1-2],@!&^:/ \n;*", max_size=20))
def test_any_text_is_read_or_an_address_error(text: str) -> None:
    said = ""
    try:
        assert read_hosts(text)
    except AddressError as error:
        said = str(error)
    assert said == "" or said.isprintable()


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Path]:
    """ClusterShell's own group configuration: a file of groups, and a source that asks a shell command."""
    (tmp_path / "groups.d").mkdir()
    (tmp_path / "groups.d" / "roles.yaml").write_text(
        "roles:\n  db: 'db[1-2]'\n  web: 'web[01-03],db2'\n  all: 'db[1-2],web[01-03]'\n"
    )
    config = tmp_path / "groups.conf"
    config.write_text(
        f"[Main]\ndefault: roles\nautodir: {tmp_path}/groups.d\n"
        f"[asked]\nmap: echo $GROUP >> {tmp_path}/asked; echo host-$GROUP\nlist: echo x\n"
    )
    node_set_module.set_std_group_resolver_config(str(config))
    yield tmp_path
    node_set_module.set_std_group_resolver_config("/nonexistent/groups.conf")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@db", ["db1", "db2"]),
        ("x1,@db", ["x1", "db1", "db2"]),
        ("@roles:web!@db", ["web01", "web02", "web03"]),
        ("@web&@db", ["db2"]),
        ("@* ! web[01-02]", ["db1", "db2", "web03"]),
        ("@asked:a", ["host-a"]),
    ],
)
@pytest.mark.usefixtures("groups")
def test_groups_and_set_operations_are_clustershells(text: str, names: list[str]) -> None:
    assert sorted(expanded(text)) == sorted(names)
    if "," in text:
        assert expanded(text) == names


@pytest.mark.parametrize("text", ["@nosuch", "@db,@nosuch", "@db!@nosuch", "@nosuch:db", "@db&x1", "@", "@db!web[1-"])
@pytest.mark.usefixtures("groups")
def test_an_unknown_or_empty_group_is_an_address_error(text: str) -> None:
    with pytest.raises(AddressError, match="hosts "):
        read_hosts(text)


@pytest.mark.parametrize(
    "text",
    [
        "@asked:a;touch {0}/b",
        "@asked:$(touch {0}/b)",
        "@asked:`id`",
        "@asked:a b",
        "x!@asked:a|b",
        "@asked:-n",
        "@asked:a/e",
        "@-x:a",
        "@asked:a\n",
    ],
)
def test_promise_97_the_name_of_a_group_reaches_no_shell_unless_it_is_a_name(groups: Path, text: str) -> None:
    with pytest.raises(AddressError):
        read_hosts(text.format(groups))
    assert not (groups / "asked").exists()
    assert not (groups / "b").exists()


def test_without_a_group_configuration_a_group_is_an_address_error() -> None:
    with pytest.raises(AddressError, match="@db"):
        read_hosts("@db")


def test_ranges_and_folding_do_not_load_clustershell() -> None:
    code = (
        "import sys; from aioremote.fleet.gather import fold_hosts, read_hosts\n"
        "assert fold_hosts(n for p in read_hosts('web[1-3]') for n in p) == 'web[1-3]'\n"
        "assert not any(name.startswith(('ClusterShell', 'asyncssh')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_equal_values_are_gathered_in_the_order_of_first_appearance() -> None:
    items = [("web2", "b"), ("web1", "a"), ("web3", "b"), ("db1", "a")]
    assert gather(items) == [("web[2-3]", "b"), ("web1,db1", "a")]
    assert gather([]) == []


def test_ten_thousand_names_with_three_numbers_fold_in_linear_time() -> None:
    """NodeSet takes seconds for a tenth of these."""
    hosts = [f"r{(n * 7919) % 100}c{(n * 104729) % 16}n{n}" for n in range(10_000)]
    start = time.perf_counter()
    text = fold_hosts(hosts)
    assert time.perf_counter() - start < 2
    assert sorted(expanded(text)) == sorted(hosts)
