"""Layers between sparse ones compute on images innermost what they compute in any layout, in every mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.kernels.sparse import as_planes, building, is_planes
from oneticket.kernels.sparse.layout import from_planes
from oneticket.kernels.sparse.norm import normalised
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.models.layers import HalvingPool
from oneticket.training import Recipe, Runtime, train
from oneticket.training.compact import CompactModel, choice, sparse
from oneticket.training.compact.planes import PlanesLayer, between
from oneticket.training.compact.sparse import sparsify

pytestmark = pytest.mark.skipif(not building.available(), reason="no C compiler")

CLASSES = 4
NORM: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: nn.BatchNorm2d(5),
    "norm and ReLU": lambda: nn.Sequential(nn.BatchNorm2d(5), nn.ReLU()),
    "mean of all batches": lambda: nn.BatchNorm2d(5, momentum=None),
    "without statistics": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "without parameters": lambda: nn.BatchNorm2d(5, affine=False),
    "halved": HalvingPool,
    "largest": lambda: nn.MaxPool2d(3, 2, 1),
    "mean": lambda: nn.AvgPool2d(2),
}


def innermost(images: Tensor) -> Tensor:
    return from_planes(as_planes(images.detach())).requires_grad_()


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORM)
def test_they_compute_what_they_are_for(kind: str, training: bool) -> None:
    plain = NORM[kind]().double().train(training)
    for seed, parameter in enumerate(plain.parameters(), start=3):
        parameter.data = drawn(*parameter.shape, seed=seed)
    other = nn.Sequential(copy.deepcopy(plain))
    between(other)
    other.train(training)
    for turn in range(2):
        images = drawn(33, 5, 6, 7, seed=turn).requires_grad_()
        twin, slope = innermost(images), None
        expected, actual = plain(images), other(twin)
        assert is_planes(actual)
        slope = drawn(*expected.shape, seed=9)
        expected.backward(slope)
        actual.backward(slope)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(twin.grad, images.grad, rtol=0, atol=1e-12)
        for mine, wanted in zip(other.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-12, atol=1e-10)
    for mine, wanted in zip(other.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)
    assert torch.equal(other(images.detach()), plain(images.detach())) or training, "another layout is computed as ever"


def test_normalisation_against_its_formula() -> None:
    images, weight, bias = drawn(20, 3, 5, 5, dtype=torch.float32), drawn(3, seed=1).float(), drawn(3, seed=2).float()
    for relu in (False, True):
        outputs, mean, variance = normalised(innermost(images), weight, bias, 1e-5, relu=relu)
        exact = images.double().transpose(0, 1).reshape(3, -1)
        centred = exact - exact.mean(1, keepdim=True)
        spread = centred.square().mean(1, keepdim=True)
        expected = centred / (spread + 1e-5).sqrt() * weight[:, None] + bias[:, None]
        expected = expected.clamp_min(0) if relu else expected
        found = outputs.double().transpose(0, 1).reshape(3, -1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(mean.double(), exact.mean(1), rtol=0, atol=1e-6)
        torch.testing.assert_close(variance.double(), spread[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(128, 3, 6, 6), (1, 1, 3, 5), (7, 2, 1, 1), (50, 1, 9, 11), (37, 4, 5, 7)])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_normalisation_and_what_follows_it_against_plain_operations(
    shape: tuple[int, ...], relu: bool, adds: bool
) -> None:
    exact = [drawn(*shape), drawn(shape[1], seed=1), drawn(shape[1], seed=2), *[drawn(*shape, seed=3)] * adds]
    slope = drawn(*shape, seed=4)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        leaves = [innermost(exact[0].to(dtype)), *(part.clone().to(dtype).requires_grad_() for part in exact[1:])]
        images, weight, bias, *added = leaves
        outputs, *_ = normalised(images, weight, bias, 1e-5, relu=relu, added=added[0] if adds else None)
        outputs.backward(slope.to(dtype))
        wanted = [leaf.detach().double().requires_grad_() for leaf in leaves]
        x, w, b, *more = wanted
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        expected = (x - mean) / (variance + 1e-5).sqrt() * w.view(-1, 1, 1) + b.view(-1, 1, 1)
        expected = expected + more[0] if adds else expected
        expected = expected.relu() if relu else expected
        expected.backward(slope)
        for mine, right in (
            (outputs, expected),
            *((leaf.grad, other.grad) for leaf, other in zip(leaves, wanted, strict=True)),
        ):
            scale = max(1.0, float(right.detach().abs().max()))
            torch.testing.assert_close(mine.double(), right, rtol=0, atol=tolerance * scale)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    images = drawn(64, 1, 16, 16).add(1000).float()
    _, mean, variance = normalised(innermost(images), torch.ones(1), torch.zeros(1), 1e-5, relu=False)
    torch.testing.assert_close(variance.double(), images.double().var(unbiased=False).view(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(mean.double(), images.double().mean().view(1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
def test_a_residual_block_ends_in_one_pass(shortcut: str) -> None:
    plain = build(
        ModelSpec(name="resnet20", options={"width": 0.25, "shortcut": shortcut}),
        input_shape=(3, 8, 8),
        classes=4,
        seed=0,
    )
    plain = plain.double().train()
    block, images = plain.get_submodule("stages")[1][0], drawn(33, 4, 8, 8).requires_grad_()
    other, twin = nn.Sequential(copy.deepcopy(block)), innermost(images)
    for name, layer in list(other.named_modules()):
        if type(layer) is nn.Conv2d:
            other.set_submodule(name, PlanesLayer(layer, torch.ones_like(layer.weight, dtype=torch.bool), None))
    between(other)
    expected, actual = block(images), other(twin)
    assert type(actual.grad_fn).__name__ == "_NormaliseBackward", "neither a ReLU nor a sum after it"
    slope = drawn(*expected.shape, seed=1)
    expected.backward(slope)
    actual.backward(slope)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(twin.grad, images.grad, rtol=0, atol=1e-12)
    for mine, wanted in zip(other.parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.flatten(), wanted.grad.flatten(), rtol=1e-12, atol=1e-10)


def test_a_residual_block_does_not_depend_on_threads() -> None:
    images, added, found = drawn(128, 16, 8, 8).float(), drawn(128, 16, 8, 8, seed=1).float(), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            leaves = [
                innermost(images),
                torch.ones(16).requires_grad_(),
                torch.zeros(16).requires_grad_(),
                innermost(added),
            ]
            outputs, *_ = normalised(*leaves[:3], 1e-5, relu=True, added=leaves[3])
            outputs.backward(outputs.detach())
        finally:
            torch.set_num_threads(before)
        found.append([outputs.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(one, other) for result in found[1:] for one, other in zip(found[0], result, strict=True))


def test_what_is_not_a_number_stays_so() -> None:
    images = drawn(16, 2, 2, 2, dtype=torch.float32)
    images[3, 1] = float("nan")
    outputs, *_ = normalised(innermost(images), torch.ones(2), torch.zeros(2), 1e-5, relu=True)
    assert outputs[:, 1].isnan().all()
    assert not outputs[:, 0].isnan().any(), "a diverged training must be seen"


def test_one_value_for_a_channel_is_refused_as_ever() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    between(network)
    with pytest.raises(ValueError, match="more than 1 value"):
        network(innermost(torch.ones(1, 3, 1, 1)))


def test_a_relu_that_is_used_twice_is_left_alone() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.BatchNorm2d(2), relu, nn.Conv2d(2, 2, 1), relu)
    between(network)
    assert type(relu) is nn.ReLU


# -- which layers ----------------------------------------------------------------------------------------------------
def masked(name: str, density: float, **options: Any) -> tuple[nn.Module, Masks]:
    network = build(ModelSpec(name=name, options=options), input_shape=(3, 8, 8), classes=CLASSES, seed=1)
    generator = torch.Generator().manual_seed(2)
    return network, Masks(
        {n: torch.rand(p.shape, generator=generator) < density for n, p in network.named_parameters() if p.dim() > 1}
    )


def test_all_layers_that_can_are_sparse_where_that_is_demanded() -> None:
    network, masks = masked("resnet20", 0.3, width=0.5)
    found = sparsify(CompactModel(network, masks), torch.zeros(8, 3, 8, 8), compute="sparse")
    plain = {n for n, m in network.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}  # not PointwiseConv2d
    assert set(found.sparse) == plain
    assert all(isinstance(found.model.get_submodule(name), PlanesLayer) for name in plain)
    outputs = found.model.get_submodule("stem")(torch.randn(8, 3, 8, 8))
    assert is_planes(outputs)
    assert sparsify(CompactModel(network, masks), torch.zeros(8, 3, 8, 8), compute="dense").sparse == ()


def test_convolutions_without_padding_are_sparse() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, CLASSES))
    mask = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    network[0].weight.data *= mask
    found = sparsify(CompactModel(network, Masks({"0.weight": mask})), torch.zeros(8, 3, 8, 8), compute="sparse")
    assert found.sparse == ("0",)
    images = drawn(5, 3, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(found.model(images), network(images))


@pytest.mark.parametrize("faster", ["dense", "sparse"])
def test_what_is_measured_decides_and_is_remembered(
    faster: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sparse, "SMALL", 0)
    steps: list[bool] = []

    def step(network: nn.Module, *_: Any) -> float:
        is_sparse = any(isinstance(module, PlanesLayer) for module in network.modules())
        steps.append(is_sparse)
        return 1.0 if is_sparse == (faster == "sparse") else 1.1

    monkeypatch.setattr(choice, "_step", step)
    monkeypatch.setattr(sparse, "gain", lambda *_: 2.0)
    network, masks = masked("vgg11", 0.2, width=0.125)
    names = []
    for _ in range(2):
        names.append(sparsify(CompactModel(network, masks), torch.zeros(8, 3, 8, 8)).sparse)
        assert len(steps) == 2 * (1 + choice.TURNS), "measured once"
    assert names[0] == names[1]
    assert bool(names[0]) == (faster == "sparse")


def test_layers_that_are_faster_by_themselves_are_tried_together(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sparse, "SMALL", 0)
    seen: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def gain(layers: tuple[nn.Module, nn.Module], inputs: tuple[Tensor, Tensor], _: str) -> float:
        seen[tuple(layers[0].weight.shape)] = inputs
        return 1.1 if layers[0].weight.shape[0] == 32 else 0.9

    def step(network: nn.Module, *_: Any) -> float:
        return 1.0 if sum(isinstance(module, PlanesLayer) for module in network.modules()) == 2 else 2.0

    monkeypatch.setattr(sparse, "gain", gain)
    monkeypatch.setattr(choice, "_step", step)
    network, masks = masked("vgg11", 0.2, width=0.125)
    found = sparsify(CompactModel(network, masks), torch.zeros(8, 3, 8, 8))
    wide = [n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.shape[0] == 32]
    assert list(found.sparse) == wide
    assert len(wide) == 2
    plain, planes = seen[8, 3, 3, 3]
    assert plain.shape == planes.shape == (8, 3, 8, 8), "a whole batch"
    assert is_planes(planes)
    assert not is_planes(plain)


def test_a_gain_is_that_of_the_fastest_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(3, 3, 3)
    sparse_layer = PlanesLayer(layer, torch.ones_like(layer.weight, dtype=torch.bool), None)
    inputs = torch.zeros(2, 3, 4, 4), innermost(torch.zeros(2, 3, 4, 4))
    assert choice.gain((layer, sparse_layer), inputs, "float32") > 0
    assert all(parameter.grad is None for parameter in (*layer.parameters(), *sparse_layer.parameters()))
    seconds = iter([0.1, 0.1, 4.0, 2.0, 3.0, 1.5, 5.0, 7.0])
    monkeypatch.setattr(choice, "_layer_step", lambda *_: next(seconds))
    assert choice.gain((layer, sparse_layer), inputs, "float32") == 3.0 / 1.5, "the first pass sets things up"


def test_what_is_clear_needs_no_further_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(choice, "_step", lambda *_: next(seconds))
    networks = {(): nn.Identity(), ("conv",): nn.Identity()}
    found = choice.fastest("key", networks, torch.zeros(1), "float32")
    assert found == choice.Choice("key", ("conv",), 2.0, 1.0)


def test_small_networks_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_step", lambda *_: pytest.fail("measured"))
    network, masks = masked("lenet-300-100", 0.1)
    assert sparsify(CompactModel(network, masks), torch.zeros(60, 3, 8, 8)).sparse == ()


def test_a_training_says_which_layers_were_sparse() -> None:
    network, masks = masked("vgg11", 0.1, width=0.125)
    data = torch.randn(16, 3, 8, 8), torch.arange(16) % CLASSES
    recipe = Recipe.sgd(epochs=1, batch_size=8, lr=0.01)
    told = [
        train(copy.deepcopy(network), data, recipe, masks=masks, runtime=Runtime(compute=asked)).kernels.sparse
        for asked in ("sparse", "dense")
    ]
    assert "features.conv3" in told[0]
    assert told[1] == ()
