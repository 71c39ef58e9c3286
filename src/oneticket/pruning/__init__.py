"""Pruning: criteria score weights, allocations decide where to keep them, controls make masks for comparison arms."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from oneticket.prunable import Prunable
from oneticket.pruning.base import (
    ALLOCATIONS,
    CONTROLS,
    CRITERIA,
    Scores,
    allocation,
    control,
    criterion,
    kept_count,
    prune,
)
from oneticket.pruning.context import ControlContext, ScoreContext
from oneticket.renamed import old_names

__all__ = [
    "ALLOCATIONS",
    "CONTROLS",
    "CRITERIA",
    "ControlContext",
    "Prunable",
    "ScoreContext",
    "Scores",
    "allocation",
    "control",
    "criterion",
    "kept_count",
    "prune",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Circumstances": "ControlContext", "Evidence": "ScoreContext"})

# A new criterion, allocation or control is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
