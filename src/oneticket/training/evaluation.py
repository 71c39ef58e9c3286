"""Evaluation: accuracy and loss over every sample of a split; the network does not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.conversion import checked
from oneticket.data import BatchSource, ImageSet, Normalisation, as_batches
from oneticket.errors import InputError
from oneticket.training.examination import check_targets


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
) -> tuple[float, float]:
    """Accuracy (a fraction) and mean cross-entropy over every sample of ``data``, in evaluation mode.

    An ImageSet needs the ``normalisation`` of the split on which the model was trained. ``channels_last`` sets the
    layout of images as in :func:`oneticket.training.train`; only rounding differs. ``on_batch`` is called after each
    batch.
    """
    if isinstance(data, ImageSet) and normalisation is None:
        raise InputError(
            "an ImageSet without a normalisation", where="evaluate", expected="Normalisation.of(the training split)"
        )
    batches: BatchSource = as_batches(data, batch_size, normalisation=normalisation, device=device)
    right, losses, count = [], [], 0
    with evaluating(model), torch.inference_mode():
        for inputs, targets in batches.ordered():
            if channels_last and inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            outputs = model(inputs)
            if not isinstance(outputs, Tensor) or outputs.dim() != 2 or targets.dim() != 1:
                check_targets(outputs, targets, "evaluate", soft=False)
            logits = outputs.float()
            right.append((logits.argmax(1) == targets).sum())
            losses.append(_summed_loss(logits, targets))
            count += len(targets)
            if on_batch is not None:
                on_batch()
    if not count:
        raise InputError("there is nothing to evaluate on: the split is empty")
    # Summed at the end, so that no batch waits for the result of the previous one.
    return sum(torch.stack(right).tolist()) / count, math.fsum(torch.stack(losses).tolist()) / count


def _summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    try:
        return F.cross_entropy(logits, targets, reduction="sum")
    except Exception:
        check_targets(logits, targets, "evaluate", soft=False)
        raise
