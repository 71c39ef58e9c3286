"""Pruning: which weights go. Criteria score, allocations decide where, controls make the masks of comparison arms."""

from __future__ import annotations

import importlib
import pkgutil

from oneticket.prunable import Prunable
from oneticket.pruning.base import (
    Evidence,
    Scores,
    allocation,
    control,
    criterion,
    kept_count,
    prune,
)
from oneticket.pruning.circumstances import Circumstances

__all__ = [
    "Circumstances",
    "Evidence",
    "Prunable",
    "Scores",
    "allocation",
    "control",
    "criterion",
    "kept_count",
    "prune",
]

# A new criterion, allocation or control is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
