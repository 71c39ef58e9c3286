"""Weights: the values that the kept weights of an arm start from. Draws give them, rescalings adjust them."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from oneticket.renamed import old_names
from oneticket.weights.base import DRAWS, DrawContext, State, draw
from oneticket.weights.context import RESCALINGS, Rescaled, RescalingContext, check_optimizer, rescale, rescaling
from oneticket.weights.norms import NORMS, norm_names, norms

__all__ = [
    "DRAWS",
    "NORMS",
    "RESCALINGS",
    "DrawContext",
    "Rescaled",
    "RescalingContext",
    "State",
    "check_optimizer",
    "draw",
    "norm_names",
    "norms",
    "rescale",
    "rescaling",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Origins": "DrawContext"})

# A new draw, choice of norms or rescaling is one file in this folder: importing it registers what it holds.
# `oneticket list` shows things in this order: by file, lsuv last.
for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name == "lsuv"):
    importlib.import_module(f"{__name__}.{_module.name}")
