"""Text and tables in the laboratory: planned, computed, and what does not suit them refused."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oneticket.calling import outputs_on
from oneticket.data import TableSet, TextSet
from oneticket.errors import InputError
from oneticket.identity import canonical_json
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.run import compared_data
from oneticket.lab.results.table import remember, tidy
from oneticket.training import Recipe

OWN = """
import torch
from torch import nn
from torch.nn import functional as F


class Reader(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.tokens, self.body = nn.Embedding(classes, width), nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens):
        assert tokens.dtype == torch.int64
        return self.head(F.relu(self.body(self.tokens(tokens))))


def reader(input_shape, classes, width: int = 12):
    return Reader(classes, width)
"""
WINDOW = 20
NUMBERS = itertools.count()


def text_of(folder: Path, alphabet: str) -> None:
    """Sixteen files in which each letter is mostly followed by the next one."""
    folder.mkdir()
    draws = np.random.default_rng(len(alphabet))
    for number in range(16):
        steps = draws.choice([1, 2, 3], 20 * WINDOW, p=[0.7, 0.2, 0.1]).cumsum()
        (folder / f"{number}.txt").write_text("".join(alphabet[step % len(alphabet)] for step in steps))


@pytest.fixture
def texts(lab: Any) -> dict[str, Any]:
    """An experiment on two folders of text with a network of the user's own."""
    module = f"reader{next(NUMBERS)}"  # a name is imported once in a process
    (lab.folder / f"{module}.py").write_text(OWN)
    for name, alphabet in (("low", "abcdefgh"), ("high", "STUVWXYZ!")):
        if not (lab.folder / name).exists():
            text_of(lab.folder / name, alphabet)
    data = {name: {"text": name, "window": WINDOW, "test": 0.25} for name in ("low", "high")}
    return {
        "name": "texts",
        "model": f"{module}:reader",
        "seeds": 1,
        "data": data,
        "recipe": {"adam": {"optimizer": "adam", "lr": 0.05, "epochs": 2, "batch_size": 32}},
        "search": {"rounds": 2, "prune": 0.5, "rewind": "1it"},
        "transfer": [
            {
                "sources": ["low@adam"],
                "targets": ["high@adam"],
                "arms": ["winning", "random", "snip"],
                "densities": [0.25],
            }
        ],
    }


@pytest.fixture
def table(lab: Any) -> dict[str, Any]:
    """An experiment on two halves of a table."""
    draws = np.random.default_rng(0)
    rows = [(*draws.normal(size=4), "xyz"[n % 3]) for n in range(240)]
    lines = [f"{a + 2 * (k == 'x'):.4f},{b - 2 * (k == 'y'):.4f},{c:.4f},{d:.4f},{k}" for a, b, c, d, k in rows]
    (lab.folder / "t.csv").write_text("\n".join(["a,b,c,d,kind", *lines]) + "\n")
    return {
        "name": "table",
        "model": {"name": "mlp", "options": {"widths": [16, 8]}},
        "seeds": 1,
        "data": {
            "whole": {"table": "t.csv", "label": "kind"},
            "one": {"from": "whole", "half": "a"},
            "other": {"from": "whole", "half": "b"},
        },
        "recipe": {"adam": {"optimizer": "adam", "lr": 0.02, "epochs": 3, "batch_size": 16}},
        "search": {"rounds": 2, "prune": 0.5, "rewind": 0},
        "transfer": [
            {"sources": ["one@adam"], "targets": ["other@adam"], "arms": ["winning", "random"], "densities": [0.25]}
        ],
    }


def test_tickets_move_between_texts(lab: Any, texts: dict[str, Any]) -> None:
    plan = lab.plan(texts)
    store = lab.store("texts")
    lab.run(plan, store)
    remember(plan, store)
    rows = {row["arm"]: row for row in tidy(store)}
    assert set(rows) == {"dense", "winning", "random", "snip"}
    cell = plan.cells[rows["winning"]["cell"]]
    assert (cell.network.input, cell.network.classes, cell.network.tokens) == ((WINDOW,), 256, True)
    parents = ParentCells(store, lab.cache, lab.folder)
    test = parents.splits(cell).test
    assert isinstance(test, TextSet)
    for row in rows.values():
        assert row["test_images"] == len(test) * (WINDOW - 1)
        assert row["bits_per_byte"] == pytest.approx(row["test_loss"] / math.log(2))
        network = parents.build(cell.network, cell.seed)
        network.load_state_dict(parents.end(row["cell"]))
        with torch.no_grad():  # the definition, in float64, independent of the objectives
            tokens = test.gather().long()
            outputs = outputs_on(network.double().eval(), tokens)[:, :-1].flatten(0, 1)
            after = tokens[:, 1:].flatten()
        assert row["test_loss"] == pytest.approx(float(F.cross_entropy(outputs, after)), rel=1e-5)
        assert row["test_accuracy"] == pytest.approx(float((outputs.argmax(1) == after).double().mean()))
        assert row["test_accuracy"] > 0.3  # of guessing the next letter: 0.7 can be had


