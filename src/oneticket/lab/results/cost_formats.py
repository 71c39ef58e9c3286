"""Formats of the cost report: aligned text for a terminal, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import compress
from statistics import fmean
from typing import Any

import msgspec

from oneticket.lab.planning.rows import RowKey
from oneticket.lab.results.cost import COLUMNS, Bill, CostReport

FORMATS = ("table", "csv", "json")

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_PLACE = ("experiment", "model", "source", "target", "arm", "rescale", "weights %")
_TOTALS = {
    "networks": "the networks themselves",
    "own_searches": "searches for one of them",
    "shared_searches": "searches for several",
    "everything": "everything",
    "unshared": "had nothing been shared",
}
_BILL = {
    "trainings": "trainings",
    "samples": "samples",
    "train_flops": "FLOPs",
    "masked_flops": "mask-aware",
    "seconds": "seconds",
    "bytes": "bytes",
}

Lines = list[list[str]]


def as_csv(report: CostReport) -> str:
    """The rows as comma-separated values with a header; an absent value is empty, numbers are written in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.rows)
    return text.getvalue()


def as_json(report: CostReport) -> str:
    """One JSON object: ``rows``, ``totals`` and ``break_even``."""
    return json.dumps(msgspec.to_builtins(report), indent=1, allow_nan=False)


def as_table(report: CostReport) -> str:
    """Text for a terminal: the mean of each arm over its seeds, the sums, and when sharing a search pays."""
    parts = [_arms(report), _sums(report)]
    if report.break_even:
        parts.append(_break_even(report))
    return "\n\n".join("\n".join(_aligned(lines)) for lines in parts) + "\n"


def _arms(report: CostReport) -> Lines:
    groups: dict[RowKey, list[dict[str, Any]]] = {}
    for row in report.rows:
        groups.setdefault(RowKey.of(row), []).append(row)
    costs = [f"{part}{what}" for part in ("", "search_", "shared_") for what in _BILL if f"{part}{what}" in COLUMNS]
    shown = [what for what in costs if not what.startswith("shared_") or what == "shared_trainings"]
    header = [*_PLACE, "n", *(_spoken(what) for what in shown)]
    lines = [
        [*_place(key), str(len(rows)), *(_short(fmean(row[what] for row in rows)) for what in shown)]
        for key, rows in groups.items()
    ]
    return _told_apart([header, *lines])


def _spoken(column: str) -> str:
    """``search_masked_flops`` → ``search mask-aware``."""
    part, _, what = column.partition("_") if column.startswith(("search_", "shared_")) else ("", "", column)
    return f"{part} {_BILL[what]}".strip()


def _sums(report: CostReport) -> Lines:
    bills: list[tuple[str, Bill]] = [(text, getattr(report.totals, name)) for name, text in _TOTALS.items()]
    return [["", *_BILL.values()], *([text, *(_short(getattr(bill, what)) for what in _BILL)] for text, bill in bills)]


def _break_even(report: CostReport) -> Lines:
    def told(targets: int | None) -> str:
        return "never" if targets is None else str(targets)

    header = [*_PLACE, "n", "one ticket pays from … targets: mask-aware", "samples", "seconds"]
    lines = []
    for entry in report.break_even:
        numbers = (entry.targets_by_masked_flops, entry.targets_by_samples, entry.targets_by_seconds)
        lines.append([*_place(entry), str(entry.seeds), *map(told, numbers)])
    return _told_apart([header, *lines])


def _place(key: RowKey) -> list[str]:
    roles = [f"{key.source}@{key.source_recipe}" if key.source else "", f"{key.target}@{key.target_recipe}"]
    return [key.experiment, key.model, *roles, key.arm, key.rescale, f"{100 * key.density_asked:.3g}"]


def _told_apart(lines: Lines) -> Lines:
    """``lines`` without the key columns that are equal in every line; the arm always stays."""
    spare = [name in _PLACE and name != "arm" for name in lines[0]]
    shown = [not spare[i] or len({line[i] for line in lines[1:]}) > 1 for i in range(len(spare))]
    return [list(compress(line, shown)) for line in lines]


def _short(value: float) -> str:
    """Three digits with a prefix: ``1.23G``."""
    for size, prefix in _PREFIXES:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width, words flush left and numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = [not any(cell[:1].isdigit() for cell in column[1:]) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ]
        yield "  ".join(cells).rstrip()
