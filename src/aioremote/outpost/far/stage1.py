"""The first shipped module that runs: it makes the others importable from their sources and starts the entry module.

It moves the stream to the near end away from descriptors 0 and 1, so that nothing that prints or reads can disturb it.
Not for what the outpost then does: that is the entry module's business.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType
else:
    ModuleSpec = type(sys.__spec__)  # to import it takes a millisecond

__all__ = ["PACKAGE", "Sources", "file_name", "start"]

PACKAGE = "aioremote_outpost"


def file_name(name: "str") -> "str":
    """Return what tracebacks show as the file of a module of the package."""
    return "aioremote/outpost/far/%s.py" % name


class Sources:
    """Finds and loads the modules of one package from what was shipped, compiling each when it is imported.

    ``linecache`` asks `get_source`, so that tracebacks show the lines.

    Args:
        package: its name.
        sources: text by name within the package.
        code: what is compiled already, by the same names.
        rest: more sources, packed; unpacked when one of them is asked for.
    """

    def __init__(
        self, package: "str", sources: "dict[str, str]", code: "dict[str, CodeType]", rest: "bytes" = b""
    ) -> None:
        self._package = package
        self._sources = sources
        self._code = code
        self._rest = rest

    def find_spec(self, name: "str", path: "object" = None, target: "object" = None) -> "ModuleSpec | None":
        """Return the spec of a shipped module, None for any other."""
        is_package = name == self._package
        within = self._within(name)
        if not is_package:
            ours = name.startswith(self._package + ".")
            if not ours or (within not in self._code and self._source(within) is None):
                return None
        spec = ModuleSpec(name, self, origin=file_name(within), is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def _within(self, name: "str") -> "str":
        return name[len(self._package) + 1 :] or "__init__"

    def _source(self, within: "str") -> "str | None":
        if within not in self._sources and self._rest:
            import zlib

            words = zlib.decompress(self._rest).decode().split("\0")
            self._rest = b""
            self._sources.update(zip(words[::2], words[1::2]))  # noqa: B905  # not in 3.6
        return self._sources.get(within)

    def create_module(self, spec: "ModuleSpec") -> "None":
        """Leave it to Python."""

    def exec_module(self, module: "object") -> "None":
        """Run the module's source in its namespace."""
        space = vars(module)
        name = space["__name__"]
        code = self._code.pop(self._within(name), None)
        exec(code or compile(self.get_source(name), space["__file__"], "exec", dont_inherit=True), space)

    def get_source(self, name: "str") -> "str":
        """Return the source of a shipped module."""
        return self._source(self._within(name)) or ""


def start(
    sources: "dict[str, str]",
    entry: "str",
    nonce: "str",
    options: "dict[str, object]",
    code: "dict[str, CodeType] | None" = None,
    rest: "bytes" = b"",
) -> "None":
    """Start the entry module: its ``main(read_fd, write_fd, err_fd, nonce, options)`` is the rest of this process.

    What else there is goes to `Sources`. Before that the near end gets its answer: nonce, version, pid, and the
    executable in hexadecimal. What goes wrong earlier leaves its traceback on standard error.
    """
    del sys.argv[1:]
    read_fd, write_fd, err_fd = _take_streams()
    sys.meta_path.insert(0, Sources(PACKAGE, sources, code or {}, rest))
    module = PACKAGE + "." + entry
    __import__(module)
    version = "%d.%d.%d" % sys.version_info[:3]
    answer = "%s %s %d %s\n" % (nonce, version, os.getpid(), os.fsencode(sys.executable or "").hex())
    _write_all(write_fd, answer.encode())
    sys.modules[module].main(read_fd, write_fd, err_fd, nonce, options)


def _take_streams() -> "tuple[int, int, int]":
    """Duplicate the streams; then 0 reads nothing, and what is printed goes where errors go."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        err_fd = os.dup(2)
    except OSError:  # started without one
        err_fd = os.dup(null)
    os.dup2(null, 0)
    os.dup2(err_fd, 1)
    os.dup2(err_fd, 2)
    os.close(null)
    return read_fd, write_fd, err_fd


def _write_all(fd: "int", data: "bytes") -> "None":
    import select

    while data:
        select.select([], [fd], [])
        data = data[os.write(fd, data) :]
