"""Colours and markers of arms, dashes of sources, fillings of rescalings: the same in every figure and report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

Dash = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib."""

# Okabe and Ito (2008) and, for what follows, Paul Tol's "muted": distinguishable with every common colour blindness,
# dark enough for white paper and light enough for a dark screen.
ARM_COLOURS = {
    "dense": "#7f7f7f",
    "own": "#009e73",
    "winning": "#0072b2",
    "preserved": "#56b4e9",
    "layer-permuted": "#e69f00",
    "random": "#d55e00",
    "even": "#cc79a7",
    "erk": "#aa4499",
    "pruned-finetune": "#999933",
}
LATER_COLOURS = ("#44aa99", "#882255", "#6a5acd", "#b8860b", "#117733", "#cc6677", "#8c564b", "#2f7f9f", "#7a9a01")

# Filled markers that can also be drawn hollow: arms differ in them too, for print in grey.
ARM_MARKERS = {
    "dense": "H",
    "own": "*",
    "winning": "o",
    "preserved": "s",
    "layer-permuted": "^",
    "random": "D",
    "even": "v",
    "erk": "P",
    "pruned-finetune": "X",
}
LATER_MARKERS = ("h", "<", ">", "p", "d", "8")

SOURCE_DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
    (0, (8, 2)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (2, 2)),
    (0, (8, 1.5, 2, 1.5)),
)
SOLID: Dash = "-"

Fill = Literal["full", "none", "left", "bottom", "right", "top"]
RESCALE_FILLS: dict[str, Fill] = {"none": "full", "layer": "none", "fan-in": "left", "matched": "bottom"}
LATER_FILLS: tuple[Fill, ...] = ("right", "top")


def arm_colour(arm: str) -> str:
    """The colour of an arm as ``#rrggbb``; for an arm without a colour of its own, chosen by the digest of its name."""
    return ARM_COLOURS.get(arm) or LATER_COLOURS[_number(arm) % len(LATER_COLOURS)]


def arm_order(arm: str) -> tuple[int, str]:
    """Sorting key: the arms with a colour of their own first, in its order, then the others by name."""
    arms = list(ARM_COLOURS)
    return (arms.index(arm) if arm in arms else len(arms), arm)


def arm_marker(arm: str) -> str:
    """The marker of an arm; for an arm without one of its own, chosen by the digest of its name."""
    return ARM_MARKERS.get(arm) or LATER_MARKERS[_number(arm) // len(LATER_COLOURS) % len(LATER_MARKERS)]


def source_dashes(sources: Iterable[str]) -> dict[str, Dash]:
    """A line style for each source, in alphabetical order, so that it is the same in every panel of one report."""
    return {source: SOURCE_DASHES[place % len(SOURCE_DASHES)] for place, source in enumerate(sorted(set(sources)))}


def rescale_fill(rescale: str) -> Fill:
    """How the markers of a rescaling are filled."""
    return RESCALE_FILLS.get(rescale) or LATER_FILLS[_number(rescale) % len(LATER_FILLS)]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
