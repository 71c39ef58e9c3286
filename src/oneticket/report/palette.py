"""Colours, line styles and markers of arms, sources and rescalings: the same in every figure and report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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

# (line style, marker); filled markers that can also be drawn hollow.
SOURCE_STYLES = (
    ("-", "o"),
    ((0, (5, 1.5)), "s"),
    ((0, (1.2, 1.2)), "^"),
    ((0, (5, 1.5, 1.2, 1.5)), "D"),
    ((0, (8, 2)), "v"),
    ((0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)), "P"),
    ((0, (2, 2)), "X"),
    ((0, (8, 1.5, 2, 1.5)), "h"),
)
OWN_STYLE = ("-", "*")

Fill = Literal["full", "none", "left", "bottom", "right", "top"]
RESCALE_FILLS: dict[str, Fill] = {"none": "full", "layer": "none", "fan-in": "left", "matched": "bottom"}
LATER_FILLS: tuple[Fill, ...] = ("right", "top")

Dash = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class LineStyle:
    """A line style and a marker of matplotlib."""

    dash: Dash
    marker: str


def arm_colour(arm: str) -> str:
    """The colour of an arm as ``#rrggbb``; for an arm without a colour of its own, chosen by the digest of its name."""
    return ARM_COLOURS.get(arm) or LATER_COLOURS[_number(arm) % len(LATER_COLOURS)]


def arm_order(arm: str) -> tuple[int, str]:
    """Sorting key: the arms with a colour of their own first, in its order, then the others by name."""
    arms = list(ARM_COLOURS)
    return (arms.index(arm) if arm in arms else len(arms), arm)


def source_styles(sources: Iterable[str]) -> dict[str, LineStyle]:
    """A style for each source, in alphabetical order, so that it is the same in every panel of one report."""
    return {
        source: LineStyle(*SOURCE_STYLES[place % len(SOURCE_STYLES)])
        for place, source in enumerate(sorted(set(sources)))
    }


def rescale_fill(rescale: str) -> Fill:
    """How the markers of a rescaling are filled."""
    return RESCALE_FILLS.get(rescale) or LATER_FILLS[_number(rescale) % len(LATER_FILLS)]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
