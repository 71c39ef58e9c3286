"""Tuning: which settings an arm has, that they are spread evenly, and what is refused."""

from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import product
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.spec.arms import ARMS
from oneticket.lab.spec.experiment import read_experiment
from oneticket.lab.spec.tuning import axes_of, candidates, spread, tunable

RAW: dict[str, Any] = {
    "name": "tiny",
    "model": "lenet-300-100",
    "data": {"digits": {"builtin": "digits"}},
    "recipe": {"sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 32}},
    "transfer": [{"targets": ["digits@sgd"], "arms": ["own", "l1", "edge-popup"], "densities": [0.5]}],
}


def read(tune: dict[str, Any], **more: Any) -> Any:
    raw = copy.deepcopy(RAW)
    raw["transfer"][0] |= {"tune": tune} | more.pop("grid", {})
    return read_experiment(raw | more)


@pytest.mark.parametrize("lengths", [[3, 3], [3, 3, 2], [9, 2], [4, 4, 4], [5], [6, 4], [2, 2, 2, 2], [1, 3], [7, 3]])
def test_each_value_is_met_as_equally_often_as_possible(lengths: list[int]) -> None:
    for count in range(1, math.prod(lengths) + 1):
        points = spread(lengths, count)
        assert len(set(points)) == len(points) == count
        assert set(points) <= set(product(*map(range, lengths)))
        for axis, length in enumerate(lengths):
            met = Counter(point[axis] for point in points)
            assert max(met.values()) - min(met[value] for value in range(length)) <= 1


def test_nine_of_27_points_hold_each_pair_of_values_once() -> None:
    """An orthogonal array of strength 2, which three axes of three values have (Rao 1947)."""
    points = spread([3, 3, 3], 9)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len({(point[one], point[other]) for point in points}) == 9


def test_axes_do_not_rise_together() -> None:
    """Three points on a diagonal could not tell a high rate from a high strength."""
    assert spread([3, 3], 3) == [(0, 0), (1, 2), (2, 1)]


def test_the_settings_of_an_arm() -> None:
    found = candidates(ARMS["l1"], {"lr": (0.1, 0.2), "strength": (1e-3, 1e-2, 0.1)})
    assert [(c.lr, c.arm.options["strength"]) for c in found] == list(product((0.1, 0.2), (1e-3, 1e-2, 0.1)))
    assert found[1].text == "lr=0.1, strength=0.01"
    assert [c.edges for c in found[:2]] == [("lr", "strength"), ("lr",)]
    assert {c.arm.options["cut"] for c in found} == {ARMS["l1"].options["cut"]}
    assert {c.count for c in found} == {6}


def test_edges_are_those_of_the_values_that_are_tried() -> None:
    rates = tuple(float(2**i) for i in range(9))
    found = candidates(ARMS["random"], {"lr": rates}, 3)
    assert [(c.lr, c.edges) for c in found] == [(2.0, ("lr",)), (16.0, ()), (128.0, ("lr",))]
    assert candidates(ARMS["random"], {"lr": (0.1,)})[0].edges == ()


def test_an_arm_has_the_axes_of_its_method_in_the_order_of_the_file() -> None:
    tune = {"cut": [0.3, 0.5], "lr": [0.1, 0.2], "strength": [0.1], "trials": 2, "score_lr": [0.1]}
    assert list(axes_of(tune, ARMS["l1"])) == ["cut", "lr", "strength"]
    assert list(axes_of(tune, ARMS["own"])) == ["lr"]
    assert list(axes_of(tune, ARMS["edge-popup"])) == ["score_lr"]  # no weight learns
    assert axes_of(tune, ARMS["untrained"]) == {}
    assert "allocation" not in tunable(ARMS["gmp"])
    assert candidates(ARMS["untrained"], {})[0].arm is ARMS["untrained"]


@pytest.mark.parametrize(
    ("tune", "told"),
    [
        ({"strenght": [0.1, 0.2]}, "did you mean 'strength'"),
        ({"drop": [0.1, 0.2]}, "no arm of the grid has 'drop'"),
        ({"strength": [0.0, 0.1]}, r"transfer\[0\].tune.strength.*strength = 0.0"),
        ({"cut": [0.5, 2.0]}, "tune.cut"),
        ({"lr": [0.1, -1.0]}, "numbers above 0"),
        ({"lr": [0.1, 0.1]}, "each once"),
        ({"lr": []}, "a list of numbers"),
        ({"lr": "high"}, "a list of numbers"),
        ({"lr": [True]}, "a list of numbers"),
        ({"trials": 3}, "nothing to try"),
        ({"lr": [0.1], "trials": 0}, "a whole number"),
        ({"lr": [0.1], "trials": True}, "a whole number"),
        ({"lr": [i + 1.0 for i in range(40)], "strength": [i + 1.0 for i in range(40)]}, "too many candidates"),
    ],
)
def test_what_no_arm_can_follow_is_refused(tune: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(tune)


def test_lr_beside_tune_and_an_option_that_is_set_are_refused() -> None:
    with pytest.raises(InputError, match="lr and tune"):
        read({"strength": [0.1, 0.2]}, grid={"lr": [0.1]})
    mine = {"mine": {"mask": "dense", "weights": "initial", "method": "l1", "options": {"cut": 0.5}}}
    read({"strength": [0.1, 0.2]}, arm=mine, grid={"arms": ["mine"]})
    with pytest.raises(InputError, match=r"arm\.mine\.options\.cut"):
        read({"cut": [0.3, 0.5]}, arm=mine, grid={"arms": ["mine"]})


def test_an_arm_that_two_grids_tune_differently_is_refused() -> None:
    raw = copy.deepcopy(RAW)
    raw["transfer"] *= 2
    first, second = (dict(grid) for grid in raw["transfer"])
    raw["transfer"] = [first | {"tune": {"lr": [0.1, 0.2]}}, second]
    with pytest.raises(InputError, match=r"'dense' on digits@sgd is tuned in another way than in transfer\[0\]"):
        read_experiment(raw)
    both = {"lr": [0.1, 0.2], "strength": [0.1, 0.2], "trials": 2}
    raw["transfer"] = [first | {"tune": both}, second | {"tune": {"lr": [0.1, 0.2]}, "arms": ["own"]}]
    assert read_experiment(raw)
