"""Results of a tuned grid: the setting with the best validation accuracy, every trial in the ledger, gaps told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oneticket.lab.results.cost import cost_report
from oneticket.lab.results.table import best_settings, remember, tidy, undecided

KEYS = ("experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked")
TUNE = {"lr": [0.05, 0.4], "strength": [0.01, 1.0], "trials": 2}
GRID = {"targets": ["digits@sgd"], "arms": ["l1"], "sources": ["digits@sgd"], "densities": [0.5]}


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> tuple[Any, Any]:
    raw = shared_lab.raw(transfer=[GRID | {"tune": TUNE}], search__rounds=1, search__rewind=0)
    for recipe in raw["recipe"].values():
        recipe["epochs"] = 1
    plan, store = shared_lab.plan(raw), shared_lab.store("tuned")
    remember(plan, store)
    shared_lab.run(plan, store)
    return plan, store


def test_chosen_is_the_best_mean_over_the_seeds(done: tuple[Any, Any]) -> None:
    plan, store = done
    rows = tidy(store)
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in ("dense", "l1")]
    for arm in ("dense", "l1"):
        settings = list(dict.fromkeys(row.tuned for row in plan.rows if row.arm == arm))
        accuracy = np.array(
            [
                [store.figures(row.cell)["val_accuracy"] for row in plan.rows if (row.arm, row.tuned) == (arm, setting)]
                for setting in settings
            ]
        )
        best = settings[int(np.argmax(accuracy.mean(axis=1)))]
        assert {row["tuned"] for row in rows if row["arm"] == arm} == {best}
    assert {row["trials"] for row in rows} == {2}


def test_every_trial_is_in_the_ledger(done: tuple[Any, Any]) -> None:
    plan, store = done
    costs = {row["cell"]: row for row in cost_report(store).rows}
    for row in tidy(store):
        tried = [other.cell for other in plan.rows if (other.arm, other.seed) == (row["arm"], row["seed"])]
        assert len(tried) == 2
        figures = [store.figures(cell) for cell in tried]
        assert row["total_steps"] == sum(found["steps"] for found in figures) == 2 * row["own_steps"]
        assert row["total_masked_flops"] == sum(found["masked_flops"] for found in figures)
        cost = costs[row["cell"]]
        assert cost["search_trainings"] == 1
        assert cost["seconds"] + cost["search_seconds"] == pytest.approx(sum(found["seconds"] for found in figures))


def test_settings_that_are_not_finished_are_told(shared_lab: Any, done: tuple[Any, Any]) -> None:
    plan, store = done
    assert undecided(store) == []
    other = shared_lab.store("unfinished")
    remember(plan, other)
    (line,) = undecided(other)
    assert line.startswith("tiny: not decided: 4 of 4 settings are not finished in all seeds, of dense, l1;")


def test_of_equal_settings_the_lowest_rate_then_the_first_is_kept() -> None:
    def row(tuned: str, lr: float | None) -> dict[str, Any]:
        return dict.fromkeys(KEYS, "x") | {"tuned": tuned, "lr": lr, "seed": 0, "val_accuracy": 0.5}

    rows = [row("strength=1.0", None), row("strength=0.1", None)]
    assert best_settings(rows) == rows[:1]
    rows = [row("lr=0.2, cut=0.3", 0.2), row("lr=0.1, cut=0.5", 0.1), row("lr=0.1, cut=0.3", 0.1)]
    assert best_settings(rows) == rows[1:2]
