"""Shrinking: the smaller network trains to the same full-shape weights as the masked one, and computes the same."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import seeded
from oneticket.training import MaskKeeper, Recipe, forward_flops
from oneticket.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from oneticket.training.compact.channels import shrink
from oneticket.training.compact.model import CompactModel

SHAPE = (3, 8, 8)
RECIPES = {
    "sgd": Recipe.sgd(epochs=1, lr=0.02, weight_decay=0.01),
    "nesterov": Recipe.sgd(epochs=1, lr=0.02, nesterov=True, weight_decay=0.0),
    "adam": Recipe.adam(epochs=1, lr=1e-3, weight_decay=0.01),
    "adamw": Recipe(optimizer="adamw", epochs=1, lr=1e-3, weight_decay=0.1, decay_norms=False),
    "rmsprop": Recipe(optimizer="rmsprop", epochs=1, lr=1e-3, momentum=0.5, weight_decay=0.01),
}
NETWORKS = {
    "vgg11": ModelSpec(name="vgg11", options={"width": 0.125}),
    "vgg11-plain": ModelSpec(name="vgg11", options={"width": 0.125, "norm": "none"}),
    "resnet20": ModelSpec(name="resnet20", options={"width": 0.5}),
    "resnet20-identity": ModelSpec(name="resnet20", options={"width": 0.5, "shortcut": "identity"}),
    "conv-2": ModelSpec(name="conv-2", options={"width": 0.25}),
    "lenet-300-100": ModelSpec(name="lenet-300-100", options={"width": 0.2}),
}


class Silent(nn.Module):
    """Neither biases nor norms in its body: a channel into which no weight leads is zero. One residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.c = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.a(images))
        x = F.max_pool2d(torch.relu(x + self.b(x)), 2)
        return self.head(torch.relu(self.norm(self.c(x))).mean((2, 3)))


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    if name == "silent":
        with seeded(1):
            network: nn.Module = Silent()
    else:
        network = build(NETWORKS[name], input_shape=SHAPE, classes=4, seed=1)
    with seeded(2), torch.no_grad():
        for tensor in network.parameters():  # trained once: no bias and no norm at its initial value
            if tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return network.to(dtype)


def magnitude(network: nn.Module, density: float) -> Masks:
    """The largest weights of all layers together, of channels that are as unequal as those of a trained network."""
    generator = torch.Generator().manual_seed(3)
    scores = {}
    for i, (name, weight) in enumerate(Prunable(network).values().items()):
        for dim in (0, 1):
            shape = [-1 if d == dim else 1 for d in range(weight.dim())]
            weight = weight * torch.randn(weight.shape[dim], generator=generator).mul(1.5).exp().view(shape)
        # Each layer keeps its largest weight, so that something reaches the output; every third is nearly dead.
        scores[name] = (weight.abs() / weight.abs().max()).pow(2 if i % 3 == 1 else 1)
    flat = torch.cat([score.flatten() for score in scores.values()])
    threshold = flat.sort(descending=True).values[round(density * len(flat))]
    return Masks({name: score > threshold for name, score in scores.items()})


def batch(dtype: torch.dtype, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, *SHAPE, generator=generator).to(dtype), torch.randint(4, (8,), generator=generator)


