"""Engines: where cells are computed. One file each, found by name."""

from oneticket.lab.execution.engines.base import (
    ENGINES,
    CellFailed,
    Crashed,
    DiskFull,
    Done,
    Engine,
    OutOfMemory,
    Progress,
    Stalled,
    Task,
    WorkerDied,
    engine,
)
from oneticket.lab.execution.engines.local import LocalEngine

__all__ = [
    "ENGINES",
    "CellFailed",
    "Crashed",
    "DiskFull",
    "Done",
    "Engine",
    "LocalEngine",
    "OutOfMemory",
    "Progress",
    "Stalled",
    "Task",
    "WorkerDied",
    "engine",
]
