"""`compare`: the table of the laboratory for anybody's network and data, and refusals before the first training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oneticket as ot
from oneticket.comparing import Comparison
from oneticket.data import open_data
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.lab.cells.run import Workplace, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.results.table import from_csv, remember, tidy
from oneticket.lab.spec.experiment import read_experiment
from oneticket.models import ModelSpec, build
from oneticket.randomness import seeded
from oneticket.training import Runtime

ARMS = ["winning", "random", "snip", "other-seed"]
SAME = ("arm", "seed", "density", "effective_density", "test_accuracy", "test_loss", "own_steps", "train_flops")
RECIPE = ot.Recipe.sgd(epochs=2, batch_size=16)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(1)


TRAIN, TEST = samples(64, 0), samples(40, 1)


def compared(**changed: Any) -> Comparison:
    arguments: dict[str, Any] = {
        "make_model": network, "train_set": TRAIN, "test_set": TEST, "recipe": RECIPE, "arms": ["winning", "random"],
        "densities": [0.25], "seeds": 2, "rounds": 1,
    }  # fmt: skip
    return ot.compare(**(arguments | changed))


def test_the_table_is_that_of_the_laboratory(tmp_path: Path) -> None:
    """The same network, images and seeds: every figure to the bit, whatever arm."""
    spec = {"name": "lenet-300-100", "options": {"width": 0.05}}
    raw = {
        "name": "tiny",
        "model": spec,
        "seeds": 2,
        "data": {"digits": {"builtin": "digits", "per_class": 20, "validation": 0.0}},
        "recipe": {"sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 2}},
        "search": {"rounds": 2, "prune": 0.5},
        "transfer": [
            {
                "sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": ARMS, "densities": [0.25],
                "budget": "equal-k",
            }
        ],
    }  # fmt: skip
    experiment = read_experiment(raw)
    plan = make_plan(experiment, folder=tmp_path, cache=tmp_path / "cache")
    store = Store.open(tmp_path / "store", create=True)
    remember(plan, store)
    place = Workplace(store=str(store.root), cache=str(tmp_path / "cache"), folder=str(tmp_path))
    for identity, cell in plan.cells.items():
        with store.claimed(identity) as working:
            store.commit(identity, working, run_cell(cell, place, working))
    given = plan.cells[plan.rows[0].cell]
    splits = open_data(given.data, cache=tmp_path / "cache")
    model = ModelSpec(name="lenet-300-100", options={"width": 0.05})

    def make() -> nn.Module:
        """The built-in network, drawn by the generator that `compare` has seeded."""
        return build(model, input_shape=splits.train.shape, classes=10, seed=torch.initial_seed())

    result = ot.compare(
        make, splits.train, splits.test, recipe=experiment.recipe["sgd"], arms=ARMS, densities=[0.25], seeds=2,
        prune=0.5, runtime=Runtime(threads=1), name="digits",
    )  # fmt: skip
    shown = [[row[column] for column in SAME] for row in result.table]
    assert shown == [[row[column] for column in SAME] for row in tidy(store)]
    assert {row["own_steps"] for row in result.table} == {4}  # k is within it: equal steps for every arm


def test_what_it_says_writes_and_saves(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    result = compared(seeds=3, on_training=lambda *found: told.append(found))
    assert [number for number, _, _ in told] == list(range(1, 10))
    assert {of for _, of, _ in told} == {9}
    assert result.verdict.startswith("At 25.0 % of the weights ")
    assert "winning" in result.verdict
    assert "random" in result.verdict
    assert "(n = 3 pairs)" in result.verdict
    assert result.report(tmp_path / "out").read_text().count("winning") > 3
    result.save(tmp_path / "table.csv")
    assert [row["test_accuracy"] for row in from_csv(tmp_path / "table.csv")] == [
        row["test_accuracy"] for row in result.table
    ]
    assert "| winning |" in str(result)


def test_the_test_set_chooses_nothing() -> None:
    """With other test data the networks stay the same: only the figures of the test change."""
    one, other = compared(), compared(test_set=samples(40, 2))
    columns = ("density", "effective_density", "distance")
    assert [[row[c] for c in columns] for row in one.table] == [[row[c] for c in columns] for row in other.table]
    assert [row["test_loss"] for row in one.table] != [row["test_loss"] for row in other.table]


class Keyword(nn.Module):
    """A network of one output that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 12), nn.Linear(12, 1)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(values).relu())
        return out


