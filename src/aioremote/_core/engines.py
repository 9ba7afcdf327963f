"""The names of the ways in which files are reached, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Collection

from aioremote.errors import UnsupportedError

__all__ = ["ENGINES", "check_engine"]

ENGINES = ("auto", "sftp", "outpost", "tar", "local")


def check_engine(engine: str, able: Collection[str] = ENGINES, *, host: str = "") -> None:
    """Refuse an engine before anything is sent.

    Args:
        engine: the name that was given.
        able: those that this road has.
        host: the machine's name, for errors.

    Raises:
        ValueError: there is no such engine.
        UnsupportedError: this road does not have it.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: give one of {', '.join(ENGINES)}")
    if engine not in able:
        has = ", ".join(name for name in ENGINES if name in able) or "none"
        raise UnsupportedError(f"{host}: files cannot be reached by {engine!r} here, only by: {has}", host=host)
