"""Many machines at once: hosts, fan-out, reports."""

from aioremote.fleet.fanout import Fleet, FleetLines, FleetStream
from aioremote.fleet.report import Outcome, Report

__all__ = ["Fleet", "FleetLines", "FleetStream", "Outcome", "Report"]
