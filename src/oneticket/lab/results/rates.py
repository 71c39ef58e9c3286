"""Learning rates: of an arm that was tried with several, the rows of the one that validation chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def best_rates(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with no learning rate of their own, and of each arm those of the best rate; their order stays.

    ``rows`` hold what the plan knows of a row and its ``val_accuracy``. The best rate has the highest mean over the
    seeds, of equal ones it is the lowest; while an experiment is unfinished, rates that lack a seed which another has
    are left out. The test accuracy plays no part.
    """
    tried: dict[tuple[Any, ...], dict[float, list[float]]] = {}
    for row in rows:
        if row.get("lr") is not None:
            tried.setdefault(_arm(row), {}).setdefault(row["lr"], []).append(row["val_accuracy"])
    best = {}
    for arm, by_rate in tried.items():
        seeds = max(map(len, by_rate.values()))
        whole = {rate: sum(values) / seeds for rate, values in by_rate.items() if len(values) == seeds}
        best[arm] = min(whole, key=lambda rate: (-whole[rate], rate))
    return [row for row in rows if row.get("lr") is None or row["lr"] == best[_arm(row)]]


_KEYS = ("experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked")


def _arm(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in _KEYS)
