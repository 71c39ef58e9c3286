"""Evaluation: accuracy and loss over every sample of a split; the network does not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.calling import each
from oneticket.conversion import checked
from oneticket.data import BatchSource, ImageSet, Normalisation, as_batches
from oneticket.errors import InputError
from oneticket.training.objectives import Judge, Loss, LossName, MetricName, Objective


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context with ``model`` in evaluation mode; afterwards every module has its former mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@checked
def evaluate(
    model: nn.Module,
    data: Any,
    *,
    normalisation: Normalisation | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 512,
    channels_last: bool = False,
    on_batch: Callable[[], None] | None = None,
    on_outputs: Callable[[Tensor, Tensor], None] | None = None,
    loss: LossName | Loss = "classification",
    metric: MetricName | Judge | None = None,
) -> tuple[float, float]:
    """Accuracy (a fraction) and mean cross-entropy over every sample of ``data``, in evaluation mode.

    An ImageSet needs the ``normalisation`` of the split on which the model was trained. ``channels_last`` sets the
    layout of images as in :func:`oneticket.training.train`; only rounding differs. ``on_batch`` is called after each
    batch, ``on_outputs`` with its outputs and targets. With another ``loss`` or ``metric``, as for
    :func:`oneticket.train`, those two; of tokens, over every token.
    """
    if isinstance(data, ImageSet) and normalisation is None:
        raise InputError(
            "an ImageSet without a normalisation", where="evaluate", expected="Normalisation.of(the training split)"
        )
    batches: BatchSource = as_batches(data, batch_size, normalisation=normalisation, device=device)
    objective = Objective(loss, metric)
    scores, losses, count = [], [], 0
    with evaluating(model), torch.inference_mode():
        for inputs, targets in batches.ordered():
            if channels_last:
                inputs = each(_channels_last, inputs)
            part = objective.summed(model, inputs, targets, "evaluate")
            scores.append(part.metric)
            losses.append(part.loss)
            count += part.count
            if on_outputs is not None:
                on_outputs(part.outputs, part.targets)
            if on_batch is not None:
                on_batch()
    if not count:
        raise InputError("there is nothing to evaluate on: the split is empty")
    # Summed at the end, so that no batch waits for the result of the previous one.
    return objective.judged(scores, count), math.fsum(torch.stack(losses).tolist()) / count


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
