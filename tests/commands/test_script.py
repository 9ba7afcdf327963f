"""Scripts under every shell that may be /bin/sh, and what is read out of their standard errors."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.test_running import NASTY

from aioremote.commands.readout import Readout, Told, status_of
from aioremote.commands.script import Kind, Script, Stage, make_script

SHELLS = {
    "dash": ["dash"],
    "bash": ["bash"],
    "bash as sh": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
    "zsh as sh": ["zsh", "--emulate", "sh"],
    "ksh93": ["ksh93"],
    "mksh": ["mksh"],
}
QUIET = {"zsh as sh"}  # which say nothing of how a program died
NONCE = "q7Rk2LmNo9"
WORDS = tuple(word if isinstance(word, bytes) else word.encode() for word in NASTY)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Seen:
    """What a script did."""

    stdout: bytes
    stderrs: dict[int, bytes]
    told: Told


def sh(line: str, *words: bytes, **keywords: object) -> Stage:
    return Stage((b"sh", b"-c", line.encode(), b"sh", *words), **keywords)  # type: ignore[arg-type]


def read(script: Script, data: bytes, sizes: Sequence[int] = (7,)) -> tuple[dict[int, bytes], Told]:
    stderrs: dict[int, bytes] = {}
    told = Told()
    readout = Readout(script, lambda number, part: stderrs.update({number: stderrs.get(number, b"") + part}), told)
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        readout.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    readout.finish()
    return stderrs, told


def run(shell: str, stages: Sequence[Stage], kind: Kind = Kind.APART, stdin: bytes = b"", **keywords: object) -> Seen:
    script = make_script(stages, kind=kind, nonce="" if kind is Kind.APART else NONCE, **keywords)  # type: ignore[arg-type]
    env = {**os.environb, **{name.encode(): value for name, value in script.env.items() if value is not None}}
    command = [*SHELLS[shell], *script.argv[1:]]
    done = subprocess.run(command, input=stdin, capture_output=True, env=env, timeout=30)
    return Seen(done.stdout, *read(script, done.stderr))


def test_each_stage_is_told(shell: str) -> None:
    stages = [
        sh("printf 'a\\0\\377b' >&2; echo 1; exit 3"),
        sh("cat; echo two >&2; kill -9 $$"),
        sh("cat; exit 137"),
        sh("cat; kill -15 $$"),
    ]
    seen = run(shell, stages)
    assert seen.stdout == b"1\n"
    assert seen.stderrs == {0: b"a\0\xffb", 1: b"two\n"}
    ends = {number: (status.returncode, status.signal) for number, status in seen.told.statuses.items()}
    killed = (137, None) if shell in QUIET else (-9, "KILL")
    assert ends == {0: (3, None), 1: killed, 2: (137, None), 3: (-15, "TERM")}
    assert seen.told.begun == {0, 1, 2, 3}
    live = run(shell, stages, Kind.LIVE)
    assert (live.stdout, live.told) == (seen.stdout, seen.told)
    assert sorted(live.stderrs[-1]) == sorted(b"a\0\xffbtwo\n")


def test_words_and_values_arrive_byte_for_byte(shell: str) -> None:
    """Promises 45, 55."""
    values = {f"V{number}": word for number, word in enumerate(WORDS)}
    show = sh('/usr/bin/printf "%s\\0" "$@"; exec env -0 >&2', *WORDS, env={**values, "HOME": None})
    seen = run(shell, [show, sh("exec env -0 >&2; "), Stage((b"cat",))])
    first = run(shell, [show, Stage((b"cat",))])
    assert first.stdout == b"".join(word + b"\0" for word in WORDS)
    found = dict(item.partition(b"=")[::2] for item in first.stderrs[0].split(b"\0") if item)
    assert {name: found[name.encode()] for name in values} == values
    assert b"HOME" not in found
    assert b"aioremote" not in seen.stderrs[0] + seen.stderrs[1]
    assert b"LC_ALL" not in seen.stderrs[1] or b"LC_ALL" in os.environb


def test_programs_run_and_no_builtins(shell: str) -> None:
    seen = run(shell, [Stage((b"printf", b"%b", b"a\\tb")), sh("cat; ls /proc/self/fd | tr '\\n' ' ' >&2")])
    assert seen.stdout == b"a\tb"
    assert set(seen.stderrs[1].split()) <= {b"0", b"1", b"2", b"3"}
    assert run(shell, [Stage((b"cd", b"/")), Stage((b"cat",))]).told.statuses[0].returncode == 127
    assert run(shell, [Stage((b"x=y",)), Stage((b"cat",))]).told.statuses[0].returncode == 127


def test_more_stages_than_descriptors(shell: str, tmp_path: Path) -> None:
    stages = [sh(f"cat; echo err{number} >&2; exit {number}") for number in range(27)]
    for kind in (Kind.APART, Kind.LIVE):
        seen = run(shell, stages, kind, stdin=b"through")
        assert seen.stdout == b"through"
        assert {number: status.returncode for number, status in seen.told.statuses.items()} == dict(
            zip(range(27), range(27), strict=True)
        )
    assert run(shell, stages).stderrs == {number: f"err{number}\n".encode() for number in range(27)}
    files = [sh("cat; echo err >&2", stderr=os.fsencode(tmp_path / str(number))) for number in range(9)]
    assert run(shell, files, stdin=b"x").stdout == b"x"
    assert [(tmp_path / str(number)).read_text() for number in range(9)] == ["err\n"] * 9


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("stdin", "stdout", "name"),
    [
        ("no/in", None, "ENOENT"),
        ("", None, "EISDIR"),
        ("file/x", None, "ENOTDIR"),
        (None, "no/out", "ENOENT"),
        (None, "", "EISDIR"),
        (None, "file/x", "ENOTDIR"),
        ("file", "no/out", "ENOENT"),
    ],
)
def test_what_cannot_be_opened_stops_it(
    shell: str, kind: Kind, stdin: str | None, stdout: str | None, name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    source = None if stdin is None else os.fsencode(tmp_path / stdin)
    target = None if stdout is None else os.fsencode(tmp_path / stdout)
    script = make_script([sh(f"echo ran >'{tmp_path}/ran'")], kind=kind, nonce=NONCE, stdin=source, stdout=target)
    done = subprocess.run([*SHELLS[shell], *script.argv[1:]], input=b"", capture_output=True, timeout=30)
    told = read(script, done.stderr)[1]
    assert told.refused is not None
    assert (script.paths[told.refused[0]], told.refused[1]) == (target or source, name)
    assert (told.begun, told.statuses) == (set(), {})
    assert not (tmp_path / "ran").exists()


def test_a_missing_directory_stops_it(shell: str, tmp_path: Path) -> None:
    stages = [sh(f"echo ran >'{tmp_path}/ran'"), Stage((b"cat",), cwd=b"/no/such/place")]
    assert run(shell, stages).told.refused == (0, "ENOENT")
    assert not (tmp_path / "ran").exists()


def test_files_hold_what_they_should(shell: str, tmp_path: Path) -> None:
    source, target, errors = (os.fsencode(tmp_path / name) for name in ("in put", "-n $out\n", "err"))
    Path(os.fsdecode(source)).write_bytes(b"text")
    stage = sh("cat; echo err >&2", stderr=errors)
    for kind in Kind:
        run(shell, [stage], kind, stdin=b"", stdout=target, append=kind is Kind.ALONE)
        seen = run(shell, [sh("cat; echo err >&2", merge=True)], kind, stdin=b"in-")
        assert (seen.stdout, seen.stderrs) == (b"in-err\n", {})
    assert Path(os.fsdecode(errors)).read_text() == "err\n"


def test_a_program_named_like_an_option_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with '-'"):
        make_script([Stage((b"-x",))], kind=Kind.APART)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=5),
)
def test_any_split_reads_the_same(parts: list[bytes], sizes: list[int]) -> None:
    script = make_script([Stage((b"a",))], kind=Kind.ALONE, nonce=NONCE)
    data = (NONCE + "<+0>\n").encode().join(parts)
    stderrs, told = read(script, data, sizes)
    assert stderrs.get(0, b"") == b"".join(parts)
    assert told.begun == ({0} if len(parts) > 1 else set())


@given(st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=20)), max_size=12), st.integers(1, 9))
def test_stages_may_interleave_at_any_byte(writes: list[tuple[int, bytes]], size: int) -> None:
    script = make_script([Stage((b"a",))] * 5, kind=Kind.APART)
    data, expected = b"", dict.fromkeys(range(5), b"")
    for number, part in writes:
        digits = bytes(0x80 + 16 * number + int(digit, 16) for digit in part.hex())
        data += digits[:1] + b" \n" + digits[1:] + b"\n<%d:1>\n" % number
        expected[number] += part
    stderrs, told = read(script, data, [size])
    assert stderrs == {number: part for number, part in expected.items() if part}
    assert set(told.statuses) == {number for number, _ in writes}


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (0, False, (0, None)),
        (255, True, (255, None)),
        (137, True, (-9, "KILL")),
        (137, False, (137, None)),
        (141, False, (-13, "PIPE")),
        (265, False, (-9, "KILL")),
        (128, True, (128, None)),
    ],
)
def test_statuses(status: int, said: bool, expected: tuple[int, str | None]) -> None:
    found = status_of(status, said=said)
    assert (found.returncode, found.signal) == expected
