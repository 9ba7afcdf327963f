import itertools
import os
import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioremote._core.quoting import (
    MAX_LINE_BYTES,
    MAX_NOISE_BYTES,
    Announced,
    Announcement,
    Argument,
    command_line,
    is_posix_shell,
    join_posix,
    quote_posix,
    shell_line,
)

NONCE = "q7Rk2"
POSIX = {
    "ash": ["busybox", "sh"],
    "bash": ["bash"],
    "dash": ["dash"],
    "ksh93": ["ksh93"],
    "mksh": ["mksh"],
    "zsh": ["zsh"],
}
FOREIGN = {"csh": ["csh"], "fish": ["fish"], "tcsh": ["tcsh"]}
SHELLS = POSIX | FOREIGN
PLAIN: list[str] = [
    *("", " ", "\t", "\r", "\x01", "\x7f", "a  b "),
    *string.punctuation,
    *r"""
a b
it's
$HOME
`id`
$(id)
-n
--
~root
{a,b}
#c
!x
%s
*.py
a\
\'
\\
'\''
''
\!
!!
!#
\047
=ls
^a^b
<(id)
x=1
'; touch pwned #
\'; end; touch pwned #
\"; touch pwned #
""".strip().splitlines(),
]
BEYOND = [
    "\n",
    "a\nb",
    "\nb",
    "b\n\n",
    "a\ntouch pwned\nb",
    "é",
    "国2",
    "中0",
    "\N{PILE OF POO}",
    "\ue000\uf600",
    "\ufdd0",
]
NASTY = [*PLAIN, *BEYOND]
RAW = [bytes([value]) for value in range(1, 256)]
RAW.extend(bytes(pair) for pair in itertools.product(range(128, 256), b"0'\\\n"))
arguments = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])) | st.binary().map(
    lambda value: value.replace(b"\0", b"")
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A far home without login files, which is also where the login shell stands."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def run(shell: str, line: bytes, home: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line as sshd does."""
    inherited = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "SHELL": f"/bin/{shell}"} | environment
    return subprocess.run([*SHELLS[shell], "-c", line], cwd=home, env=inherited, capture_output=True, timeout=20)


def announced(done: subprocess.CompletedProcess[bytes]) -> Announced:
    told = Announcement(NONCE).feed(done.stdout)
    assert told is not None, done
    return told


def far(
    shell: str,
    argv: Sequence[Argument],
    home: Path,
    *,
    known: bool = False,
    cwd: bytes | None = None,
    env: Mapping[str, bytes | None] | None = None,
    inherited: Mapping[str, str] | None = None,
) -> Announced:
    line = command_line(argv, nonce=NONCE, cwd=cwd, env=env, login_shell=f"/bin/{shell}" if known else None)
    return announced(run(shell, line, home, **(inherited or {})))


def dump(*arguments: Argument) -> Sequence[Argument]:
    """An argv whose program prints its arguments, each with a NUL behind it."""
    return ["printf", r"%s\0", *arguments]


def dumped(*arguments: Argument) -> bytes:
    return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)


