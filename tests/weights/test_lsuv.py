"""The rescaling by data against a loop of whole forward passes, and the variances it ends with."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.weights import RescalingContext, rescale
from oneticket.weights.lsuv import TOLERANCE

NETS = [("vgg11", "batch"), ("vgg11", "none"), ("resnet20", "batch"), ("resnet20", "none"), ("resnet20", "group")]


def network(name: str, norm: str, seed: int = 0) -> nn.Module:
    """A narrow net in float64 whose random weights are kept at a quarter."""
    spec = ModelSpec(name=name, options={"width": 0.125, "norm": norm})
    net = build(spec, input_shape=(3, 8, 8), classes=3, seed=seed).double()
    stream = torch.Generator().manual_seed(seed)
    for _, weight in Prunable(net).weights():
        weight.data *= torch.rand(weight.shape, generator=stream) < 0.25
    for key, value in net.named_parameters():
        if key.endswith("bias"):
            value.data = 0.05 * torch.randn(value.shape, generator=stream).double()
    return net


def masks_of(net: nn.Module) -> Masks:
    return Masks({name: weight.detach() != 0 for name, weight in Prunable(net).weights()})


def images(count: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def rescaled(net: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    weights, masks = Prunable(net).values(), masks_of(net)
    context = RescalingContext("rewound", network=lambda: copy.deepcopy(net), batch=lambda: batch)
    return rescale("data", weights, masks, context, optimizer="adam").weights


def with_weights(net: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    changed = copy.deepcopy(net)
    changed.load_state_dict({**changed.state_dict(), **weights})
    return changed


def variances(net: nn.Module, batch: Tensor) -> dict[str, float]:
    """Variance of the output of each prunable layer, in the order of execution, statistics from the batch."""
    found: dict[str, float] = {}
    net = copy.deepcopy(net).train()
    for name, _ in Prunable(net).weights():
        module = net.get_submodule(name.removesuffix(".weight"))
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: float(out.var(correction=0))}))
    with torch.no_grad():
        net(batch)
    return found


def reference(net: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Algorithm 1 of Mishkin & Matas, without its orthogonal start: a whole forward pass for each measurement."""
    weights = Prunable(net).values()
    for name in variances(net, batch):
        for _ in range(20):
            variance = variances(with_weights(net, weights), batch)[name]
            if abs(variance - 1) < 0.02:
                break
            weights[name] = weights[name] / math.sqrt(variance)
    return weights


@pytest.mark.parametrize(("name", "norm"), NETS)
def test_the_same_weights_as_whole_passes_give(name: str, norm: str) -> None:
    net, batch = network(name, norm), images()
    expected = reference(net, batch)
    for layer, weight in rescaled(net, batch).items():
        torch.testing.assert_close(weight, expected[layer], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("name", "norm"), NETS)
def test_every_layer_varies_by_one_afterwards(name: str, norm: str) -> None:
    net, batch = network(name, norm), images()
    assert max(abs(v - 1) for v in variances(net, batch).values()) > 0.3
    after = variances(with_weights(net, rescaled(net, batch)), batch)
    assert all(abs(variance - 1) < TOLERANCE for variance in after.values())


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_variance_is_met_at_each_of_200_draws(norm: str) -> None:
    def small(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        between = [nn.BatchNorm1d(16)] if norm == "batch" else []
        net = nn.Sequential(nn.Linear(10, 16), *between, nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
        for _, weight in Prunable(net).weights():
            weight.data *= torch.rand(weight.shape) < 0.3
        return net

    batch = torch.randn(64, 10, generator=torch.Generator().manual_seed(3))
    met = [variances(with_weights(net, rescaled(net, batch)), batch) for net in map(small, range(200))]
    assert all(abs(variance - 1) < TOLERANCE for found in met for variance in found.values())


def test_layers_are_taken_in_the_order_they_are_executed() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first, self.head = nn.Linear(6, 5), nn.Linear(4, 6), nn.Linear(5, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.second(self.first(inputs).relu()))

    torch.manual_seed(0)
    net, batch = Backwards(), torch.randn(50, 4)
    after = variances(with_weights(net, rescaled(net, batch)), batch)
    assert all(abs(variance - 1) < TOLERANCE for variance in after.values())


def dead_layer(net: nn.Sequential) -> None:
    net[2].weight.data.zero_()
    net[2].bias.data.fill_(0.7)


def wild_bias(net: nn.Sequential) -> None:
    net[2].bias.data = torch.linspace(-5, 5, 7)


@pytest.mark.parametrize("spoilt", [dead_layer, wild_bias])
def test_a_layer_that_cannot_vary_by_one_is_left_as_it_was_and_the_next_is_not(spoilt: object) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 2))
    spoilt(net)  # type: ignore[operator]
    batch = torch.randn(40, 4)
    masks = Masks({name: torch.ones_like(w, dtype=torch.bool) for name, w in Prunable(net).weights()})
    context = RescalingContext("rewound", network=lambda: copy.deepcopy(net), batch=lambda: batch)
    after = rescale("data", Prunable(net).values(), masks, context, optimizer="adam").weights
    assert torch.equal(after["2.weight"], net[2].weight)
    found = variances(with_weights(net, after), batch)
    assert abs(found["0.weight"] - 1) < TOLERANCE
    assert abs(found["3.weight"] - 1) < TOLERANCE


def test_recurrent_cells_and_layers_that_are_not_executed_are_left_as_they_were() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.unused, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(3, 3), nn.Linear(5, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.cell(inputs)[0][:, -1])

    torch.manual_seed(0)
    net, batch = Recurrent(), torch.randn(6, 3, 4)
    after = rescaled(net, batch)
    assert {"cell.weight_ih_l0", "unused.weight"} <= set(after)
    assert all(torch.equal(after[name], weight) for name, weight in Prunable(net).weights())


def test_nothing_is_dropped_out_and_a_shared_layer_is_judged_by_its_first_execution() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.shared, self.head = nn.Dropout(0.9), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.shared(self.shared(self.drop(inputs)).relu()))

    torch.manual_seed(0)
    net, batch = Twice(), torch.randn(64, 4)
    weight = rescaled(net, batch)["shared.weight"]
    assert float((batch @ weight.T).var(correction=0)) == pytest.approx(1, abs=TOLERANCE)
    direction = net.shared.weight.detach()
    torch.testing.assert_close(weight / weight.norm(), direction / direction.norm())


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield
