"""The far loop's poller: the same by epoll and by poll."""

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioremote.outpost.far.polling import READ, WRITE, Poller


@pytest.fixture(params=["epoll", "poll"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poller]:
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll")
    made = Poller()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:  # the test has
            pass


def nothing(_: int) -> None:
    pass


def ready(poller: Poller, seconds: float | None = 0.0) -> list[tuple[int, int]]:
    return [(fd, mask) for fd, _, mask in poller.ready(seconds)]


def test_it_tells_what_was_asked_for(poller: Poller, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    poller.watch(reader, nothing)
    poller.watch(writer, nothing, WRITE)
    assert ready(poller) == [(writer, WRITE)]
    os.write(writer, b"x")
    assert sorted(ready(poller, None)) == sorted([(reader, READ), (writer, WRITE)])
    poller.watch(writer, nothing, 0)
    poller.watch(writer, nothing, 0)
    assert ready(poller, None) == [(reader, READ)]


def test_a_hang_up_is_told_as_what_was_asked_for(poller: Poller, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    poller.watch(reader, nothing)
    os.close(writer)
    assert ready(poller, None) == [(reader, READ)]


def test_an_entry_stands_until_it_is_changed(poller: Poller, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    poller.watch(reader, nothing)
    ((fd, entry, _),) = poller.ready(None)
    assert poller.stands(fd, entry)
    poller.watch(reader, nothing, 0)
    poller.watch(reader, print)  # another one, on a descriptor of the same number
    assert not poller.stands(fd, entry)


def test_a_closed_descriptor_can_still_be_given_up(poller: Poller, pipe: tuple[int, int]) -> None:
    poller.watch(pipe[0], nothing)
    os.close(pipe[0])
    poller.watch(pipe[0], nothing, 0)
    assert ready(poller) == []


def test_a_regular_file_is_always_ready(poller: Poller, pipe: tuple[int, int], tmp_path: Path) -> None:
    """Also for epoll, which takes none: what was watched before goes along."""
    poller.watch(pipe[1], nothing, WRITE)
    with tmp_path.joinpath("file").open("wb+") as file:
        poller.watch(file.fileno(), nothing)
        assert sorted(ready(poller, None)) == sorted([(pipe[1], WRITE), (file.fileno(), READ)])


def test_it_waits_no_longer_than_told(poller: Poller, pipe: tuple[int, int]) -> None:
    poller.watch(pipe[0], nothing)
    began = time.monotonic()
    assert ready(poller, 0.02) == []
    assert time.monotonic() - began >= 0.015
