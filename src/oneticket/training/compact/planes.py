"""Layers that compute with their kept weights alone, by the kernels in C; and layers between them in the same layout.

Images lie innermost in memory (:mod:`oneticket.kernels.sparse.layout`). To PyTorch this is an ordinary tensor with
other strides, so ReLUs, sums and means go on in it by themselves; normalisation and pooling are shown a view of it that
they are fast in. Any other layer copies its input, as it would have with another layout.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.kernels.sparse import is_planes, sparse_product
from oneticket.kernels.sparse.building import NUMBERS
from oneticket.kernels.sparse.layout import from_planes, out_of_planes
from oneticket.kernels.sparse.norm import normalised
from oneticket.kernels.sparse.pattern import Geometry, Pair, Pattern, geometry_of
from oneticket.models.layers import HalvingPool
from oneticket.models.resnet import Block

Layer = nn.Conv2d | nn.Linear


class PlanesLayer(nn.Module):
    """A convolution or a linear layer of the weights that ``mask`` keeps.

    ``weight`` is 1-D, in row-major order of the mask. ``layout`` is that of the outputs: None leaves images innermost,
    which layers that draw random numbers in the order of memory, such as dropout, must not see.
    """

    def __init__(self, layer: Layer, mask: Tensor, layout: torch.memory_format | None) -> None:
        super().__init__()
        self.linear, self.layout = isinstance(layer, nn.Linear), layout
        self.mask = mask.reshape(*mask.shape, *(1,) * (4 - mask.dim())).cpu()
        self.positions = mask.flatten().nonzero().flatten()
        self.weight = nn.Parameter(layer.weight.detach().flatten()[self.positions], layer.weight.requires_grad)
        self.bias = layer.bias
        self._geometry = geometry_for(layer)
        self._patterns: dict[Pair, Pattern] = {}
        self.train(layer.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """N × inputs × H × W → N × outputs × H' × W'; (…, inputs) → (…, outputs) if linear."""
        images = inputs.reshape(-1, inputs.shape[-1])[..., None, None] if self.linear else inputs
        pattern = self._pattern((images.shape[2], images.shape[3]))
        outputs = sparse_product(images.to(self.weight.dtype), self.weight, pattern).to(outgoing(inputs))
        if self.bias is not None:
            outputs = outputs + self.bias.to(outputs.dtype).view(-1, 1, 1)
        if self.layout is not None:
            outputs = out_of_planes(outputs, self.layout)
        return outputs.flatten(1).reshape(*inputs.shape[:-1], -1) if self.linear else outputs

    @property
    def bytes(self) -> int:
        """Bytes that say where the kept weights are, for all sizes of images seen so far."""
        return self.mask.nbytes + self.positions.nbytes + sum(pattern.bytes for pattern in self._patterns.values())

    def _pattern(self, size: Pair) -> Pattern:
        if size not in self._patterns:
            self._patterns[size] = Pattern(self.mask, self._geometry._replace(size=size))
        return self._patterns[size]


def geometry_for(layer: Layer) -> Geometry:
    """The geometry of a layer that :func:`is_able` allows, on images of its kernel's size."""
    if isinstance(layer, nn.Linear):
        return Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    found = geometry_of(layer, _least(layer))
    assert found is not None
    return found


def is_able(layer: Layer) -> bool:
    """Whether the kernels compute this layer."""
    return isinstance(layer, nn.Linear) or geometry_of(layer, _least(layer)) is not None


def _least(layer: nn.Conv2d) -> Pair:
    """A size that each convolution takes, with padding or without."""
    return layer.kernel_size[0], layer.kernel_size[1]


def outgoing(inputs: Tensor) -> torch.dtype:
    """The type that a dense layer would give its outputs."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype


class _Norm(nn.BatchNorm2d):
    """Normalises images innermost; evaluation and other types of numbers, as a batch of one image with long lines."""

    relu = False

    def forward(self, input: Tensor) -> Tensor:
        if not is_planes(input):
            outputs = super().forward(input)
        elif self.is_able(input):
            return self.in_c(input, relu=self.relu)
        else:
            planes = input.permute(1, 2, 3, 0)
            channels, height, width, count = planes.shape
            wide = super().forward(planes.reshape(1, channels, height * width, count))
            outputs = from_planes(wide.view(planes.shape))
        return torch.relu(outputs) if self.relu else outputs

    def is_able(self, input: Tensor) -> bool:
        """Whether the kernel computes this; it does not in evaluation and in mixed precision."""
        known = input.dtype in NUMBERS and is_planes(input)
        return self.training and self.affine and known and input.dtype == self.weight.dtype

    def in_c(self, input: Tensor, *, relu: bool, added: Tensor | None = None) -> Tensor:
        """The kernel's normalisation of images innermost, and what follows it there."""
        count = input.numel() // max(1, input.shape[1])
        if count <= 1:
            super().forward(input)  # refuses one value for each channel in PyTorch's words
        outputs, mean, variance = normalised(input, self.weight, self.bias, self.eps, relu=relu, added=added)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                momentum = self.momentum
                if momentum is None:  # the mean of all batches
                    momentum = 1 / float(self.num_batches_tracked or 1)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)  # unbiased, as PyTorch's
        return outputs


class _NormRelu(_Norm):
    """Normalisation and the ReLU that follows it, in one pass."""

    relu = True


class _Done(nn.ReLU):
    """A ReLU whose work the normalisation before it has done."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class _Block(Block):
    """A residual block whose last normalisation, sum and ReLU are one pass."""

    def forward(self, maps: Tensor) -> Tensor:
        *before, last = self.body
        inner = maps
        for layer in before:
            inner = layer(inner)
        shortcut = self.shortcut(maps)
        if isinstance(last, _Norm) and last.is_able(inner) and shortcut.dtype == inner.dtype:
            return last.in_c(inner, relu=True, added=shortcut)
        return F.relu(last(inner) + shortcut)


class _Pool(nn.Module):
    """Pools images innermost with channels as images and images as channels, which lie last."""

    def forward(self, input: Tensor) -> Tensor:
        if not is_planes(input):
            return super().forward(input)  # type: ignore[no-any-return]
        return super().forward(input.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]


_POOLS: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(f"_{kind.__name__}", (_Pool, kind), {}) for kind in (HalvingPool, nn.MaxPool2d, nn.AvgPool2d)
}


def between(model: nn.Module) -> None:
    """Make normalisation and pooling of ``model``, of exactly the known types, work on images innermost, in place.

    A ReLU directly after a normalisation in a ``Sequential`` is computed with it, and so are the sum and the ReLU at
    the end of a residual block of the built-in networks.
    """
    seen: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        seen[id(module)] = seen.get(id(module), 0) + 1
    for module in list(model.modules()):
        if type(module) in _POOLS:
            module.__class__ = _POOLS[type(module)]
        if type(module) is Block:
            module.__class__ = _Block
        if type(module) is nn.Sequential:
            for norm, relu in pairwise(module):
                once = seen[id(norm)] == seen[id(relu)] == 1  # elsewhere, either may come without the other
                if type(norm) is nn.BatchNorm2d and type(relu) is nn.ReLU and once:
                    norm.__class__, relu.__class__ = _NormRelu, _Done
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _Norm
