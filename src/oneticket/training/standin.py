"""A smaller network that is trained in place of another, and what belongs to the one in the shapes of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.masks import Masks

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

    def expand_into(self, model: nn.Module) -> None:
        """Write what ``model`` of this has become into the full network that it was made from."""
        if model is not self.model:
            model.load_state_dict(self.widen(self.model.state_dict()))

    def _cut(self, key: str) -> tuple[Cut | None, str]:
        name = key if key in self.cuts else key.rpartition("/")[0]
        return self.cuts.get(name), key[len(name) :]


def probe_like(example: Tensor) -> Tensor:
    """Two samples of the shape and type of ``example``: noise, or its first one twice where it holds whole numbers."""
    if not example.is_floating_point():
        return example[:1].repeat_interleave(2, 0)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *example.shape[1:], generator=generator).to(example.dtype)


def same_outputs(before: Tensor, after: Tensor) -> bool:
    """Whether two networks differ by no more than rounding."""
    return before.shape == after.shape and bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())
