"""Costs: operations of small networks counted by hand, and of one network whose count was published."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.models.resnet import resnet20
from oneticket.prunable import Prunable
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


# -- layers that a single kernel computes -------------------------------------------------------------------------
class _Tokens(nn.Module):
    """A recurrent or attention layer over 5 tokens of 8 features, and a head on the last one."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        given = (tokens,) * (3 if isinstance(self.layer, nn.MultiheadAttention) else 1)
        found = self.layer(*given)
        return self.head((found[0] if isinstance(found, tuple) else found)[:, -1])


HEADS, PAIRS = 2, 5 * 5  # attention: queries times keys, and weights times values, over 8 features in all
ATTENTION = 2 * 2 * PAIRS * 8
SEQUENTIAL = [
    (nn.LSTM(8, 6, 2, batch_first=True), 6, [24 * 8, 24 * 6, 24 * 6, 24 * 6], 0),
    (nn.GRU(8, 6, batch_first=True), 6, [18 * 8, 18 * 6], 0),
    (nn.RNN(8, 6, batch_first=True), 6, [6 * 8, 6 * 6], 0),
    (nn.MultiheadAttention(8, HEADS, batch_first=True), 8, [24 * 8, 8 * 8], ATTENTION),
    (nn.TransformerEncoderLayer(8, HEADS, 16, batch_first=True), 8, [24 * 8, 8 * 8, 16 * 8, 8 * 16], ATTENTION),
]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("layer", "width", "weights", "rest"), SEQUENTIAL, ids=lambda part: type(part).__name__)
def test_recurrent_layers_and_attention_multiply_each_weight_once_a_token(
    layer: nn.Module, width: int, weights: list[int], rest: int, trained: bool
) -> None:
    """Also where no gradient is asked for, when kernels of their own compute them."""
    model = _Tokens(layer, width).requires_grad_(trained)
    head = 2 * width * 3
    dense = 2 * 5 * sum(weights) + rest + head
    prunable = dict(Prunable(model).weights())
    assert [weight.numel() for weight in prunable.values()] == weights
    assert count(model, 5, 8, masks=Masks.full(prunable)) == (dense, dense)
    for name, weight in prunable.items():
        by_one = {other: torch.ones_like(w, dtype=torch.bool) for other, w in prunable.items()}
        by_one[name] = half(*weight.shape)
        assert count(model, 5, 8, masks=Masks(by_one)) == (dense, dense - 5 * weight.numel()), name
        assert count(model, 5, 8, masks=Masks({name: by_one[name]})) == (dense, dense - 5 * weight.numel()), name
    assert count(model, 5, 8, masks=~Masks.full(prunable)) == (dense, rest + head)


def test_attention_of_a_network_of_ones_own_is_counted() -> None:
    class Attends(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert count(Attends(), 2, 5, 4)[0] == ATTENTION


def test_the_kernels_are_those_of_before() -> None:
    """Also when the network fails."""

    def switches() -> tuple[bool, ...]:
        backends = torch.backends
        return backends.mkldnn.enabled, backends.cudnn.enabled, backends.mha.get_fastpath_enabled()  # type: ignore[attr-defined]

    before = switches()
    assert any(before)
    count(nn.Linear(5, 3), 5)
    assert switches() == before
    with pytest.raises(RuntimeError):
        count(nn.Linear(5, 3), 4)
    assert switches() == before


def test_a_weight_that_modules_share_counts_less_in_each_of_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    for name in ("0.weight", "2.weight"):
        assert count(model, 4, masks=Masks({name: half(4, 4)})) == (32 + 32 + 16, 16 + 16 + 16)


def test_a_copy_of_a_weight_is_the_weight() -> None:
    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 4, 3))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.einsum("nd,hdk->nhk", inputs.double(), self.weight.double()).flatten(1)

    assert count(Copying(), 4, masks=Masks({"weight": half(2, 4, 3)})) == (48, 24)
