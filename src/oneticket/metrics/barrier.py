"""The error barrier between two solutions of one network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from oneticket.calling import Inputs, call, size_of
from oneticket.data import BatchSource, as_batches
from oneticket.errors import InputError
from oneticket.training.evaluation import evaluate, evaluating

STABLE_BELOW = 0.02
"""Two solutions are stable where the barrier between them is lower than 2 points (Frankle et al. 2020)."""


@dataclass(frozen=True)
class Barrier:
    """Error along the straight line between two solutions; errors are fractions.

    ``errors[i]`` is that of ``(1 − alphas[i]) · first + alphas[i] · second``; the ends belong to the line.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def height(self) -> float:
        """The highest error on the line less the mean error of its two ends (Frankle et al. 2020)."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    @property
    def stable(self) -> bool:
        """Whether the two are linearly connected: a barrier lower than 2 points."""
        return self.height < STABLE_BELOW


def error_barrier(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    train_set: Any,
    data: Any,
    *,
    points: int = 30,
    batch_size: int = 512,
    device: str = "cpu",
) -> Barrier:
    """The error of ``model`` on ``data`` at equal steps from the state ``first`` to the state ``second``.

    The statistics that a normalisation gathers in training belong to the weights that it was trained with. So at every
    point, the ends included, they are estimated anew on the whole of ``train_set``, in order and unaugmented.

    Parameters
    ----------
    model : nn.Module
        The network; it is copied, not changed.
    first, second : Mapping[str, Tensor]
        Two full states of it, as ``state_dict`` gives them.
    train_set, data : Any
        Anything that :func:`oneticket.data.as_batches` takes; images of ``data`` are normalised as the training split
        is.
    points : int, default 30
        Points on the line, its ends included; at least 2.
    batch_size : int, default 512
        Samples in a batch, in estimation and in evaluation.
    device : str, default "cpu"
        Where everything is computed.

    Returns
    -------
    Barrier

    Raises
    ------
    InputError
        For fewer than 2 points, a state that does not fit the model, or an empty training set.
    """
    if points < 2:
        raise InputError(f"a line needs two points, not {points}", where="points", expected="at least 2")
    batches = as_batches(train_set, batch_size, device=device)
    judged = as_batches(data, batch_size, normalisation=getattr(batches, "normalisation", None), device=device)
    network = copy.deepcopy(model).to(device)
    _check(network, first, second)
    alphas = tuple(float(alpha) for alpha in torch.linspace(0, 1, points, dtype=torch.float64))
    errors = []
    for alpha in alphas:
        network.load_state_dict(interpolated(first, second, alpha))
        estimate_statistics(network, batches)
        errors.append(1 - evaluate(network, judged)[0])
    return Barrier(alphas, tuple(errors))


def interpolated(first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """``(1 − alpha) · first + alpha · second``, exact at both ends; counters and other integers are those of ``first``.

    A weight that is 0.0 in both is 0.0 everywhere between them.
    """
    return {
        name: torch.lerp(tensor, second[name].to(tensor), alpha) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }


def estimate_statistics(model: nn.Module, batches: BatchSource) -> None:
    """Set running means and variances of ``model`` to their averages over ``batches``, each weighted by its samples.

    As for averaged weights (Izmailov et al. 2018, §3.2). Only the normalisations are in training mode, so dropout does
    nothing; a last batch of one sample, which has no variance, is left out. A network without statistics is left as it
    is, and no batch is read.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.train()
        seen = 0
        for inputs in _inputs(batches):
            size = size_of(inputs)
            seen += size
            for norm in norms:
                norm.momentum = size / seen
            call(model, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _inputs(batches: BatchSource) -> Iterator[Inputs]:
    if not batches.samples:
        raise InputError("the training set is empty: the normalisation cannot be estimated on it")
    least = min(batches.batch_size, batches.samples, 2)
    return (inputs for inputs, _ in batches.ordered() if size_of(inputs) >= least)


def _check(model: nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for place, state in (("first", first), ("second", second)):
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        differing = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
        if differing:
            name = differing[0]
            what = f"'{name}' has the shape {found[name]}" if name in found else f"there is no '{name}'"
            expected = f"{shapes[name]}, as in the model" if name in shapes else "the tensors of the model only"
            raise InputError(what, where=place, expected=expected)
