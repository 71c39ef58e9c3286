"""Coupled channels: which dimensions of which tensors belong to the same channels of a network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.flow import Flow, Key, Places
from oneticket.randomness import seeded


class Member(NamedTuple):
    """The part of one dimension of a parameter or buffer that belongs to a group.

    ``entries`` is int64, (channels, k): channel c has the indices ``entries[c]`` of dimension ``dim``. k is 1 except
    where maps are flattened into a linear layer, which then has a column for each pixel. ``reads`` is True for inputs
    of a later layer, and False for the tensors that produce the channel: rows of weights, biases, normalisation
    parameters and statistics.
    """

    name: str
    dim: int
    entries: Tensor
    reads: bool


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can change places: if every member is permuted alike, the network computes the same function.

    ``removable``: the other channels do not depend on the number of channels (they do with a GroupNorm over all
    channels, with dropout, and if the network's code contains the number). ``silent``: a channel without incoming
    weights is exactly zero and stays so, since it has no bias and no normalisation.
    """

    channels: int
    members: tuple[Member, ...]
    removable: bool
    silent: bool


def channel_groups(model: nn.Module, example: Tensor) -> tuple[ChannelGroup, ...]:
    """The channels of ``model`` that can change places, in groups.

    A residual addition joins the added channels into one group. Inputs and outputs of the network are in no group, nor
    are channels that pass through an unknown operation, such as a GroupNorm of several groups: a network with unknown
    parts has fewer groups, never wrong ones.

    Parameters
    ----------
    model : nn.Module
        The network; a copy of it computes in evaluation and in training mode, two samples each time.
    example : Tensor
        A batch of inputs; its first sample is used.

    Returns
    -------
    tuple of ChannelGroup
        Empty for a model that cannot be copied or followed.
    """
    try:
        copied = copy.deepcopy(model).cpu()
    except (RuntimeError, TypeError):  # parameters that are results, such as those of torch.nn.utils.prune
        return ()
    sample = example[:1].detach().cpu()
    flow = Flow(copied)
    for training in (False, True):
        copied.train(training)
        with seeded(0), torch.no_grad():
            flow.run(torch.cat([sample, sample]))
    return () if flow.blind or not flow.total else tuple(_groups(flow))


def orders(
    groups: Sequence[ChannelGroup], permutations: Sequence[Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, list[tuple[int, Tensor]]]:
    """Tensor name → pairs of a dimension and a permutation p of its indices: entry i is taken from entry p[i].

    ``permutations`` holds one permutation p for each group: channel c becomes the former channel p[c]. Only tensors in
    ``shapes`` are in the result. Raises InputError for an order that is not a permutation.
    """
    found: dict[tuple[str, int], Tensor] = {}
    for group, permutation in zip(groups, permutations, strict=True):
        if sorted(permutation.tolist()) != list(range(group.channels)):
            expected = f"each number from 0 to {group.channels - 1}"
            raise InputError("the order is not a permutation of the channels", expected=expected)
        for member in group.members:
            if member.name in shapes:
                as_it_is = torch.arange(shapes[member.name][member.dim])
                order = found.setdefault((member.name, member.dim), as_it_is)
                order[member.entries.flatten()] = member.entries[permutation.cpu()].flatten()
    result: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), order in found.items():
        result.setdefault(name, []).append((dim, order))
    return result


def permuted(
    state: Mapping[str, Tensor], groups: Sequence[ChannelGroup], permutations: Sequence[Tensor]
) -> dict[str, Tensor]:
    """``state`` with the channels of each group in another order; the function stays the same.

    It works for whole states and for masks; tensors that ``state`` lacks are skipped. ``permutations`` is as in
    :func:`orders`.
    """
    result = dict(state)
    for name, by_dim in orders(groups, permutations, {name: t.shape for name, t in state.items()}).items():
        for dim, order in by_dim:
            result[name] = result[name].index_select(dim, order.to(result[name].device))
    return result


def _groups(flow: Flow) -> Iterator[ChannelGroup]:
    """Groups of channels with the same members and properties, in the order of their first places."""
    channel = _channels(flow)
    first_place = np.unique(channel, return_index=True)[1]
    opaque = [places for (number, _), places in flow.places.items() if number in flow.opaque]
    held, counted, loud = (_marked(channel, places) for places in ([*flow.held, *opaque], flow.counted, flow.loud))
    signatures: list[list[tuple[Key, int]]] = [[] for _ in first_place]
    for key, places in flow.places.items():
        for number, times in zip(*np.unique(channel[places], return_counts=True), strict=True):
            signatures[number].append((key, int(times)))
    alike: dict[Any, list[int]] = {}
    for number in np.argsort(first_place):
        if not held[number]:
            properties = (bool(counted[number]), bool(loud[number]), tuple(signatures[number]))
            alike.setdefault(properties, []).append(int(number))
    for (is_counted, is_loud, signature), numbers in alike.items():
        members = tuple(_members(flow, signature, channel, numbers))
        yield ChannelGroup(len(numbers), members, removable=not is_counted, silent=not is_loud)


def _members(
    flow: Flow, signature: Sequence[tuple[Key, int]], channel: Places, numbers: Sequence[int]
) -> Iterator[Member]:
    for key, times in signature:
        here = channel[flow.places[key]]
        order = np.argsort(here, kind="stable")
        first = np.searchsorted(here[order], numbers)
        entries = torch.from_numpy(order[first[:, None] + np.arange(times)])
        for name in flow.names.get(key[0], ()):
            yield Member(name, key[1], entries, key in flow.reading)


def _channels(flow: Flow) -> Places:
    """For each place, the number of its channel."""
    from scipy.sparse import coo_array  # here: planning and scheduling do not need its 40 MB and 0.2 s
    from scipy.sparse.csgraph import connected_components

    none = np.empty(0, np.int64)
    ties = (np.concatenate([none, *(tie[side] for tie in flow.ties)]) for side in (0, 1))
    # With wider indices scipy 1.11 prints an error, continues, and returns meaningless labels.
    left, right = (places.astype(np.int32) for places in ties)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(flow.total, flow.total))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _marked(channel: Places, where: Sequence[Places]) -> NDArray[np.bool_]:
    marks = np.zeros(int(channel.max()) + 1, bool)
    for places in where:
        marks[channel[places]] = True
    return marks
