"""The outpost: a Python at the far end of any byte stream, and the near side of it. Not for what machines offer."""
