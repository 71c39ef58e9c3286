"""Calling a network on whatever a batch holds, and the one tensor of its outputs that is learned and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from oneticket.errors import InputError

Inputs: TypeAlias = Any
"""What one batch gives a network: a tensor, a tuple of tensors (several inputs), or a dict of tensors (keywords)."""


def call(network: nn.Module, inputs: Inputs) -> Any:
    """What ``network`` returns: a tuple of inputs is given in its order, a dict by keyword."""
    if isinstance(inputs, Tensor):
        return network(inputs)
    return network(**inputs) if isinstance(inputs, Mapping) else network(*inputs)


def outputs_on(network: nn.Module, inputs: Inputs) -> Tensor:
    """The tensor of outputs of ``network`` on ``inputs``; see :func:`tensor_of`."""
    result = call(network, inputs)
    return result if isinstance(result, Tensor) else tensor_of(result)


def tensor_of(result: Any) -> Tensor:
    """The outputs (logits) in what a network returned.

    The tensor itself; ``.logits`` or ``["logits"]``; the only tensor of a dict; the first tensor of a tuple that is not
    a scalar, since a loss may stand before the outputs.

    Raises
    ------
    InputError
        When the outputs hold no such tensor.
    """
    named = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    found = result if isinstance(result, Tensor) else named
    if found is None and isinstance(result, tuple | list):
        found = next((part for part in result if isinstance(part, Tensor) and part.dim()), None)
    if found is None and isinstance(result, Mapping):
        tensors = [part for part in result.values() if isinstance(part, Tensor)]
        found = tensors[0] if len(tensors) == 1 else None
    if isinstance(found, Tensor):
        return found
    holds = f" of {', '.join(map(str, result))}" if isinstance(result, Mapping) else ""
    raise InputError(
        f"the network returns a {type(result).__name__}{holds}",
        expected="one tensor, N × classes, or an output with 'logits'; for anything else give a loss of your own",
    )


def results_of(result: Any) -> list[Tensor]:
    """The outputs in what a network returned; all its tensors where none of them is said to be those."""
    try:
        return [tensor_of(result)]
    except InputError:
        return tensors_of(result)


def size_of(inputs: Inputs) -> int:
    """The number of samples of a batch."""
    return len(inputs if isinstance(inputs, Tensor) else tensors_of(inputs)[0])


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors of a batch, in its order."""
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def each(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """``inputs`` with ``function`` applied to each tensor."""
    return function(inputs) if isinstance(inputs, Tensor) else tree_map(function, inputs)


def described(inputs: Inputs, *, types: bool = True) -> str:
    """``torch.float32 of shape (2, 3)``, for each tensor of a batch."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"'{name}' ({described(part, types=types)})" for name, part in inputs.items())
    kinds = [f"{part.dtype} of " if types else "" for part in tensors_of(inputs)]
    return " and ".join(f"{k}shape {tuple(p.shape)}" for k, p in zip(kinds, tensors_of(inputs), strict=True))


def joined(parts: list[Inputs]) -> Inputs:
    """The samples of several batches as one."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tree_map(lambda *tensors: torch.cat(tensors), *parts)
