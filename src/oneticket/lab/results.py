"""Results: one tidy table, a row for each trained network, rebuilt from the cells of a store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from oneticket.errors import InputError
from oneticket.lab.rates import best_rates
from oneticket.lab.store import Store

if TYPE_CHECKING:  # tables are read without torch, which planning loads
    from oneticket.lab.plan import Plan
    from oneticket.lab.recall import Origin

COLUMNS = (
    "experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked",
    "density", "effective_density", "round", "seed", "test_accuracy", "val_accuracy", "test_loss", "best_epoch",
    "steps_to_converge", "search_trainings", "train_flops", "masked_flops", "seconds", "cell",
)  # fmt: skip
"""The columns of the table. Accuracies and densities are fractions, losses nats, seconds wall-clock."""

FORMATS = ("table", "csv", "json", "parquet")

TidyRow = dict[str, Any]


def remember(plan: Plan, store: Store, origin: Origin | None = None) -> None:
    """Write down in the store which cell fills which row, and of which cells and of what the plan was made."""
    names = [field.name for field in msgspec.structs.fields(plan.rows[0])]
    rows = [[getattr(row, name) for name in names] for row in plan.rows]
    content = {"columns": names, "rows": rows, "cells": list(plan.cells), "origin": msgspec.to_builtins(origin)}
    store.write_experiment(plan.experiment, content)


def tidy(store: Store, *, experiment: str | None = None) -> list[TidyRow]:
    """The rows whose cells are finished, experiments by name, each in the order of its plan.

    Of an arm that was tried with several learning rates, those of the one that validation chose.
    """
    known: list[dict[str, Any]] = []
    for content in store.experiments(experiment):
        known += [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
    figures = {cell: store.figures(cell) for cell in store.finished({row["cell"]: None for row in known})}
    rows = [figures[row["cell"]] | row for row in known if row["cell"] in figures]
    return [{column: row.get(column) for column in COLUMNS} for row in best_rates(rows)]


def as_csv(rows: Sequence[TidyRow]) -> str:
    """Comma-separated values with a header; an absent value is empty, numbers are written in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[TidyRow]) -> str:
    """A JSON list of objects."""
    return json.dumps(list(rows), indent=1, allow_nan=False)


def as_parquet(rows: Sequence[TidyRow]) -> bytes:
    """A Parquet file; needs pyarrow, which the extra ``data`` brings."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet needs pyarrow", expected="pip install 'oneticket[data]'") from None
    sink = io.BytesIO()
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()
