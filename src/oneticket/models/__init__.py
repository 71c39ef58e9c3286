"""Networks: the built-in ones by name, and users' own by import path."""

from __future__ import annotations

import importlib
import pkgutil

from oneticket.models.base import (
    MODELS,
    Factory,
    ModelFacts,
    ModelSpec,
    blank,
    build,
    check_size,
    code_digest,
    complete,
    find_factory,
    initialise,
    model,
)

__all__ = [
    "MODELS",
    "Factory",
    "ModelFacts",
    "ModelSpec",
    "blank",
    "build",
    "check_size",
    "code_digest",
    "complete",
    "find_factory",
    "initialise",
    "model",
]

# A new family of networks is one file in this folder: importing it registers what it holds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
