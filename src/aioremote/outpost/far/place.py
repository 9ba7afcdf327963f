"""Where a call runs: the directory and environment of the near task's scopes, undone after the call."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Place"]


class Place(object):
    """A directory and changes of the environment, for the time of a ``with`` block.

    Args:
        cwd: where to; None stays.
        env: variables, with None to unset one.
        edits: directories and where PATH gets them: -1 for the end, None takes one out.
    """

    def __init__(
        self, cwd: "bytes | None", env: "dict[str, bytes | None]", edits: "Iterable[tuple[int | None, bytes]]"
    ) -> "None":
        self._cwd = cwd
        self._env = dict(env)
        self._edits = list(edits)
        self._back = ""
        self._before: "dict[str, bytes | None]" = {}

    def __enter__(self) -> "None":
        if self._cwd is not None:
            back = os.getcwd()
            os.chdir(self._cwd)
            self._back = back
        if self._edits:
            path = self._env["PATH"] if "PATH" in self._env else _value("PATH")
            self._env["PATH"] = _edited(path or b"", self._edits)
        self._before = {name: _value(name) for name in self._env}
        _set(self._env)

    def __exit__(self, *_: "object") -> "None":
        _set(self._before)
        if self._back:
            os.chdir(self._back)


def _edited(path: "bytes", edits: "Iterable[tuple[int | None, bytes]]") -> "bytes":
    between = os.pathsep.encode()
    folders = path.split(between) if path else []
    for index, folder in edits:
        if index is None:
            folders = [known for known in folders if known != folder]
        else:
            folders.insert(len(folders) if index < 0 else index, folder)
    return between.join(folders)


def _value(name: "str") -> "bytes | None":
    value = os.environ.get(name)
    return None if value is None else os.fsencode(value)


def _set(values: "dict[str, bytes | None]") -> "None":
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = os.fsdecode(value)  # Windows has no os.environb
