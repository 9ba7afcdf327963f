"""The quick way to a `FileStat`."""

from dataclasses import FrozenInstanceError, astuple, fields

import pytest

from aioremote import FileStat
from aioremote._core.stats import file_stat


def test_it_makes_what_the_constructor_makes() -> None:
    values = [0o100644, *range(1, 10)]
    names = [field.name for field in fields(FileStat)]
    made = file_stat(*values)
    assert made == FileStat(**dict(zip(names, values, strict=True)))
    assert astuple(made) == tuple(values)
    assert hash(made) == hash(file_stat(*values))
    with pytest.raises(FrozenInstanceError):
        made.st_size = 1  # type: ignore[misc]
