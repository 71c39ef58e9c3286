"""Objectives: the loss that a training minimises, and the metric by which its network is judged, by name or one's own.

Each named loss says which targets it takes; anything else is refused with what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.calling import Inputs, outputs_on, size_of
from oneticket.data.sets import TextSet
from oneticket.errors import InputError, unknown
from oneticket.training.targets import check_labels, check_numbers, check_targets, check_tokens

Loss = Callable[[nn.Module, Inputs, Tensor], Tensor]
"""Network, inputs and targets → mean loss of the batch, a scalar."""

LossName = Literal["classification", "multi-label", "regression", "next-token"]
MetricName = Literal["accuracy", "label-accuracy", "r2", "mean-absolute-error"]
Judge: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch → the mean of a metric over it, a scalar."""

IGNORED = -100
"""The target of a token that does not count."""

Check = Callable[[Tensor, Tensor, str], None]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Task:
    """A named loss: what it compares, how, what it refuses, and its metric."""

    loss: Callable[..., Tensor]
    check: Check
    metric: MetricName
    compared: Callable[[Tensor, Tensor], Pair] = lambda outputs, targets: (outputs, targets)
    smooths: bool = False


def _alike(outputs: Tensor, targets: Tensor) -> Pair:
    return outputs.reshape(targets.shape), targets.to(outputs.dtype)


def next_tokens(outputs: Tensor, targets: Tensor) -> Pair:
    """Outputs at each place and the token that follows, [M, V] and [M]; tokens of -100 do not count."""
    after = targets[:, 1:]
    counted = after != IGNORED
    return outputs[:, :-1][counted], after[counted]


def _mean_square(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.mse_loss(outputs, targets, reduction=reduction)


LOSSES: dict[str, _Task] = {
    "classification": _Task(F.cross_entropy, check_targets, "accuracy", smooths=True),
    "multi-label": _Task(F.binary_cross_entropy_with_logits, check_labels, "label-accuracy", _alike),
    "regression": _Task(_mean_square, check_numbers, "r2", _alike),
    "next-token": _Task(F.cross_entropy, check_tokens, "accuracy", next_tokens, smooths=True),
}


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).sum()[None]


def _label_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).double().mean(tuple(range(1, targets.dim()))).sum()[None]


def _moments(outputs: Tensor, targets: Tensor) -> Tensor:
    known, found = (part.reshape(len(targets), -1).double() for part in (targets, outputs))
    return torch.stack([(found - known).square(), known, known.square()]).sum(1)


def _explained(sums: Tensor, count: int) -> Tensor:
    error, total, squares = sums
    share: Tensor = error / (squares - total.square() / count)
    return 1 - share.mean()


def _absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().double().reshape(len(targets), -1).mean(1).sum()[None]


def _mean(sums: Tensor, count: int) -> Tensor:
    return sums[0] / count


METRICS: dict[str, tuple[Judge, Callable[[Tensor, int], Tensor]]] = {
    "accuracy": (_accuracy, _mean),
    "label-accuracy": (_label_accuracy, _mean),
    "r2": (_moments, _explained),
    "mean-absolute-error": (_absolute_error, _mean),
}
"""Metric → sums over a batch, and what they make over all samples."""


@dataclass(frozen=True)
class Summed:
    """What one batch adds to an evaluation: its loss and its metric as sums, and the number of what is counted.

    ``outputs`` and ``targets`` are those that were compared.
    """

    loss: Tensor
    metric: Tensor
    count: int
    outputs: Tensor
    targets: Tensor


