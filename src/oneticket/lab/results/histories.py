"""Histories: a row for each epoch of each network of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from oneticket.lab.cells.store import Store
from oneticket.lab.results.layers import NETWORK
from oneticket.training.results import EpochRecord

COLUMNS = (*NETWORK, "epoch", "step", "lr", "train_loss", "val_accuracy", "val_loss")
"""The columns. ``step`` is the number of optimiser steps at the end of the epoch, counted from the beginning of the
recipe, also where the network was rewound; losses are in nats, accuracies fractions, and None without validation."""


def histories(store: Store, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each epoch of each network; of a training that diverged, the epochs that it finished.

    Parameters and errors are those of :func:`oneticket.lab.results.layers.layers`, rows those of :data:`COLUMNS`.
    """
    found = []
    for row in rows:
        path = store.file(row["cell"], "history.jsonl")
        network = {column: row[column] for column in NETWORK}
        try:
            records = [msgspec.json.decode(line, type=EpochRecord) for line in path.read_bytes().splitlines()]
        except (OSError, msgspec.DecodeError) as error:
            raise store.damaged(path, error) from None
        found += [network | msgspec.structs.asdict(record) for record in records]
    return found
