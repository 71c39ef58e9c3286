"""Alignment: the channels of two trained networks of equal shape, matched by what they compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from oneticket.coupling import ChannelGroup, channel_groups, orders
from oneticket.errors import InputError
from oneticket.training.evaluation import evaluating
from oneticket.weights.norms import norms_behind

BATCHES = 8  # of training data, on which activations are compared


def match_channels(
    here: nn.Module, there: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, names: Collection[str]
) -> dict[str, list[tuple[int, Tensor]]]:
    """The order of the channels of ``there`` in which they compute what those of ``here`` do (Adnan et al. 2025).

    Channels that residual additions tie together move together. Within such a group channels are assigned to each other
    so that the sum of the correlations of their outputs, over samples and pixels and over the layers that make them, is
    largest (Hungarian algorithm). Outputs are those in evaluation mode on the first 8 batches, of the normalisation
    directly behind a layer where there is one: a negative γ turns the sign of what a channel computes.

    Parameters
    ----------
    here, there : nn.Module
        Two networks of one architecture; they are left as they were.
    batches : Iterable of (Tensor, Tensor)
        Training data: inputs and labels.
    names : Collection[str]
        The parameters to give orders for.

    Returns
    -------
    dict[str, list[tuple[int, Tensor]]]
        Parameter name → pairs of a dimension and the order of its indices: a tensor of ``there``, indexed in this
        order, belongs to ``here``.

    Raises
    ------
    InputError
        When no channel is free to move.
    """
    given = [inputs for inputs, _ in islice(batches, BATCHES)]
    groups = channel_groups(here, given[0]) if given else ()
    if not groups:
        raise InputError(
            f"the channels of {type(here).__name__} cannot be followed", where="mask 'aligned'",
            expected="a network of layers, activations, pools and additions",
        )  # fmt: skip
    from scipy.optimize import linear_sum_assignment  # here, since it takes long to import and few need it

    alike = _correlations(here, there, groups, given)
    found = [torch.from_numpy(linear_sum_assignment(matrix.numpy(), maximize=True)[1]) for matrix in alike]
    shapes = {name: tensor.shape for name, tensor in here.state_dict().items() if name in names}
    return orders(groups, found, shapes)


def _correlations(
    here: nn.Module, there: nn.Module, groups: Sequence[ChannelGroup], given: Sequence[Tensor]
) -> list[Tensor]:
    """For each group a float64 matrix (channels here, channels there)."""
    behind = norms_behind(here, given[0][:2])
    makers = [[(behind.get(layer, layer), rows) for layer, rows in _makers(here, group)] for group in groups]
    sums: list[list[_Moments]] = [
        [_Moments(group.channels) for _ in by] for group, by in zip(groups, makers, strict=True)
    ]
    wanted = {layer for by in makers for layer, _ in by}
    with _watched(here, wanted) as ours, _watched(there, wanted) as theirs, torch.inference_mode():
        for inputs in given:
            here(inputs)
            there(inputs)
            for by, moments in zip(makers, sums, strict=True):
                for (layer, rows), moment in zip(by, moments, strict=True):
                    moment.add(ours[layer][:, rows], theirs[layer][:, rows])
    return [torch.stack([moment.correlation() for moment in moments]).sum(0) for moments in sums]


def _makers(model: nn.Module, group: ChannelGroup) -> list[tuple[str, Tensor]]:
    """The layers that make these channels, and which of a layer's output channels each is."""
    modules = dict(model.named_modules())
    return [
        (layer, member.entries[:, 0])
        for member in group.members
        for layer, _, own in [member.name.rpartition(".")]
        if own == "weight" and member.dim == 0 and not member.reads and modules[layer].weight.dim() > 1
    ]


class _Moments:
    """First and second moments of two sets of channels together, in float64."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = [torch.zeros(channels, dtype=torch.float64) for _ in range(4)]
        self._product = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Two tensors of one shape (n, channels, …)."""
        x, y = (t.detach().double().cpu().transpose(0, 1).flatten(1) for t in (ours, theirs))
        self._count += x.shape[1]
        for total, value in zip(self._sums, (x, y, x.square(), y.square()), strict=True):
            total += value.sum(1)
        self._product += x @ y.T

    def correlation(self) -> Tensor:
        """(channels, channels); 0 with a channel that is constant."""
        x, y, xx, yy = (total / self._count for total in self._sums)
        covariance = self._product / self._count - x[:, None] * y[None]
        spread = ((xx - x.square()).clamp(min=0)[:, None] * (yy - y.square()).clamp(min=0)[None]).sqrt()
        return torch.where(spread > 1e-12, covariance / spread.clamp(min=1e-12), torch.zeros_like(covariance))


@contextmanager
def _watched(model: nn.Module, layers: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the output of each of ``layers`` in the last forward pass, by name; the model in evaluation mode."""
    outputs: dict[str, Tensor] = {}

    def keeper(name: str):  # type: ignore[no-untyped-def]
        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output

        return keep

    handles = [model.get_submodule(name).register_forward_hook(keeper(name)) for name in layers]
    try:
        with evaluating(model):
            yield outputs
    finally:
        for handle in handles:
            handle.remove()
