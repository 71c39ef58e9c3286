"""Normalisation parameters: which they are, and that a choice of them changes those and no other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oneticket.models import ModelSpec, build
from oneticket.weights import NORMS, DrawContext, norm_names
from oneticket.weights.norms import gains_behind, norms_behind

ORIGIN = {"fresh": "redrawn", "rewound": "rewound", "trained": "trained"}


def network(norm: str = "batch") -> nn.Module:
    spec = ModelSpec(name="resnet20", options={"width": 0.25, "norm": norm})
    return build(spec, input_shape=(3, 8, 8), classes=3, seed=0)


def states() -> dict[str, dict[str, torch.Tensor]]:
    """The state of each moment, told apart in every entry."""
    made = {}
    for value, name in enumerate(["drawn", "redrawn", "rewound", "trained"]):
        made[name] = {key: torch.full_like(tensor, value) for key, tensor in network().state_dict().items()}
    return made


@pytest.mark.parametrize("name", list(NORMS))
def test_a_choice_changes_normalisation_parameters_and_no_other(name: str) -> None:
    given, names = states(), norm_names(network())
    origins = DrawContext(**{key: lambda key=key: given[key] for key in ("redrawn", "rewound", "trained")})
    drawn = {key: tensor.clone() for key, tensor in given["drawn"].items()}
    after = NORMS[name](drawn, origins, names)
    giver = given[ORIGIN.get(name, "drawn")]
    assert list(after) == list(drawn)
    for key, tensor in after.items():
        assert torch.equal(tensor, giver[key] if key in names else given["drawn"][key])
        assert torch.equal(drawn[key], given["drawn"][key])
        assert giver is given["drawn"] or tensor.data_ptr() != giver[key].data_ptr()


@pytest.mark.parametrize("name", list(NORMS))
def test_a_choice_looks_at_its_own_origin_only(name: str) -> None:
    given = states()
    needed = [ORIGIN[name]] if name in ORIGIN else []
    origins = DrawContext(**{key: lambda key=key: given[key] for key in needed})
    assert NORMS[name](given["drawn"], origins, norm_names(network()))


def test_every_choice_says_what_it_is() -> None:
    assert {*ORIGIN, "as-drawn"} <= set(NORMS)
    assert all(entry.summary and entry.name == entry.name.lower() for entry in NORMS.entries())


def test_names_are_gains_biases_and_statistics_of_every_normalisation() -> None:
    net = network()
    names = norm_names(net)
    assert all(".norm" in name for name in names)
    assert {name for name in net.state_dict() if ".norm" in name} == set(names)
    assert sum(name.endswith("running_var") for name in names) == sum(
        isinstance(m, nn.BatchNorm2d) for m in net.modules()
    )
    assert not any("running" in name for name in norm_names(network("group")))
    assert norm_names(network("none")) == ()


def test_each_kind_of_normalisation_is_known() -> None:
    kinds = [
        nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4),
    ]  # fmt: skip
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), *kinds, nn.Linear(4, 2))
    named = {name.partition(".")[0] for name in norm_names(net)}
    assert named == {str(2 + i) for i in range(len(kinds))}


def test_a_bare_normalisation_layer_is_one_too() -> None:
    assert norm_names(nn.LayerNorm(3)) == ("weight", "bias")


class Wired(nn.Module):
    """Normalised at once, after an activation, together, with a transposed layer, and a layer and a norm used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
        self.late, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.grouped, self.together = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)
        self.up, self.behind = nn.ConvTranspose2d(4, 6, 1, groups=2), nn.BatchNorm2d(6)
        self.twice, self.shared = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.plain, self.bare = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5, affine=False)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.after(torch.relu(self.late(self.norm(self.first(x)))))
        x = self.behind(self.up(self.together(self.grouped(x))))
        x = self.shared(self.twice(self.shared(self.twice(x))))
        return self.head(self.bare(self.plain(x)).mean((2, 3)))


def test_the_normalisation_directly_behind_a_layer() -> None:
    model, images = Wired().train(), torch.randn(2, 2, 3, 3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert norms_behind(model, images) == {
        "first": "norm", "grouped": "together", "up": "behind", "plain": "bare",
    }  # fmt: skip
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_the_gain_behind_each_weight_is_that_of_the_unit_it_leads_into() -> None:
    """Units lie along the first dimension, in a transposed convolution along the second of each group."""
    model = Wired()
    with torch.no_grad():
        model.norm.weight.copy_(torch.arange(3))
        model.behind.weight.copy_(torch.arange(6))
    gains = gains_behind(model, torch.randn(2, 2, 3, 3))
    assert gains.keys() == {"first.weight", "up.weight"}, "a GroupNorm mixes units, and one has no gain"
    assert torch.equal(gains["first.weight"][:, :, 0, 0], torch.tensor([[0.0] * 2, [1.0] * 2, [2.0] * 2]))
    # Two groups of two inputs and three units each.
    assert gains["up.weight"][:, :, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
