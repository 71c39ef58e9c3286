"""Canonical JSON and digests: the same description always gets the same name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# One encoder for all texts: json.dumps would create one per call.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text.

    Numbers keep their type: 160 and 160.0 differ, so convert values to their typed structs first.
    """
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, as 64 hexadecimal digits."""
    return digest_of_text(canonical_json(value))


def digest_of_text(text: str) -> str:
    """SHA-256 of a text that is already canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()
