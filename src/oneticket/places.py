"""The user's cache, which can always be made again: decoded data, and verdicts on this machine's kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """``$XDG_CACHE_HOME/oneticket``, or ``~/.cache/oneticket``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "oneticket"
