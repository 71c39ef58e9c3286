"""Trials: a right operation passes, a wrong one is told; what is compared with what."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.kernels.recording import record
from oneticket.kernels.trial import Blank, Layout, Listed, Trial, errors, worst


def convolution(
    inputs: int = 4, outputs: int = 8, kernel: int = 3, stride: int = 1, *, size: int = 9, dtype: str = "float32",
    layout: Layout = "channels-last", transposed: bool = False,
) -> Trial:  # fmt: skip
    weight = (inputs, outputs) if transposed else (outputs, inputs)
    both = Listed((kernel // 2,) * 2)
    return Trial(
        op="aten.convolution",
        arguments=(
            Blank((5, inputs, size, size), dtype, True), Blank((*weight, kernel, kernel), dtype, True), None,
            Listed((stride, stride)), both, Listed((1, 1)), transposed, Listed((0, 0)), 1,
        ),
        layout=layout,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wrong() -> Iterator[str]:
    """An operation whose gradient is wrong where images lie channels last, and whose value is wrong in bfloat16."""
    library = torch.library.Library("oneticket_test", "DEF")
    library.define("doubled(Tensor x) -> Tensor")

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.last = not x.is_contiguous()  # type: ignore[attr-defined]
            return 2 * x if x.dtype == torch.float32 else 3 * x

        @staticmethod
        def backward(ctx: object, slope: Tensor) -> Tensor:  # type: ignore[override]
            return slope * (2.2 if ctx.last else 2)  # type: ignore[attr-defined]

    library.impl("doubled", Doubled.apply, "CompositeImplicitAutograd")
    yield "oneticket_test.doubled"
    library._destroy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_of_torch_is_right(dtype: str, kernel: int) -> None:
    found = errors(convolution(kernel=kernel, dtype=dtype))
    assert set(found) == {"value 1", "gradient of argument 1", "gradient of argument 2"}
    assert worst(convolution(kernel=kernel, dtype=dtype)) is None
    assert max(found.values()) < (1e-5 if dtype == "float32" else 0.02)


def test_a_wrong_gradient_is_told(wrong: str) -> None:
    blank = Blank((2, 3, 4, 5), "float32", True)
    assert worst(Trial(op=wrong, arguments=(blank,), layout="contiguous")) is None
    fault = worst(Trial(op=wrong, arguments=(blank,), layout="channels-last"))
    assert fault is not None
    assert fault.startswith("the gradient of argument 1 is off by 0.1 ")


def test_a_wrong_value_in_another_precision_is_told(wrong: str) -> None:
    fault = worst(Trial(op=wrong, arguments=(Blank((2, 3), "bfloat16", True),), layout="contiguous"))
    assert fault is not None
    assert fault.startswith("the value 1 is off by 0.5")


def test_what_is_not_a_number_is_wrong() -> None:
    log = Trial(op="aten.log", arguments=(Blank((20, 4), "float32", False),), layout="contiguous")
    assert errors(log) == {"value 1": float("inf")}  # of negative noise: on the plain path, too


def test_a_name_tells_trials_apart() -> None:
    trials = [convolution(), convolution(inputs=5), convolution(dtype="bfloat16"), convolution(layout="contiguous")]
    assert len({trial.name for trial in trials}) == 4
    assert convolution().name == convolution().name
    assert msgspec.json.decode(msgspec.json.encode(convolution()), type=Trial) == convolution()


@pytest.mark.parametrize(
    ("trial", "known"),
    [
        (convolution(kernel=1, stride=2, size=8), True),
        (convolution(kernel=1, stride=2, size=8, layout="contiguous"), False),
        (convolution(kernel=1, stride=2, size=9), False),
        (convolution(kernel=1, stride=1), False),
        (convolution(kernel=3, stride=2), False),
        (convolution(16, kernel=1, stride=2, size=8), False),
        (convolution(64, 8, kernel=1, stride=2, size=8, transposed=True), True),
        (convolution(4, 16, kernel=1, stride=2, size=8, transposed=True), False),
    ],
)
def test_the_known_fault_is_known_by_numbers(trial: Trial, known: bool) -> None:
    assert trial.has_known_fault == known
    if known:
        assert not trial.avoided.has_known_fault
        assert worst(trial.avoided) is None


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.free = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.conv2d(self.stem(images), self.free), 2).mean((2, 3)))  # type: ignore[no-any-return]


def ops(seen: dict[Trial, set[str]]) -> dict[str, set[str]]:
    return {trial.op.removeprefix("aten."): names for trial, names in seen.items() if trial.op != "aten.convolution"}


def test_what_a_network_computes_is_recorded_with_its_layers() -> None:
    network, images = Network(), torch.randn(6, 3, 8, 8)
    seen = record(network, lambda: network(images), "channels-last", "cpu")
    convolutions = {names.copy().pop(): trial for trial, names in seen.items() if trial.op == "aten.convolution"}
    assert set(convolutions) == {"stem.0", ""}
    images, weight = convolutions["stem.0"].arguments[:2]  # type: ignore[assignment]
    assert (images, weight) == (Blank((6, 3, 8, 8), "float32", False), Blank((4, 3, 3, 3), "float32", True))
    assert {"stem.1"} in ops(seen).values()
    assert ops(seen)["max_pool2d_with_indices"] == {""}
    assert not network._forward_hooks
    assert not network.stem[0]._forward_pre_hooks


def test_rows_of_float32_are_plain_already_and_in_bfloat16_are_not() -> None:
    network, rows = nn.Linear(3, 2), torch.randn(5, 3)
    assert record(network, lambda: network(rows), "channels-last", "cpu") == {}

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            network(rows)

    ((trial, names),) = record(network, forward, "channels-last", "cpu").items()
    assert (trial.op, trial.layout, names) == ("aten.addmm", "contiguous", {""})


def test_recording_survives_a_network_that_raises() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, rows: Tensor) -> Tensor:
            self.layer(rows)
            raise ValueError("broken")

    network = Broken()
    with pytest.raises(ValueError, match="broken"):
        record(network, lambda: network(torch.zeros(1, 2)), "channels-last", "cpu")
    assert not network.layer._forward_hooks


def test_a_sum_that_is_near_zero_by_chance_is_not_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding of the size that bfloat16 has beside the terms of a sum, where the first draw's sum nearly vanishes."""
    sums = [0.001, 1.0, -0.7, 1.3, 0.4, -1.1, 0.9, -0.2]

    def results(_: Trial, draw: int, *, plain: bool) -> dict[str, Tensor]:
        return {"value 1": torch.tensor([sums[draw] + (0.0 if plain else off)])}

    monkeypatch.setattr("oneticket.kernels.trial._results", results)
    small = Trial(op="aten.relu.default", arguments=(Blank((1,), "bfloat16", True),), layout="contiguous")
    off = 0.004
    assert errors(small)["value 1"] == pytest.approx(4.0, rel=1e-2)
    assert worst(small) is None
    off = 0.4
    assert worst(small) is not None, "a kernel at fault is off for every draw"
