"""Runs shown in other programs: the curves, densities and test results of each finished cell."""

from __future__ import annotations

from oneticket.tracking.base import TRACKERS, TrackedCell, Tracker, open_trackers
from oneticket.tracking.listener import tracked

__all__ = ["TRACKERS", "TrackedCell", "Tracker", "open_trackers", "tracked"]
