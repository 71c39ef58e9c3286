"""The results of a training besides the trained network."""

from __future__ import annotations

import msgspec
from torch import Tensor

from oneticket.masks import Masks
from oneticket.training.kernels import Kernels


class EpochRecord(msgspec.Struct, frozen=True):
    """One line of the history: after ``step`` optimiser steps. Accuracies are fractions; None without validation."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_accuracy: float | None = None
    val_loss: float | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """The network at one moment: its full state (parameters and buffers) and the optimiser's memory."""

    state: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Training(msgspec.Struct, frozen=True):
    """The result of one training.

    Parameters
    ----------
    history : one record per epoch.
    snapshots : moment (``"1ep"``) → snapshot.
    steps, samples : of the whole training, over all its processes.
    seconds : of this process only.
    resumed_at : the step from which this process continued.
    masks : the final masks, which a callback may have made; None for a dense training.
    work : numbers of kept weights of the tensors of ``masks``, in their order → samples trained with those numbers.
    kernels : the layout of the computation, and the layers that took another path.
    """

    history: list[EpochRecord]
    snapshots: dict[str, Snapshot]
    steps: int
    samples: int
    seconds: float
    resumed_at: int
    masks: Masks | None = None
    work: dict[tuple[int, ...], int] = {}
    kernels: Kernels = Kernels()
