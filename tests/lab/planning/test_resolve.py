"""Experiments that read well and cannot work are refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from oneticket.errors import InputError


def refused(lab: Any, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        lab.plan(**changes)
    return str(caught.value)


def images(folder: Path, *, train: int = 6, test: int = 2, classes: int = 2, side: int = 8) -> Path:
    """An image folder with so many pictures of each class."""
    for part, count in (("train", train), ("test", test)):
        for label in range(classes):
            home = folder / part / f"class{label}"
            home.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (side, side), 40 * label + number).save(home / f"{number}.png")
    return folder


# -- models -------------------------------------------------------------------------------------------------------
def test_an_unknown_model_is_refused_with_the_nearest(lab: Any) -> None:
    message = refused(lab, model="lenet-300-10")
    assert message.startswith("model")
    assert "did you mean 'lenet-300-100'?" in message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widht": 0.1}, "did you mean 'width'?"),
        ({"width": "wide"}, "option 'width' cannot be 'wide'"),
        ({"width": True}, "option 'width' cannot be True"),
        ({"width": 0}, "width"),
        ({"width": -1}, "width"),
    ],
)
def test_a_wrong_option_of_a_model_is_refused(lab: Any, options: dict[str, Any], text: str) -> None:
    message = refused(lab, model={"name": "lenet-300-100", "options": options})
    assert message.startswith("model")
    assert text in message


def test_a_module_that_is_not_there_is_refused(lab: Any) -> None:
    assert "there is no module 'nowhere'" in refused(lab, model="nowhere:net")


def test_a_model_whose_head_cannot_be_found_is_refused_and_told_how_to_name_it(lab: Any) -> None:
    (lab.folder / "headless_nets.py").write_text(
        "from torch import nn\n"
        "class Total(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.sum(-1, keepdim=True).expand(len(x), self.classes)\n"
        "def net(input_shape, classes):\n"
        "    total = Total()\n"
        "    total.classes = classes\n"
        "    c, h, w = input_shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 7), nn.Linear(7, 6), total)\n"
    )
    message = refused(lab, model="headless_nets:net", seeds=1)
    assert message.startswith("head: ")
    assert "can't be found" in message
    assert 'head="…"' in message
    assert "'1' (7 outputs), '2' (6 outputs)" in message
    plan = lab.plan(model="headless_nets:net", head="2", seeds=1)
    assert {cell.network.head for cell in plan.cells.values()} == {"2"}


SURPRISING = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.scores, self.body, self.spare = nn.Linear(8, classes), nn.Linear(inputs, 8), nn.Linear(8, 16)

    def forward(self, x):
        return self.scores(self.body(x.flatten(1)).relu())

class Two(Net):
    def forward(self, x):
        return self.scores(self.body(x.flatten(1))) + self.spare(x.flatten(1)[:, :8])[:, :self.scores.out_features]

def net(input_shape, classes):
    return Net(input_shape[0] * input_shape[1] * input_shape[2], classes)

def doubtful(input_shape, classes):
    return Two(input_shape[0] * input_shape[1] * input_shape[2], classes)

def normed(input_shape, classes):
    model = net(input_shape, classes)
    nn.utils.spectral_norm(model.body)
    return model
"""


def test_the_head_is_found_by_watching_and_layers_without_use_are_told(lab: Any) -> None:
    (lab.folder / "surprising_nets.py").write_text(SURPRISING)
    with pytest.warns(UserWarning, match=r"model 'surprising_nets:net': the network never uses 'spare\.weight'"):
        plan = lab.plan(model="surprising_nets:net", seeds=1)
    assert {cell.network.head for cell in plan.cells.values()} == {"scores"}
    assert "'scores', 'spare' together" in refused(lab, model="surprising_nets:doubtful", seeds=1)
    message = refused(lab, model="surprising_nets:normed", seeds=1)
    assert message.startswith("model: 'body.weight' is computed by a hook")


def test_a_head_that_is_no_layer_is_refused_with_the_nearest(lab: Any) -> None:
    message = refused(lab, head="heat")
    assert message.startswith("head: ")
    assert "did you mean 'head'?" in message


def test_a_prunable_parameter_that_is_not_there_is_refused(lab: Any) -> None:
    message = refused(lab, search__prunable=["linear1.weigth"])
    assert message.startswith("search.prunable: ")
    assert "did you mean 'linear1.weight'?" in message
    assert "nothing to prune" in refused(lab, search__prunable=[])


# -- data ---------------------------------------------------------------------------------------------------------
def test_classes_that_the_data_lacks_are_refused(lab: Any) -> None:
    assert refused(lab, data__low__classes=[0, 10]).startswith("data.low: classes: the data has no class 10")
    assert refused(lab, data__low__classes=["seven"]).startswith("data.low: classes: the data has no class 'seven'")


def test_a_data_set_that_is_not_there_is_refused(lab: Any) -> None:
    assert "did you mean 'digits'?" in refused(lab, data__digits={"builtin": "digit"})
    assert refused(lab, data__digits={"path": "nowhere"}).startswith("data.digits: ")
    assert refused(lab, data__digits={"images": "nowhere"}).startswith("data.digits: ")
    assert "cannot be read" in refused(lab, data__digits={"images": "x" * 5000})


