"""Old public names: they lead to the new ones for one minor version, and warn."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

GONE_IN = "0.2"
"""The version that no longer has the names which were changed in 0.1."""


def old_names(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package some of whose names were changed.

    A package writes ``__getattr__ = old_names(__name__, {…})``, out of sight of type checkers: to them a package with
    a ``__getattr__`` has every name.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    names : Mapping[str, str]
        Old name → new name, both of that package.

    Returns
    -------
    Callable[[str], Any]
        Gives the thing of the new name with a DeprecationWarning, attributed to the line that used the old one; raises
        AttributeError for every other name.
    """

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        text = f"{package}.{name} is now called {names[name]}; the old name goes in oneticket {GONE_IN}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[package], names[name])

    return attribute
