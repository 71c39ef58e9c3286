"""One operation of a network, computed in another layout or precision and compared with the plain path."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from oneticket.identity import digest
from oneticket.kernels.pointwise import is_faulty, right_gradients

Layout = Literal["channels-last", "contiguous"]
Reference = Literal["plain", "float64"]

TOLERANCE, ROUGHER = 1e-3, 0.05
"""The relative error, ‖difference‖ / ‖reference‖, above which a value or a gradient is wrong: float32, bfloat16.

Sums in another order and rounded products stay a factor of five below it, also over the 100,000 pixels of a batch;
faulty kernels were off by 0.09 and more.
"""

_DRAWS = 8

_WIDER = (torch.bfloat16, torch.float16)


class Blank(msgspec.Struct, frozen=True, tag_field="is", tag="tensor"):
    """A tensor of which only shape and type matter; ``learns`` if the operation must give a gradient for it."""

    shape: tuple[int, ...]
    dtype: str
    learns: bool


class Listed(msgspec.Struct, frozen=True, tag_field="is", tag="list"):
    """An argument that is a list."""

    items: tuple[Blank | bool | int | float | None, ...]


Argument = Blank | Listed | bool | int | float | str | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """An operation of ``torch.ops``, such as ``aten.convolution``, with its arguments, to be tried in ``layout``.

    ``oneticket.convolution`` is the layer that networks here have for ``aten.convolution``. The precision is given by
    the types of the tensors. ``reference`` is the path to compare with: the same kernel library on contiguous float32,
    or float64.
    """

    op: str
    arguments: tuple[Argument, ...]
    layout: Layout = "channels-last"
    reference: Reference = "plain"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Sixteen digits that identify the trial."""
        return digest(msgspec.to_builtins(self))[:16]

    @property
    def about(self) -> str:
        """For readers: ``convolution 8×4×16×16 · 8×4×1×1, channels-last, float32``."""
        tensors = [part for part in self.arguments if isinstance(part, Blank)]
        shapes = " · ".join("×".join(map(str, blank.shape)) for blank in tensors if len(blank.shape) > 1)
        kinds = sorted({blank.dtype for blank in tensors if len(blank.shape) > 1})
        return f"{self.op.removeprefix('aten.')} {shapes}, {self.layout}, {' and '.join(kinds)}"

    @property
    def has_known_fault(self) -> bool:
        """Whether it would run the kernel that :mod:`oneticket.kernels.pointwise` avoids."""
        if self.op != "aten.convolution" or (self.layout, self.device) != ("channels-last", "cpu"):
            return False
        numbers: tuple[Any, ...] = self.arguments
        images, weight, steps, padding, transposed, groups = (numbers[i] for i in (0, 1, 3, 4, 6, 8))
        whole = transposed or not any(side % step for side, step in zip(images.shape[2:], steps.items, strict=True))
        narrow = is_faulty(weight.shape[1], weight.shape[2:], steps.items, padding.items, groups)
        return bool(weight.learns and whole and narrow)

    @property
    def avoided(self) -> Trial:
        """The trial of the layer that :mod:`oneticket.kernels.pointwise` has instead: stride 1, or plain layout."""
        numbers: list[Any] = list(self.arguments)
        if numbers[6]:
            return msgspec.structs.replace(self, layout="contiguous")
        images, steps = numbers[0], numbers[3].items
        sides = [side // step for side, step in zip(images.shape[2:], steps, strict=True)]
        numbers[0] = msgspec.structs.replace(images, shape=(*images.shape[:2], *sides))
        numbers[3] = Listed((1, 1))
        return msgspec.structs.replace(self, arguments=tuple(numbers))


def errors(trial: Trial, draws: int = 1) -> dict[str, float]:
    """The relative error of each value and of each gradient, over so many draws together; infinite if not a number.

    The data are noise, rounded to bfloat16, so that all precisions see the same data.
    """
    gaps: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for draw in range(draws):
        plain, tried = (_results(trial, draw, plain=plain) for plain in (True, False))
        for name, value in plain.items():
            reference = value.detach().double()
            gaps[name] = gaps.get(name, 0.0) + float((tried[name].detach().double() - reference).square().sum())
            sizes[name] = sizes.get(name, 0.0) + float(reference.square().sum())
    found = {name: math.sqrt(gap / max(sizes[name], 1e-60)) for name, gap in gaps.items()}
    return {name: error if math.isfinite(error) else math.inf for name, error in found.items()}


def worst(trial: Trial) -> str | None:
    """A description of the largest error, or None if all are tolerable.

    A gradient of few numbers can be near zero by chance, where rounding is large beside it; a faulty kernel is off for
    every draw. So what exceeds the tolerance is judged over several draws together.
    """
    found = errors(trial)
    if max(found.values(), default=0.0) > tolerance(trial):
        found = errors(trial, _DRAWS)
    name = max(found, key=lambda key: found[key], default=None)
    if name is None or found[name] <= tolerance(trial):
        return None
    return f"the {name} is off by {found[name]:.2g} of its size"


def tolerance(trial: Trial) -> float:
    """The tolerable relative error, by the narrowest type among the tensors."""
    types = {part.dtype for part in trial.arguments if isinstance(part, Blank)}
    return TOLERANCE if types <= {"float32", "float64"} else ROUGHER


def _results(trial: Trial, draw: int, *, plain: bool) -> dict[str, Tensor]:
    """Every value and every gradient of the operation, by name; ``plain`` on the plain path."""
    generator = torch.Generator().manual_seed(draw)
    arguments, learning = _arguments(trial, generator, plain=plain)
    outputs = _operation(trial.op)(*arguments)
    outputs = [outputs] if isinstance(outputs, Tensor) else [o for o in outputs if isinstance(o, Tensor)]
    values = {f"value {i + 1}": o.detach() for i, o in enumerate(outputs) if o.is_floating_point() and o.numel()}
    return values | _gradients(outputs, learning, generator)


def _arguments(trial: Trial, generator: torch.Generator, *, plain: bool) -> tuple[list[Any], dict[str, Tensor]]:
    """The arguments of the operation, and by name those that it must give a gradient for."""
    learning: dict[str, Tensor] = {}

    def made(argument: Any) -> Any:
        if isinstance(argument, Listed):
            return [made(item) for item in argument.items]
        if not isinstance(argument, Blank):
            return argument
        tensor = _laid_out(_noise(argument, generator), argument, trial, plain=plain)
        if argument.learns:
            learning[f"gradient of argument {len(learning) + 1}"] = tensor.requires_grad_()
        return tensor

    return [made(argument) for argument in trial.arguments], learning


def _gradients(outputs: list[Tensor], learning: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    judged = [output for output in outputs if output.requires_grad]
    if not (judged and learning):
        return {}
    slopes = [_like(output, _noise_of(output.shape, generator)) for output in judged]
    found = torch.autograd.grad(judged, list(learning.values()), slopes, allow_unused=True)
    return {name: slope for name, slope in zip(learning, found, strict=True) if slope is not None}


def _noise(blank: Blank, generator: torch.Generator) -> Tensor:
    noise = _noise_of(blank.shape, generator)
    return noise if blank.learns or len(blank.shape) > 1 else noise.abs() + 0.5  # running variances are positive


def _noise_of(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator).bfloat16().float()


def _laid_out(noise: Tensor, blank: Blank, trial: Trial, *, plain: bool) -> Tensor:
    own = getattr(torch, blank.dtype)
    wide = torch.float64 if trial.reference == "float64" else torch.float32 if own in _WIDER else own
    noise = noise.to(trial.device, wide if plain else own)
    last = not plain and trial.layout == "channels-last" and noise.dim() == 4
    return noise.contiguous(memory_format=torch.channels_last) if last else noise


def _like(output: Tensor, noise: Tensor) -> Tensor:
    """``noise`` in the type and the layout of ``output``."""
    return torch.empty_like(output).copy_(noise)


@cache
def _operation(name: str) -> Any:
    if name == "oneticket.convolution":
        return _layer
    namespace, _, own = name.partition(".")
    return getattr(getattr(torch.ops, namespace), own)


def _layer(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    """What ``aten.convolution`` computes, by a layer that avoids faulty kernels."""
    ends = (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    common = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias is not None}
    kernel = (weight.shape[2], weight.shape[3])
    layer: nn.Module = nn.Conv2d(*ends, kernel, **common)
    if transposed:
        layer = nn.ConvTranspose2d(*ends, kernel, **common, output_padding=output_padding)
    state = {"weight": weight} | ({"bias": bias} if bias is not None else {})
    with right_gradients(layer):
        return torch.func.functional_call(layer, state, (images,))
