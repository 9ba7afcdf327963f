"""Rules for sudo that hold for the users of a test, and are gone afterwards."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/etc/sudoers.d")


@contextlib.contextmanager
def sudoers(*lines: str) -> Iterator[None]:
    """Let lines of sudoers(5) hold in this block."""
    name = f"aioremote-test-{os.getpid()}-{secrets.token_hex(4)}"
    draft, file = FOLDER / f"{name}.draft", FOLDER / name  # sudo passes over names with a dot
    try:
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.chmod(0o440)
        subprocess.run(["/usr/sbin/visudo", "-cqf", draft], check=True)
        draft.rename(file)
        yield
    finally:
        draft.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
