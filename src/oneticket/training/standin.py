"""A smaller network that is trained in place of another, and what belongs to the one in the shapes of the other."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from oneticket.masks import Masks
from oneticket.randomness import seeded
from oneticket.training.evaluation import evaluating
from oneticket.training.recipe import Precision

_TOLERANCE = 1e-4  # of float32 sums in another order; a channel too many or too few is off by its whole value


@dataclass(frozen=True)
class Cut:
    """Where the entries of one tensor are: ``inside`` the smaller network (its shape there), or set ``aside``.

    Both hold positions in the flattened tensor. What is in neither is ``rest``: zero where that is None.
    """

    shape: torch.Size
    inside: Tensor
    aside: Tensor
    aside_name: str
    rest: Tensor | None

    def narrow(self, value: Tensor) -> tuple[Tensor, Tensor]:
        flat = value.reshape(-1)
        return flat[self.inside.to(flat.device)], flat[self.aside.to(flat.device)]

    def widen(self, inside: Tensor, aside: Tensor | None, rest: Tensor | None) -> Tensor:
        whole = inside.new_zeros(self.shape) if rest is None else rest.to(inside.device, inside.dtype).clone()
        flat = whole.view(-1)
        flat[self.inside.to(flat.device)] = inside
        if aside is not None:
            flat[self.aside.to(flat.device)] = aside
        return whole


class StandIn:
    """A smaller network, trained in place of the one that it was made from.

    ``model`` is of the same modules, but with fewer channels, and with layers of kept weights only in place of dense
    ones; ``masks`` are those that still have to be kept. Weights that are not masked but lead into or out of a channel
    that is gone have gradient zero for ever; yet momentum and weight decay move them. They lie in parameters
    ``removed_…`` of the same modules, and :meth:`attach` has the optimiser step them. With nothing replaced ``model``
    is the network itself and all else changes nothing. Running statistics of dead channels are not those of the masked
    training: nobody reads them, and those that are removed stay what they were.

    ``cuts`` tells of each tensor that is another one in ``model`` what became of it; ``saved`` is the part of the
    dense forward operations that are gone with the channels, ``removed`` counts those, and ``sparse`` names the layers
    that compute with kept weights only.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | None,
        cuts: Mapping[str, Cut] | None = None,
        *,
        saved: float = 0.0,
        removed: int = 0,
        sparse: tuple[str, ...] = (),
    ) -> None:
        self.model, self.masks, self.saved, self.removed, self.sparse = model, masks, saved, removed, sparse
        self.cuts = dict(cuts or {})
        self._aside = {cut.aside_name for cut in self.cuts.values()}

    def narrow(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What belongs to the full network's tensors → what belongs to those of ``model``.

        Keys are names (a state, factors on learning rates) or ``name/quantity`` (an optimiser's memory). Values of the
        tensor's shape are divided as it is; others, such as counters, hold for each part.
        """
        result: dict[str, Any] = {}
        for key, value in values.items():
            cut, quantity = self._cut(key)
            if cut is None:
                result[key] = value
                continue
            divided = isinstance(value, Tensor) and value.shape == cut.shape
            result[key], aside = cut.narrow(value) if divided else (value, value)
            if len(cut.aside):
                result[cut.aside_name + quantity] = aside
        return result

    def widen(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`narrow` for a state or an optimiser's memory; masked weights are zero."""
        result: dict[str, Tensor] = {}
        for key, value in tensors.items():
            cut, quantity = self._cut(key)
            if cut is not None and value.shape == cut.inside.shape:
                rest = None if quantity else cut.rest
                result[key] = cut.widen(value, tensors.get(cut.aside_name + quantity), rest)
            elif not {key, key.rpartition("/")[0]} & self._aside:
                result[key] = value
        return result

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have ``optimizer``, made for ``model``, step the removed weights with gradient zero from now on."""
        aside = [parameter for name, parameter in self.model.named_parameters() if name in self._aside]

        def without_gradient(*_: Any) -> None:
            for parameter in aside:
                parameter.grad = torch.zeros_like(parameter)  # anew: an optimiser may write into it

        if aside:
            optimizer.register_step_pre_hook(without_gradient)

    @torch.no_grad()
    def fill_from(self, model: nn.Module) -> None:
        """Write what the full network holds into ``model`` of this."""
        values = self.narrow(tensors(model))
        for name, tensor in tensors(self.model).items():
            tensor.copy_(values[name])

    @torch.no_grad()
    def expand_into(self, model: nn.Module) -> None:
        """Write what ``model`` of this has become into the full network that it was made from."""
        if model is self.model:
            return
        values, own = self.widen(tensors(self.model)), tensors(model)
        for name in values.keys() & own.keys():
            if own[name].shape == values[name].shape:
                own[name].copy_(values[name])
            else:  # a buffer that grows
                own[name].data = values[name].clone()
        model.train(self.model.training)

    @contextmanager
    def for_the_time(self, model: nn.Module) -> Iterator[None]:
        """However what is inside ends, the full network is left as far as training got."""
        try:
            yield
        finally:
            self.expand_into(model)

    def _cut(self, key: str) -> tuple[Cut | None, str]:
        name = key if key in self.cuts else key.rpartition("/")[0]
        return self.cuts.get(name), key[len(name) :]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


# -- whether one network can stand in for another --------------------------------------------------------------------
@contextmanager
def unnoticed() -> Iterator[None]:
    """The global generators of torch, NumPy and Python at a place of their own, and put back afterwards."""
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
    """A copy that has nothing in common with ``model``, to look for a stand-in with.

    Parameters that are zero all over are noise in it: what lies before a head or a branch that begins at zero would not
    show in the outputs. Raises TypeError for a network that a copy cannot stand in for: one with hooks, which belong to
    these modules and parameters and to no others, and one that shares something with its copies.
    """
    hooks = [hook for module in model.modules() for name, hook in vars(module).items() if name.endswith("_hooks")]
    for parameter in model.parameters():
        hooks += [parameter._backward_hooks, parameter._post_accumulate_grad_hooks]
    if any(hooks):
        raise TypeError("a network with hooks")
    copied = copy.deepcopy(model)
    parts = [{id(part) for part in (*m.modules(), *tensors(m).values())} for m in (model, copied)]
    if parts[0] & parts[1]:
        raise TypeError("a network that shares something with its copies")
    for parameter in copied.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return copied


def trains_alike(whole: StandIn, stand_in: StandIn, example: Tensor, precision: Precision = "float32") -> bool:
    """Whether a step of training is of the same kind for both: the same parameters learn, as many numbers are drawn.

    ``whole`` is the network itself with its masks. That both compute the same, ``same_outputs`` has told before, but of
    evaluation mode only. A network that remembers anything besides parameters and buffers, such as a counter, has no
    stand-in: it would not come back from there. Weights and buffers of both change.
    """
    inputs = probe_like(example).to(example.device)
    remembered = _remembered(whole.model.train())
    steps = [_step(network, inputs, precision) for network in (whole, stand_in)]
    if len(remembered) != len(after := _remembered(whole.model)):
        return False
    unchanged = all(old is new and count == other for (old, count), (new, other) in zip(remembered, after, strict=True))
    shapes = [
        {name: value.shape for name, value in network.widen(network.model.state_dict()).items()}
        for network in (whole, stand_in)
    ]
    return unchanged and shapes[0] == shapes[1] and steps[0] == steps[1]


def _step(network: StandIn, inputs: Tensor, precision: Precision) -> tuple[Any, ...]:
    """What can be compared of a step: the parameters that learn, the outputs' form, and the next random numbers."""
    parameters = dict(network.model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    for name, mask in (network.masks or {}).items():
        parameters[name].data.mul_(mask.to(inputs.device))
    with unnoticed():
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = network.model.train()(inputs)
        leaves = _leaves(outputs)
        torch.autograd.grad(outputs.sum(), leaves)  # raises where something has no gradient
        drawn = float(torch.rand((), device=inputs.device)), random.random(), np.random.random()
    # A KeyError here is a parameter of another network, one that this was copied from.
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
    """What modules hold besides parameters and buffers, and how often tensors of it have been written to."""
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
    """What ``model`` computes in evaluation mode under ``masks``; afterwards its weights are what they were.

    Not by ``torch.func.functional_call``: it leaves a module that goes by two names with what it was called with.
    """
    parameters = dict(model.named_parameters())
    whole = {name: parameters[name].data for name in masks or ()}
    try:
        for name, mask in (masks or {}).items():
            parameters[name].data = whole[name].clone().mul_(mask.to(inputs.device))  # strides and all
        with evaluating(model), torch.no_grad():
            outputs: Tensor = model(inputs)
        return outputs
    finally:
        for name, data in whole.items():
            parameters[name].data = data


def same_outputs(before: Tensor, after: Tensor) -> bool:
    """Whether two networks differ by no more than rounding."""
    return before.shape == after.shape and bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())
