"""Dead channels leave a masked network for the rest of its training; what they were comes back at the end, exactly."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from oneticket.coupling import ChannelGroup, channel_groups
from oneticket.masks import Masks
from oneticket.training.evaluation import evaluating

WORTH = 0.05
"""The least part of the forward operations whose saving pays for a second network and another shape of kernels."""

_TOLERANCE = 1e-4  # of float32 sums in another order; a channel too many or too few is off by its whole value


@dataclass(frozen=True)
class _Cut:
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


class Shrunk:
    """A network without its dead channels, trained in place of the one that it was made from.

    ``model`` is of the same modules with fewer channels, ``masks`` are those that fit it. Weights that are not masked
    but lead into or out of a dead channel have gradient zero for ever; yet momentum and weight decay move them. They
    lie in parameters ``removed_…`` of the same modules, and :meth:`attach` has the optimiser step them. With nothing
    removed ``model`` is the network itself and all else changes nothing. Running statistics of dead channels are not
    those of the masked training: nobody reads them, and those that are removed stay what they were.

    ``saved`` is the part of the forward operations that are gone, ``removed`` counts the channels.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | None,
        cuts: Mapping[str, _Cut] | None = None,
        *,
        saved: float = 0.0,
        removed: int = 0,
    ) -> None:
        self.model, self.masks, self.saved, self.removed = model, masks, saved, removed
        self._cuts = cuts or {}
        self._aside = {cut.aside_name for cut in self._cuts.values()}

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

    def _cut(self, key: str) -> tuple[_Cut | None, str]:
        name = key if key in self._cuts else key.rpartition("/")[0]
        return self._cuts.get(name), key[len(name) :]


def shrink(model: nn.Module, masks: Masks | None, example: Tensor, *, worth: float = WORTH) -> Shrunk:
    """``model`` without the channels that are dead under ``masks``, as a network of its own; ``model`` is left alone.

    A channel is dead when all weights that read it are masked, or when it is zero for ever: all weights into it masked,
    no bias and no normalisation on its way (with one it says relu(β), and β learns). Removing a channel may make others
    dead, and those go too. In a residual stream a channel is dead only for all that add to it together. One channel of
    each group stays. Training goes on exactly as it would have, but for the order of sums, under any optimiser that
    treats each weight by itself.

    Nothing is removed when that would save less than ``worth`` of the forward operations, and when the smaller network
    does not give the same outputs, as one in whose code the numbers of channels are written.
    ``example`` is a batch of inputs; its first sample tells shape and type.
    """
    whole = Shrunk(model, masks)
    parameters = dict(model.named_parameters())
    if masks is None or not any(_has_empty_lines(mask) for mask in masks.values()):
        return whole
    if any(name not in parameters or mask.shape != parameters[name].shape for name, mask in masks.items()):
        return whole  # whoever keeps the masks refuses them
    groups = [group for group in channel_groups(model, example) if group.removable]
    living = _living(groups, parameters, masks)
    removed = sum(int((~alive).sum()) for alive in living)
    if not removed:
        return whole
    cuts = _cuts(model, masks, groups, living)
    small = _smaller(model, cuts)
    small_masks = Masks({name: cuts[name].narrow(mask)[0] if name in cuts else mask for name, mask in masks.items()})
    inputs = _noise(example).to(next(model.parameters()).device)
    before, operations = _measured(model, masks, inputs)
    try:
        after, fewer = _measured(small, small_masks, inputs)
    except Exception:  # whatever the code of somebody's network raises at channels that it did not expect
        return whole
    saved = 1 - fewer / max(operations, 1)
    if saved < worth or not _equal(before, after):
        return whole
    return Shrunk(small, small_masks, cuts, saved=saved, removed=removed)


def _links(weight: Tensor) -> Tensor:
    """Which outputs (rows) are connected to which inputs (columns), boolean."""
    return weight.cpu().reshape(*weight.shape[:2], -1).any(2)


def _has_empty_lines(mask: Tensor) -> bool:
    # Without a row or a column that is masked as a whole no channel can be dead.
    links = _links(mask) if mask.dim() >= 2 else torch.ones(1, 1)
    return not bool(links.any(0).all() and links.any(1).all())


