"""Modules for the far end: those of named packages, from below their folders, and nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.outpost.conftest import probing, pythons

from aioremote import ShipError
from aioremote.outpost.library import Library
from aioremote.transports.local import LocalTransport

FILES = {
    "mypkg/__init__.py": "VALUE = 1\n",
    "mypkg/tools.py": "from . import VALUE\nfrom .deep.more import *\nimport json\ndef f(): return VALUE, MORE\n",
    "mypkg/deep/__init__.py": "",
    "mypkg/deep/more.py": "MORE = 2\n",
    "mypkg/lonely.py": "LONELY = 3\n",
    "mypkg/broken.py": "raise KeyError('on purpose')  # looked for\n",
    "mypkg/latin.py": "# coding: latin-1\nTEXT = '\xe9'\n",
    "mypkg/effect.py": "import pathlib; pathlib.Path('was-imported').touch()\n",
    "mypkg/data.txt": "secret",
    "single.py": "ONE = 1\n",
    "secret.py": "SECRET = 1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    (tmp_path / "mypkg/leak.py").symlink_to(tmp_path / "secret.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    assert {name.partition(".")[0] for name in set(sys.modules) - before}.isdisjoint({"mypkg", "single", "secret"})


async def test_modules_are_imported_from_the_near_end(folder: Path, aioremote_no_leaks: None) -> None:
    """In every Python, one question a module and none for what was sent before."""
    for python in pythons().values():
        library = Library(["mypkg", "single"])
        known = {name: (m.text, m.file, m.is_package) for name, m in library.closure("mypkg.tools").items()}
        transport = LocalTransport()
        async with probing(transport, library, python=python) as probe:
            await probe.ask(f"importing(['mypkg', 'single'], {known!r})")
            assert await probe.ask("__import__('mypkg.tools').tools.f()") == (1, 2)
            assert probe.asked == []
            assert await probe.ask("[__import__('mypkg.lonely').lonely.LONELY, __import__('single').ONE]") == [3, 1]
            assert await probe.ask("__import__('mypkg.latin').latin.TEXT") == "\xe9"
            told = str(await probe.ask("__import__('mypkg.broken')"))
            assert f'File "{folder}/mypkg/broken.py", line 1' in told
            assert "looked for" in told
            for _ in range(2):  # what is not there is asked for once
                assert "No module named 'mypkg.nothing'" in str(await probe.ask("__import__('mypkg.nothing')"))
            assert "No module named 'secret'" in str(await probe.ask("__import__('secret')"))
            assert probe.asked == ["mypkg.lonely", "single", "mypkg.latin", "mypkg.broken", "mypkg.nothing"]
        await transport.aclose()


NAMES = [
    *("secret", "os", "", ".", "..", "mypkg.", ".mypkg", "mypkg..tools", "mypkg.data", "mypkg.data.txt"),
    *("../x", "mypkg/../secret", "mypkg.../secret", "mypkg./etc/passwd", "/etc/passwd", "mypkg.\0", "mypkg.tools.f"),
    *("mypkg.leak", "mypkg.a b", "mypkg.TOOLS", "mypkg." + "a" * 5000, "mypkg.\udcff", "mypkg.__init__.x"),
]


def test_a_hostile_far_end_gets_nothing_and_opens_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 34: names outside the allow-list, paths, links that lead out: no file is opened, nothing imported."""
    monkeypatch.chdir(folder)
    library = Library(["mypkg"])
    seen: list[tuple[str, object]] = []
    watching = True

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and event in ("open", "import", "exec", "compile"):
            seen.append((event, args[0]))

    sys.addaudithook(watch)
    try:
        answers = {name: library.find(name) for name in NAMES}
        assert (seen, {name for name, found in answers.items() if found}) == ([], set())
        assert library.find("mypkg.effect") is not None
        assert {event for event, _ in seen} == {"open"}
        assert {path for _, path in seen} == {str(folder / "mypkg/effect.py")}
    finally:
        watching = False
    assert not (folder / "was-imported").exists()


def test_what_a_module_imports_is_known_beforehand(folder: Path) -> None:
    library = Library(["mypkg.tools"])
    assert set(library.closure("mypkg.tools")) == {"mypkg", "mypkg.tools", "mypkg.deep", "mypkg.deep.more"}
    assert library.packages == {"mypkg"}


@pytest.mark.parametrize(("name", "why"), [("no_such", "no such package"), ("math", "cannot go"), ("", "cannot go")])
def test_a_package_that_cannot_go_is_told_at_once(name: str, why: str) -> None:
    with pytest.raises(ShipError, match=why):
        Library([name])


def test_a_folder_without_a_file_of_its_own_is_a_package(folder: Path) -> None:
    (folder / "spaced").mkdir()
    (folder / "spaced/inner.py").write_text("X = 1")
    library = Library(["spaced"])
    top, inner = library.find("spaced"), library.find("spaced.inner")
    assert top is not None
    assert (top.text, top.is_package) == ("", True)
    assert inner is not None
    assert (inner.text, inner.is_package) == ("X = 1", False)
