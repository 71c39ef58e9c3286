"""No kernel on trust: what differs from the plain path takes it, and what can't be looked at stays on it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oneticket as ot
import oneticket.training.kernels as module
from oneticket.data import as_batches
from oneticket.errors import InputError
from oneticket.kernels.plain import on_plain_path
from oneticket.kernels.pointwise import is_pointwise
from oneticket.kernels.trial import Layout, Trial
from oneticket.models import ModelSpec, build
from oneticket.training import Runtime, Training

IMAGES, LABELS = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
Faults = Callable[[Trial], str | None]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 1), nn.Flatten(),
        nn.Linear(72, 4),
    )  # fmt: skip


def trained(model: nn.Module, precision: Any = "float32", layout: Layout = "channels-last", **options: Any) -> Training:
    recipe = ot.Recipe.sgd(epochs=1, lr=0.05, batch_size=8, precision=precision)
    return ot.train(model, (IMAGES, LABELS), recipe, runtime=Runtime(layout=layout), **options)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Faults], list[Trial]]:
    """Has the machine be one with the given faults; returns what it was asked about."""

    def install(fault: Faults) -> list[Trial]:
        asked: list[Trial] = []

        def faults(trials: Any) -> Mapping[Trial, str]:
            listed = list(trials)
            asked.extend(listed)
            return {trial: text for trial in listed if (text := fault(trial)) is not None}

        monkeypatch.setattr(module, "faults", faults)
        return asked

    return install


def same(one: nn.Module, other: nn.Module, tolerance: float = 1e-5) -> None:
    for (name, value), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance, msg=name)


def test_a_network_without_faults_is_trained_as_asked(found: Any) -> None:
    asked = found(lambda _: None)
    assert trained(network()).kernels == module.Kernels("channels-last")
    sizes = {trial.arguments[0].shape[0] for trial in asked}  # type: ignore[union-attr]
    assert sizes == {8, 4}, "a whole batch, and the one at the end of an epoch"


def test_nothing_is_asked_of_the_plain_path(found: Any) -> None:
    asked = found(lambda _: "wrong")
    assert trained(network(), layout="contiguous").kernels == module.Kernels("contiguous")
    assert asked == []


@pytest.mark.parametrize("op", ["convolution", "batch_norm", "max_pool2d"])
def test_a_layer_with_a_fault_takes_the_plain_path(op: str, found: Any, caplog: pytest.LogCaptureFixture) -> None:
    found(lambda trial: "it crashes" if op in trial.op else None)
    layers = {"convolution": ["0", "4"], "batch_norm": ["1"], "max_pool2d": ["3"]}[op]
    model, plain = network(), network()
    types = [type(layer) for layer in model]
    with caplog.at_level(logging.WARNING, "oneticket.kernels"):
        result = trained(model)
    trained(plain, layout="contiguous")
    assert result.kernels.layout == "channels-last"
    assert list(result.kernels.plain) == layers
    assert all("it crashes" in fault and op in fault for fault in result.kernels.plain.values())
    assert [f"the layer '{name}'" in caplog.text for name in layers] == [True] * len(layers)
    assert [type(layer) for layer in model] == types
    same(model, plain)


def test_a_plain_layer_sees_rows_of_float32_and_gives_what_its_neighbours_have() -> None:
    layer = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    seen = []
    true = F.conv2d

    def noted(images: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        seen.append((images.is_contiguous(), images.dtype, weight.stride(), torch.is_autocast_enabled("cpu")))
        return true(images, weight, *rest)

    with pytest.MonkeyPatch.context() as patch, on_plain_path(nn.Sequential(layer), ["0"], "channels-last"):
        patch.setattr(F, "conv2d", noted)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = layer(images.bfloat16())
    assert seen == [(True, torch.float32, (3, 1, 1, 1), False)]
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert type(layer) is nn.Conv2d


class Functional(nn.Module):
    """Computes without layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Parameter(torch.randn(20, 3, 1, 1)), nn.Linear(20, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.conv2d(images, self.kernel, stride=2).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_where_no_layer_can_be_blamed_the_network_is_plain(found: Any) -> None:
    asked = found(lambda _: None)
    torch.manual_seed(0)
    model = Functional()
    plain = copy.deepcopy(model)
    kernels = trained(model).kernels
    assert kernels.layout == "contiguous"
    assert list(kernels.plain) == [""]
    assert "issue 6035" in kernels.plain[""]
    assert not any(trial.has_known_fault for trial in asked), "the known fault is never tried"
    trained(plain, layout="contiguous")
    same(model, plain, 0.0)


def test_a_subclass_that_would_meet_the_fault_is_plain(found: Any) -> None:
    class Own(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return F.conv2d(images, self.weight, None, self.stride)

    found(lambda _: None)
    torch.manual_seed(0)
    model = nn.Sequential(Own(3, 4, 1, 2), nn.Flatten(), nn.Linear(64, 4))
    plain = copy.deepcopy(model)
    assert list(trained(model).kernels.plain) == ["0"]
    trained(plain, layout="contiguous")
    same(model, plain)


def test_the_layer_of_torch_that_would_meet_it_is_computed_by_another_kernel(found: Any) -> None:
    asked = found(lambda _: None)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.Flatten(), nn.Linear(64, 4))
    plain = copy.deepcopy(model)
    assert trained(model).kernels == module.Kernels("channels-last")
    strides = [trial.arguments[3] for trial in asked if trial.op == "aten.convolution"]
    assert [stride.items for stride in strides] == [(1, 1), (1, 1)], "as it is computed"  # type: ignore[union-attr]
    trained(plain, layout="contiguous")
    same(model, plain)


def test_bfloat16_that_is_wrong_outside_of_layers_is_refused(found: Any) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(192, 4))

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.weight

    found(lambda trial: "the value 1 is off" if trial.op == "aten.mm" else None)
    with pytest.raises(InputError, match=r"computed wrongly in bfloat16 on this machine.*expected float32"):
        trained(Product(), "bf16")


