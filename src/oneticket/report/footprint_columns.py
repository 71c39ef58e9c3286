"""The columns of the table of footprints: accuracy, bytes, and the measured time of a prediction, as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oneticket.report.formatting import Table, density, quantity, spread
from oneticket.report.groups import NONE, at

_Text = Callable[[Mapping[str, Any]], str]

_WORDS: dict[str, _Text] = {
    "experiment": lambda row: str(row["experiment"]),
    "model": lambda row: str(row["model"]),
    "target": lambda row: at(row["target"], row["target_recipe"]),
    "source": lambda row: at(row["source"], row["source_recipe"]),
    "arm": lambda row: str(row["arm"]),
    "rescale": lambda row: str(row["rescale"]),
    "run by": lambda row: str(row["way"]),
}
_NUMBERS: dict[str, _Text] = {
    "weights %": lambda row: density(row["density"]),
    "n": lambda row: str(row["n"]),
    "accuracy %": lambda row: spread(row["test_accuracy"], row["test_accuracy_deviation"]),
    "stored": lambda row: NONE if row["bytes"] is None else f"{quantity(row['bytes'])}B",
    "ms, one image": lambda row: f"{1e3 * row['seconds_1']:.3g}",
    "ms an image, of 128": lambda row: f"{1e3 * row['seconds_128']:.3g}",
}
_ORDER = (
    "experiment", "model", "target", "source", "weights %", "arm", "rescale", "n", "accuracy %", "stored", "run by",
    "ms, one image", "ms an image, of 128",
)  # fmt: skip
_OPTIONAL = ("experiment", "model", "target", "source", "rescale")


def footprint_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of ``oneticket results --footprint`` as text; columns that say the same in each row are left out.

    Accuracies are percentages, mean ± sample standard deviation over the seeds; times are milliseconds per image.
    """
    texts = {**_WORDS, **_NUMBERS}
    columns = [c for c in _ORDER if c not in _OPTIONAL or len({texts[c](row) for row in rows}) > 1]
    return Table(
        header=tuple(columns),
        lines=tuple(tuple(texts[column](row) for column in columns) for row in rows),
        numeric=tuple(column in _NUMBERS for column in columns),
    )
