"""Methods: how a network is trained from given masks and weights; some make masks or weights while training."""

from __future__ import annotations

import importlib
import pkgutil

from oneticket.methods.base import Lesson, Situation, callback_of, method, method_options, pretraining

__all__ = ["Lesson", "Situation", "callback_of", "method", "method_options", "pretraining"]

# A new method is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