def steps(network: nn.Module, masks: Masks | None, optimizer: torch.optim.Optimizer, count: range) -> None:
    """What the loop does, as far as it matters here."""
    parameters = dict(network.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    network.train()
    with MaskKeeper(optimizer, [(parameters[name], mask) for name, mask in (masks or {}).items()]):
        for step in count:
            inputs, targets = batch(dtype, step)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()


def masked_training(network: nn.Module, masks: Masks, recipe: Recipe, count: range) -> torch.optim.Optimizer:
    optimizer = recipe.make_optimizer(network)
    steps(network, masks, optimizer, count)
    return optimizer


def shrunk_training(network: nn.Module, masks: Masks, recipe: Recipe, count: range) -> tuple[CompactModel, Any]:
    shrunk = shrink(network, masks, torch.zeros(1, *SHAPE, dtype=next(network.parameters()).dtype), worth=0.0)
    optimizer = recipe.make_optimizer(shrunk.model)
    shrunk.attach(optimizer)
    steps(shrunk.model, shrunk.masks, optimizer, count)
    shrunk.expand_into(network)
    return shrunk, optimizer


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
        assert torch.allclose(actual[name], tensor, rtol=0, atol=tolerance * scale), name


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


CASES = [(name, 0.1, recipe) for name in [*NETWORKS, "silent"] for recipe in ("sgd", "adam")]
CASES += [(name, 0.02, recipe) for name in NETWORKS if "vgg" not in name for recipe in ("sgd", "adam")]
CASES += [(name, 0.1, "adamw") for name in ("conv-2", "lenet-300-100")]  # has biases, which it does not decay
CASES += [(name, 0.1, recipe) for name in ("vgg11", "silent") for recipe in ("nesterov", "adamw", "rmsprop")]


@pytest.mark.parametrize(("name", "density", "recipe"), CASES)
def test_twenty_steps_are_those_of_the_masked_network(name: str, density: float, recipe: str) -> None:
    dense, small = make(name), make(name)
    masks = magnitude(dense, density)
    inputs, _ = batch(torch.float64, 99)
    masked_training(dense, masks, RECIPES[recipe], range(20))
    assert copy.deepcopy(dense)(inputs).std(0).max() > 0, "the masked network looks at its input"
    shrunk, _ = shrunk_training(small, masks, RECIPES[recipe], range(20))
    assert shrunk.removed > 0
    compare(parameters(small), parameters(dense), 1e-8)
    expected = dense.eval()(inputs)
    for network in (small, shrunk.model):
        torch.testing.assert_close(network.eval()(inputs), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["vgg11-plain", "resnet20", "conv-2"])
def test_in_single_precision_they_differ_by_rounding(name: str) -> None:
    # Few steps: of a pre-activation that is nearly zero rounding decides the sign, differently on each processor, and
    # from then on networks go apart. That twenty steps agree is a matter of double precision, above.
    dense, small = make(name, torch.float32), make(name, torch.float32)
    masks, recipe = magnitude(dense, 0.1), Recipe.sgd(epochs=1, lr=0.02, weight_decay=0.01)
    begun = parameters(dense)
    masked_training(dense, masks, recipe, range(2))
    shrunk_training(small, masks, recipe, range(2))
    compare(parameters(small), parameters(dense), 1e-5)
    moved = [float((now - begun[name]).abs().max() / now.abs().max()) for name, now in parameters(dense).items()]
    assert max(moved) > 1e-2, "rounding is small beside what was learned"


def test_a_training_goes_on_with_what_the_optimiser_remembers() -> None:
    dense, small = make("vgg11"), make("vgg11")
    masks = magnitude(dense, 0.02)
    memory = optimizer_tensors(small, masked_training(small, Masks.full(masks), RECIPES["adam"], range(3)))
    dense.load_state_dict(small.state_dict())
    optimizer = RECIPES["adam"].make_optimizer(dense)
    load_optimizer_tensors(dense, optimizer, memory)
    steps(dense, masks, optimizer, range(3, 13))
    shrunk = shrink(small, masks, torch.zeros(1, *SHAPE, dtype=torch.float64), worth=0.0)
    narrow = RECIPES["adam"].make_optimizer(shrunk.model)
    load_optimizer_tensors(shrunk.model, narrow, shrunk.to_compact(memory))
    shrunk.attach(narrow)
    steps(shrunk.model, shrunk.masks, narrow, range(3, 13))
    shrunk.expand_into(small)
    assert shrunk.removed > 0
    compare(parameters(small), parameters(dense), 1e-8)
    compare(shrunk.to_full(optimizer_tensors(shrunk.model, narrow)), optimizer_tensors(dense, optimizer), 1e-9)


def test_a_training_that_was_killed_goes_on_with_equal_bits() -> None:
    whole, parts = make("resnet20"), make("resnet20")
    begin, masks, example = copy.deepcopy(parts), magnitude(parts, 0.02), torch.zeros(1, *SHAPE, dtype=torch.float64)
    shrunk_training(whole, masks, RECIPES["sgd"], range(6))
    first, optimizer = shrunk_training(parts, masks, RECIPES["sgd"], range(3))
    state = first.to_full(first.model.state_dict())
    memory = first.to_full(optimizer_tensors(first.model, optimizer))
    assert state.keys() == begin.state_dict().keys()
    assert all(tensor.shape == state[name].shape for name, tensor in begin.state_dict().items())
    second = shrink(begin, masks, example, worth=0.0)
    second.model.load_state_dict(second.to_compact(state))
    again = RECIPES["sgd"].make_optimizer(second.model)
    load_optimizer_tensors(second.model, again, second.to_compact(memory))
    second.attach(again)
    steps(second.model, second.masks, again, range(3, 6))
    second.expand_into(begin)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in begin.state_dict().items())


@pytest.mark.parametrize("name", ["vgg11", "silent", "conv-2"])
def test_widening_undoes_narrowing(name: str) -> None:
    network = make(name)
    masks = magnitude(network, 0.02)
    shrunk = shrink(network, masks, torch.zeros(1, *SHAPE, dtype=torch.float64), worth=0.0)
    state = {n: t * masks[n] if n in masks else t for n, t in network.state_dict().items()}
    memory = {f"{n}/m": torch.randn_like(t) * masks.get(n, torch.tensor(1)) for n, t in network.named_parameters()}
    memory |= {f"{n}/step": torch.tensor(float(i)) for i, (n, _) in enumerate(network.named_parameters())}
    for tensors in (state, memory):
        narrow = shrunk.to_compact(tensors)
        assert sum(t.numel() for t in narrow.values()) < sum(t.numel() for t in tensors.values())
        back = shrunk.to_full(narrow)
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[key], value) for key, value in tensors.items())


