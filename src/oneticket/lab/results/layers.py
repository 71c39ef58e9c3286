"""Layers: what each layer of the networks of a store keeps, and how far its weights have moved from W_k."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart, Description, Initial
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.masks import Masks
from oneticket.metrics.comparison import distance, sign_flips
from oneticket.weights import State

NETWORK = (
    "experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked",
    "seed", "cell",
)  # fmt: skip
COLUMNS = (*NETWORK, "layer", "place", "weights", "kept", "flipped", "distance", "norm")
"""The columns. ``place`` counts the prunable layers from 0, in the order of the network; ``weights`` and ``kept`` are
numbers of weights. ``flipped`` of the kept weights have another sign than at W_k; ``distance`` is ‖m ∘ (W_T − W_k)‖₂,
``norm`` ‖m ∘ W_k‖₂. The last three are None for networks that did not begin at W_k as it was."""


def layers(store: Store, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each prunable layer of each network.

    A network that began at W_k is a dense one whose W_k was stored, or one with rewound weights that were not rescaled.
    Networks whose training diverged left no masks, and are left out.

    Parameters
    ----------
    store : Store
        The store with the finished cells.
    rows : Iterable[Mapping[str, Any]]
        Rows of its tidy table.

    Returns
    -------
    list of dict
        Rows of :data:`COLUMNS`.

    Raises
    ------
    InputError
        For a damaged cell.
    """
    cells = ParentCells(store, Path(), None)  # neither images nor code are looked at
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["test_loss"] is None:
            continue
        network = {column: row[column] for column in NETWORK}
        found += [network | layer for layer in _layers(row["cell"], cells)]
    return found


def _layers(cell: str, cells: ParentCells) -> list[dict[str, Any]]:
    masks = load_masks(cells.store.file(cell, "masks.safetensors"))
    end = load_state(cells.store.file(cell, "weights-end.safetensors"), masks)
    masks = Masks({name: masks[name] for name in end if name in masks})  # in the order of the network
    begun = _at_k(description_of(cell, cells), cell, cells)
    moved = begun is not None and all(name in begun and begun[name].shape == mask.shape for name, mask in masks.items())
    flips = sign_flips(begun, end, masks).layers if begun is not None and moved else {}
    far = distance(begun, end, masks).layers if begun is not None and moved else {}
    return [
        {
            "layer": layer.name,
            "place": place,
            "weights": layer.total,
            "kept": layer.kept,
            "flipped": flips[layer.name][0] if moved else None,
            "distance": far[layer.name][0] if moved else None,
            "norm": far[layer.name][1] if moved else None,
        }
        for place, layer in enumerate(masks.table())
    ]


def _at_k(description: Description, cell: str, cells: ParentCells) -> State | None:
    """W_k, where the network of ``cell`` began or passed there; None for other networks."""
    start = description.start
    if isinstance(start, Initial) and description.snapshots:
        return load_state(cells.store.file(cell, f"weights-{description.snapshots[0]}.safetensors"))
    if not isinstance(start, ArmStart) or start.weights != "rewound" or start.rescale != "none" or start.pretrained:
        return None
    giver = start.values or start.ticket
    return cells.rewound(giver) if giver is not None else None


def description_of(cell: str, cells: ParentCells) -> Description:
    """The description of a finished cell; InputError where another version wrote it."""
    try:
        return cells.description(cell)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the cell {cell[:12]}… was written by another version ({error})", expected="a new run of the experiment"
        ) from None
