"""`CompactModel`: a smaller network trained in place of the full one, and the translation of states between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.masks import Masks


@dataclass(frozen=True)
class Slice:
    """Where the entries of one tensor of the full network are.

    Parameters
    ----------
    shape : the shape of the full tensor.
    inside : positions, in the flattened full tensor, of the entries of the compact tensor, in its shape.
    detached : positions of the entries that are trained beside it, in the parameter ``detached_name``, shape (n,).
    rest : the full tensor's values at every other position; zero where None.
    """

    shape: torch.Size
    inside: Tensor
    detached: Tensor
    detached_name: str
    rest: Tensor | None

    def to_compact(self, value: Tensor) -> tuple[Tensor, Tensor]:
        flat = value.reshape(-1)
        return flat[self.inside.to(flat.device)], flat[self.detached.to(flat.device)]

    def to_full(self, inside: Tensor, detached: Tensor | None, rest: Tensor | None) -> Tensor:
        whole = inside.new_zeros(self.shape) if rest is None else rest.to(inside.device, inside.dtype).clone()
        flat = whole.view(-1)
        flat[self.inside.to(flat.device)] = inside
        if detached is not None:
            flat[self.detached.to(flat.device)] = detached
        return whole


class CompactModel:
    """A smaller network, trained in place of the full one.

    Weights that are not masked, but lead into or out of a removed channel, get no gradient; momentum and weight decay
    still change them. They are parameters ``removed_…`` of the same modules, and :meth:`attach` makes the optimiser
    step them. Running statistics of dead channels are never read: those of removed channels keep their old values,
    which masked training would have changed. If nothing is replaced, ``model`` is the network itself, and every
    translation returns its argument.

    Parameters
    ----------
    model : the same modules with fewer channels, and with sparse layers in place of some dense ones.
    masks : the masks that still have to be kept.
    slices : for each tensor that differs in ``model``, where its entries are.
    saved : the fraction of the dense forward operations saved by removing channels.
    removed : the number of channels removed.
    sparse : names of the layers that compute with kept weights only.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | None,
        slices: Mapping[str, Slice] | None = None,
        *,
        saved: float = 0.0,
        removed: int = 0,
        sparse: tuple[str, ...] = (),
    ) -> None:
        self.model, self.masks, self.saved, self.removed, self.sparse = model, masks, saved, removed, sparse
        self.slices = dict(slices or {})
        self._detached = {part.detached_name for part in self.slices.values()}

    def to_compact(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Translate values for the full network's tensors into values for the tensors of ``model``.

        Keys are names (a state, factors on learning rates) or ``name/quantity`` (an optimiser's memory). Values of the
        tensor's shape are divided like the tensor; others, such as counters, apply to each part.
        """
        result: dict[str, Any] = {}
        for key, value in values.items():
            part, quantity = self._slice(key)
            if part is None:
                result[key] = value
                continue
            divided = isinstance(value, Tensor) and value.shape == part.shape
            result[key], detached = part.to_compact(value) if divided else (value, value)
            if len(part.detached):
                result[part.detached_name + quantity] = detached
        return result

    def to_full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_compact` for a state or an optimiser's memory; masked weights are zero."""
        result: dict[str, Tensor] = {}
        for key, value in tensors.items():
            part, quantity = self._slice(key)
            if part is not None and value.shape == part.inside.shape:
                rest = None if quantity else part.rest
                result[key] = part.to_full(value, tensors.get(part.detached_name + quantity), rest)
            elif not {key, key.rpartition("/")[0]} & self._detached:
                result[key] = value
        return result

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Make ``optimizer``, which steps ``model``, step the removed weights, too, with zero gradients."""
        detached = [parameter for name, parameter in self.model.named_parameters() if name in self._detached]

        def without_gradient(*_: Any) -> None:
            for parameter in detached:
                parameter.grad = torch.zeros_like(parameter)  # a new tensor: the optimiser may write into it

        if detached:
            optimizer.register_step_pre_hook(without_gradient)

    @torch.no_grad()
    def fill_from(self, model: nn.Module) -> None:
        """Copy the values of the full network ``model`` into the compact network."""
        values = self.to_compact(tensors(model))
        for name, tensor in tensors(self.model).items():
            tensor.copy_(values[name])

    @torch.no_grad()
    def expand_into(self, model: nn.Module) -> None:
        """Copy the values of the compact network into the full network ``model``."""
        if model is self.model:
            return
        values, own = self.to_full(tensors(self.model)), tensors(model)
        for name in values.keys() & own.keys():
            if own[name].shape == values[name].shape:
                own[name].copy_(values[name])
            else:  # a buffer whose shape changes
                own[name].data = values[name].clone()
        model.train(self.model.training)

    @contextmanager
    def written_back(self, model: nn.Module) -> Iterator[None]:
        """A context that writes the training's state into the full network, however it ends."""
        try:
            yield
        finally:
            self.expand_into(model)

    def _slice(self, key: str) -> tuple[Slice | None, str]:
        name = key if key in self.slices else key.rpartition("/")[0]
        return self.slices.get(name), key[len(name) :]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under all names of each."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
