"""Costs: operations of small networks counted by hand, and of one network whose count was published."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.models.resnet import resnet20
from oneticket.training import forward_flops


def half(*shape: int) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[::2] = True
    return mask


def count(model: nn.Module, *shape: int, masks: Mapping[str, Tensor] | None = None) -> tuple[int, int]:
    return forward_flops(model, torch.zeros(1, *shape), masks)


def test_a_linear_layer_multiplies_and_adds_once_a_weight() -> None:
    assert count(nn.Linear(5, 3), 5) == (2 * 5 * 3, 2 * 5 * 3)


def test_a_layer_that_is_the_whole_network() -> None:
    assert count(nn.Linear(6, 3), 6, masks=Masks({"weight": half(3, 6)})) == (36, 18)


@pytest.mark.parametrize(
    ("layer", "side", "by_hand"),
    [
        (nn.Conv2d(3, 4, 3), 8, 2 * 9 * 3 * 4 * 6 * 6),
        (nn.Conv2d(3, 4, 3, padding=1), 8, 2 * 9 * 3 * 4 * 8 * 8),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), 8, 2 * 9 * 3 * 4 * 4 * 4),
        (nn.Conv2d(4, 8, 3, groups=4), 8, 2 * 9 * 1 * 8 * 6 * 6),
        (nn.Conv2d(2, 4, 1), 5, 2 * 2 * 4 * 5 * 5),
    ],
)
def test_a_convolution_does_it_at_every_output_pixel(layer: nn.Conv2d, side: int, by_hand: int) -> None:
    masks = Masks({"0.weight": half(*layer.weight.shape)})
    assert count(nn.Sequential(layer), layer.in_channels, side, side, masks=masks) == (by_hand, by_hand // 2)


def test_masks_halve_their_layers_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 30), nn.Linear(30, 4))
    layers = [400, 1200, 240]
    assert count(model, 10) == (sum(layers), sum(layers))
    assert count(model, 10, masks=Masks({"2.weight": half(30, 20)})) == (1840, 1840 - 600)
    both = Masks({"0.weight": torch.zeros(20, 10, dtype=torch.bool), "2.weight": half(30, 20)})
    assert count(model, 10, masks=both) == (1840, 600 + 240)


def test_nested_names_are_told_apart() -> None:
    """``body`` is also the name of a part of ``body.body``; only the layer with the mask counts less."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential())
    model.body.add_module("body", nn.Linear(4, 4))
    model.add_module("head", nn.Linear(4, 2))
    assert count(model, 4, masks=Masks({"body.body.weight": half(4, 4)})) == (48, 32)


def test_resnet20_costs_what_was_published() -> None:
    """40.81 million multiply-adds on 32 × 32 colour images, everything included; the layers alone by hand."""
    stage_1 = 6 * 16 * 16 * 9 * 32**2
    stage_2 = (16 * 32 + 5 * 32 * 32) * 9 * 16**2
    stage_3 = (32 * 64 + 5 * 64 * 64) * 9 * 8**2
    by_hand = 3 * 16 * 9 * 32**2 + stage_1 + stage_2 + stage_3 + 64 * 10
    dense, _ = count(resnet20((3, 32, 32), 10, shortcut="identity"), 3, 32, 32)
    assert dense == 2 * by_hand
    assert dense == pytest.approx(2 * 40.81e6, rel=0.01)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, 1, 5, 5)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class _TwoWeights(nn.Module):
    """One module with two weights, as recurrent layers and attention have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(4, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.first.T @ self.second.T


def test_two_weights_of_one_module_count_together() -> None:
    """Half of its weights gone is half of its operations gone, not all of them."""
    masks = {"part.first": torch.zeros(6, 4, dtype=torch.bool), "part.second": torch.ones(4, 6, dtype=torch.bool)}
    model = nn.Sequential()
    model.add_module("part", _TwoWeights())
    assert count(model, 4, masks=masks) == (2 * 48, 48)
