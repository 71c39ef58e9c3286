"""Folders of the user: the cache, which can always be made again, and the configuration, which holds decisions."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """``$XDG_CACHE_HOME/oneticket``, or ``~/.cache/oneticket``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "oneticket"


def config_home() -> Path:
    """``$XDG_CONFIG_HOME/oneticket``, or ``~/.config/oneticket``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "oneticket"
