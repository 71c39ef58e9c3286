"""The rows of the table: what is measured, in which unit, against which target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from oneticket.bench.workload import Workload
from oneticket.errors import InputError, unknown

Group = Literal["step", "sparse", "chain", "quick start", "laboratory", "gpu"]
Unit = Literal["×", "s", "ms", "MB", "%"]


class Row(NamedTuple):
    """One row. ``unit`` is "×" for a ratio to the reference loop; ``at_least`` says that a greater value is better."""

    name: str
    what: str
    group: Group
    unit: Unit
    target: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches the target."""
        return value >= self.target if self.at_least else value <= self.target


class Step(NamedTuple):
    """The workload of a row of the group "step": at full size, and in the short form.

    Rows of one ``bout`` take turns with one reference loop, which trains the same network in float32.
    """

    bout: str
    full: Workload
    short: Workload


_LENET = Workload(model="lenet-300-100", shape=(1, 28, 28), augment=False, steps=100, epochs=3)
_RESNET = Workload(model="resnet20", shape=(3, 32, 32), steps=5, epochs=2)
_VGG = Workload(model="vgg19", shape=(3, 32, 32), steps=2, epochs=2, precision="bf16")
_LENET_SHORT = replace(_LENET, steps=30)
_RESNET_SHORT = replace(_RESNET, steps=2, width=0.5)
_VGG_SHORT = replace(_VGG, epochs=1, width=0.25)

STEPS: dict[str, Step] = {
    "lenet": Step("lenet", _LENET, _LENET_SHORT),
    "lenet-bf16": Step("lenet", replace(_LENET, precision="bf16"), replace(_LENET_SHORT, precision="bf16")),
    "resnet20": Step("resnet20", _RESNET, _RESNET_SHORT),
    "resnet20-bf16": Step("resnet20", replace(_RESNET, precision="bf16"), replace(_RESNET_SHORT, precision="bf16")),
    "vgg19-bf16": Step("vgg19", _VGG, _VGG_SHORT),
    "vgg19-sparse": Step("vgg19-sparse", replace(_VGG, density=0.02), replace(_VGG_SHORT, density=0.02)),
}

_VGG_DENSE, _VGG_DENSE_SHORT = (replace(one, precision="float32") for one in (_VGG, _VGG_SHORT))


def _sparse(full: Workload, short: Workload, density: float) -> Step:
    return Step("", replace(full, density=density), replace(short, density=density))


SPARSE_STEPS: dict[str, Step] = {
    "sparse-vgg19-10": _sparse(_VGG_DENSE, _VGG_DENSE_SHORT, 0.1),
    "sparse-vgg19-2": _sparse(_VGG_DENSE, _VGG_DENSE_SHORT, 0.02),
    "sparse-vgg19-half": _sparse(_VGG_DENSE, _VGG_DENSE_SHORT, 0.005),
    "sparse-resnet20-10": _sparse(_RESNET, _RESNET_SHORT, 0.1),
    "sparse-resnet20-2": _sparse(_RESNET, _RESNET_SHORT, 0.02),
    "sparse-resnet20-half": _sparse(_RESNET, _RESNET_SHORT, 0.005),
}
"""Steps of the group "sparse", which take turns with oneticket's own dense ones; they have no bout."""

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("lenet", "lenet-300-100: a training step, data included", "step", "×", 8, True),
        Row("lenet-bf16", "lenet-300-100: a training step, data included, bf16", "step", "×", 8, True),
        Row("resnet20", "resnet20: a training step, dense, float32", "step", "×", 1.35, True),
        Row("resnet20-bf16", "resnet20: a training step, dense, bf16", "step", "×", 2, True),
        Row("vgg19-bf16", "vgg19: a training step, dense, bf16", "step", "×", 2, True),
        Row("vgg19-sparse", "vgg19: a training step at 98 % sparsity, bf16", "step", "×", 3, True),
        Row("sparse-vgg19-10", "vgg19: a step at 10 % of the weights, float32", "sparse", "×", 1.5, True),
        Row("sparse-vgg19-2", "vgg19: a step at 2 % of the weights, float32", "sparse", "×", 3, True),
        Row("sparse-vgg19-half", "vgg19: a step at 0.5 % of the weights, float32", "sparse", "×", 5, True),
        Row("sparse-resnet20-10", "resnet20: a step at 10 % of the weights, float32", "sparse", "×", 1.8, True),
        Row("sparse-resnet20-2", "resnet20: a step at 2 % of the weights, float32", "sparse", "×", 3.5, True),
        Row("sparse-resnet20-half", "resnet20: a step at 0.5 % of the weights, float32", "sparse", "×", 3.5, True),
        Row("layer-256", "3 × 3, 256 → 256, 8 × 8: sparse is faster up to", "sparse", "%", 20, True),
        Row("layer-64", "3 × 3, 64 → 64, 32 × 32: sparse is faster up to", "sparse", "%", 20, True),
        Row("layer-512", "3 × 3, 512 → 512, 4 × 4: sparse is faster up to", "sparse", "%", 20, True),
        Row("chain", "resnet20 ÷ 2: a whole search, 10 rounds, 2 seeds", "chain", "×", 3, True),
        Row("quickstart", "the whole quick start", "quick start", "s", 90),
        Row("lab-plan", "planning 100,000 cells", "laboratory", "s", 5),
        Row("lab-answer", "a finished experiment of 10,000 cells answered", "laboratory", "s", 3),
        Row("lab-overhead", "a cell after the first, besides its training", "laboratory", "ms", 50),
        Row("lab-memory", "the scheduler of 100,000 cells, memory at most", "laboratory", "MB", 500),
        Row("gpu-resnet20", "resnet20: 6 replicates together, images per second", "gpu", "×", 30, True),
        Row("gpu-vgg19", "vgg19: a training step of 512, of the bf16 ceiling", "gpu", "%", 30, True),
    )
}


def chosen(names: Sequence[str], device: str, *, short: bool) -> list[Row]:
    """The rows of these names, or, without any, those of the device; in the short form training steps only.

    Raises InputError, with the nearest valid word, for an unknown name and for a row of another device.
    """
    here = {row.name: row for row in ROWS.values() if (row.group == "gpu") == (device == "cuda")}
    if not names:
        return [row for row in here.values() if not short or row.group in ("step", "gpu")]
    for name in names:
        _check_name(name, here, device)
    return [row for row in here.values() if row.name in names]


def _check_name(name: str, here: Mapping[str, Row], device: str) -> None:
    if name not in ROWS:
        raise unknown("row", name, ROWS, where="--only")
    if name not in here:
        raise InputError(
            f"the row '{name}' is not measured on {device}",
            where="--only",
            expected=f"one of {', '.join(here)}, or another --device",
        )
