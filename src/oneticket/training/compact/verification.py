"""Verifies that a compact network computes and learns like the full network."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from oneticket.calling import outputs_on
from oneticket.masks import Masks
from oneticket.randomness import seeded
from oneticket.training.compact.model import CompactModel, tensors
from oneticket.training.evaluation import evaluating
from oneticket.training.recipe import Precision

_TOLERANCE = 1e-4  # for float32 sums in another order; a wrong channel would be off by its whole value


@contextmanager
def unnoticed() -> Iterator[None]:
    """A context in which the global generators of torch, NumPy and Python have new seeds; afterwards restored."""
    python, legacy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with seeded(0):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def independent_copy(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with ``model``, to try a compact network on.

    Parameters that are all zero become noise in the copy: otherwise layers before a zero-initialised head or branch
    would not affect the outputs.

    Raises
    ------
    TypeError : the network has hooks, which belong to its own modules, or it shares tensors or modules with its copies.
    """
    hooks = [hook for module in model.modules() for name, hook in vars(module).items() if name.endswith("_hooks")]
    for parameter in model.parameters():
        hooks += [parameter._backward_hooks, parameter._post_accumulate_grad_hooks]
    if any(hooks):
        raise TypeError("a network with hooks")
    copied = copy.deepcopy(model)
    parts = [{id(part) for part in (*m.modules(), *tensors(m).values())} for m in (model, copied)]
    if parts[0] & parts[1]:
        raise TypeError("a network that shares tensors or modules with its copies")
    for parameter in copied.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return copied


def trains_alike(whole: CompactModel, compact: CompactModel, example: Tensor, precision: Precision = "float32") -> bool:
    """Whether a training step is alike for both: the same parameters learn, and equally many random numbers are drawn.

    ``whole`` is the network itself with its masks; ``same_outputs`` compares the outputs of the two in evaluation mode
    only. A network that keeps state besides parameters and buffers, such as a counter, cannot be compacted: that state
    would be lost. The step changes weights and buffers of both.
    """
    inputs = probe_like(example).to(example.device)
    remembered = _remembered(whole.model.train())
    steps = [_step(network, inputs, precision) for network in (whole, compact)]
    if len(remembered) != len(after := _remembered(whole.model)):
        return False
    unchanged = all(old is new and count == other for (old, count), (new, other) in zip(remembered, after, strict=True))
    shapes = [
        {name: value.shape for name, value in network.to_full(network.model.state_dict()).items()}
        for network in (whole, compact)
    ]
    return unchanged and shapes[0] == shapes[1] and steps[0] == steps[1]


def _step(network: CompactModel, inputs: Tensor, precision: Precision) -> tuple[Any, ...]:
    """The comparable facts of a step: the parameters that learn, the outputs' form, and the next random numbers."""
    parameters = dict(network.model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    for name, mask in (network.masks or {}).items():
        parameters[name].data.mul_(mask.to(inputs.device))
    with unnoticed():
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = outputs_on(network.model.train(), inputs)
        leaves = _leaves(outputs)
        torch.autograd.grad(outputs.sum(), leaves)  # raises where something has no gradient
        drawn = float(torch.rand((), device=inputs.device)), random.random(), np.random.random()
    # A KeyError here means a parameter of another network, from which this one was copied.
    return sorted(names[id(leaf)] for leaf in leaves), outputs.shape, outputs.dtype, drawn


def _leaves(outputs: Tensor) -> list[Tensor]:
    """The tensors that would get a gradient."""
    nodes, seen = [outputs.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [after for after, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


def _remembered(model: nn.Module) -> list[tuple[Any, int]]:
    """Attributes of modules besides parameters and buffers, and how often their tensors have been written to."""
    holdings = ({k: v for k, v in vars(m).items() if k not in ("_parameters", "_buffers")} for m in model.modules())
    leaves = [leaf for holding in holdings for leaf in tree_leaves(holding)]
    return [(leaf, leaf._version if isinstance(leaf, Tensor) else 0) for leaf in leaves]


def probe_like(example: Tensor) -> Tensor:
    """Two samples of the shape and type of ``example``: noise, or its first one twice where it holds whole numbers."""
    if not example.is_floating_point():
        return example[:1].repeat_interleave(2, 0)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *example.shape[1:], generator=generator).to(example.dtype)


def masked_outputs(model: nn.Module, masks: Masks | None, inputs: Tensor) -> Tensor:
    """The outputs of ``model`` in evaluation mode under ``masks``; afterwards its weights are restored.

    Not with ``torch.func.functional_call``: it does not restore a module that has two names.
    """
    parameters = dict(model.named_parameters())
    whole = {name: parameters[name].data for name in masks or ()}
    try:
        for name, mask in (masks or {}).items():
            parameters[name].data = whole[name].clone().mul_(mask.to(inputs.device))  # strides and all
        with evaluating(model), torch.no_grad():
            return outputs_on(model, inputs)
    finally:
        for name, data in whole.items():
            parameters[name].data = data


def same_outputs(before: Tensor, after: Tensor) -> bool:
    """Whether two networks differ by no more than rounding."""
    return before.shape == after.shape and bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())