def test_an_empty_split_is_refused(lab: Any) -> None:
    place = images(lab.folder / "empty", test=0)
    assert "the test split is empty" in refused(lab, data={"digits": {"images": str(place)}, "low": {"from": "digits"}})
    assert "leaves no" in refused(lab, data__digits={"builtin": "digits", "fraction": 1e-9})


def test_an_image_that_does_not_decode_is_named(lab: Any) -> None:
    place = images(lab.folder / "broken")
    broken = place / "train" / "class1" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    message = refused(lab, data={"digits": {"images": str(place)}, "low": {"from": "digits"}})
    assert "does not decode" in message
    assert str(broken) in message


def test_an_unused_data_set_is_not_decoded(lab: Any) -> None:
    lab.plan(seeds=1, data__spare={"images": "nowhere"})


# -- grids --------------------------------------------------------------------------------------------------------
def test_a_source_and_a_target_of_different_shapes_are_refused(lab: Any) -> None:
    message = refused(lab, data__low={"from": "digits", "size": 12})
    assert message.startswith("transfer[0].sources: ")
    assert "1×12×12" in message
    assert "1×8×8" in message
    assert "'linear1.weight'" in message


def test_classes_of_another_number_do_not_fit_where_the_head_is_pruned(lab: Any) -> None:
    message = refused(lab, search__prune_head=True)
    assert "'head.weight'" in message
    assert "prune_head needs equal classes" in message


def test_a_density_behind_the_last_round_is_refused_with_that_round(lab: Any) -> None:
    message = refused(lab, transfer__0__densities=[0.5, 0.01])
    assert message.startswith("transfer[0].densities: density 0.01 is below that of the last round")
    assert "0.125 in round 3" in message


def test_a_density_that_leaves_no_weight_is_refused_with_the_least_possible_one(lab: Any) -> None:
    message = refused(lab, search__rounds=30, transfer__0__densities=[0.5**20])
    assert message.startswith("transfer[0].densities: round 20")
    assert "leaves none of the 1035 weights" in message
    assert "leaves none of the" in refused(lab, search__rounds=5000, transfer__0__densities="all")


def test_a_density_too_low_for_what_an_allocation_keeps_is_refused(lab: Any) -> None:
    model = {"name": "conv-2", "options": {"width": 0.25}}
    least = 16 * 9 / (16 * 9 + 16 * 16 * 9 + 256 * 64 + 64 * 64)  # all of conv1; the head is dense
    changes = {"model": model, "search__rounds": 8}
    searched = {"search__allocation": "uniform+", "transfer__0__densities": [0.5, 0.5**8]}
    message = refused(lab, **changes, **searched)
    assert message.startswith("search.allocation: allocation 'uniform+': needs ")
    assert f"a density of at least {least:.4g}" in message
    lab.plan(seeds=1, **changes, **searched | {"transfer__0__densities": [0.5, 0.5**7]})
    lab.plan(seeds=1, **changes, **searched | {"transfer__0__arms": ["random"]})
    narrow = {"mask": "magnitude-init", "weights": "initial", "allocation": "uniform+"}
    message = refused(
        lab, **changes, arm={"narrow": narrow}, transfer__0__arms=["narrow"], transfer__0__densities=[0.5**8]
    )
    assert message.startswith("arm.narrow.allocation: allocation 'uniform+': needs ")


def test_the_floor_of_a_head_that_is_pruned_too_is_known_before_anything_runs(lab: Any) -> None:
    pruned = {"search__prune_head": True, "search__rounds": 8, "search__allocation": "uniform+"}
    grid = {"model": {"name": "conv-2", "options": {"width": 0.25}}, "transfer__0__sources": ["digits@sgd"]}
    # All of conv1, a fifth of the head.
    least = (16 * 9 + 64 * 10 // 5) / (16 * 9 + 16 * 16 * 9 + 256 * 64 + 64 * 64 + 64 * 10)
    message = refused(lab, **pruned, **grid, transfer__0__densities=[0.5**7])
    assert f"20 % of the head, but the density gives 184; expected a density of at least {least:.4g}" in message
    lab.plan(seeds=1, **pruned, **grid, transfer__0__densities=[0.5**6])


@pytest.mark.parametrize("rewind", ["4ep", "3ep1it", "1000it"])
def test_a_rewind_behind_the_end_is_refused(lab: Any, rewind: str) -> None:
    message = refused(lab, search__rewind=rewind)
    assert message.startswith("search.rewind: ")
    assert f"rewind = {rewind} is after the end of low@sgd" in message
    assert "at most 3ep" in message


def test_a_rewind_to_the_end_leaves_a_round_nothing_to_train(lab: Any) -> None:
    for moment in (0, "2ep", "17it"):  # 5 classes, 36 images each, batches of 32: 6 steps an epoch
        assert lab.plan(seeds=1, search__rewind=moment).cells
    for moment in ("3ep", "18it"):
        assert f"search.rewind: rewind = {moment} leaves no step" in refused(lab, search__rewind=moment)
    assert lab.plan(seeds=1, search__rewind="3ep", search__method="fine-tune").cells


def test_the_second_grid_is_named(lab: Any) -> None:
    grids = [lab.raw()["transfer"][0], {**lab.raw()["transfer"][0], "densities": [0.001]}]
    assert refused(lab, transfer=grids).startswith("transfer[1].densities: ")
