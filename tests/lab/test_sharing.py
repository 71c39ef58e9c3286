"""Nothing twice: what is trained when experiments with much in common are really run, counted at the training loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import oneticket.data.sources
import oneticket.lab.cells.run
from oneticket.lab.cells.description import ArmStart, Initial, Round
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan

GRID: dict[str, Any] = {
    "sources": ["low@sgd"],
    "targets": ["digits@sgd", "digits@adam"],
    "arms": ["winning", "own", "random", "preserved", "layer-permuted"],
    "densities": [0.5, 0.125],
}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of every training: from where it starts, what it keeps for others, and whether it is masked."""
    seen: list[tuple[Any, ...]] = []
    train = oneticket.lab.cells.run.train

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append((str(options["start"].step), tuple(options["snapshots"]), options["masks"] is not None))
        return train(*arguments, **options)

    monkeypatch.setattr(oneticket.lab.cells.run, "train", counted)
    return seen


def run(lab: Any, store: Store, **changes: Any) -> Plan:
    plan: Plan = lab.plan(seeds=1, recipe__sgd__epochs=2, **changes)
    assert lab.run(plan, store).complete
    return plan


def test_dense_runs_rewind_points_and_rounds_are_shared_by_arms_densities_and_targets(
    lab: Any, trainings: list[tuple[Any, ...]]
) -> None:
    """Three searches to round 3, each a dense training and two rounds; five arms at two densities on two targets.

    The dense training of each target is round 0 of its own search, and the only one of it; the network of ``random``
    is the same whatever the source.
    """
    plan = run(lab, lab.store(), transfer__0=GRID)
    dense, rounds, arms = 3, 3 * 2, 5 * 2 * 2
    assert len(trainings) == len(plan.cells) == dense + rounds + arms
    # Each dense training, and nothing else, keeps the one rewind point that its rounds and arms go back to.
    assert Counter(kept for _, kept, _ in trainings) == {("1ep",): dense, (): rounds + arms}
    assert Counter(start for start, _, masked in trainings if masked)["1ep"] == rounds
    shared = Counter(
        cell.start.ticket.dense for cell in plan.cells.values() if not isinstance(cell.start, Initial) and
        cell.start.ticket is not None
    )  # fmt: skip
    assert set(shared) == {i for i, cell in plan.cells.items() if isinstance(cell.start, Initial)}


def test_two_sources_of_an_arm_that_looks_at_none_are_one_training(lab: Any, trainings: list[tuple[Any, ...]]) -> None:
    grid = {**GRID, "sources": ["low@sgd", "digits@adam"], "targets": ["digits@sgd"], "arms": ["random"]}
    plan = run(lab, lab.store(), transfer__0=grid)
    assert len(plan.rows) == 1 + 2 * 2
    assert len(trainings) == 1 + 2


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"arms": [*GRID["arms"], "even"]}, {ArmStart: 2 * 2}),
        ({"densities": [0.5, 0.25, 0.125]}, {ArmStart: 5 * 2}),  # its round was trained on the way to a deeper one
        ({"targets": [*GRID["targets"], "low@sgd"]}, {ArmStart: 4 * 2}),  # own is winning, its search the source's
        ({"sources": ["low@sgd", "low@adam"]}, {Initial: 1, Round: 2, ArmStart: 3 * 2 * 2}),
    ],
)
def test_an_experiment_that_grows_trains_only_what_is_new(
    lab: Any, trainings: list[tuple[Any, ...]], change: dict[str, Any], new: dict[type, int]
) -> None:
    store = lab.store()
    first = run(lab, store, transfer__0=GRID)
    trainings.clear()
    second = run(lab, store, transfer__0={**GRID, **change})
    assert len(trainings) == sum(new.values())
    assert Counter(type(cell.start) for i, cell in second.cells.items() if i not in first.cells) == new


def test_the_images_are_decoded_once_for_all_cells_and_experiments(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    digits = oneticket.data.sources.digits
    monkeypatch.setattr(oneticket.data.sources, "digits", lambda: (decoded.append(1), digits())[1])
    lab.cache = lab.folder / "cache"
    store = lab.store()
    run(lab, store)
    run(lab, store, name="other", data__low__classes=[5, 6, 7, 8, 9])
    assert decoded == [1]
