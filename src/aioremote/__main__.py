"""``python -m aioremote``: the same as the program ``aioremote``."""

import sys

from aioremote.cli import main

if __name__ == "__main__":
    sys.exit(main())
