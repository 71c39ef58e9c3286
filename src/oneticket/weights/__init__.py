"""Weights: the values that the kept weights of an arm start from. Draws give them, rescalings adjust them."""

from __future__ import annotations

import importlib
import pkgutil

from oneticket.weights.base import Origins, State, draw
from oneticket.weights.context import RescalingContext, rescaling
from oneticket.weights.norms import norm_names, norms
from oneticket.weights.rescalings import rate_factors

__all__ = ["Origins", "RescalingContext", "State", "draw", "norm_names", "norms", "rate_factors", "rescaling"]

# A new draw, choice of norms or rescaling is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