def environment_of(told: Announced) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in told.rest.split(b"\0")[:-1])
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("shell", SHELLS)
class TestEveryLoginShell:
    @pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
    def test_promise_45_passes_arguments_byte_for_byte(self, shell: str, known: bool, locale: str, home: Path) -> None:
        for batch in (PLAIN, [*NASTY, *RAW]):
            assert far(shell, dump(*batch), home, known=known, inherited={"LC_ALL": locale}).rest == dumped(*batch)

    def test_promise_45_passes_a_long_argument(self, shell: str, known: bool, home: Path) -> None:
        long = "a 'b' " * 2_000 + "a b\t" * 3_000
        assert far(shell, dump(long), home, known=known).rest == dumped(long)

    def test_promise_46_gives_shell_lines_to_sh(self, shell: str, known: bool, home: Path) -> None:
        script = 'x=1; if [ "$x" = 1 ]\nthen printf "%s" "it\'s $x!"; fi'
        assert far(shell, ["/bin/sh", "-c", script], home, known=known).rest == b"it's 1!"

    def test_promise_55_sets_and_unsets_variables_exactly(self, shell: str, known: bool, home: Path) -> None:
        env = {f"N{index}": os.fsencode(value) for index, value in enumerate(NASTY)}
        env |= {"UID": b"7", "status": b"8", "path": b"9", "_": b"10", "PWD": b"", "IFS": b"b", "LC_ALL": b"C"}
        told = far(
            shell,
            ["cat", "/proc/self/environ"],
            home,
            known=known,
            env={**env, "AWAY": None},
            inherited={"AWAY": "1", "STAYS": "2"},
        )
        seen = environment_of(told)
        assert {name: seen.get(name.encode()) for name in env} == env
        assert b"AWAY" not in seen
        assert seen[b"STAYS"] == b"2"

    def test_adds_no_variable_of_its_own(self, shell: str, known: bool, home: Path) -> None:
        exported = {"d": "1", "e": "2", "l": "3"}
        for empty in ("file", "é\n"):
            (home / empty).touch()
            argv = ["cat", "/proc/self/environ", empty]
            seen = environment_of(far(shell, argv, home, known=known, cwd=b".", inherited=exported))
            assert {name: seen[name.encode()].decode() for name in exported} == exported
            assert not [name for name in seen if b"aioremote" in name or name == b"LC_ALL"]

    def test_keeps_the_locale_when_arguments_are_encoded(self, shell: str, known: bool, home: Path) -> None:
        read = ["/bin/sh", "-c", 'printf %s "${LC_ALL-unset}"', "\n"]
        assert far(shell, read, home, known=known).rest == b"unset"
        assert far(shell, read, home, known=known, inherited={"LC_ALL": "C.UTF-8"}).rest == b"C.UTF-8"

    def test_starts_in_directories_with_nasty_names(self, shell: str, known: bool, home: Path) -> None:
        names = ["-", "-P", "~", "+1", "a b", "it's", "a\\", "!x", "$HOME", "*", "\n", "é\n"]
        (home / "elsewhere" / "a b").mkdir(parents=True)
        for name in names:
            (home / name).mkdir()
            told = far(
                shell, ["/bin/pwd"], home, known=known, cwd=os.fsencode(name), inherited={"CDPATH": f"{home}/elsewhere"}
            )
            assert (told.rest, told.noise) == (os.fsencode(f"{home}/{name}\n"), b"")
        assert far(shell, ["/bin/pwd"], home, known=known, cwd=b"/usr").rest == b"/usr\n"

    def test_takes_dot_dot_as_the_kernel_does(self, shell: str, known: bool, home: Path) -> None:
        (home / "deep" / "er").mkdir(parents=True)
        (home / "link").symlink_to("deep/er")
        assert far(shell, ["/bin/pwd"], home, known=known, cwd=b"link/..").rest == os.fsencode(f"{home}/deep\n")

    def test_refuses_a_directory_that_cannot_be_entered(self, shell: str, known: bool, home: Path) -> None:
        (home / "file").touch()
        (home / "dangling").symlink_to("nowhere")
        refusals = {
            b"no": "ENOENT",
            b"no/such/": "ENOENT",
            b"/no such": "ENOENT",
            b"dangling/x": "ENOENT",
            b"no\n\xff": "ENOENT",
        }
        refusals |= {b"file": "ENOTDIR", b"file/x/y": "ENOTDIR", b"%s/file" % os.fsencode(home): "ENOTDIR"}
        for cwd, refusal in refusals.items():
            told = far(shell, ["touch", "started"], home, known=known, cwd=cwd)
            assert (told.refusal, told.pid, told.rest) == (refusal, 0, b"")
        assert not (home / "started").exists()

    def test_becomes_the_program_under_the_announced_pid(self, shell: str, known: bool, home: Path) -> None:
        for argv in (["/bin/sh", "-c", "echo $$"], ["/bin/sh", "-c", "echo $$", "\n"]):
            told = far(shell, argv, home, known=known, cwd=b".", env={"A": b"1"})
            assert told.rest == b"%d\n" % told.pid
            assert told.login_shell == f"/bin/{shell}"

    def test_runs_programs_rather_than_builtins(self, shell: str, known: bool, home: Path) -> None:
        for name in ("echo", "print", "cd", "a=b"):
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text('#!/bin/sh\nprintf "program %s" "$1"\n')
            program.chmod(0o755)
            for env in (None, {"A": b"1"}, {"PATH": b"%s/bin:/usr/bin" % os.fsencode(home)}):
                path = "/usr/bin:/bin" if env and "PATH" in env else f"{home}/bin:/usr/bin:/bin"
                assert (
                    far(shell, [name, r"\t"], home, known=known, env=env, inherited={"PATH": path}).rest
                    == rb"program \t"
                )

    def test_reports_a_missing_program_by_its_status(self, shell: str, known: bool, home: Path) -> None:
        for argv in (["no-such-program"], ["/no/such/program"]):
            line = command_line(argv, nonce=NONCE, login_shell=f"/bin/{shell}" if known else None)
            assert run(shell, line, home).returncode == 127


