"""Overlaps: how many weights the masks of two networks share, beside chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks
from oneticket.metrics.comparison import overlap

_PLACE = ("experiment", "model", "target", "target_recipe", "density_asked", "seed")
_ONE = ("arm", "source", "source_recipe")
COLUMNS = (
    *_PLACE, *_ONE, *(f"other_{column}" for column in _ONE), "cell", "other_cell", "overlap", "chance", "layer_chance",
)  # fmt: skip
"""The columns. ``overlap`` is the number of weights that both masks keep over that of those that either keeps;
``chance`` the same for masks with these numbers of weights at random in the network, ``layer_chance`` at random in each
layer."""


def overlaps(store: Store, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each two networks of one target, density and seed whose masks have equal shapes.

    Dense networks are left out, and networks whose training diverged; of an arm and a source, the first rescaling
    counts, since rescaling leaves masks alone.

    Parameters and errors are those of :func:`oneticket.lab.results.layers.layers`, rows those of :data:`COLUMNS`.
    """
    places: dict[tuple[Any, ...], dict[tuple[Any, ...], Mapping[str, Any]]] = {}
    for row in rows:
        if row["arm"] != "dense" and row["test_loss"] is not None:
            networks = places.setdefault(tuple(row[column] for column in _PLACE), {})
            networks.setdefault(tuple(row[column] for column in _ONE), row)
    return [line for networks in places.values() for line in _of_place(store, list(networks.values()))]


def _of_place(store: Store, rows: list[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    masks = {row["cell"]: load_masks(store.file(row["cell"], "masks.safetensors")) for row in rows}
    shapes = {cell: {name: mask.shape for name, mask in found.items()} for cell, found in masks.items()}
    for row, other in combinations(rows, 2):
        if shapes[row["cell"]] == shapes[other["cell"]]:
            found = overlap(masks[row["cell"]], masks[other["cell"]])
            yield {
                **{column: row[column] for column in (*_PLACE, *_ONE)},
                **{f"other_{column}": other[column] for column in _ONE},
                "cell": row["cell"],
                "other_cell": other["cell"],
                "overlap": found.value,
                "chance": found.chance,
                "layer_chance": found.layer_chance,
            }
