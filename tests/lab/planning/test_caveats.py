"""Caveats: each fault, put back, is found and told in a line; what is level is not."""

from __future__ import annotations

from typing import Any

import pytest

from oneticket.models import ModelSpec, build

ALL = ["trials", "untuned", "gradient", "parts", "unstable", "equal"]


def told(lab: Any, kind: str, *arms: str, densities: tuple[float, ...] = (0.125,), **grid: Any) -> list[str]:
    """What the plan of a grid of ``arms`` says of one kind of fault; keys with ``__`` are changes of the experiment."""
    changes = {key: grid.pop(key) for key in list(grid) if "__" in key}
    table = {"sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": list(arms), "densities": list(densities)}
    plan = lab.plan(lab.raw(seeds=1, transfer=[table | {"budget": "equal-k"} | grid], **changes))
    return [str(finding) for finding in plan.findings if finding.kind == kind]


def test_arms_with_fewer_trials(lab: Any) -> None:
    tune = {"lr": [0.1, 0.2], "strength": [0.01, 0.1]}
    assert told(lab, "trials", "random", "l1", tune=tune | {"trials": 4}) == [
        "on digits@sgd dense, random can only try 2 of 4"
    ]
    assert told(lab, "trials", "random", "l1", tune=tune) == [
        "on digits@sgd dense, random can only try 2 of 4",
        "on digits@sgd trials = 2 gives every arm as many",
    ]
    assert told(lab, "trials", "random", "l1", tune=tune | {"trials": 2}) == []
    assert told(lab, "trials", "random", "l1", lr=[0.1, 0.2]) == []
    assert told(lab, "trials", "random", "l1") == []


def test_options_that_are_not_tuned_beside_others(lab: Any) -> None:
    (line,) = told(lab, "untuned", "l1", "rigl", tune={"lr": [0.1, 0.2], "strength": [0.01, 0.1]})
    assert line.startswith("rigl (every, stop, drop) on digits@sgd: options at their defaults, where those of l1 are")
    assert told(lab, "untuned", "l1", "rigl", tune={"lr": [0.1], "strength": [0.1, 0.2], "drop": [0.2, 0.3]}) == []
    (line,) = told(lab, "untuned", "random", "l1", tune={"strength": [0.01, 0.1]})
    assert "tune has no lr" in line
    assert told(lab, "untuned", "l1", "rigl", lr=[0.1, 0.2]) == []


def test_binary_networks_at_the_common_rate_of_sgd(lab: Any) -> None:
    (line,) = told(lab, "gradient", "bwn", "xnor", "binary-connect")
    assert line.startswith("bwn, xnor on digits@sgd: ")
    assert told(lab, "gradient", "bwn", "xnor", lr=[0.1, 1.0]) == []
    assert told(lab, "gradient", "bwn", tune={"lr": [0.1, 1.0]}) == []
    assert told(lab, "gradient", "bwn", targets=["digits@adam"]) == []
    mine = {"mask": "dense", "weights": "initial", "method": "bwn", "options": {"gradient": "authors-code"}}
    assert told(lab, "gradient", "mine", arm__mine=mine) == []


def test_layer_wise_pretraining_with_more_layers_than_epochs(lab: Any) -> None:
    """lenet-300-100 has two layers besides its head."""
    (line,) = told(lab, "parts", "layer-wise", recipe__sgd__epochs=1, search__rewind=0)
    assert line.startswith("layer-wise from digits@sgd: lenet-300-100 has 2 layers and the recipe 1 epochs")
    assert told(lab, "parts", "layer-wise", "rotation", recipe__sgd__epochs=2) == []


def test_masks_of_synflow_of_few_weights(lab: Any) -> None:
    deep = {"search__rounds": 6, "densities": (0.5, 0.0312)}
    (line,) = told(lab, "unstable", "synflow", "own", **deep)
    assert line.startswith("synflow at 3.12 % of the weights: ")
    assert told(lab, "unstable", "snip", "own", **deep) == []
    assert told(lab, "unstable", "synflow") == []


def test_controls_that_are_hardly_another_network(lab: Any) -> None:
    few = {"search__prune": 0.005, "search__rounds": 2}
    (line,) = told(lab, "equal", "random", "layer-permuted", densities=(0.995,), **few)
    assert line.startswith("random, layer-permuted at 99.5 % of the weights: ")
    assert told(lab, "equal", "random", "layer-permuted") == []


def test_controls_with_the_same_densities_of_layers(lab: Any) -> None:
    """With one layer to prune, every allocation is the same."""
    model = build(ModelSpec(name="lenet-300-100"), input_shape=(1, 8, 8), classes=10, seed=0)
    first = next(name for name, _ in model.named_parameters() if name.endswith("weight"))
    (line,) = told(lab, "equal", "even", "smart", "random", search__prunable=[first])
    assert line.startswith("even and smart on digits@sgd at 12.5 % of the weights: ")
    assert told(lab, "equal", "even", "smart", "erk") == []


@pytest.mark.parametrize("kind", ALL)
def test_a_usual_grid_has_none_of_them(lab: Any, kind: str) -> None:
    assert told(lab, kind, "own", "random", "preserved", "gmp", "l1") == []
