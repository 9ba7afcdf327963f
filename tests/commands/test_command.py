"""Commands as values: binding, text, what is refused. Nothing here asks a machine."""

import pytest

from aioremote import Command, LocalMachine, Machine


@pytest.fixture
def machine() -> Machine:
    return LocalMachine()


def test_binding_changes_nothing(machine: Machine) -> None:
    ls = machine["ls"]
    bound = ls["-l", ["/tmp", [machine.path("/etc")]], 5]
    assert str(ls) == "ls"
    assert bound.words == ("ls", "-l", "/tmp", "/etc", "5")
    assert bound == machine["ls", "-l", "/tmp", "/etc", "5"]
    assert hash(bound) == hash(machine["ls"]["-l"]["/tmp"]["/etc"]["5"])
    assert bound != ls
    with pytest.raises(AttributeError):
        bound.words = ()  # type: ignore[misc]


def test_text_and_repr_show_the_far_line_and_no_values(machine: Machine) -> None:
    command = machine["grep"]["a b", "it's"].with_cwd("/srv").with_env(TOKEN="hidden")
    assert str(command) == """grep 'a b' 'it'"'"'s'"""
    assert repr(command) == f"<Command {machine}: {command} in /srv with TOKEN>"
    led = ((command << "secret") > "/tmp/o u").stderr_to(machine.path("/tmp/e"))
    assert "secret" not in repr(led)
    assert str(led).endswith("<<(6 bytes) >'/tmp/o u' 2>/tmp/e")
    assert str(machine["a"] | machine["b"]["c d"]) == "a | b 'c d'"


@pytest.mark.parametrize("words", [(), "", [], ["", "x"]])
def test_no_program_is_refused(machine: Machine, words: object) -> None:
    with pytest.raises(ValueError, match="no program"):
        machine[words]  # type: ignore[index]


def test_what_cannot_be_an_argument_is_refused(machine: Machine) -> None:
    echo = machine["echo"]
    with pytest.raises(ValueError, match="NUL"):
        echo["a\0b"]
    for wrong in (None, {"a": 1}, {1, 2}, object(), True, echo | echo):
        with pytest.raises(TypeError):
            echo[wrong]  # type: ignore[index]
    with pytest.raises(ValueError, match="another machine"):
        echo[LocalMachine()["ls"]]
    with pytest.raises(ValueError, match="redirections of its own"):
        echo[machine["ls"].with_env(A="1")]
    with pytest.raises(ValueError, match="redirections of its own"):
        echo[machine["ls"] > "x"]


def test_commands_and_machines_are_no_sequences(machine: Machine) -> None:
    """Subscription alone would make them endless ones."""
    for thing in (machine, machine["ls"], machine["a"] | machine["b"]):
        with pytest.raises(TypeError):
            iter(thing)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            "ls" in thing  # type: ignore[operator]  # noqa: B015


def test_chained_comparisons_are_refused(machine: Machine) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        machine["sort"] < "a" > "b"  # noqa: B015
    with pytest.raises(TypeError, match="ok\\(\\)"):
        bool(machine["true"])


def test_a_stream_leads_to_one_place(machine: Machine) -> None:
    cat = machine["cat"]
    for twice in (
        lambda: (cat < "a") < "b",
        lambda: (cat < "a") << "b",
        lambda: (cat > "a") >> "b",
        lambda: cat.stderr_to("a").merge_stderr(),
        lambda: cat.merge_stderr().stderr_to(machine.path("a")),
        lambda: (cat > "a") | cat,
        lambda: cat | (cat < "a"),
        lambda: cat | cat << "a",
    ):
        with pytest.raises(ValueError, match=r"already"):
            twice()


@pytest.mark.parametrize("where", [None, 5, ["a"], b"bytes"])
def test_what_is_no_place_is_refused(machine: Machine, where: object) -> None:
    with pytest.raises(TypeError):
        machine["cat"] < where  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        machine["cat"] > where  # type: ignore[operator]  # noqa: B015


def test_a_command_is_what_the_package_exports(machine: Machine) -> None:
    assert isinstance(machine["ls"], Command)
