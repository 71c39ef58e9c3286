"""Dead channels are removed from a masked network while it trains, and restored exactly at the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from oneticket.coupling import ChannelGroup, channel_groups
from oneticket.masks import Masks
from oneticket.training.compact.model import CompactModel, Slice, tensors
from oneticket.training.compact.verification import masked_outputs, probe_like, same_outputs

WORTH = 0.05
"""The minimum saving, as a fraction of the forward operations, that pays for a second network and other kernels."""


def shrink(model: nn.Module, masks: Masks | None, example: Tensor, *, worth: float = WORTH) -> CompactModel:
    """``model`` without the channels that are dead under ``masks``, as a network of its own; ``model`` is left alone.

    A channel is dead if all weights that read it are masked, or if it is always zero: all weights into it are masked,
    and there is no bias and no normalisation on its way (a normalised channel is relu(β), and β learns). Removing a
    channel may make others dead, which are removed, too. In a residual stream a channel is dead only together in all
    layers that add to it. One channel of each group stays. Training continues exactly as it would have, apart from the
    order of sums, under any optimiser that treats each weight by itself.

    Nothing is removed if that would save less than ``worth`` of the forward operations, or if the smaller network gives
    other outputs, for example because its code contains the numbers of channels. ``example`` is a batch of inputs; its
    first sample gives shape and type.
    """
    whole = CompactModel(model, masks)
    parameters = dict(model.named_parameters())
    if masks is None or not any(_has_empty_lines(mask) for mask in masks.values()):
        return whole
    if any(name not in parameters or mask.shape != parameters[name].shape for name, mask in masks.items()):
        return whole  # MaskKeeper refuses them
    groups = [group for group in channel_groups(model, example) if group.removable]
    living = _living(groups, parameters, masks)
    removed = sum(int((~alive).sum()) for alive in living)
    if not removed:
        return whole
    slices = _slices(model, masks, groups, living)
    small = _smaller(model, slices)
    small_masks = Masks(
        {name: slices[name].to_compact(mask)[0] if name in slices else mask for name, mask in masks.items()}
    )
    inputs = probe_like(example).to(next(model.parameters()).device)
    before, operations = _measured(model, masks, inputs)
    try:
        after, fewer = _measured(small, small_masks, inputs)
    except Exception:  # the user's code may raise anything at unexpected channels
        return whole
    saved = 1 - fewer / max(operations, 1)
    if saved < worth or not same_outputs(before, after):
        return whole
    return CompactModel(small, small_masks, slices, saved=saved, removed=removed)


def _links(weight: Tensor) -> Tensor:
    """Boolean matrix of the connections between outputs (rows) and inputs (columns)."""
    return weight.cpu().reshape(*weight.shape[:2], -1).any(2)


def _has_empty_lines(mask: Tensor) -> bool:
    # No channel can be dead without a row or a column that is completely masked.
    links = _links(mask) if mask.dim() >= 2 else torch.ones(1, 1)
    return not bool(links.any(0).all() and links.any(1).all())


def _living(groups: Sequence[ChannelGroup], tensors: Mapping[str, Tensor], masks: Masks) -> list[Tensor]:
    """Boolean vectors of the channels that stay, one for each group."""
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
        alive[0] |= not alive.any()  # a layer needs at least one channel, even a dead one
    return living


def _slices(
    model: nn.Module, masks: Masks, groups: Sequence[ChannelGroup], living: Sequence[Tensor]
) -> dict[str, Slice]:
    named = tensors(model)
    own_names = {id(tensor): name for name, tensor in reversed(named.items())}  # the first name of a shared tensor
    lines: dict[str, dict[int, Tensor]] = {}
    for group, alive in zip(groups, living, strict=True):
        for member in group.members if not alive.all() else ():
            whole = torch.ones(named[member.name].shape[member.dim], dtype=torch.bool)
            line = lines.setdefault(member.name, {}).setdefault(member.dim, whole)
            line[member.entries[~alive].flatten()] = False
    slices = {}
    for name, by_dim in lines.items():
        tensor = named[name]
        inside = torch.arange(tensor.numel()).view(tensor.shape)
        for dim, line in by_dim.items():
            inside = inside.index_select(dim, line.nonzero().flatten())
        own = own_names[id(tensor)]
        kept = masks[own].cpu() if own in masks else torch.ones(tensor.shape, dtype=torch.bool)
        rest = None
        if tensor.requires_grad:
            outside = kept.flatten().index_fill(0, inside.flatten(), False)
        else:  # tensors that no optimiser steps: frozen weights, running statistics
            outside = torch.zeros(0)
            rest = tensor.detach() * kept.to(tensor.device)
        owner, _, leaf = own.rpartition(".")
        detached_name = f"{owner}.removed_{leaf}".removeprefix(".")
        slices[name] = Slice(tensor.shape, inside, outside.nonzero().flatten(), detached_name, rest)
    return slices


def _smaller(model: nn.Module, slices: Mapping[str, Slice]) -> nn.Module:
    named = tensors(model)
    cut_tensors: dict[int, Any] = {}
    detached: dict[str, nn.Parameter] = {}
    for name, part in slices.items():
        tensor = named[name]
        within, without = part.to_compact(tensor.detach())
        trained = isinstance(tensor, nn.Parameter)
        cut_tensors[id(tensor)] = nn.Parameter(within, tensor.requires_grad) if trained else within
        if len(part.detached):
            detached[part.detached_name] = nn.Parameter(without)
    small = copy.deepcopy(model, cut_tensors)  # the memo's tensors replace copies, wherever they are shared
    for name in slices:
        _resize(small.get_submodule(name.rpartition(".")[0]))
    for name, parameter in detached.items():
        owner, _, leaf = name.rpartition(".")
        small.get_submodule(owner).register_parameter(leaf, parameter)
    return small


def _resize(module: nn.Module) -> None:
    """Set the channel numbers of a layer to those of its tensors."""
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


def _measured(model: nn.Module, masks: Masks, inputs: Tensor) -> tuple[Tensor, int]:
    """Outputs in evaluation mode under ``masks``, and the number of operations."""
    with FlopCounterMode(display=False) as counter:
        outputs = masked_outputs(model, masks, inputs)
    return outputs, counter.get_total_flops()
