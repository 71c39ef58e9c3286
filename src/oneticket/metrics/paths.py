"""Paths from input to output: effective masks and density, dead units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oneticket.errors import InputError, nearest
from oneticket.masks import Masks
from oneticket.metrics.reachability import Reachability, UnknownPaths
from oneticket.prunable import transposed_groups
from oneticket.training.evaluation import evaluating


class DeadUnits(NamedTuple):
    """One row of the per-layer table: output units of one tensor that are on no path, and all of them."""

    name: str
    dead: int
    total: int


@dataclass(frozen=True)
class Paths:
    """The part of some masks that lies on a path from the input to the output.

    Parameters
    ----------
    masks : Masks
        The effective masks, a subset of those given; ``masks.density`` is the effective density.
    units : tuple of DeadUnits
        For each masked tensor its dead output units (rows of a linear layer, channels of a convolution).
    """

    masks: Masks
    units: tuple[DeadUnits, ...]

    @property
    def density(self) -> float:
        """The effective density: weights on a path, among all that could have been pruned."""
        return self.masks.density

    @property
    def dead(self) -> int:
        """Dead units of all layers together."""
        return sum(row.dead for row in self.units)


def find_paths(model: nn.Module, masks: Masks, example: Tensor) -> Paths:
    """Which kept weights lie on a path of kept weights from the input to the output (Vysogorets & Kempe 2021).

    A weight lies on one iff it joins a unit that the input reaches to a unit that reaches the output; parameters
    without a mask are all kept, biases connect nothing. Units are distinguished by position: what a convolution
    multiplies by padding only (the rim of a 3 × 3 kernel on a map of one pixel) is on no path, however dense the
    network. A unit is dead iff no effective weight enters it; it may still give a constant, its bias. In attention
    (``scaled_dot_product_attention``) values always pass; a channel of the queries and the same channel of the keys are
    on a path if both are reached. Takes one forward and one backward pass in float64 on the CPU.

    Parameters
    ----------
    model : nn.Module
        Any network of linear and convolutional layers and attention; it is neither changed nor moved.
    masks : Masks
        Parameter name → boolean mask.
    example : Tensor
        One input with a batch dimension of 1. Only its shape matters, which must be that of the data, and whether it
        holds numbers or tokens (int64).

    Returns
    -------
    Paths

    Raises
    ------
    InputError
        When masks and model do not fit.
    UnknownPaths
        For a network whose connections depend on its input or cannot be followed: attention that is written out, gates,
        recurrent cells, a masked weight that takes no part in the pass.
    """
    _check(model, masks)
    leaves = {name: mask.to("cpu", torch.float64).requires_grad_() for name, mask in masks.items()}
    try:
        gradients = _gradients(model, leaves, example)
    except (UnknownPaths, MemoryError):
        raise
    except Exception as error:
        what = f"{type(model).__name__} fails on 0/1 weights in float64: {type(error).__name__}: {error}"
        raise UnknownPaths(what) from error
    effective = Masks({name: mask.cpu() & (gradients[name] > 0) for name, mask in masks.items()})
    layers = {name: model.get_submodule(name.rpartition(".")[0]) for name in effective}
    rows = {name: _rows(mask, transposed_groups(layers[name])) for name, mask in effective.items()}
    return Paths(effective, tuple(DeadUnits(n, int((~r.any(1)).sum()), len(r)) for n, r in rows.items()))


def _gradients(model: nn.Module, leaves: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """For each masked weight a number above zero exactly where the weight is on a path."""
    output = _reached(model, leaves, example)
    if not leaves:
        return {}
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if output.requires_grad:
        found = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
    gradients = {}
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            raise UnknownPaths(f"the weights of '{name}' take no part in the pass")
        gradients[name] = gradient
    return gradients


def _reached(model: nn.Module, leaves: dict[str, Tensor], example: Tensor) -> Tensor:
    """The output of ``model`` in 0 and 1: which of its units the input reaches."""
    others = {
        name: torch.ones(parameter.shape, dtype=torch.float64, requires_grad=True)
        for name, parameter in model.named_parameters()
        if name not in leaves
    }
    buffers = {name: buffer.cpu() for name, buffer in model.named_buffers()}
    walk = Reachability()
    for weights in (leaves | others).values():
        walk.watch(weights, flow=False)
    if example.is_floating_point():
        inputs = torch.ones(example.shape, dtype=torch.float64, requires_grad=True)
    else:  # tokens, which are looked up
        inputs = example.detach().cpu().clone()
    walk.watch(inputs, flow=True)
    with evaluating(model), walk:
        output = torch.func.functional_call(model, leaves | others | buffers, (inputs,))
    output = walk.latest(output)
    if not isinstance(output, Tensor) or not walk.follows(output):
        raise UnknownPaths(f"the output of {type(model).__name__} is not one tensor that can be followed to its input")
    return output


def _check(model: nn.Module, masks: Masks) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, mask in masks.items():
        if name not in shapes:
            raise InputError(
                f"the mask '{name}' fits no parameter of the model",
                expected=f"one of {', '.join(shapes)}",
                nearest=nearest(name, shapes),
            )
        if tuple(mask.shape) != shapes[name]:
            raise InputError(f"the mask '{name}' has the shape {tuple(mask.shape)}", expected=f"{shapes[name]}")


def _rows(mask: Tensor, groups: int | None) -> Tensor:
    """A row for each output unit: bool [units, weights that enter it]."""
    if groups is None:
        return mask.flatten(1) if mask.dim() > 1 else mask.view(-1, 1)
    inputs, outputs = mask.shape[0] // groups, mask.shape[1]
    return mask.view(groups, inputs, outputs, -1).transpose(1, 2).flatten(0, 1).flatten(1)
