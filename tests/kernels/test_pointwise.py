"""Narrow strided 1 × 1 convolutions: values, gradients and state are those of the layers of torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.kernels.pointwise import (
    NARROW,
    PointwiseConv2d,
    PointwiseConvTranspose2d,
    as_plain,
    is_faulty,
    is_plain,
    is_pointwise,
    meets_fault,
    right_gradients,
)
from oneticket.models import ModelSpec, build

LAST = torch.channels_last


def gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_()
    outputs = layer(images)
    slopes = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs)
    return [outputs.detach(), *torch.autograd.grad(outputs, [images, *layer.parameters()], slopes)]


@pytest.mark.parametrize("channels", [1, 2, 5, 8, 15])
@pytest.mark.parametrize("stride", [2, (1, 2), (2, 1), 3])
@pytest.mark.parametrize("size", [(6, 6), (12, 6), (7, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_that_of_float64(channels: int, stride: int | tuple[int, int], size: tuple[int, int],
                                          bias: bool) -> None:  # fmt: skip
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 4, 1, stride, bias=bias)
    images = torch.randn(3, channels, *size)
    expected = gradients(copy.deepcopy(layer).double(), images.double())
    with right_gradients(layer):
        assert type(layer) is PointwiseConv2d
        found = gradients(layer.to(memory_format=LAST), images.contiguous(memory_format=LAST))
    assert type(layer) is nn.Conv2d
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("inputs", [1, 4, 20])
def test_a_transposed_convolution_is_that_of_float64(over: int, inputs: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(inputs, 5, 1, 2, output_padding=over)
    images = torch.randn(3, inputs, 4, 5)
    expected = gradients(copy.deepcopy(layer).double(), images.double())
    with right_gradients(layer):
        assert type(layer) is PointwiseConvTranspose2d
        found = gradients(layer.to(memory_format=LAST), images.contiguous(memory_format=LAST))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def seen_by_torch(
    layer: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[tuple[int, ...], object]]:
    """Shape and stride of what reaches the convolution of torch."""
    seen = []

    def noted(images: Tensor, weight: Tensor, bias: Tensor | None = None, stride: object = 1, *rest: object) -> Tensor:
        seen.append((tuple(images.shape), stride))
        return true(images, weight, bias, stride, *rest)  # type: ignore[arg-type]

    true = F.conv2d
    monkeypatch.setattr(F, "conv2d", noted)
    layer(images)
    return seen


def test_what_would_meet_the_fault_never_reaches_torch_with_its_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 8, 6, 6).contiguous(memory_format=LAST)
    with right_gradients(layer := nn.Conv2d(8, 4, 1, 2)):
        assert seen_by_torch(layer, images, monkeypatch) == [((2, 8, 3, 3), 1)]


def test_weights_alone_make_a_layout() -> None:
    """Kernels are chosen by the layout of the weights, too, which ``is_contiguous`` does not see at 1 × 1 pixels."""
    weight = torch.empty(4, 8, 1, 1, memory_format=LAST).normal_()
    assert weight.is_contiguous()
    assert not is_plain(weight)
    assert is_plain(as_plain(weight))
    assert torch.equal(as_plain(weight), weight)


@pytest.mark.parametrize("case", ["plain layout", "no gradient", "frozen"])
def test_where_there_is_no_fault_nothing_is_changed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 8, 6, 6)
    layer = nn.Conv2d(8, 4, 1, 2)
    if case != "plain layout":
        images = images.contiguous(memory_format=LAST)
    layer.weight.requires_grad_(case != "frozen")
    with right_gradients(layer), torch.set_grad_enabled(case != "no gradient"):
        ((shape, stride),) = seen_by_torch(layer, images, monkeypatch)
    assert (shape, stride) == ((2, 8, 6, 6), (2, 2))


@pytest.mark.parametrize(
    ("layer", "faulty"),
    [
        (nn.Conv2d(15, 4, 1, 2), True),
        (nn.Conv2d(NARROW, 4, 1, 2), False),
        (nn.Conv2d(4, 64, 1, 1), False),
        (nn.Conv2d(4, 8, 1, (1, 2)), True),
        (nn.Conv2d(4, 8, 3, 2), False),
        (nn.Conv2d(4, 8, (1, 3), 2), False),
        (nn.Conv2d(4, 8, 1, 2, padding=1), False),
        (nn.Conv2d(4, 8, 1, 2, groups=2), False),
        (nn.Conv2d(4, 8, 1, padding="same"), False),
        (nn.ConvTranspose2d(64, 15, 1, 2), True),
        (nn.ConvTranspose2d(4, NARROW, 1, 2), False),
        (nn.Linear(4, 4), False),
        (nn.Conv1d(4, 4, 1, 2), False),
    ],
)
def test_which_layers_meet_it(layer: nn.Module, faulty: bool) -> None:
    assert meets_fault(layer) == faulty
    with right_gradients(layer):
        assert is_pointwise(layer) == faulty


def test_the_rule_in_numbers() -> None:
    assert is_faulty(1, (1, 1), (2, 2), (0, 0))
    assert not is_faulty(1, (1, 1), (1, 1), (0, 0))


def test_state_copies_and_pickles_are_those_of_the_layer() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.ReLU())
    names = list(network.state_dict())
    with right_gradients(network):
        assert list(network.state_dict()) == names
        copied = copy.deepcopy(network)
        assert is_pointwise(copied[0])
        assert is_pointwise(pickle.loads(pickle.dumps(network))[0])
    assert type(network[0]) is nn.Conv2d
    network.load_state_dict(copied.state_dict())


def test_types_come_back_whatever_happens() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.ConvTranspose2d(8, 4, 1, 2))
    with pytest.raises(ZeroDivisionError), right_gradients(network):
        raise ZeroDivisionError
    assert [type(module) for module in network] == [nn.Conv2d, nn.ConvTranspose2d]


def test_subclasses_stay_what_they_are() -> None:
    """Their own code may not be that of a convolution; in another layout they are looked at before they are trained."""

    class Own(nn.Conv2d):
        pass

    with right_gradients(layer := Own(4, 8, 1, 2)):
        assert type(layer) is Own


@pytest.mark.parametrize(("name", "width"), [("resnet20", 0.5), ("resnet18", 0.2), ("resnet50", 1 / 32)])
def test_built_in_networks_have_the_right_layers_of_themselves(name: str, width: float) -> None:
    network = build(ModelSpec(name=name, options={"width": width}), input_shape=(3, 32, 32), classes=4, seed=0)
    faulty = [module for module in network.modules() if meets_fault(module)]
    assert faulty
    assert all(is_pointwise(module) for module in faulty)
    wide = build(ModelSpec(name=name, options={"width": 1.0}), input_shape=(3, 32, 32), classes=4, seed=0)
    assert not any(is_pointwise(module) for module in wide.modules())