def _living(groups: Sequence[ChannelGroup], tensors: Mapping[str, Tensor], masks: Masks) -> list[Tensor]:
    """Which channels of each group stay, boolean."""
    links = {
        name: _links(masks[name] if name in masks else torch.ones(tensor.shape[:2], dtype=torch.bool))
        for name, tensor in tensors.items()
        if tensor.dim() >= 2
    }
    living = [torch.ones(group.channels, dtype=torch.bool) for group in groups]
    changed = True
    while changed:
        changed = False
        for group, alive in zip(groups, living, strict=True):
            members = [member for member in group.members if member.name in links]
            read, written = torch.zeros_like(alive), torch.full_like(alive, not group.silent)
            for name, dim, entries, reads in members:
                connected = links[name].any(1 - dim)[entries].any(1)
                (read if reads else written).logical_or_(connected)
            dead = alive & ~(read & written)
            if dead.any():
                alive[dead] = False
                for name, dim, entries, _ in members:
                    links[name].index_fill_(dim, entries[dead].flatten(), False)
                changed = True
    for alive in living:
        alive[0] |= not alive.any()  # a layer of no channels is none: a dead one stays
    return living


def _cuts(model: nn.Module, masks: Masks, groups: Sequence[ChannelGroup], living: Sequence[Tensor]) -> dict[str, _Cut]:
    tensors = _tensors(model)
    own_names = {id(tensor): name for name, tensor in reversed(tensors.items())}  # the first of a shared tensor's
    lines: dict[str, dict[int, Tensor]] = {}
    for group, alive in zip(groups, living, strict=True):
        for member in group.members if not alive.all() else ():
            whole = torch.ones(tensors[member.name].shape[member.dim], dtype=torch.bool)
            line = lines.setdefault(member.name, {}).setdefault(member.dim, whole)
            line[member.entries[~alive].flatten()] = False
    cuts = {}
    for name, by_dim in lines.items():
        tensor = tensors[name]
        inside = torch.arange(tensor.numel()).view(tensor.shape)
        for dim, line in by_dim.items():
            inside = inside.index_select(dim, line.nonzero().flatten())
        own = own_names[id(tensor)]
        kept = masks[own].cpu() if own in masks else torch.ones(tensor.shape, dtype=torch.bool)
        rest = None
        if tensor.requires_grad:
            outside = kept.flatten().index_fill(0, inside.flatten(), False)
        else:  # what no optimiser steps: frozen weights, running statistics
            outside = torch.zeros(0)
            rest = tensor.detach() * kept.to(tensor.device)
        owner, _, leaf = own.rpartition(".")
        aside_name = f"{owner}.removed_{leaf}".removeprefix(".")
        cuts[name] = _Cut(tensor.shape, inside, outside.nonzero().flatten(), aside_name, rest)
    return cuts


def _smaller(model: nn.Module, cuts: Mapping[str, _Cut]) -> nn.Module:
    tensors = _tensors(model)
    cut_tensors: dict[int, Any] = {}
    aside: dict[str, nn.Parameter] = {}
    for name, cut in cuts.items():
        tensor = tensors[name]
        within, without = cut.narrow(tensor.detach())
        trained = isinstance(tensor, nn.Parameter)
        cut_tensors[id(tensor)] = nn.Parameter(within, tensor.requires_grad) if trained else within
        if len(cut.aside):
            aside[cut.aside_name] = nn.Parameter(without)
    small = copy.deepcopy(model, cut_tensors)  # which takes what it finds there for copied, wherever it is shared
    for name in cuts:
        _resize(small.get_submodule(name.rpartition(".")[0]))
    for name, parameter in aside.items():
        owner, _, leaf = name.rpartition(".")
        small.get_submodule(owner).register_parameter(leaf, parameter)
    return small


def _resize(module: nn.Module) -> None:
    """Have the numbers that a layer holds of its channels agree with its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        module.out_channels = module.weight.shape[0]
        if module.groups > 1:
            module.groups = module.out_channels
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, _BatchNorm):
        module.num_features = len(module.weight if module.affine else cast("Tensor", module.running_mean))
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = len(module.weight)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _noise(example: Tensor) -> Tensor:
    if not example.is_floating_point():
        return example[:1].repeat_interleave(2, 0)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *example.shape[1:], generator=generator).to(example.dtype)


def _measured(model: nn.Module, masks: Masks, inputs: Tensor) -> tuple[Tensor, int]:
    """Outputs in evaluation mode under ``masks``, and the operations that they took."""
    parameters = dict(model.named_parameters())
    masked = {name: parameters[name] * mask.to(inputs.device) for name, mask in masks.items()}
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = functional_call(model, masked, (inputs,))
    return outputs, counter.get_total_flops()


def _equal(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())