@pytest.mark.parametrize("shell", POSIX)
def test_every_sh_decodes_octal(shell: str, home: Path) -> None:
    """/bin/sh is another shell on other systems."""
    sh = home / "sh"
    sh.write_text(f'#!/bin/sh\nexec {" ".join(POSIX[shell])} "$@"\n')
    sh.chmod(0o755)
    batch: list[Argument] = [*NASTY, *RAW]
    (home / "é\n").mkdir()
    line = command_line(dump(*batch), nonce=NONCE, cwd="é\n".encode())
    done = run("dash", line.replace(b"/bin/sh", os.fsencode(sh), 1), home, LC_ALL="C.UTF-8")
    assert announced(done).rest == dumped(*batch)


@pytest.mark.parametrize("shell", FOREIGN)
def test_a_line_for_a_wrongly_guessed_shell_has_no_effect(shell: str, home: Path) -> None:
    """The escapes are words that such a shell would read as the end of a quoted string, and more commands behind it."""
    escapes = [
        "\\'",
        ";touch pwned;",
        ";end;touch pwned #",
        "a b';end;touch pwned #",
        "`touch pwned`",
        "!#",
        "!#'",
        "(",
    ]
    calls: list[tuple[list[str], str | None]] = [(["touch", "pwned", *PLAIN], None), (["touch", "pwned"], "a b")]
    calls += [(["/bin/echo", *words], None) for words in itertools.permutations(escapes, 2)]
    calls += [(["/bin/echo", word], directory) for directory, word in itertools.permutations(escapes, 2)]
    for argv, cwd in calls:
        line = command_line(argv, nonce=NONCE, cwd=os.fsencode(cwd) if cwd else None, login_shell="/bin/sh")
        assert line.startswith(b"if ")
        done = run(shell, line, home)
        assert NONCE.encode() not in done.stdout
    assert [path.name for path in home.iterdir() if path.name not in (".config", ".local", ".cache")] == []


def test_universal_lines_have_only_what_all_shells_read_the_same() -> None:
    # printable without a quote and "!", and backslashes only before octal digits
    word = rb"'(?:[ \x22-&(-\x5b\]-~]|\\0[0-3][0-7][0-7])*'"
    for argument in NASTY:
        for cwd in (None, b"/a b", os.fsencode(f"/{argument}")):
            line = command_line(["a", argument], nonce=NONCE, cwd=cwd, env={"A": b"1"})
            assert re.fullmatch(rb"exec /bin/sh -c %s( sh)?( %s)+" % (word, word), line)


@pytest.mark.parametrize("argument", BEYOND)
def test_known_shells_too_get_ascii_without_newline(argument: str) -> None:
    for argv, cwd in ((["a", argument], None), (["a"], os.fsencode(f"/{argument}"))):
        line = command_line(argv, nonce=NONCE, cwd=cwd, login_shell="/bin/sh")
        assert line.isascii()
        assert b"\n" not in line


@given(
    st.lists(arguments, min_size=1).filter(lambda argv: argv[0] not in ("", b"")),
    arguments,
    st.sampled_from(["sh", None]),
)
def test_every_line_is_ascii_without_newline_and_nul(
    argv: list[str | bytes], cwd: str | bytes, shell: str | None
) -> None:
    argv = [b"./" + os.fsencode(argv[0]), *argv[1:]]
    line = command_line(argv, nonce=NONCE, cwd=os.fsencode(cwd) or None, env={"A": os.fsencode(cwd)}, login_shell=shell)
    assert line.isascii()
    assert not {10, 0} & set(line)