def test_statistics_that_are_read_are_those_of_the_masked_network_and_others_stay() -> None:
    dense, small = make("vgg11"), make("vgg11")
    masks, before = magnitude(dense, 0.02), make("vgg11").state_dict()
    masked_training(dense, masks, RECIPES["sgd"], range(5))
    shrunk_training(small, masks, RECIPES["sgd"], range(5))
    stayed = 0
    for name, tensor in small.state_dict().items():
        if "running" in name:
            other = ~torch.isclose(tensor, dense.state_dict()[name], rtol=1e-9, atol=1e-12)
            moved = other & (tensor != before[name])
            assert int(moved.sum()) <= 1, "of a dead layer one channel is left"
            stayed += int((other & ~moved).sum())
    assert stayed > 0


def test_removed_weights_learn_at_the_rate_of_their_tensor() -> None:
    dense, small = make("vgg11"), make("vgg11")
    masks, recipe = magnitude(dense, 0.02), RECIPES["adamw"]
    factors = {name: 1.0 + i % 3 for i, name in enumerate(parameters(dense))}
    steps(dense, masks, recipe.make_optimizer(dense, factors), range(5))
    shrunk = shrink(small, masks, torch.zeros(1, *SHAPE, dtype=torch.float64), worth=0.0)
    optimizer = recipe.make_optimizer(shrunk.model, shrunk.to_compact(factors))
    shrunk.attach(optimizer)
    steps(shrunk.model, shrunk.masks, optimizer, range(5))
    shrunk.expand_into(small)
    compare(parameters(small), parameters(dense), 1e-8)


# -- which channels are dead -----------------------------------------------------------------------------------------
def has_path(masks: list[Tensor], layer: int, unit: int, *, forward: bool) -> bool:
    """Whether unit ``unit`` between matrices ``layer`` and ``layer + 1`` is connected to outputs (or inputs)."""
    if (forward and layer == len(masks) - 1) or (not forward and layer == -1):
        return True
    reached = masks[layer + 1][:, unit] if forward else masks[layer][unit]
    step = 1 if forward else -1
    return any(has_path(masks, layer + step, other, forward=forward) for other in reached.nonzero().flatten().tolist())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=5), bias=st.booleans(), seed=st.integers(0, 10_000),
    density=st.floats(0.05, 0.6),
)  # fmt: skip
def test_what_stays_is_what_a_search_of_paths_finds(sizes: list[int], bias: bool, seed: int, density: float) -> None:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(seed)
    weights = {name: t for name, t in network.named_parameters() if "weight" in name}
    masks = {name: torch.rand(t.shape, generator=generator) < density for name, t in weights.items()}
    shrunk = shrink(network, Masks(masks), torch.zeros(1, sizes[0]), worth=0.0)
    matrices = list(masks.values())
    for layer, units in enumerate(sizes[1:-1]):
        living = [u for u in range(units) if has_path(matrices, layer, u, forward=True)
                  and (bias or has_path(matrices, layer, u, forward=False))]  # fmt: skip
        assert shrunk.model[2 * layer].out_features == max(1, len(living))


def test_a_normalised_channel_without_weights_still_says_something() -> None:
    network = make("vgg11")
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in Prunable(network).values().items()}
    masks["features.conv3.weight"][:4] = False
    assert shrink(network, Masks(masks), torch.zeros(1, *SHAPE, dtype=torch.float64), worth=0.0).model is network
    masks["features.conv4.weight"][:, :3] = False
    shrunk = shrink(network, Masks(masks), torch.zeros(1, *SHAPE, dtype=torch.float64), worth=0.0)
    assert shrunk.removed == 3
    assert shrunk.model.features.conv3.out_channels == network.features.conv3.out_channels - 3


