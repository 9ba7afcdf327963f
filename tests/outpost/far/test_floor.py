"""Every shipped file runs on every far Python, as it stands."""

import subprocess
from pathlib import Path

import pytest
from tests.outpost.conftest import FAR, FLOOR, pythons

MODULES = sorted(path.stem for path in FAR.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("version", FLOOR)
def test_every_shipped_module_can_be_imported(version: str, tmp_path: Path) -> None:
    """With the standard library alone; warnings are errors, so syntax that is on its way out counts as gone."""
    (tmp_path / "outpost").symlink_to(FAR)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + "".join(f"import outpost.{m}\n" for m in MODULES)
    argv = [pythons((version,))[version], "-I", "-B", "-W", "error", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
