"""The loop against a textbook one: the same network after 50 steps, on each built-in model.

Rounding decides on which side of a kink an activation falls that is as good as zero, and a gradient jumps there: two
float32 trainings of one network part within a few steps, whoever computes them. So float32 is compared with the kinks
smoothed, where rounding stays rounding, and the networks as they are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oneticket.data import ImageSet
from oneticket.masks import Masks
from oneticket.models import MODELS, ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Recipe, Runtime, train

STEPS, BATCH, SAMPLES, CLASSES, SHAPE, SEED = 50, 16, 80, 4, (3, 16, 16), 3
WIDTHS = {"lenet-300-100": 0.2, "resnet18": 0.0625, "resnet50": 0.125} | dict.fromkeys(
    ("conv-2", "conv-4", "conv-6", "vgg11", "vgg16", "vgg19"), 0.125
)
TRANSFORMERS = {"vit": {"width": 8, "depth": 1, "heads": 2}}
QUICK = ("lenet-300-100", "conv-2", "vit", "resnet20", "vgg11")
IMAGES = [entry.name for entry in MODELS.entries() if entry.facts.takes != "tokens"]
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in IMAGES]
FEWER = [pytest.param(name, marks=[] if name in QUICK[:3] else [pytest.mark.slow]) for name in IMAGES]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
UNFUSED: dict[str, Any] = {"foreach": False, "fused": False}
OPTIMIZERS: dict[str, tuple[Recipe, MakeOptimizer]] = {
    "sgd": (
        Recipe.sgd(epochs=10, lr=1e-3, batch_size=BATCH),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=1e-4, **UNFUSED),
    ),
    "gentle": (
        Recipe.sgd(epochs=10, lr=1e-4, batch_size=BATCH),
        lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9, weight_decay=1e-4, **UNFUSED),
    ),
    "nesterov": (
        Recipe.sgd(epochs=10, lr=0.01, batch_size=BATCH, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True, **UNFUSED),
    ),
    "adam": (
        Recipe.adam(epochs=10, lr=1e-3, batch_size=BATCH, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3, **UNFUSED),
    ),
    "adamw": (
        Recipe(optimizer="adamw", epochs=10, lr=1e-3, batch_size=BATCH, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1, **UNFUSED),
    ),
    "rmsprop": (
        Recipe(optimizer="rmsprop", epochs=10, lr=1e-4, batch_size=BATCH, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.RMSprop(p, lr=1e-4, momentum=0.9, weight_decay=1e-3, foreach=False),
    ),
}


def plain(
    network: nn.Module, inputs: Tensor, labels: Tensor, masks: Mapping[str, Tensor], make: MakeOptimizer
) -> nn.Module:
    """Trained as in a textbook: NCHW, weights multiplied by their masks before each forward pass, one loop a tensor."""
    parameters = dict(network.named_parameters())
    optimizer = make(network.parameters())
    network.train()

    def apply_masks() -> None:
        for name, mask in masks.items():
            parameters[name].data *= mask

    for epoch in range(STEPS * BATCH // SAMPLES):
        order = torch.randperm(SAMPLES, generator=Streams(SEED).generator("data-order", epoch))
        for batch in order.split(BATCH):
            apply_masks()
            optimizer.zero_grad()
            loss = F.cross_entropy(network(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    apply_masks()
    return network


class Smooth(TorchFunctionMode):
    """Softplus for ReLU and average pooling for max-pooling: no kinks."""

    def __torch_function__(self, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        if function in (F.relu, torch.relu):
            return F.softplus(given[0])
        if getattr(function, "__name__", "") in ("boolean_dispatch", "max_pool2d", "_max_pool2d"):
            return F.avg_pool2d(given[0], given[1])
        return function(*given, **(named or {}))


def pictures() -> ImageSet:
    """Noise over one coarse pattern for each of four classes."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % CLASSES
    patterns = F.interpolate(torch.rand(CLASSES, 3, 4, 4, generator=chance), SHAPE[1])[labels]
    noise = torch.rand(SAMPLES, *SHAPE, generator=chance)
    return ImageSet((178 * patterns + 76 * noise).to(torch.uint8), labels, tuple("abcd"))


def normalised(images: ImageSet, dtype: torch.dtype) -> Tensor:
    pixels = images.images.to(torch.float64) / 255
    over = {"dim": (0, 2, 3), "keepdim": True}
    return ((pixels - pixels.mean(**over)) / pixels.std(**over, correction=0)).to(dtype)


def network_of(name: str, dtype: torch.dtype) -> nn.Module:
    spec = ModelSpec(name=name, options=TRANSFORMERS.get(name) or {"width": WIDTHS.get(name, 0.25)})
    return build(spec, input_shape=SHAPE, classes=CLASSES, seed=1).to(dtype)


def masks_of(network: nn.Module) -> Masks:
    chance = torch.Generator().manual_seed(2)
    return Masks({n: torch.rand(w.shape, generator=chance) < 0.5 for n, w in Prunable(network).weights()})


def vector(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in network.parameters()])


def apart(fast: nn.Module, slow: nn.Module) -> float:
    return float((vector(fast) - vector(slow)).norm() / vector(slow).norm())


def both(name: str, optimizer: str, dtype: torch.dtype) -> tuple[float, float]:
    """How far fast and plain are apart after 50 steps, and how far they have come, relative to their norm."""
    images = pictures()
    inputs = normalised(images, dtype)
    start, fast, slow = (network_of(name, dtype) for _ in range(3))
    masks = masks_of(start)
    recipe, make = OPTIMIZERS[optimizer]
    data = images if dtype == torch.float32 else (inputs, images.labels)
    train(fast, data, recipe, masks=masks, seed=SEED, runtime=Runtime(layout="channels-last"))
    plain(slow, inputs, images.labels, masks, make)
    for parameter, mask in ((dict(start.named_parameters())[n], m) for n, m in masks.items()):
        parameter.data *= mask
    return apart(fast, slow), apart(start, slow)


@pytest.mark.parametrize("name", FEWER)
def test_float32_agrees_to_1e_5_where_nothing_has_a_kink(name: str) -> None:
    with Smooth():
        difference, way = both(name, "sgd", torch.float32)
    assert way > 0.005
    assert difference < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_float64_agrees_on_the_networks_as_they_are(name: str) -> None:
    # The gradients of resnet50 are so large that it makes five times as much of a difference at every other step.
    difference, way = both(name, "gentle" if name == "resnet50" else "sgd", torch.float64)
    assert way > 0.005
    assert difference < 1e-9


@pytest.mark.parametrize("optimizer", ["nesterov", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("name", ["lenet-300-100", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_the_other_optimisers_agree_too(name: str, optimizer: str) -> None:
    difference, way = both(name, optimizer, torch.float64)
    assert way > 0.01
    assert difference < 1e-9


def test_smoothing_reaches_every_kink() -> None:
    """Or the comparison in float32 would be luck: no network with it has the output that it has without."""
    for name in ("conv-2", "resnet20", "vgg11"):
        network, inputs = network_of(name, torch.float32).eval(), normalised(pictures(), torch.float32)[:2]
        plain_output = network(inputs)
        with Smooth():
            assert not torch.allclose(network(inputs), plain_output, rtol=0.01)
