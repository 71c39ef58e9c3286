"""Methods: how a network is trained from given masks and weights; some make masks or weights while training."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from oneticket.methods.base import (
    METHODS,
    PRETRAININGS,
    MethodContext,
    PretrainingTask,
    callback_of,
    method,
    method_options,
    numeric_options,
    pretraining,
)
from oneticket.renamed import old_names

__all__ = [
    "METHODS",
    "PRETRAININGS",
    "MethodContext",
    "PretrainingTask",
    "callback_of",
    "method",
    "method_options",
    "numeric_options",
    "pretraining",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__, {"Lesson": "PretrainingTask", "Situation": "MethodContext", "companion_of": "callback_of"}
    )

# A new method is one file in this folder: importing it registers what it holds.
# `oneticket list` shows things in this order: by file, dynamic_sparse last.
for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name == "dynamic_sparse"):
    importlib.import_module(f"{__name__}.{_module.name}")
