"""Host and user names: what passes, what is refused before anything is started, and that ssh(1) is never stricter."""

import pickle
import string
import subprocess

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aioremote._core.names import HostName, check_host_name, check_user_name, parse_host
from aioremote.errors import AddressError

ASCII = [chr(number) for number in range(1, 128)]


def ssh_accepts(*arguments: str) -> bool:
    """Ask the real client, which resolves its configuration and connects to nothing."""
    done = subprocess.run(["ssh", "-G", "-F", "none", *arguments], capture_output=True, timeout=20)
    return done.returncode == 0


def passes(check, name: str) -> bool:
    try:
        check(name)
    except AddressError:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    [
        "web1",
        "web-1.example.com",
        "WEB_1",
        "web1.",
        "10.0.0.1",
        "1",
        "xn--bcher-kva.example",
        "bücher.example",
        "日本",
        "::1",
        "2001:db8::10",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "a" * 255,
        "_dmarc",
        "a+b=c",
    ],
)
def test_names_and_addresses_pass(name: str) -> None:
    check_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-oProxyCommand=x",
        "-",
        "a;b",
        "a\nb",
        "a\n",
        "\na",
        "a b",
        " ",
        "a\tb",
        "a\rb",
        "a\0b",
        "a\x1bb",
        "%h",
        "a%h",
        "$HOME",
        "`id`",
        "$(id)",
        "a|b",
        "a&b",
        "a<b",
        "a>b",
        "(a)",
        "{a}",
        "'a'",
        '"a"',
        "a\\b",
        "*",
        "a?",
        "!a",
        "a,b",
        "#a",
        "a/b",
        "..",
        ".",
        "~",
        "~root",
        "[::1]",
        "a@b",
        "web:22",
        "fe80::1%",
        "fe80::1%a;b",
        "::1%a b",
        ":::",
        "\udc80",
        "a\u202eb",
        "a\uff1bb",
        "\uff0da",
        "a\u00a0b",
        "a\u037eb",
        "\uff0e\uff0e",
        "a" * 256,
    ],
)
def test_promise_97_a_dangerous_host_name_is_refused_and_said_escaped(name: str) -> None:
    with pytest.raises(AddressError) as caught:
        check_host_name(name)
    assert isinstance(caught.value, ValueError)
    assert caught.value.host == name
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["root", "john.doe", "DOMAIN\\john", "host$", "john@corp", "john doe", "jürgen", "_x", "a-b"]
)
def test_login_names_pass(name: str) -> None:
    check_user_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-x",
        "%h",
        "%",
        "a%r",
        "a -x",
        "a\\",
        "a;b",
        "a\nb",
        "a\tb",
        "`id`",
        "$(id)",
        "a|b",
        "a&b",
        "a>b",
        "a<b",
        "{a}",
        "a'b",
        'a"b',
        "a\0",
        "\x1b",
        "a\u202eb",
        "\udc80",
        "a\uff1bb",
    ],
)
def test_promise_97_a_dangerous_user_name_is_refused(name: str) -> None:
    with pytest.raises(AddressError) as caught:
        check_user_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", ["a{}b", "{}b", "a{}"])
def test_no_ascii_host_name_passes_that_ssh_refuses(place: str) -> None:
    for character in ASCII:
        name = place.format(character)
        if passes(check_host_name, name):
            assert ssh_accepts("--", name), name


@pytest.mark.parametrize("place", ["a{}b", "{}b", "a{}", "a {}b"])
def test_no_ascii_user_name_passes_that_ssh_refuses(place: str) -> None:
    for character in ASCII:
        name = place.format(character)
        if passes(check_user_name, name):
            assert ssh_accepts("-l", name, "--", "web1"), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web1", HostName("web1")),
        ("john@web1", HostName("web1", "john")),
        ("web1:2222", HostName("web1", None, 2222)),
        ("john@web1:1", HostName("web1", "john", 1)),
        ("john@corp@web1:65535", HostName("web1", "john@corp", 65535)),
        ("::1", HostName("::1")),
        ("[::1]", HostName("::1")),
        ("[::1]:2222", HostName("::1", None, 2222)),
        ("john@[fe80::1%eth0]:22", HostName("fe80::1%eth0", "john", 22)),
        ("john@::1", HostName("::1", "john")),
        ("ssh://web1", HostName("web1")),
        ("ssh://john@web1:2222/", HostName("web1", "john", 2222)),
        ("SSH://[::1]:22", HostName("::1", None, 22)),
    ],
)
def test_a_host_is_taken_apart(text: str, expected: HostName) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("web1:0", "65535"),
        ("web1:65536", "65535"),
        ("web1:", "65535"),
        ("web1:ssh", "'ssh'"),
        ("web1:²²", "'²²'"),
        ("web1:-1", "'-1'"),
        ("[::1", "'[::1]:2222'"),
        ("[::1]x", "'[::1]:2222'"),
        ("[web1]:22", "IPv6"),
        ("::1:z", "IPv6"),
        ("@web1", "user name ''"),
        ("-x@web1", "option"),
        ("john@", "empty"),
        ("john@-oProxyCommand=x", "option"),
        ("web1 db1", "blank"),
        ("root@web1 root@web2", "blank"),
        ("web1\n", "blank"),
        ("ssh://", "empty"),
        ("ssh://web1/etc", "'/'"),
        ("http://web1", "'http'"),
    ],
)
def test_a_malformed_host_is_refused_with_its_fault(text: str, said: str) -> None:
    with pytest.raises(AddressError, match=said.replace("[", r"\[")):
        parse_host(text)


@pytest.mark.parametrize(
    "text", ["ssh://john:hunter2@web1", "john:hunter2@web1:22", "john:hunter2 x@web1", "ftp://j:hunter2@web1"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_host(text)
    assert "hunter2" not in str(caught.value) + repr(caught.value.__dict__)


WORDS = st.text(string.ascii_letters + string.digits + "._-+=@%:[]/; \n\\é", max_size=12)


@given(st.one_of(st.text(), WORDS, st.tuples(WORDS, WORDS).map("@".join), WORDS.map("ssh://{}".format)))
@example("a@b@c:1")
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    said, parts = "", HostName("none")
    try:
        parts = parse_host(text)
    except AddressError as error:
        said = str(error)
    assert said == "" or said.isprintable()
    check_host_name(parts.host)
    assert parts.port is None or 1 <= parts.port <= 65535
    assert parse_host(str(parts)) == parts


@given(
    st.text(string.ascii_letters + "-.é", min_size=1),
    st.none() | st.text("ab@.é", min_size=1),
    st.none() | st.integers(1, 65535),
)
def test_a_host_name_written_out_reads_back(host: str, user: str | None, port: int | None) -> None:
    assume(passes(check_host_name, host))
    name = HostName(host, user, port)
    assert parse_host(str(name)) == name
    assert parse_host(f"ssh://{name}") == name
    assert pickle.loads(pickle.dumps(name)) == name
