"""The process of one contestant: reads its order from stdin, writes what it measured as the last line of stdout."""

from __future__ import annotations

import importlib
import json
import resource
import sys

from benchmarks._measure import Measured, Site


def main() -> None:
    """Do what stdin orders."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    order = json.load(sys.stdin)
    function = getattr(importlib.import_module(order["module"]), order["function"])
    measured: Measured = function(Site(**order["site"]), **order["options"])
    print(json.dumps(measured))


main()