class Objective:
    """A loss and a metric.

    Parameters
    ----------
    loss : str or function
        ``classification``: cross-entropy of N × classes. ``multi-label``: binary cross-entropy of each of N × labels.
        ``regression``: mean squared error. ``next-token``: cross-entropy of the token that follows each place, of
        N × T × vocabulary; targets are the tokens themselves, -100 where they do not count. Or a function of network,
        inputs and targets that gives the mean loss of the batch.
    metric : str or function, optional
        ``accuracy``, ``label-accuracy``, ``r2`` (mean over the outputs; NaN where a target does not vary),
        ``mean-absolute-error``, or a function of outputs and targets that gives the mean over the batch. By default
        that of the loss; a loss of your own has none.
    label_smoothing : float
        For the cross-entropies.

    Raises
    ------
    InputError : an unknown name; label smoothing with a loss that has no classes; a metric for other targets.
    """

    def __init__(
        self,
        loss: LossName | Loss | None = None,
        metric: MetricName | Judge | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        loss = "classification" if loss is None else loss
        if isinstance(loss, str) and loss not in LOSSES:
            raise unknown("loss", loss, LOSSES)
        if isinstance(metric, str) and metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        self.name = loss if isinstance(loss, str) else None
        self._own = None if isinstance(loss, str) else loss
        self._task = LOSSES[self.name or "classification"]
        if metric is None and self.name is not None:
            metric = self._task.metric
        self.metric = metric
        self._smoothing = label_smoothing
        if label_smoothing and self.name is not None and not self._task.smooths:
            raise InputError(f"label_smoothing = {label_smoothing} with loss = '{loss}'", expected="0")
        if self.name is not None and isinstance(metric, str) and not self._suits(metric):
            able = [name for name in METRICS if self._suits(name)]
            raise InputError(f"metric = '{metric}' with loss = '{loss}'", expected=" or ".join(able))

    @classmethod
    def of(
        cls, data: Any, recipe: Any, loss: LossName | Loss | None, metric: MetricName | Judge | None = None
    ) -> Objective:
        """Those given, else those that the recipe names, else those of the data: ``next-token`` for a TextSet."""
        usual: LossName | None = "next-token" if isinstance(data, TextSet) else None
        asked: LossName | Loss | None = loss if loss is not None else recipe.loss or usual
        own = metric if metric is not None or loss is not None else recipe.metric or None
        return cls(asked, own, label_smoothing=recipe.label_smoothing)

    def _suits(self, metric: str) -> bool:
        return metric == self._task.metric or (metric, self.name) == ("mean-absolute-error", "regression")

    def given(self) -> dict[str, Any]:
        """Loss and metric as they were given, as arguments of :func:`oneticket.training.evaluate`."""
        return {"loss": self.name or self._own, "metric": self.metric}

    def loss(self, network: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        if self._own is not None:
            return self._own(network, inputs, targets)
        return self.of_outputs(outputs_on(network, inputs), targets, "train_set")

    def of_outputs(self, outputs: Tensor, targets: Tensor, where: str = "batch") -> Tensor:
        """The mean loss of outputs, by a named loss."""
        if outputs.dim() < 2 or outputs.shape[1] == 1 or self.name != "classification":
            self.check(outputs, targets, where)
        options = {"label_smoothing": self._smoothing} if self._task.smooths else {}
        try:
            return self._task.loss(*self._task.compared(outputs, targets), **options)
        except Exception:  # the first batch was right, but not this one
            self.check(outputs, targets, where)
            raise

    def check(self, outputs: Tensor, targets: Tensor, where: str) -> None:
        """Refuse targets that the named loss is not defined for; a loss of one's own decides itself."""
        if self._own is None:
            self._task.check(outputs, targets, where)

    def summed(self, network: nn.Module, inputs: Inputs, targets: Tensor, where: str) -> Summed:
        """Loss and metric of a batch, as sums over what is counted: samples, or tokens."""
        outputs = outputs_on(network, inputs)
        if self._own is not None:
            size = size_of(inputs)
            judged = self._judged(outputs, targets, size)
            return Summed(self._own(network, inputs, targets).double() * size, judged, size, outputs, targets)
        if self.name != "classification" or outputs.dim() != 2 or targets.dim() != 1:
            self._check_evaluated(outputs, targets, where)
        found, wanted = self._task.compared(outputs.float(), targets)
        size = len(wanted)
        try:
            if self.name in ("classification", "next-token"):
                total = self._task.loss(found, wanted, reduction="sum")
            else:
                total = self._task.loss(found, wanted).double() * size
        except Exception:
            self._check_evaluated(outputs, targets, where)
            raise
        return Summed(total, self._judged(found, wanted, size), size, found, wanted)

    def _check_evaluated(self, outputs: Tensor, targets: Tensor, where: str) -> None:
        if self.name == "classification":
            check_targets(outputs, targets, where, soft=False)
        else:
            self.check(outputs, targets, where)

    def _judged(self, outputs: Tensor, targets: Tensor, size: int) -> Tensor:
        if isinstance(self.metric, str):
            return METRICS[self.metric][0](outputs, targets)
        if self.metric is None:
            raise InputError("a loss of your own has no metric", where="evaluate", expected="metric=…")
        return torch.as_tensor(self.metric(outputs, targets)).double()[None] * size

    def judged(self, sums: Sequence[Tensor], count: int) -> float:
        """The metric over all samples, from the sums of the batches."""
        over_all = METRICS[self.metric][1] if isinstance(self.metric, str) else _mean
        return float(over_all(torch.stack(list(sums)).double().sum(0), count))
