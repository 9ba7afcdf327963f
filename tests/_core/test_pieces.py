"""What of a far listing may be written, and with which permissions."""

import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioremote._core.pieces import Piece, Tally, TreeOptions, check_names, checked, is_safe_link, kind_of_special
from aioremote.errors import UnsafePathError
from aioremote.types import FileStat

FOLDER, FILE = FileStat(st_mode=0o40755, st_size=0), FileStat(st_mode=0o100644, st_size=8)

parts = st.sampled_from(["a", "b", "..", ".", "", "c"])
texts = st.lists(parts, min_size=1, max_size=5).map("/".join)
places = st.sampled_from(["x", "a/x", "a/b/x", "a/y", "z", "c"])


@given(st.dictionaries(places, texts, min_size=1))
def test_safe_links_stay_in_the_tree_whatever_others_there_are(links: dict[str, str]) -> None:
    """Promise 63: also in chains of any length."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "root"
        (root / "a" / "b").mkdir(parents=True)
        kept = [place for place, text in links.items() if is_safe_link(place.encode(), text.encode())]
        for place in kept:
            (root / place).symlink_to(links[place])
        for place in kept:
            found = os.path.realpath(root / place)
            assert found == str(root) or found.startswith(f"{root}/"), (place, links)


@pytest.mark.parametrize(
    ("path", "target", "safe"),
    [
        (b"x", b"y", True),
        (b"x", b"./y", True),
        (b"a/x", b"../y", True),
        (b"x", b"../y", False),
        (b"x", b"/etc", False),
        (b"x", b"", False),
        (b"a/x", b"b/../y", False),
        (b"a/x", b"../../y", False),
    ],
)
def test_links(path: bytes, target: bytes, safe: bool) -> None:
    assert is_safe_link(path, target) is safe


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"n" * 5000])
def test_names_that_no_directory_holds(name: bytes) -> None:
    with pytest.raises(UnsafePathError) as caught:
        check_names("web1", b"dir", [name], set())
    assert caught.value.host == "web1"
    assert caught.value.path.startswith("dir/")


async def stream(*pieces: Piece) -> AsyncGenerator[Sequence[Piece]]:
    for piece in pieces:
        yield [piece]


@pytest.mark.parametrize(
    "pieces",
    [
        (Piece(b"", FOLDER), Piece(b"a/b", FILE)),
        (Piece(b"", FOLDER), Piece(b"a", FILE), Piece(b"a/b", FILE)),
        (Piece(b"", FOLDER), Piece(b"a", FILE), Piece(b"a", FOLDER)),
        (Piece(b"", FOLDER), Piece(b"a", FILE, b"half", last=False), Piece(b"a", FILE, b"half", last=False)),
        (Piece(b"", FOLDER), Piece(b"", FOLDER)),
        (Piece(b"", FILE), Piece(b"a", FILE)),
        (Piece(b"a", FILE),),
    ],
)
async def test_pieces_that_fit_no_tree(pieces: tuple[Piece, ...]) -> None:
    with pytest.raises(UnsafePathError):
        async for _ in checked(stream(*pieces), Tally(), host="web1", trusted=False):
            pass


async def test_parts_of_files_may_alternate() -> None:
    pieces = (
        Piece(b"", FOLDER),
        Piece(b"a", FILE, b"half", last=False),
        Piece(b"b", FILE, b"half", last=False),
        Piece(b"a", FILE, b"half", 4),
        Piece(b"b", FILE, b"half", 4),
    )
    found = [batch async for batch in checked(stream(*pieces), Tally(), host="web1", trusted=False)]
    assert found == [[piece] for piece in pieces]


def test_permissions() -> None:
    """Promise 66."""
    setuid = FileStat(st_mode=0o106777, st_size=0)
    assert TreeOptions().mode(setuid, 0o022) == 0o755
    assert TreeOptions().mode(setuid, 0o022, existing=0o100600) == 0o600
    assert TreeOptions(preserve=True).mode(setuid, 0o022) == 0o775
    assert TreeOptions(preserve=True, preserve_special=True).mode(setuid, 0o022) == 0o6777


def test_kinds() -> None:
    kinds = [kind_of_special(FileStat(st_mode=mode, st_size=0)) for mode in (0o100644, 0o10644, 0o140644, 0o644)]
    assert kinds == [None, "a pipe", "a socket", "of a kind that the far side does not tell"]
