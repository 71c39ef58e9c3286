"""Whether a training is still one of finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.errors import NonFiniteLoss


@contextmanager
def counted(first: int, work: Mapping[Any, int], history: Sequence[Any]) -> Iterator[None]:
    """A NonFiniteLoss from inside tells what was trained: the steps since ``first``, their samples, the epochs."""
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(str(error), error.steps - first, sum(work.values()), history) from None


def check_finite(model: nn.Module, loss: float | None, step: int, lr: float) -> None:
    """Raise NonFiniteLoss, with step and learning rate, when a weight or the validation loss is not finite."""
    # The last step of an epoch can diverge without any training loss that tells.
    weights = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()])
    if not bool(weights.all()) or (loss is not None and not math.isfinite(loss)):
        what = f"the validation loss is {loss}" if bool(weights.all()) else "weights are no longer finite"
        raise NonFiniteLoss(f"{what} after step {step - 1} (learning rate {lr:g})", step)


def finite_sum(recent: list[tuple[Tensor, int, float]], step: int) -> float:
    """Sum over samples of the losses up to ``step``, each the mean of so many samples, at a learning rate.

    Raises NonFiniteLoss, with step and learning rate, for the first that is not finite.
    """
    losses, counts, rates = zip(*recent, strict=True)
    found = torch.stack(losses).cpu()  # the one moment at which the device is waited for
    values = (found * torch.tensor(counts, dtype=found.dtype)).tolist()
    for behind, (value, lr) in enumerate(zip(values, rates, strict=True)):
        if not math.isfinite(value):
            at = step - len(values) + behind
            raise NonFiniteLoss(f"the loss is {value} at step {at} (learning rate {lr:g})", step)
    return math.fsum(values)