@settings(max_examples=60, deadline=None)
@given(st.lists(arguments, max_size=20), st.sampled_from(sorted(SHELLS)), st.booleans())
def test_promise_45_passes_any_argv(argv: list[str | bytes], shell: str, known: bool) -> None:
    argv = ["end of options", *argv]
    with tempfile.TemporaryDirectory() as home:
        assert far(shell, dump(*argv), Path(home), known=known).rest == dumped(*argv)


def test_takes_text_bytes_and_paths(home: Path) -> None:
    argv: list[Argument] = ["a", b"\xff", "\udcff", PurePosixPath("/a b")]
    assert far("dash", dump(*argv), home).rest == b"a\0\xff\0\xff\0/a b\0"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"argv": []}, "no program"),
        ({"argv": ["", "a"]}, "no program"),
        ({"argv": ["-x"]}, "'-'"),
        ({"argv": ["a", "b", "c\0d"]}, r"argv\[2\] has a NUL"),
        ({"argv": ["a", "\ud800"]}, r"argv\[1\] has a lone surrogate"),
        ({"cwd": b"a\0b"}, "cwd has a NUL"),
        ({"cwd": b""}, "cwd is empty"),
        ({"env": {"A": b"s3cret\0"}}, "variable A has a NUL"),
        ({"env": {"A=B": b"1"}}, "variable 'A=B'"),
        ({"env": {"A\0": None}}, r"variable 'A\\x00'"),
        ({"env": {"1A": b"1"}}, "variable '1A'"),
        ({"env": {"": b"1"}}, "variable ''"),
        ({"env": {"A\n": b"1"}}, r"variable 'A\\n'"),
        ({"nonce": "a b"}, "nonce"),
        ({"argv": ["a", "x" * MAX_LINE_BYTES]}, r"131,1\d\d bytes long .* 131,071: .* input="),
    ],
)
def test_promise_55_refuses_what_cannot_be_passed(keywords: dict[str, object], message: str) -> None:
    call = {"argv": ["a"], "nonce": NONCE, **keywords}
    with pytest.raises(ValueError, match=message) as caught:
        command_line(call.pop("argv"), **call)  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_longest_line_runs(shell: str, home: Path) -> None:
    known = "/bin/sh" if shell in POSIX else None
    spare = MAX_LINE_BYTES - len(command_line(["/bin/true", ""], nonce=NONCE, login_shell=known))
    line = command_line(["/bin/true", "x" * spare], nonce=NONCE, login_shell=known)
    assert len(line) == MAX_LINE_BYTES
    assert announced(run(shell, line, home)).rest == b""


def test_knows_posix_shells_by_name() -> None:
    assert all(is_posix_shell(path) for path in ("/bin/sh", "/usr/local/bin/bash", "zsh", "/usr/bin/ksh93"))
    assert not any(
        is_posix_shell(path) for path in ("", "/usr/bin/fish", "/bin/tcsh", "/bin/rbash", "/usr/sbin/nologin")
    )


def test_shown_command_lines_are_right_for_sh(home: Path) -> None:
    argv = dump(*NASTY, b"\xff")
    done = subprocess.run(["/bin/sh", "-c", os.fsencode(join_posix(argv))], capture_output=True, check=True)
    assert done.stdout == dumped(*NASTY, b"\xff")
    assert join_posix(["a=b", "c=d"]) == "'a=b' c=d"
    assert join_posix([]) == ""
    assert quote_posix(PurePosixPath("/a b")) == "'/a b'"


