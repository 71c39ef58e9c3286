"""Layers and heads of the libraries that people use: transposed linear layers, two classifiers, adapters, patterns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import oneticket as ot
from oneticket.census import take_census
from oneticket.errors import InputError
from oneticket.prunable import Prunable, find_head, outputs_of, transposed_groups
from oneticket.weights import RescalingContext, rescale

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
DATA = X, torch.arange(24) % 3
RECIPE = ot.Recipe.sgd(epochs=1, batch_size=8)


class Conv1D(nn.Module):
    """A linear layer in the form that transformers has for GPT-2."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class TwoHeads(nn.Module):
    """A distilled network in the form of timm: the mean of two classifiers, both named."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.head_dist = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.head, self.head_dist

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return (self.head(hidden) + self.head_dist(hidden)) / 2


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.lora_A, self.lora_B = nn.Linear(6, 8), nn.Linear(6, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


def transposed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(8, 6), nn.ReLU(), Conv1D(9, 8), nn.ReLU(), nn.Linear(9, 3))


def test_a_transposed_linear_layer_is_pruned_and_its_units_are_its_columns() -> None:
    model = transposed()
    assert (outputs_of(model[0]), transposed_groups(model[0])) == (8, 1)
    ticket = ot.find_ticket(model, DATA, recipe=RECIPE, density=0.3, rounds=2, rewind=0)
    assert {name: tuple(mask.shape) for name, mask in ticket.masks.items()} == {"0.weight": (6, 8), "2.weight": (8, 9)}
    assert find_head(nn.Sequential(model[0], Conv1D(3, 8)), inputs=X) == "1"


def test_fan_in_of_a_transposed_linear_layer_counts_its_rows() -> None:
    """Each kept weight is multiplied by sqrt(inputs / kept inputs of its unit)."""
    model, draw = transposed(), torch.Generator().manual_seed(3)
    masks = ot.Masks({"0.weight": torch.rand(6, 8, generator=draw) < 0.5})
    weights = {"0.weight": model[0].weight.detach() * masks["0.weight"]}
    context = RescalingContext("rewound", network=lambda: model)
    made = rescale("fan-in", weights, masks, context, optimizer="sgd").weights["0.weight"]
    for unit in range(8):
        kept = int(masks["0.weight"][:, unit].sum())
        if kept:
            wanted = weights["0.weight"][:, unit].double() * (6 / kept) ** 0.5
            assert torch.allclose(made[:, unit].double(), wanted, rtol=1e-6)


def test_both_classifiers_that_a_network_names_are_left_alone() -> None:
    ticket = ot.find_ticket(TwoHeads(), DATA, recipe=RECIPE, density=0.5, rounds=1)
    assert (ticket.head, list(ticket.masks)) == ("head", ["body.weight"])


def test_frozen_weights_and_adapters_are_not_pruned_and_are_named() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Adapted(), nn.ReLU(), nn.Linear(8, 3))
    model[1].base.requires_grad_(False)
    with pytest.warns(
        UserWarning, match=r"'1.base.weight', '1.lora_A.weight', '1.lora_B.weight' are frozen or adapters"
    ):
        ticket = ot.find_ticket(model, DATA, recipe=RECIPE, density=0.5, rounds=1)
    assert list(ticket.masks) == ["0.weight"]
    model[0].requires_grad_(False)
    with pytest.raises(InputError, match=r"nothing to prune: .* are frozen or adapters"):
        ot.find_ticket(model, DATA, recipe=RECIPE, density=0.5, rounds=1)
    asked = ot.find_ticket(model, DATA, recipe=RECIPE, density=0.5, rounds=1, prunable=("*.lora_*",))
    assert list(asked.masks) == ["1.lora_A.weight", "1.lora_B.weight"]
    assert take_census(model, X).view.names == ("0.weight", *(f"1.{n}.weight" for n in ("base", "lora_A", "lora_B")))


def test_a_pattern_chooses_matrices_and_one_that_fits_nothing_is_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    assert Prunable(model, head="2", only=["*"]).names == ("0.weight", "2.weight")
    assert Prunable(model, head="2", only=["0.*", "1.weight"]).names == ("0.weight", "1.weight")
    for wrong in ("blocks.*", "1.*", "0.wieght"):
        with pytest.raises(InputError, match=r"the model has no parameter '.*' to prune"):
            Prunable(model, head="2", only=[wrong])


def test_what_is_there_is_told_where_nothing_can_be_pruned() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = nn.Sequential(Own(), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"nothing to prune: it has 1 Own besides its head; .*blocks\.\*\.weight"):
        ot.find_ticket(model, DATA, recipe=RECIPE, density=0.5, rounds=1)
    assert ot.find_ticket(model, DATA, recipe=RECIPE, density=0.5, rounds=1, prunable=("0.*",)).masks.total == 48


def test_a_convolution_that_gives_the_classes_is_a_head() -> None:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model, data = nn.Sequential(*layers), (torch.randn(8, 1, 5, 5), torch.arange(8) % 3)
    ticket = ot.find_ticket(model, data, recipe=RECIPE, density=0.5, rounds=1)
    assert ot.transfer(ticket, model, data, recipe=RECIPE).placement.density == 0.5