def test_a_layer_without_any_weight_keeps_one_channel_and_trains_alike() -> None:
    dense, small = make("vgg11"), make("vgg11")
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in Prunable(dense).values().items()}
    masks["features.conv5.weight"][:] = False
    shrunk, _ = shrunk_training(small, Masks(masks), RECIPES["sgd"], range(5))
    masked_training(dense, Masks(masks), RECIPES["sgd"], range(5))
    assert [shrunk.model.features.get_submodule(f"conv{i}").out_channels for i in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert shrunk.model.features.conv5.out_channels == dense.features.conv5.out_channels
    compare(parameters(small), parameters(dense), 1e-8)


# -- when nothing is removed -----------------------------------------------------------------------------------------
OTHERS = [(nn.GroupNorm(1, 8), 0), (nn.Dropout(), 0), (nn.GroupNorm(8, 8), 2), (nn.Conv2d(8, 8, 1, groups=8), 2)]


@pytest.mark.parametrize(("between", "removed"), OTHERS)
def test_channels_stay_where_their_number_matters_to_others(between: nn.Module, removed: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    masks = Masks({"4.weight": (torch.arange(288) > 99).expand(4, 288)})
    shrunk = shrink(network, masks, torch.zeros(1, *SHAPE), worth=0.0)
    assert shrunk.removed == removed
    assert (shrunk.model is network) == (removed == 0)


def test_little_is_left_alone() -> None:
    network = make("vgg11", torch.float32)
    masks, example = magnitude(network, 0.02), torch.zeros(1, *SHAPE)
    shrunk = shrink(network, masks, example, worth=0.0)
    saved = shrunk.saved
    assert 0 < saved == pytest.approx(1 - forward_flops(shrunk.model, example)[0] / forward_flops(network, example)[0])
    assert shrink(network, masks, example, worth=saved * 0.99).saved == saved
    left = shrink(network, masks, example, worth=saved * 1.01)
    assert (left.model, left.masks, left.saved, left.removed) == (network, masks, 0.0, 0)
    assert left.to_compact(network.state_dict()).keys() == network.state_dict().keys()
    before = copy.deepcopy(network.state_dict())
    left.expand_into(network)
    assert all(torch.equal(left.to_full(before)[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("width", ["asserted", "divided by", "viewed"])
def test_a_network_in_whose_code_widths_are_written_is_left_alone(width: str) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

        def forward(self, images: Tensor) -> Tensor:
            x = torch.relu(self.a(images)).mean((2, 3))
            if width == "asserted" and x.shape[1] != 8:
                raise KeyError("8 channels")
            return self.b(x.view(-1, 8) if width == "viewed" else x * (8 / x.shape[1]))

    network = Written()
    masks = Masks({"b.weight": torch.arange(8).expand(4, 8) > 2})
    assert shrink(network, masks, torch.zeros(1, *SHAPE), worth=0.0).model is network


def test_masks_that_fit_no_parameter_are_left_to_the_keeper() -> None:
    network = make("conv-2")
    for masks in ({"other": torch.zeros(3, 3) > 0}, {"linear1.weight": torch.zeros(3, 3) > 0}):
        assert shrink(network, Masks(masks), torch.zeros(1, *SHAPE)).model is network


# -- the smaller network ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["vgg11", "resnet20", "conv-2", "silent"])
def test_it_is_of_the_same_modules_with_numbers_that_agree(name: str) -> None:
    network = make(name, torch.float32)
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    shrunk = shrink(network, magnitude(network, 0.02), torch.zeros(1, *SHAPE), worth=0.0)
    assert [type(module) for module in shrunk.model.modules()] == [type(module) for module in network.modules()]
    for module in shrunk.model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert len(module.weight) == len(module.running_mean) == module.num_features
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert {n: m.shape for n, m in shrunk.masks.items()} == {
        n: shrunk.model.get_parameter(n).shape for n in shrunk.masks
    }


def test_frozen_weights_come_back_as_they_were() -> None:
    dense, small = make("vgg11"), make("vgg11")
    masks = magnitude(dense, 0.02)
    for network in (dense, small):
        network.features.conv6.weight.requires_grad_(False)
        network.features.norm5.bias.requires_grad_(False)
    masked_training(dense, masks, RECIPES["sgd"], range(5))
    shrunk, _ = shrunk_training(small, masks, RECIPES["sgd"], range(5))
    assert shrunk.model.features.conv6.weight.shape != dense.features.conv6.weight.shape
    compare(parameters(small), parameters(dense), 1e-8)


def test_shared_weights_stay_shared() -> None:
    def twins() -> nn.Sequential:
        with seeded(0):
            one, two = nn.Linear(12, 12), nn.Linear(12, 12)
            two.weight = one.weight
            return nn.Sequential(
                nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), one, nn.ReLU(), two, nn.ReLU(), nn.Linear(12, 4)
            )

    dense, small = twins().double(), twins().double()
    columns = torch.arange(12) > 3
    masks = Masks({"3.weight": columns.expand(12, 12).clone(), "7.weight": columns.expand(4, 12).clone()})
    masked_training(dense, masks, RECIPES["adam"], range(5))
    shrunk, _ = shrunk_training(small, masks, RECIPES["adam"], range(5))
    assert shrunk.removed == 4
    assert shrunk.model[3].weight is shrunk.model[5].weight
    assert torch.equal(small[3].weight, small[5].weight)
    compare(parameters(small), parameters(dense), 1e-8)