def test_tickets_move_between_the_halves_of_a_table(lab: Any, table: dict[str, Any]) -> None:
    plan = lab.plan(table)
    store = lab.store("table")
    lab.run(plan, store)
    remember(plan, store)
    rows = {row["arm"]: row for row in tidy(store)}
    cell = plan.cells[rows["dense"]["cell"]]
    assert (cell.network.input, cell.network.classes) == ((4,), 3)
    assert isinstance(ParentCells(store, lab.cache, None).splits(cell).test, TableSet)
    assert all(row["bits_per_byte"] is None for row in rows.values())
    assert rows["dense"]["test_accuracy"] > 0.5
    assert rows["winning"]["density"] == pytest.approx(0.25, abs=0.01)
    assert rows["winning"]["effective_density"] <= rows["winning"]["density"]


def test_cells_of_images_are_described_as_ever(lab: Any) -> None:
    text = canonical_json(msgspec.to_builtins(next(iter(lab.plan().cells.values()))))
    assert not {"loss", "metric", "tokens"} & (json.loads(text)["network"].keys() | json.loads(text)["recipe"].keys())


def test_the_loss_that_data_have_anyway_names_no_other_cell(lab: Any, texts: dict[str, Any]) -> None:
    texts["transfer"][0]["arms"] = ["random"]
    plain = lab.plan(texts)
    texts["recipe"]["adam"] |= {"loss": "next-token", "metric": "accuracy"}
    assert lab.plan(texts).cells.keys() == plain.cells.keys()
    raw = lab.raw(recipe__sgd__loss="classification")
    assert lab.plan(raw).cells.keys() == lab.plan().cells.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": {"augment": {"flip": True}}}, r"recipe.adam.augment: flip and crop are for images, and low@adam"),
        ({"recipe": {"loss": "classification"}}, r"recipe.adam.loss: loss = 'classification', and low@adam trains on"),
        ({"recipe": {"loss": "regression"}}, r"recipe.adam.loss: loss = 'regression'.*expected 'next-token'"),
        ({"recipe": {"loss": "next-tokens"}}, r"recipe.adam.loss: .*did you mean 'next-token'"),
        ({"recipe": {"loss": "next-token", "metric": "r2"}}, r"metric = 'r2' with loss = 'next-token'"),
        ({"search": {"criterion": "grasp"}}, r"transfer\[0\].arms: .*looks at samples of each class"),
        ({"grid": {"arms": ["grasp"]}}, r"grasp on low@adam: .*looks at samples of each class"),
        ({"arm": "rotation"}, r"arm.own.weights: the pre-training 'rotation' of the arm 'own' is not for text"),
        ({"arm": "autoencoder"}, r"the pre-training 'autoencoder' of the arm 'own' is not for text, which low@adam"),
        ({"model": "lenet-300-100"}, r"model 'lenet-300-100': it takes numbers, and a sample of the data is"),
    ],
)
def test_what_does_not_suit_text_is_refused_at_plan(
    lab: Any, texts: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    texts["recipe"]["adam"] |= change.get("recipe", {})
    texts["search"] |= change.get("search", {})
    texts["transfer"][0] |= change.get("grid", {})
    texts["model"] = change.get("model", texts["model"])
    if "arm" in change:
        texts["arm"] = {"own-arm": {"mask": "dense", "weights": change["arm"]}}
        texts["transfer"][0]["arms"] = ["own-arm"]
        said = said.replace("'own'", "'own-arm'").replace("arm.own.", "arm.own-arm.")
    with pytest.raises(InputError, match=said):
        lab.plan(texts)


def test_what_does_not_suit_a_table_is_refused_at_plan(lab: Any, table: dict[str, Any]) -> None:
    table["arm"] = {"turned": {"mask": "dense", "weights": "rotation"}}
    table["transfer"][0]["arms"] = ["turned"]
    with pytest.raises(InputError, match=r"pre-training 'rotation' .* not for a table.*expected one of autoencoder"):
        lab.plan(table)
    table["transfer"][0]["arms"] = ["random"]
    table["model"] = "conv-2"
    with pytest.raises(InputError, match=r"model 'conv-2': it takes images, and a sample of the data is 4 numbers"):
        lab.plan(table)


def test_a_source_that_has_read_the_test_windows_is_refused(lab: Any, texts: dict[str, Any]) -> None:
    shutil.copytree(lab.folder / "high", lab.folder / "copied")
    texts["data"]["low"] = {"text": "copied", "window": WINDOW, "test": 0.25, "split": 1}
    with pytest.raises(InputError, match=r"test windows of high .* are seen by low.*tested on windows that they were"):
        lab.plan(texts)


def test_a_recipe_refuses_losses_and_metrics_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="metric = 'r2'"):
        Recipe.sgd(epochs=1, metric="r2")
    assert Recipe.sgd(epochs=1, loss="regression", metric="r2").loss == "regression"


def test_cached_data_of_both_kinds_are_compared(lab: Any, texts: dict[str, Any]) -> None:
    assert compared_data(lab.plan(texts).cells.values(), lab.cache)