def pieces(stream: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return (stream[low:high] for low, high in itertools.pairwise(edges))


noises = st.lists(
    st.sampled_from([NONCE.encode(), b" ", b"1", b"ENOENT", b"E", b"$$", b"\n", b"\r\n", b"x"]), max_size=12
).map(b"".join)


class TestAnnouncement:
    @given(noises, st.sampled_from([b"\n", b"\r\n"]), st.binary(), st.lists(st.integers(min_value=0)))
    def test_any_split_gives_the_same(self, noise: bytes, end: bytes, rest: bytes, cuts: list[int]) -> None:
        stream = noise + b"\n" + NONCE.encode() + b" 77 /bin/zsh" + end + rest
        whole = Announcement(NONCE).feed(stream)
        assert whole is not None
        reader, answer, left = Announcement(NONCE), None, b""
        for piece in pieces(stream, cuts):
            if answer is None:
                answer = reader.feed(piece)
            else:
                left += piece
        assert answer is not None
        told = (answer.pid, answer.login_shell, answer.refusal, answer.noise, answer.rest + left)
        assert told == (whole.pid, whole.login_shell, whole.refusal, whole.noise, whole.rest)

    @pytest.mark.parametrize(
        "noise", [b"", b"motd\n", b"no newline ", b"q7Rk", b"if echo q7Rk2 $$ x\n", b"q7Rk2 \nq7Rk2 EX\n"]
    )
    def test_splits_noise_from_output(self, noise: bytes) -> None:
        told = Announcement(NONCE).feed(noise + b"q7Rk2 77 \nq7Rk2 78 /bin/sh\n")
        assert told == Announced(77, "", None, b"q7Rk2 78 /bin/sh\n", noise)

    @pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "EACCES"])
    def test_reads_a_refusal(self, name: str) -> None:
        told = Announcement(NONCE).feed(b"hello\r\nq7Rk2 " + name.encode() + b"\r\n")
        assert told == Announced(0, "", name, b"", b"hello\r\n")

    @pytest.mark.parametrize("size", [1_000, 100_000])
    def test_keeps_the_last_noise_only(self, size: int) -> None:
        reader = Announcement(NONCE)
        sent = b""
        for letter in string.ascii_letters.encode():
            chunk = bytes([letter]) * size
            sent += chunk
            assert reader.feed(chunk) is None
            assert reader.noise == sent[-MAX_NOISE_BYTES:]
        told = reader.feed(b"q7Rk2 77 /bin/sh\nx")
        assert told == Announced(77, "/bin/sh", None, b"x", sent[-MAX_NOISE_BYTES:])


def test_noise_of_login_files_is_not_output(home: Path) -> None:
    (home / ".zshenv").write_text(
        "echo hello; printf 'no newline'; chpwd() { echo moved; }; cat() { echo function; }\n"
    )
    told = far("zsh", ["cat", "/dev/null"], home, known=True, cwd=b"/")
    assert (told.noise, told.rest) == (b"hello\nno newlinemoved\n", b"")


def test_a_directory_without_permission_is_refused_with_eacces(tmp_path: Path) -> None:
    """As another user, since root may enter everything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        closed = Path(name) / "closed"
        (closed / "inner").mkdir(parents=True)
        Path(name).chmod(0o755)
        closed.chmod(0o700)
        for start, cwd in ((name, closed), (name, closed / "inner"), (name, closed / "no" / "such"), (closed, "inner")):
            line = command_line(["true"], nonce=NONCE, cwd=os.fsencode(cwd), login_shell="/bin/sh")
            done = subprocess.run(["/bin/sh", "-c", line], cwd=start, user=65534, capture_output=True)
            assert announced(done).refusal == "EACCES"


@pytest.mark.parametrize("word", ["echo", "printf"])
def test_zsh_may_be_bin_sh(word: str, home: Path) -> None:
    """Promise 46: it then knows no ``exec command``, and its exec prefers builtins."""
    (home / "sh").symlink_to(shutil.which("zsh") or "zsh")
    line = command_line([word, "--version"], nonce=NONCE).replace(b"/bin/sh", os.fsencode(home / "sh"))
    assert b"GNU coreutils" in announced(run("bash", line, home)).rest


@pytest.mark.parametrize("shell", SHELLS)
def test_a_line_for_any_shell_keeps_every_argument(shell: str, home: Path) -> None:
    """What a command that feeds a shell is given (`CommandMachine(joins="shell")`)."""
    for words in (["a b", "$HOME", "*", "", "-n"], NASTY, RAW[:400]):
        done = run(shell, shell_line(["/usr/bin/printf", r"%s\0", *words]), home)
        assert done.stdout == dumped(*words)
        assert not done.stderr
    for wrong in ([], [""], ["a\0"], ["-x"]):
        with pytest.raises(ValueError, match=r"argv|program"):
            shell_line(wrong)