def test_bfloat16_that_is_wrong_in_a_layer_is_float32_there(found: Any) -> None:
    asked = found(lambda trial: "the value 1 is off" if trial.op == "aten.addmm" else None)
    result = trained(network(), "bf16", layout="contiguous")
    assert list(result.kernels.plain) == ["6"]
    assert {trial.layout for trial in asked} == {"contiguous"}
    assert {blank.dtype for trial in asked for blank in trial.arguments[:1]} == {"bfloat16"}  # type: ignore[union-attr]


@pytest.mark.parametrize("why", ["shared", "uncopiable"])
def test_what_can_not_be_looked_at_is_plain(why: str, found: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def __deepcopy__(self, memo: dict[int, Any]) -> Odd:
            if why == "uncopiable":
                raise TypeError("no copies")
            return self

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images)  # type: ignore[no-any-return]

    found(lambda _: None)
    model, plain = Odd(), network()
    with caplog.at_level(logging.WARNING, "oneticket.kernels"):
        kernels = trained(model).kernels
    assert kernels.layout == "contiguous"
    assert kernels.unchecked is not None
    assert kernels.unchecked in caplog.text
    trained(plain, layout="contiguous")
    same(model.body, plain, 0.0)


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


def test_looking_changes_nothing_and_is_not_noticed(found: Any) -> None:
    calls: list[torch.Size] = []

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append(given[0].shape)

    asked = found(lambda _: None)
    model = network()
    model.register_forward_pre_hook(count)
    before, drawn = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    batches = as_batches((IMAGES, LABELS), 8)
    module.choose_kernels(model, _loss, batches, precision="float32", channels_last=True)
    assert asked
    assert calls == []
    assert torch.equal(drawn, torch.random.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_narrow_network_is_trained_rightly_in_every_layout() -> None:
    """The fault that was found: with it this differed by the size of the gradient, or ended the process."""
    spec = ModelSpec(name="resnet20", options={"width": 0.25})
    fast, plain = (build(spec, input_shape=(3, 8, 8), classes=4, seed=0) for _ in range(2))
    assert sum(map(is_pointwise, fast.modules())) == 2
    trained(fast)
    trained(plain, layout="contiguous")
    same(fast, plain, 1e-3)