def test_dicts_another_loss_and_validation() -> None:
    def data(seed: int) -> dict[str, Tensor]:
        inputs, _ = samples(32, seed)
        return {"values": inputs, "labels": inputs.sum(1, keepdim=True)}

    result = compared(
        make_model=Keyword, train_set=data(0), test_set=data(1), validation=data(2), loss="regression", criterion="snip"
    )
    row = result.table[1]
    assert row["arm"] == "winning"
    assert row["val_accuracy"] is not None
    assert (row["effective_density"], row["test_images"]) == (None, None)


def test_an_arm_of_ones_own() -> None:
    result = compared(own_arms={"mine": {"mask": "erk", "weights": "rewound"}})
    assert [row["arm"] for row in result.table if row["seed"] == 0] == ["dense", "winning", "random", "mine"]


def test_a_training_that_diverges_counts_as_guessing() -> None:
    result = compared(recipe=ot.Recipe.sgd(epochs=2, batch_size=16, lr=1e30), seeds=1)
    assert {row["test_accuracy"] for row in result.table} == {1 / 3}
    with pytest.raises(NonFiniteLoss):
        compared(
            recipe=ot.Recipe.sgd(epochs=2, batch_size=16, lr=1e30), make_model=lambda: nn.Sequential(
                nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)), loss="regression", seeds=1,
            train_set=(TRAIN[0], TRAIN[0][:, :1]), test_set=(TEST[0], TEST[0][:, :1]),
        )  # fmt: skip


def same_weights() -> nn.Module:
    with seeded(3):
        return network()


ONE = network()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"arms": ["winnig"]}, "did you mean 'winning'"),
        ({"arms": ["rotation"]}, "is pre-trained"),
        ({"densities": [0.0]}, "densities: density 0.0"),
        ({"densities": [5.0]}, "densities: density 5.0"),
        ({"densities": []}, "densities: the list is empty"),
        ({"densities": [0.25, 0.24]}, "nearest to the same round"),
        ({"seeds": 0}, "seeds: 0 replicates"),
        ({"test_set": TRAIN}, "one set is given twice"),
        ({"make_model": lambda: ONE}, "the same network twice"),
        ({"make_model": same_weights}, "the same weights twice"),
        ({"make_model": lambda: 3}, "gives a int"),
        ({"make_model": lambda: nn.Linear(8, 1), "loss": "regression", "metric": "mean-absolute-error"}, "less the"),
        ({"loss": lambda model, inputs, targets: model(inputs).sum()}, "metric"),
        ({"rewind": "2ep", "rounds": 2}, "rewind = 2ep"),
        ({"critrion": "snip"}, "criterion"),
        ({"name": "my data"}, "not a valid name"),
        ({"own_arms": {"mine": {"mask": "erk"}}}, "'weights' is missing"),
        ({"against": ["randm"]}, "random"),
    ],
)
def test_what_cant_work_is_refused_before_the_first_training(changed: dict[str, Any], told: str) -> None:
    trained: list[str] = []
    with pytest.raises(InputError, match=told) as error:
        compared(on_training=lambda number, of, label: trained.append(label), **changed)
    assert "transfer[0]" not in str(error.value)
    assert not trained


def test_of_text_it_judges_the_next_token(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"the cat sat on mat {number}. " * 20, encoding="utf-8")
    train_set, test_set = ot.data.text(tmp_path, window=8, test=0.25)

    def gpt() -> nn.Module:
        spec, seed = ModelSpec(name="gpt", options={"width": 8, "depth": 1, "heads": 2}), int(torch.randint(99, ()))
        return build(spec, input_shape=(8,), classes=256, seed=seed, tokens=True)

    recipe = ot.Recipe.adam(epochs=2, lr=0.01, batch_size=32)
    found = ot.compare(gpt, train_set, test_set, recipe=recipe, densities=[0.5], seeds=2, rounds=1)
    assert [row["arm"] for row in found.table] == ["dense", "winning", "random"] * 2
    assert all(row["test_loss"] < math.log(256) for row in found.table)
