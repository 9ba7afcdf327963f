"""The bytes of the bootstrap: what a cut or a changed byte does, and what the far command line may hold."""

import json
import marshal
import shlex
import string
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from tests.outpost.conftest import pythons
from tests.pace import in_time

from aioremote._core.quoting import command_line
from aioremote.outpost import stages
from aioremote.outpost.stages import EXIT_CUT, EXIT_DAMAGED, STAGE_0, Payload, find_and_run, outpost_payload, tried

MARK, NONCE = "0f" * 16, "a5" * 16
Told = tuple[int, float, float, bytes]
SHIPPED = Payload({"stage1": 'import os\ndef start(*given):\n    os.write(1, b"run")\n'}, "none")


def ready(version: str) -> bytes:
    """What stage 0 says of itself; `version` is as "3.6.15"."""
    return f"{MARK}{version[:4]}\n".encode()


def ends_of(python: str, inputs: list[bytes]) -> list[Told]:
    """Run stage 0 for each input in a child of one interpreter; returns status, CPU seconds, seconds and output."""
    order = {"stage_0": STAGE_0, "mark": MARK[::-1], "inputs": [data.hex() for data in inputs]}
    done = subprocess.run(
        [python, "-B", Path(__file__).with_name("forked_stages.py")],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=True,
        timeout=50,
    )
    return [(code, cpu, elapsed, bytes.fromhex(out)) for code, cpu, elapsed, out in json.loads(done.stdout)]


@pytest.mark.parametrize(("version", "step"), [("3.6", 1), ("3.13", 11)])
def test_input_that_ends_at_any_byte_ends_python(version: str, step: int) -> None:
    """Promise 5: cut at EVERY byte of stages 1 and 2: exit 9 within 1 s, CPU < 0.2 s, nothing of ours executed."""
    whole = SHIPPED.line(NONCE, {}) + SHIPPED.packed
    (python,) = pythons((version,)).values()
    *cut, last = ends_of(python, [*(whole[:length] for length in range(0, len(whole), step)), whole])
    assert last[0] == 0
    assert b"run" in last[3]
    assert {(code, out) for code, _, _, out in cut} == {(EXIT_CUT, ready(f"{version}.0"))}
    assert max(cpu for _, cpu, _, _ in cut) < 0.2
    assert in_time(max(elapsed for _, _, elapsed, _ in cut), 1)


@pytest.mark.parametrize("version", ["3.6", "3.13"])
def test_a_changed_byte_is_never_executed(version: str) -> None:
    """Promise 6: bytes of stage 2 flipped, one at a time: exit 10, and not a line of it has run."""
    line, packed = SHIPPED.line(NONCE, {}), SHIPPED.packed
    flipped = [line + packed[:at] + bytes([packed[at] ^ 0x10]) + packed[at + 1 :] for at in range(0, len(packed), 11)]
    (python,) = pythons((version,)).values()
    assert {(code, out) for code, _, _, out in ends_of(python, flipped)} == {(EXIT_DAMAGED, ready(f"{version}.0"))}


def test_stage_0_passes_through_any_quotes() -> None:
    assert set(STAGE_0) <= set(string.ascii_letters + string.digits + " ,.;:=<>()[]_-+")
    assert len(STAGE_0) <= 262


def test_the_search_stays_readable_on_an_ssh_command_line() -> None:
    """No word needs octal digits, which would triple it."""
    line = command_line(find_and_run(MARK), nonce="n1")
    assert STAGE_0.encode() in line
    assert len(line) < 1200


def test_the_mark_is_not_on_the_command_line() -> None:
    """So a shell that echoes its line is not taken for stage 0."""
    assert MARK.encode() not in b"".join(find_and_run("0123456789abcdef" * 2))


@pytest.mark.parametrize("python", ["", "-c", "-"])
def test_an_impossible_name_of_a_python_is_refused(python: str) -> None:
    with pytest.raises(ValueError, match="python="):
        find_and_run(MARK, python=python)


def test_stage_0_refuses_python_2(tmp_path: Path) -> None:
    """For where it is started without the search; without the check Python 2.7 would hang."""
    (python,) = pythons(("2.7",)).values()
    done = subprocess.run([python, "-B", "-c", STAGE_0, MARK], capture_output=True, timeout=5, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (8, b"")


def test_what_the_search_tried_is_read_from_among_other_lines() -> None:
    said = "motd\naioremote: python3: sh: 1: python3: not found\naioremote: python: Python 2.7.18\n"
    assert tried(said) == ("python3: sh: 1: python3: not found", "python: Python 2.7.18")


def test_options_of_every_plain_kind_travel_in_one_line() -> None:
    options = {"text": 'it\'s\n"é" \U0001f600 \udcff', "bytes": b"\0\n", "list": [1, 2.5, None, True], "d": {"a": ()}}
    line = Payload({"stage1": ""}, "stage1").line(NONCE, options)
    assert line.count(b"\n") == 1
    assert line.isascii()


def test_the_outpost_is_every_module_of_far() -> None:
    shipped = outpost_payload()
    assert {"__init__", "stage1"} <= set(shipped.modules)
    assert shipped.entry == "serve"
    assert outpost_payload() is shipped
    assert not [name for name in shipped.modules if name in ("guests", "shared") or name.startswith("windows")]


def test_what_starts_first_goes_compiled_to_a_python_of_our_version() -> None:
    same, other = outpost_payload(same_version=True), outpost_payload()
    assert same.modules == other.modules
    code = marshal.loads(zlib.decompress(same.first))
    assert {"stage1", "serve", "wire", "frames", "flow"} < set(code) < set(same.modules)
    assert {one.co_filename for one in code.values()} == {f"aioremote/outpost/far/{name}.py" for name in code}


def test_byte_code_of_another_format_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before the first of a series may have another; so may another Python of the same number."""
    monkeypatch.setattr(stages, "MAGIC_NUMBER", b"\0\0\r\n")
    shipped = Payload(
        {"stage1": 'import os\ndef start(*given):\n    os.write(1, b"run %d" % len(given[4]))\n'}, "none", True
    )
    (end,) = ends_of(sys.executable, [shipped.line(NONCE, {}) + shipped.packed])
    assert (end[0], end[3]) == (0, ready(sys.version) + b"run 0")


def test_the_search_is_one_every_sh_understands() -> None:
    for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"], ["ksh93"], ["mksh"], ["yash"], ["zsh"]):
        _, _, *words = (word.decode() for word in find_and_run(MARK, python=sys.executable))
        done = subprocess.run([*shell, "-c", *words], capture_output=True, timeout=10, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stdout) == (EXIT_CUT, ready(sys.version)), shlex.join(shell)
