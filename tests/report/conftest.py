"""A table as the laboratory makes it, out of invented numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from oneticket.report import SummaryRow

Row = dict[str, Any]
LEVELS = {"fashion": 0.886, "mnist": 0.978, "fashion-low": 0.921}
LOSSES = {"winning": 0.004, "own": 0.003, "preserved": 0.018, "layer-permuted": 0.026, "random": 0.035}


def network(
    arm: str, source: str, target: str, density: float, seed: int, *, rescale: str = "none", **known: Any
) -> Row:
    """One row; ``source`` and ``target`` as ``name@recipe``, numbers drawn from a stream named after the row."""
    draw = random.Random(f"{arm} {source} {target} {density} {rescale} {seed}")
    shared = random.Random(f"{target} {seed}").gauss(0, 0.0012)
    sparse = (1 - density) ** 6
    foreign = 0.003 if source not in ("", target) else 0.0
    loss = 0.0 if arm == "dense" else (LOSSES.get(arm, 0.01) + foreign) * sparse * (0.05 / density) ** 0.6
    level = LEVELS.get(target.partition("@")[0], 0.9)
    accuracy = round(level - loss + shared + draw.gauss(0, 0.0012), 4)
    name, _, recipe = source.partition("@")
    return {
        "experiment": "fashion-small",
        "model": "lenet-300-100",
        "source": name,
        "source_recipe": recipe,
        "target": target.partition("@")[0],
        "target_recipe": target.partition("@")[2],
        "arm": arm,
        "rescale": rescale,
        "density_asked": density,
        "density": density,
        "effective_density": None,
        "round": None if arm == "dense" else 7,
        "seed": seed,
        "test_accuracy": accuracy,
        "val_accuracy": accuracy + 0.002,
        "test_loss": round(0.4 - accuracy / 5, 5),
        "best_epoch": 8,
        "steps_to_converge": 1875,
        "search_trainings": 0 if arm == "dense" else 7,
        "train_flops": 9.6e11,
        "masked_flops": 9.6e11 * density,
        "seconds": round(11 + draw.random(), 2),
        "cell": hashlib.sha256(repr((arm, source, target, density, rescale, seed)).encode()).hexdigest(),
        "lr": None,
        "budget": "recipe",
        "own_steps": 2344 if arm in ("winning", "own") else 1875,
        "total_steps": 1875 if arm in ("dense", "random") else 9000,
        "total_samples": 240_000 if arm in ("dense", "random") else 1_152_000,
        "total_masked_flops": 9.6e11 * density if arm in ("dense", "random") else 4e12,
        "test_images": None,
        "criterion": "" if arm in ("dense", "random") else "magnitude",
        "allocation": "" if arm in ("dense", "random") else "global",
        "k": "" if arm in ("dense", "random") else "1ep",
        "prune": None if arm in ("dense", "random") else 0.2,
    } | known


def table(
    *,
    sources: Sequence[str] = ("fashion@sgd", "mnist@sgd"),
    targets: Sequence[str] = ("fashion@sgd", "mnist@sgd", "fashion-low@adam"),
    arms: Sequence[str] = ("winning", "own", "random", "preserved"),
    densities: Sequence[float] = (0.21, 0.055, 0.018),
    rescales: Sequence[str] = ("none",),
    seeds: int = 6,
) -> list[Row]:
    """Every arm from every source on every target; the target's own ticket once, the dense network once."""

    def rows() -> Iterator[Row]:
        for target, seed in product(targets, range(seeds)):
            yield network("dense", "", target, 1.0, seed)
            for arm, density, rescale in product(arms, densities, rescales):
                for source in (target,) if arm == "own" else sources:
                    yield network(arm, source, target, density, seed, rescale=rescale)

    return list(rows())


@pytest.fixture(scope="session")
def make_table() -> Callable[..., list[Row]]:
    """The function above, for tables of any extent."""
    return table


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """2 sources × 3 targets × 4 arms × 3 densities × 6 seeds, and the dense networks."""
    return table()


@pytest.fixture(scope="session")
def only() -> Callable[..., SummaryRow]:
    """``only(summary, arm="winning")``: the one row of the summary whose group has these values."""

    def find(found: Sequence[SummaryRow], **where: Any) -> SummaryRow:
        (row,) = [row for row in found if all(getattr(row.group, key) == value for key, value in where.items())]
        return row

    return find
