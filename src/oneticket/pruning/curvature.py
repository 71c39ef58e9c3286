"""Criteria that use the curvature of the loss at initialisation: the diagonals of the Hessian and of the Fisher matrix.

Each looks at 10 samples of every class (fewer where the batches hold fewer), one at a time, on a copy of the network in
eval mode, whose normalisation layers first took their running statistics from the training batches. The loss is the
cross-entropy; g, h and F are those of the prunable weights at the values that ``model`` holds. Weights that a mask has
set to zero score zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter

import torch
from torch import Tensor, nn

from oneticket.calling import Inputs, call, each
from oneticket.prunable import Prunable
from oneticket.pruning.base import Scores, criterion, private_copy
from oneticket.pruning.context import Batches, ScoreContext
from oneticket.pruning.gradients import class_samples, gradients, loss, twice_differentiable
from oneticket.randomness import seeded

PROBES = 10  # random vectors for each sample
_TEMPERATURE = 200  # as in GraSP
_WARM_UP = 50  # batches, at most, that running statistics are taken from
_SOURCE = "Gollini Navarrete et al. 2025"


@criterion("hutch-diag", source=_SOURCE, at="init", scores="signed", needs="classes")
def hutch_diag(model: Prunable, context: ScoreContext) -> Scores:
    """Hutchinson's estimate h of the Hessian's diagonal, the mean of z ∘ (H z) over samples and 10 random z of ±1.

    The logits are divided by 200. h is an estimate, and can be negative.
    """
    trial = _warmed_up(model, context.batches)
    _, diagonal = _hessian(trial, context)
    return {name: h * (w.detach() != 0) for (name, w), h in zip(trial.weights(), diagonal, strict=True)}


@criterion("hutch-pruning", source=_SOURCE, at="init", scores="signed", needs="classes")
def hutch_pruning(model: Prunable, context: ScoreContext) -> Scores:
    """What the loss loses with the weight by its curvature, ½ W² ∘ h (LeCun et al. 1990), h as in ``hutch-diag``."""
    trial = _warmed_up(model, context.batches)
    _, diagonal = _hessian(trial, context)
    return {name: _second(w, h) for (name, w), h in zip(trial.weights(), diagonal, strict=True)}


@criterion("hts", source=_SOURCE, at="init", needs="classes")
def hts(model: Prunable, context: ScoreContext) -> Scores:
    """Hessian-Taylor sensitivity |W ∘ g + ½ W² ∘ h|, h as in ``hutch-diag`` and g of the same loss."""
    trial = _warmed_up(model, context.batches)
    return _taylor(trial, *_hessian(trial, context))


@criterion("fisher-pruner", source=_SOURCE, at="init", needs="classes")
def fisher_pruner(model: Prunable, context: ScoreContext) -> Scores:
    """½ W² ∘ F with the empirical Fisher diagonal, F = the mean of g² over the samples."""
    trial = _warmed_up(model, context.batches)
    _, fisher = _fisher(trial, context)
    return {name: _second(w, f) for (name, w), f in zip(trial.weights(), fisher, strict=True)}


@criterion("fts", source=_SOURCE, at="init", needs="classes")
def fts(model: Prunable, context: ScoreContext) -> Scores:
    """Fisher-Taylor sensitivity |W ∘ g + ½ W² ∘ F|, F as in ``fisher-pruner`` and g of the same loss."""
    trial = _warmed_up(model, context.batches)
    return _taylor(trial, *_fisher(trial, context))


def _second(weight: Tensor, curvature: Tensor) -> Tensor:
    return 0.5 * weight.detach() ** 2 * curvature


def _taylor(trial: Prunable, slopes: Iterable[Tensor], curvature: Iterable[Tensor]) -> Scores:
    parts = zip(trial.weights(), slopes, curvature, strict=True)
    return {name: (w.detach() * g + _second(w, c)).abs() for (name, w), g, c in parts}


def _hessian(trial: Prunable, context: ScoreContext) -> tuple[list[Tensor], list[Tensor]]:
    """The mean of g over the samples, and that of z ∘ (H z) over samples and probes, for each weight."""
    weights = [weight for _, weight in trial.weights()]
    slope, diagonal = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    count, stream = 0, context.generator
    with seeded(0), torch.enable_grad(), twice_differentiable():
        for count, sample in enumerate(_one_by_one(trial, context.batches), start=1):  # noqa: B007
            slopes = gradients(loss(trial.model, sample, _TEMPERATURE), weights, create_graph=True)
            torch._foreach_add_(slope, [part.detach() for part in slopes])
            for _ in range(PROBES):
                signs = _signs(weights, stream)
                along = torch.stack([torch.tensordot(g, z, g.dim()) for g, z in zip(slopes, signs, strict=True)]).sum()
                torch._foreach_addcmul_(diagonal, signs, list(gradients(along, weights, retain_graph=True)))
    return [total / count for total in slope], [total / (count * PROBES) for total in diagonal]


def _fisher(trial: Prunable, context: ScoreContext) -> tuple[list[Tensor], list[Tensor]]:
    """The mean over the samples of g and of g², for each weight."""
    weights = [weight for _, weight in trial.weights()]
    slope, square = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    count = 0
    with seeded(0), torch.enable_grad():
        for count, sample in enumerate(_one_by_one(trial, context.batches), start=1):  # noqa: B007
            for first, second, part in zip(slope, square, gradients(loss(trial.model, sample), weights), strict=True):
                first += part
                second += part**2
    return [total / count for total in slope], [total / count for total in square]


def _signs(weights: Sequence[Tensor], stream: torch.Generator) -> list[Tensor]:
    """+1 or −1 for each weight, drawn on the CPU so that every device has the same."""
    sizes = [weight.numel() for weight in weights]
    drawn = torch.empty(sum(sizes), dtype=weights[0].dtype).random_(2, generator=stream).mul_(2).sub_(1)
    return [z.view_as(w).to(w) for z, w in zip(torch.split(drawn, sizes), weights, strict=True)]


def _one_by_one(trial: Prunable, batches: Batches) -> Iterator[tuple[Inputs, Tensor]]:
    inputs, targets = class_samples(trial, batches)
    for place in range(len(targets)):
        sample = slice(place, place + 1)
        yield each(itemgetter(sample), inputs), targets[sample]


def _warmed_up(model: Prunable, batches: Batches) -> Prunable:
    """A copy in eval mode; running statistics are the mean of those of the first training batches, 50 at most."""
    trial = private_copy(model)
    network = trial.model.eval()
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # every batch counts alike
        layer.train()
    device = next(network.parameters()).device
    with seeded(0), torch.no_grad():
        for inputs, _ in islice(batches, _WARM_UP if layers else 0):
            call(network, each(lambda part: part.to(device), inputs))
    network.eval()
    for _, weight in trial.weights():
        weight.requires_grad_()
    return trial
