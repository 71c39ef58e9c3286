"""Criteria that use gradients of the loss: SNIP and GraSP.

Both use the network in training mode, as published: BatchNorm uses the statistics of the batch. Only dropout is off,
since a dropped unit would get no score. They work on a copy: gradients, running statistics and random state of the
caller do not change. The loss is the mean cross-entropy, for SNIP that of the training; its gradients are those of the
prunable weights, in the weights' precision and on their device. Weights that a mask has set to zero score zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneticket.calling import Inputs, each, joined, outputs_on
from oneticket.errors import InputError
from oneticket.prunable import Prunable
from oneticket.pruning.base import Scores, criterion, private_copy
from oneticket.pruning.context import Batches, BatchLoss, ScoreContext
from oneticket.randomness import seeded

_TEMPERATURE = 200
_SAMPLES_PER_CLASS = 10


@criterion("snip", source="Lee et al. 2019, §4.1", at="init")
def snip(model: Prunable, context: ScoreContext) -> Scores:
    """Sensitivity of the loss of one batch to taking the weight away, |g ∘ W|.

    g = ∂L/∂W on the first batch, at the weights that ``model`` holds: at initialisation, as published.
    """
    trial = _in_training(model)
    weights = dict(trial.weights())
    with seeded(0), torch.enable_grad():
        slopes = gradients(loss(trial.model, context.first_batch, own=context.loss), weights.values())
    return {
        name: (slope * weight.detach()).abs() for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


@criterion("grasp", source="Wang et al. 2020, Algorithm 1", at="init", scores="signed", needs="classes")
def grasp(model: Prunable, context: ScoreContext) -> Scores:
    """What the weight adds to the gradient flow gᵀg, W ∘ (H g); the published score, −W ∘ (H g), loses its largest.

    The loss is that of the first 10 samples of each class together (fewer where the batches hold fewer), its logits
    divided by 200. g and H are its gradient and Hessian at the weights that ``model`` holds; weights at exactly zero
    count as masked and have no part in g.
    """
    trial = _in_training(model)
    weights = dict(trial.weights())
    samples = class_samples(trial, context.batches)
    with seeded(0), torch.enable_grad(), twice_differentiable():
        slopes = gradients(loss(trial.model, samples, _TEMPERATURE), weights.values(), create_graph=True)
        kept = [slope.detach() * (weight != 0) for slope, weight in zip(slopes, weights.values(), strict=True)]
        flow = torch.stack([(slope * fixed).sum() for slope, fixed in zip(slopes, kept, strict=True)]).sum()
        products = gradients(flow, weights.values())
    return {name: product * weight.detach() for (name, weight), product in zip(weights.items(), products, strict=True)}


def _in_training(model: Prunable) -> Prunable:
    trial = private_copy(model)
    trial.model.train()
    for module in trial.model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    for _, weight in trial.weights():
        weight.requires_grad_()
    return trial


def loss(
    network: nn.Module, batch: tuple[Inputs, Tensor], temperature: float = 1, *, own: BatchLoss | None = None
) -> Tensor:
    """The mean cross-entropy of a batch, its logits divided by ``temperature``; or ``own``, that of the training."""
    device = next(network.parameters()).device
    inputs, targets = (each(lambda tensor: tensor.to(device), part) for part in batch)
    if own is not None:
        return own(network, inputs, targets)
    return F.cross_entropy(outputs_on(network, inputs) / temperature, targets)


def gradients(
    value: Tensor, weights: Iterable[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> Sequence[Tensor]:
    """∂value/∂W of each weight; zeros for a weight that ``value`` does not depend on."""
    return torch.autograd.grad(
        value,
        list(weights),
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def twice_differentiable() -> AbstractContextManager[None]:
    """A context in which gradients have gradients: attention without its fused kernels, whose gradients have none."""
    return sdpa_kernel(SDPBackend.MATH)


def class_samples(model: Prunable, batches: Batches) -> tuple[Inputs, Tensor]:
    """The first 10 samples of each class in the order of the batches, together; fewer where there are fewer."""
    return _first_of_each_class(batches, _classes(model), _SAMPLES_PER_CLASS)


def _classes(model: Prunable) -> int:
    return int(model.model.get_submodule(model.head).get_parameter("weight").shape[0])


def _first_of_each_class(batches: Batches, classes: int, most: int) -> tuple[Inputs, Tensor]:
    """The first ``most`` samples of every class in the order of the batches; reads only as many as needed."""
    parts: list[tuple[Inputs, Tensor]] = []
    missing = torch.full((classes,), most)
    for inputs, targets in batches:
        labels = F.one_hot(targets.cpu(), classes)
        number = (labels.cumsum(0) * labels).sum(1)  # the n-th of its class in this batch, from 1
        taken = number <= missing[targets.cpu()]
        chosen = [each(lambda tensor: tensor[taken.to(tensor.device)], part) for part in (inputs, targets)]  # noqa: B023
        parts.append((chosen[0], chosen[1]))
        missing -= labels[taken].sum(0)
        if not missing.any():
            break
    if not parts:
        raise InputError("the criterion needs training batches, but there are none", expected="at least one")
    return joined([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])
