"""Results: one tidy table, a row for each trained network, rebuilt from the cells of a store."""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.rows import RowKey
from oneticket.lab.results.lineage import SUMS, Lineage, Setting, Sums, replicate, setting_of, trials
from oneticket.lab.results.verdicts import claims_of

if TYPE_CHECKING:  # tables are read without torch, which planning loads
    from oneticket.lab.planning.plan import Plan
    from oneticket.lab.planning.plan_cache import Origin

COLUMNS = (
    "experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked",
    "density", "effective_density", "round", "seed", "test_accuracy", "val_accuracy", "test_loss", "best_epoch",
    "steps_to_converge", "search_trainings", "train_flops", "masked_flops", "seconds", "cell",
    "lr", "naturally_zero", "budget", "own_steps", "total_steps", "total_samples", "total_masked_flops",
    "distance", "test_images", "criterion", "allocation", "k", "prune", "tuned", "trials", "trials_at_edge",
    "bits_per_byte",
)  # fmt: skip
"""The columns of the table; new ones are appended. Accuracies and densities are fractions, losses nats, seconds
wall-clock.

``lr`` is the learning rate chosen by validation, where an arm was tried with several; ``naturally_zero`` the fraction
of the weights that dense training drove to zero, for ``natural-corrected``. ``own_steps`` are the optimiser steps that
a network's weights have behind them at the end, without those of a search; ``total_…`` are over all trainings that it
rests on, its own and those with other settings included. ``distance`` is ‖m ∘ (W_T − W)‖₂ over the prunable
weights, W those at the beginning of the network's own training. ``test_images`` is the size of the test split, in which
``test_accuracy`` is counted. ``criterion``, ``allocation``, ``k`` (the moment to which weights return) and ``prune``
(the fraction that a round removes) are those of the search that gave the network's mask. ``tuned`` is the setting
chosen by validation,
``trials`` the number of those that were tried, ``trials_at_edge`` what of it lies at the edge of its grid.
``bits_per_byte`` is ``test_loss`` / ln 2, for text.
"""

WORDS = frozenset(
    (
        "experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "cell", "budget",
        "criterion", "allocation", "k", "tuned", "trials_at_edge",
    )
)  # fmt: skip
_UNSAID = {"rescale": "none", "budget": "recipe"}
"""What an empty field stands for, where that is a word."""
COUNTS = frozenset(
    (
        "round", "seed", "best_epoch", "steps_to_converge", "search_trainings", "train_flops", "masked_flops",
        "own_steps", "total_steps", "total_samples", "total_masked_flops", "test_images", "trials",
    )
)  # fmt: skip
NEEDED = ("experiment", "target", "target_recipe", "arm", "density", "seed", "test_accuracy", "test_loss")
"""Required columns of a file; ``test_loss`` tells trainings that diverged from the others."""

FORMATS = ("table", "csv", "json", "parquet")

TidyRow = dict[str, Any]


def remember(plan: Plan, store: Store, origin: Origin | None = None, file: Path | None = None) -> None:
    """Write the plan into the store: which cell fills which row, all cells, the claims, and the inputs of the plan.

    Parameters
    ----------
    plan, store : the plan and the store.
    origin : the inputs of the plan, by which a finished experiment is recognised.
    file : the experiment file.

    Raises
    ------
    InputError : the store has the table of another file that gives its experiment the same name.
    """
    names = [field.name for field in msgspec.structs.fields(plan.rows[0])]
    rows = [[getattr(row, name) for name in names] for row in plan.rows]
    content: dict[str, Any] = {"columns": names, "rows": rows, "cells": list(plan.cells)}
    content |= {"origin": msgspec.to_builtins(origin), "file": str(file.resolve()) if file is not None else None}
    if file is not None:
        content["text"] = file.read_text(encoding="utf-8")
    content["findings"] = msgspec.to_builtins(plan.findings)
    known = store.table(plan.experiment)
    _refuse_to_overwrite(known, plan.experiment, content)
    content |= claims_of(plan, store, known)
    store.write_experiment(plan.experiment, content)


