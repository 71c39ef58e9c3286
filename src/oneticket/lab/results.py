"""Results: one tidy table, a row for each trained network, rebuilt from the cells of a store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from oneticket.errors import InputError, unknown
from oneticket.lab.plan import Plan, Row
from oneticket.lab.store import Store

COLUMNS = (
    "experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked",
    "density", "effective_density", "round", "seed", "test_accuracy", "val_accuracy", "test_loss", "best_epoch",
    "steps_to_converge", "search_trainings", "train_flops", "masked_flops", "seconds", "cell",
)  # fmt: skip
"""The columns of the table. Accuracies and densities are fractions, losses nats, seconds wall-clock."""

FORMATS = ("table", "csv", "json", "parquet")

TidyRow = dict[str, Any]


def remember(plan: Plan, store: Store) -> None:
    """Write down in the store which cell fills which row."""
    names = list(Row.__struct_fields__)
    rows = [[getattr(row, name) for name in names] for row in plan.rows]
    store.write_experiment(plan.experiment, {"columns": names, "rows": rows})


def tidy(store: Store, *, experiment: str | None = None) -> list[TidyRow]:
    """The rows whose cells are finished, experiments by name, each in the order of its plan."""
    rows: list[TidyRow] = []
    records: dict[str, dict[str, Any] | None] = {}
    names = []
    for content in store.experiments():
        known = [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
        names += [row["experiment"] for row in known[:1]]
        for row in known:
            if experiment is not None and row["experiment"] != experiment:
                continue
            cell = row["cell"]
            if cell not in records:
                records[cell] = store.read(cell) if store.has(cell) else None
            record = records[cell]
            if record is not None:
                rows.append(_row(row, record))
    if experiment is not None and experiment not in names:
        raise unknown("experiment", experiment, names, where=str(store.root))
    return rows


def _row(known: dict[str, Any], record: dict[str, Any]) -> TidyRow:
    facts = {**record["outcome"], **record["cost"], **known}
    return {column: facts.get(column) for column in COLUMNS}


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
