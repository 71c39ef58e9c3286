"""Weights: the values that the kept weights of an arm start from. Draws give them, rescalings adjust them."""

from __future__ import annotations

import importlib
import pkgutil

from oneticket.weights.base import Origins, State, draw
from oneticket.weights.rescaling import RescalingContext, rescaling

__all__ = ["Origins", "RescalingContext", "State", "draw", "rescaling"]

# A new draw or rescaling is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