def _refuse_to_overwrite(known: Mapping[str, Any] | None, name: str, content: Mapping[str, Any]) -> None:
    """Refuse to replace the table of another file; that of the same file, edited or moved, is replaced."""
    ours, theirs = content["file"], known.get("file") if known else None
    if known is None or ours is None or theirs is None or ours == theirs:
        return
    if known["rows"] == json.loads(json.dumps(content["rows"])) or not _names(Path(theirs), name):
        return
    if not Path(theirs).samefile(ours):
        raise InputError(
            f"the store has the table of another experiment called '{name}', that of {theirs}",
            where=ours,
            expected="another name in one of the two files, or another store (--store)",
        )


def _names(file: Path, name: str) -> bool:
    """Whether ``file`` is there and holds an experiment of this name."""
    try:
        return bool(tomllib.loads(file.read_text(encoding="utf-8"))["name"] == name)
    except (OSError, ValueError, KeyError):
        return False


def tidy(store: Store, *, experiment: str | None = None) -> list[TidyRow]:
    """The rows whose cells are finished, experiments by name, each in the order of its plan.

    For an arm that was tried with several settings, only the rows of the one chosen by validation.
    """
    known: list[dict[str, Any]] = []
    for content in store.experiments(experiment):
        known += [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
    there, lineage = store.present({row["cell"]: None for row in known}), Lineage(store)
    rows = [lineage.figures(row["cell"]) | row for row in known if row["cell"] in there]
    tried = trials(row for row in rows if setting_of(row) is not None)

    def rests_on(row: Mapping[str, Any]) -> Collection[str]:
        return (row["cell"],) if setting_of(row) is None else tried[replicate(row)]

    return [_whole(row, lineage.sums(rests_on(row))) for row in best_settings(rows)]


def _whole(row: Mapping[str, Any], sums: Sums | None) -> TidyRow:
    """``row`` with all columns. Tables that were planned before there were budgets have that of the recipe."""
    whole: TidyRow = {column: row.get(column) for column in COLUMNS}
    whole["budget"] = whole["budget"] or "recipe"
    whole |= {column: whole[column] or "" for column in ("tuned", "trials_at_edge")}
    whole.update(zip(SUMS, sums or (None,) * len(SUMS), strict=True))
    return whole


def unlevel(store: Store, experiment: str | None = None) -> list[str]:
    """What the plans of the experiments in a store say of unlevel comparisons, each once.

    Other numbers of steps and trials are left out: the table has them, and the report says them of the networks that
    are there.
    """
    contents = list(store.experiments(experiment))
    found: dict[str, None] = {}
    for content in contents:
        prefix = f"{content['name']}: " if len(contents) > 1 else ""
        for finding in content.get("findings", ()):
            if finding["kind"] not in ("steps", "trials"):
                found[prefix + finding["text"]] = None
    return list(found)


def best_settings(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of arms of which nothing is tuned, and for other arms those of the best setting; the order stays.

    ``rows`` hold the columns known to the plan, and ``val_accuracy``. The best setting has the highest mean over the
    seeds; of equal ones that with the lowest learning rate wins, then the first. While an experiment is unfinished,
    settings that lack a seed which another one has are left out. The test accuracy is not used.
    """
    tried: dict[RowKey, dict[Setting, list[float]]] = {}
    for row in rows:
        if (setting := setting_of(row)) is not None:
            tried.setdefault(RowKey.of(row), {}).setdefault(setting, []).append(row["val_accuracy"])
    best = {}
    for arm, by_setting in tried.items():
        seeds = max(map(len, by_setting.values()))
        whole = {setting: sum(values) / seeds for setting, values in by_setting.items() if len(values) == seeds}
        best[arm] = min(whole, key=lambda setting: (-whole[setting], setting[1] or 0.0))
    return [row for row in rows if (setting := setting_of(row)) is None or setting == best[RowKey.of(row)]]


def undecided(store: Store, experiment: str | None = None) -> list[str]:
    """A sentence for each experiment of a store in which arms have settings that are not finished in all seeds."""
    told = []
    for content in store.experiments(experiment):
        rows = [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
        rows = [row for row in rows if setting_of(row) is not None]
        there = store.present({row["cell"]: None for row in rows})
        settings = {(RowKey.of(row), setting_of(row)) for row in rows}
        lacking = {(RowKey.of(row), setting_of(row)) for row in rows if row["cell"] not in there}
        if lacking:
            arms = ", ".join(sorted({key.arm for key, _ in lacking}))
            told.append(
                f"{content['name']}: not decided: {len(lacking)} of {len(settings)} settings are not finished in all "
                f"seeds, of {arms}; what is chosen for these arms may change"
            )
    return told


def as_csv(rows: Sequence[TidyRow]) -> str:
    """Comma-separated values with a header; an absent value is empty, numbers are written in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def from_csv(path: Path, *, experiment: str | None = None) -> list[TidyRow]:
    """Read the rows of a file that :func:`as_csv` wrote; optional columns may be missing.

    Missing values are None, the missing rescaling is ``none``, the missing budget ``recipe``, and the missing cell is
    the line number.

    Parameters
    ----------
    path : Path
        The CSV file.
    experiment : str, optional
        Keep only the rows of this experiment.

    Returns
    -------
    list of dict
        Rows of :data:`COLUMNS`.

    Raises
    ------
    InputError
        If the file can't be read, lacks a column of :data:`NEEDED`, or has an invalid value, and for an experiment
        that it does not hold.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark first
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"can't be read ({error})", where=str(path), expected="a table of results in CSV") from None
    for column in NEEDED:
        if column not in header:
            raise InputError(f"has no column '{column}'", where=str(path), expected="a table of results in CSV")
    rows = _typed(header, lines, path)
    if experiment is not None:
        names = sorted({row["experiment"] for row in rows})
        if experiment not in names:
            raise unknown("experiment", experiment, names, where=str(path))
        rows = [row for row in rows if row["experiment"] == experiment]
    return rows


def _typed(header: Sequence[str], lines: Sequence[Sequence[str]], path: Path) -> list[TidyRow]:
    """The lines of a file as rows; column by column, which takes a quarter of the time."""
    width, count = len(header), len(lines)
    whole = [line if len(line) >= width else [*line, *[""] * (width - len(line))] for line in lines]
    given = dict(zip(header, zip(*whole, strict=False), strict=False))
    columns: list[Sequence[Any]] = []
    for column in COLUMNS:
        texts = given.get(column) or ("",) * count
        if column == "cell":
            columns.append([text or f"line {number}" for number, text in enumerate(texts, start=2)])
        elif column in WORDS:
            columns.append([text or _UNSAID.get(column, "") for text in texts])
        else:
            columns.append(_numbers(column, texts, path))
    rows = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
    for column in ("experiment", "target", "arm", "seed"):
        for number, row in enumerate(rows, start=2):
            if row[column] in ("", None):
                where = f"{path}, line {number}, {column}"
                raise InputError("is empty", where=where, expected="one network per line")
    return rows


def _numbers(column: str, texts: Sequence[str], path: Path) -> list[Any]:
    convert: Callable[[str], Any] = int if column in COUNTS else _finite
    known: dict[str, Any] = {"": None}
    for text in filter(None, dict.fromkeys(texts)):  # most columns repeat a few values
        try:
            known[text] = convert(text)
        except ValueError:
            kind = "a whole number" if column in COUNTS else "a number"
            where = f"{path}, line {texts.index(text) + 2}, {column}"
            raise InputError(f"'{text}' is not {kind}", where=where, expected=f"{kind} or an empty field") from None
    return list(map(known.__getitem__, texts))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def as_json(rows: Sequence[TidyRow]) -> str:
    """A JSON list of objects."""
    return json.dumps(list(rows), indent=1, allow_nan=False)


def as_parquet(rows: Sequence[TidyRow]) -> bytes:
    """A Parquet file; needs pyarrow, which the extra ``data`` installs."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet needs pyarrow", expected="pip install 'oneticket[data]'") from None
    sink = io.BytesIO()
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()
