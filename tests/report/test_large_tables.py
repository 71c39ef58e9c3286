"""A large table is worked through once: the work for each row does not grow with the table, and the text stays."""

from __future__ import annotations

import csv
import gc
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from oneticket.cli import tables
from oneticket.lab.results import table as tidy
from oneticket.report import summary, summary_table, tuning


def rows_of(sources: int, arms: int, seeds: int = 3) -> list[dict[str, Any]]:
    """A table of one target, in which no two networks have the same results."""
    rows = []
    for number, (source, arm, seed) in enumerate(product(range(sources), range(arms), range(seeds))):
        row = {column: "" if column in tidy.WORDS else None for column in tidy.COLUMNS}
        row |= {"experiment": "large", "model": "net", "rescale": "none", "budget": "recipe"}
        row |= {"source": f"s{source}", "source_recipe": "sgd", "target": "t", "target_recipe": "sgd"}
        row |= {"arm": f"arm-{arm}", "density_asked": 0.5, "density": 0.5, "seed": seed, "cell": f"cell {number}"}
        row |= {
            "test_accuracy": 0.5 + number / 10**5,
            "val_accuracy": 0.5,
            "test_loss": 0.1 + number,
            "budget": "recipe",
        }
        rows.append(row)
    return rows


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Counter[str]]:
    """Count the calls of functions of a module."""
    counted: Counter[str] = Counter()

    def watch(module: Any, name: str) -> Counter[str]:
        real = getattr(module, name)

        def watched(*given: Any) -> Any:
            counted[name] += 1
            return real(*given)

        monkeypatch.setattr(module, name, watched)
        return counted

    return watch


def test_arms_are_compared_in_pairs_only_where_results_agree(calls: Callable[[Any, str], Counter[str]]) -> None:
    counted = calls(tuning, "_same")
    rows = rows_of(sources=20, arms=10)
    assert tuning.alike(rows) == []
    assert counted["_same"] == 0  # 19,900 pairs of arms and sources
    for row in rows:
        if row["arm"] == "arm-7" and row["source"] == "s3":
            twin = next(r for r in rows if r["arm"] == "arm-2" and r["source"] == "s5" and r["seed"] == row["seed"])
            row |= {what: twin[what] for what in ("test_accuracy", "val_accuracy", "test_loss")}
    (told,) = tuning.alike(rows)
    assert told.startswith("arm-2 and arm-7 on t@sgd have the same results")
    assert counted["_same"] == 1


@pytest.mark.parametrize("sources", [20, 40])
def test_each_number_of_a_file_is_converted_once(
    sources: int, tmp_path: Path, calls: Callable[[Any, str], Counter[str]]
) -> None:
    rows = rows_of(sources, arms=3)
    path = tmp_path / "results.csv"
    path.write_text(tidy.as_csv(rows))
    counted = calls(tidy, "_finite")
    assert tidy.from_csv(path) == rows
    different = sum(len({row[c] for row in rows} - {None}) for c in set(tidy.COLUMNS) - tidy.WORDS - tidy.COUNTS)
    assert counted["_finite"] == different


def test_lines_that_end_early_or_late(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    header = [*tidy.NEEDED, "lr", "cell"]
    line = ["e", "t", "sgd", "dense", "1", "0", "0.5", "1.5"]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, [], line, [*line[:5], "1", *line[6:], "0.1", "abc", "spare"]])
    short, long = tidy.from_csv(path)
    assert (short["lr"], short["cell"], short["seed"]) == (None, "line 2", 0)
    assert (long["lr"], long["cell"], long["rescale"], long["budget"]) == (0.1, "abc", "none", "recipe")


@pytest.mark.parametrize("name", ["arm-1", "Ünterkühlt", "网络"])
def test_long_tables_look_as_rich_sets_them(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"arm": name} if row["arm"] == "arm-1" else row for row in rows_of(sources=4, arms=3)]
    table = summary_table(summary(rows))

    def shown(most: int, width: int) -> str:
        monkeypatch.setattr(tables, "_MOST_LAID_OUT", most)
        monkeypatch.setattr(tables, "_console", lambda: Console(width=width))
        tables.show(table)
        return capsys.readouterr().out

    assert shown(0, 240) == shown(10**6, 240)
    assert shown(0, 40) == shown(10**6, 40)  # what does not fit is rich's to shorten


def test_collection_goes_on_after_a_table() -> None:
    with tables.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
