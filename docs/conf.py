"""Sphinx settings for the site. Built by ``nox -s docs`` against the installed wheel; a warning is an error."""

import re
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "aioremote"
author = "aioremote contributors"
copyright = "2026, aioremote contributors"
release = installed_version("aioremote")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # lists of attributes link each name; several classes have a `stdout`

html_theme = "furo"
html_title = f"aioremote {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Cancellation", "Concurrency", "Source", ("Raises from the iteration", "Raises")]


_QUOTED = re.compile(r"\"[^\"\s]*:[^\"\s]*\"")
_INLINE_SECTION = re.compile(r"( *)(Cancellation|Concurrency|Source): (.+)")


def _prepare_docstring(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make napoleon read docstrings as they are meant: one-line sections, and colons in what a property is."""
    if what == "property" and lines:
        # What stands before a colon would be taken for its type, save in literals.
        lines[0] = _QUOTED.sub(r"``\g<0>``", lines[0].replace(": ", " - "))
    prepared: list[str] = []
    inside = False
    for line in lines:
        found = _INLINE_SECTION.fullmatch(line)
        inside = bool(found) or (inside and bool(line.strip()))
        if found:
            prepared += ["", f"{found[1]}{found[2]}:", f"{found[1]}    {found[3]}"]
        else:
            prepared.append("    " + line.lstrip() if inside else line)
    lines[:] = prepared


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=1)  # before napoleon
