"""Metrics: paths through a network, barriers between solutions, arms, masks and states compared."""

from oneticket.metrics.barrier import Barrier, error_barrier
from oneticket.metrics.comparison import (
    Distance,
    Overlap,
    SignFlips,
    best_epoch,
    distance,
    overlap,
    sign_flips,
    steps_to,
)
from oneticket.metrics.paths import DeadUnits, Paths, find_paths
from oneticket.metrics.reachability import UnknownPaths
from oneticket.statistics import (
    TransferEfficiency,
    matching,
    smallest_matching_density,
    transfer_efficiency,
)

__all__ = [
    "Barrier",
    "DeadUnits",
    "Distance",
    "Overlap",
    "Paths",
    "SignFlips",
    "TransferEfficiency",
    "UnknownPaths",
    "best_epoch",
    "distance",
    "error_barrier",
    "find_paths",
    "matching",
    "overlap",
    "sign_flips",
    "smallest_matching_density",
    "steps_to",
    "transfer_efficiency",
]
