"""Layers that compute with their kept weights alone, by the kernels in C; and layers between them in the same layout.

Images lie innermost in memory (:mod:`oneticket.kernels.sparse.layout`). To PyTorch this is an ordinary tensor with
other strides, so ReLUs, sums and means go on in it by themselves; normalisation and pooling are shown a view of it that
they are fast in. Any other layer copies its input, as it would have with another layout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneticket.kernels.sparse import is_planes, sparse_product
from oneticket.kernels.sparse.layout import from_planes, out_of_planes
from oneticket.kernels.sparse.pattern import Geometry, Pair, Pattern, geometry_of
from oneticket.models.layers import HalvingPool

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
        self._geometry = geometry_for(layer, (1, 1))
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

    def _pattern(self, size: Pair) -> Pattern:
        if size not in self._patterns:
            self._patterns[size] = Pattern(self.mask, self._geometry._replace(size=size))
        return self._patterns[size]


def geometry_for(layer: Layer, size: Pair) -> Geometry:
    """The geometry of a layer that :func:`is_able` allows."""
    if isinstance(layer, nn.Linear):
        return Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    found = geometry_of(layer, size)
    assert found is not None
    return found


def is_able(layer: Layer) -> bool:
    """Whether the kernels compute this layer."""
    return isinstance(layer, nn.Linear) or geometry_of(layer, (1, 1)) is not None


def outgoing(inputs: Tensor) -> torch.dtype:
    """The type that a dense layer would give its outputs."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype


class _Norm(nn.BatchNorm2d):
    """Normalises channels of images innermost, as a batch of one image whose lines are long."""

    def forward(self, input: Tensor) -> Tensor:
        if not is_planes(input):
            return super().forward(input)
        channels, height, width, count = input.permute(1, 2, 3, 0).shape
        wide = input.permute(1, 2, 3, 0).reshape(1, channels, height * width, count)
        return from_planes(super().forward(wide).view(channels, height, width, count))


class _Pool(nn.Module):
    """Pools images innermost with channels as images and images as channels, which lie last."""

    def forward(self, input: Tensor) -> Tensor:
        if not is_planes(input):
            return super().forward(input)  # type: ignore[no-any-return]
        return super().forward(input.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: _Norm,
    **{kind: type(f"_{kind.__name__}", (_Pool, kind), {}) for kind in (HalvingPool, nn.MaxPool2d, nn.AvgPool2d)},
}


def between(model: nn.Module) -> None:
    """Make normalisation and pooling of ``model``, of exactly the known types, work on images innermost, in place."""
    for module in model.modules():
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]
