"""Built-in callbacks that leave the weights alone: validation, snapshots, history, checkpoint, a fresh optimiser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.data import BatchSource
from oneticket.errors import NonFiniteLoss
from oneticket.training.callbacks import Callback
from oneticket.training.checkpoint import Checkpoint
from oneticket.training.evaluation import evaluate
from oneticket.training.results import EpochRecord
from oneticket.training.runtime import Runtime
from oneticket.training.state import TrainState

_CHECK_EVERY = 100  # steps between checks of the losses: each check waits for the device


class Observer(Callback):
    """A callback that only observes."""

    modifies = False


class OnEpoch(Observer):
    """Calls ``function`` with the record of each epoch."""

    def __init__(self, function: Callable[[EpochRecord], None]) -> None:
        self._function = function

    def on_epoch_end(self, state: TrainState) -> None:
        state.write_back()  # the function may use the network that was given to `train`
        self._function(state.history[-1])


class Validation(Observer):
    """Evaluates the network on ``batches`` at the end of each epoch; ``on_batch`` is called after each of them."""

    def __init__(self, batches: BatchSource, on_batch: Callable[[], None] | None = None) -> None:
        self._batches, self._on_batch = batches, on_batch

    def on_validation(self, state: TrainState) -> None:
        channels_last = state.kernels.layout == "channels-last"
        state.validated = evaluate(
            state.network,
            self._batches,
            channels_last=channels_last,
            on_batch=self._on_batch,
            **state.objective.given(),
        )


class FreshOptimizer(Observer):
    """Clears the optimiser's memory after each repetition of the recipe but the last.

    Weights, gradients and masks stay as they are, so that a compact network may be trained all the same.
    """

    def on_step_end(self, state: TrainState) -> None:
        if state.step % state.times.cycle == 0 and state.step < state.times.total:
            state.optimizer.state.clear()


class Snapshots(Observer):
    """Keeps copies of the network, and of the optimiser's memory, at the moments of the timetable."""

    def on_train_start(self, state: TrainState) -> None:
        self._steps = set(state.times.moments.values())
        self.on_step_end(state)

    def on_step_end(self, state: TrainState) -> None:
        if state.step in self._steps:
            for name, step in state.times.moments.items():
                if step == state.step and name not in state.snapshots:
                    state.snapshots[name] = state.snapshot()


class History(Observer):
    """Sums the losses, records each epoch, and ends a training whose numbers are no longer finite."""

    def __init__(self) -> None:
        self._recent: list[tuple[Tensor, int, float]] = []
        self._loss_sum, self._seen = 0.0, 0

    def on_train_start(self, state: TrainState) -> None:
        if state.within_epoch:
            saved = state.within_epoch["losses"]
            self._recent = list(zip(saved["values"].unbind(), saved["counts"], saved["rates"], strict=True))
            self._loss_sum, self._seen = saved["sum"], saved["seen"]

    def since_epoch(self) -> dict[str, Any]:
        """The losses of the running epoch, for a checkpoint within it."""
        losses, counts, rates = zip(*self._recent, strict=True) if self._recent else ((), (), ())
        values = torch.stack(losses) if losses else torch.empty(0)
        return {
            "values": values, "counts": list(counts), "rates": list(rates), "sum": self._loss_sum, "seen": self._seen
        }  # fmt: skip

    def on_step_end(self, state: TrainState) -> None:
        self._recent.append((state.loss, state.batch, state.lr))
        if len(self._recent) == _CHECK_EVERY or state.step % state.times.per_epoch == 0:
            self._loss_sum += finite_sum(self._recent, state.step)
            self._seen += sum(count for _, count, _ in self._recent)
            self._recent = []

    def on_epoch_end(self, state: TrainState) -> None:
        accuracy, loss = state.validated
        check_finite(state.network, loss, state.step, state.lr)
        epoch, mean = (state.step - 1) // state.times.per_epoch + 1, self._loss_sum / max(self._seen, 1)
        state.history.append(EpochRecord(epoch, state.step, state.lr, mean, accuracy, loss))
        self._loss_sum, self._seen = 0.0, 0


class Checkpointer(Observer):
    """Writes the running state when the checkpoint is due: at the end of an epoch, or within one that takes longer."""

    def __init__(self, checkpoint: Checkpoint, history: History) -> None:
        self._checkpoint, self._history = checkpoint, history
        self._epoch_began = time.monotonic()

    def on_step_end(self, state: TrainState) -> None:
        checkpoint = self._checkpoint
        if checkpoint.on_step is not None:
            checkpoint.on_step()
        if time.monotonic() - self._epoch_began < checkpoint.every or not checkpoint.due():
            return
        if state.step % state.times.per_epoch:
            noise = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
            within = {"losses": self._history.since_epoch(), "noise": noise}
            checkpoint.save(state.state_dict() | {"within_epoch": within})

    def on_epoch_end(self, state: TrainState) -> None:
        self._epoch_began = time.monotonic()
        if state.step < state.times.total and self._checkpoint.due():
            self._checkpoint.save(state.state_dict())


def observing(
    validation: BatchSource | None, runtime: Runtime, cycles: int = 1
) -> tuple[list[Callback], list[Callback]]:
    """The observers of one training, in their order, and those that save the memory of all callbacks."""
    history, checkpoint = History(), runtime.checkpoint
    found: list[Callback] = [Snapshots(), *([FreshOptimizer()] if cycles > 1 else []), history]
    if validation is not None:
        found.append(Validation(validation, checkpoint.on_step if checkpoint is not None else None))
    return found, [Checkpointer(checkpoint, history)] if checkpoint is not None else []


def check_finite(model: nn.Module, loss: float | None, step: int, lr: float) -> None:
    """Raise NonFiniteLoss, with step and learning rate, when a weight or the validation loss is not finite."""
    # The last step of an epoch can diverge without showing in a training loss.
    weights = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()])
    if not bool(weights.all()) or (loss is not None and not math.isfinite(loss)):
        what = f"the validation loss is {loss}" if bool(weights.all()) else "weights are no longer finite"
        raise NonFiniteLoss(f"{what} after step {step - 1} (learning rate {lr:g})", step)


def finite_sum(recent: list[tuple[Tensor, int, float]], step: int) -> float:
    """The sum over samples of the losses up to ``step``.

    Parameters
    ----------
    recent : mean loss of a batch (a scalar), its number of samples, the learning rate of its step.

    Raises
    ------
    NonFiniteLoss : with step and learning rate, for the first loss that is not finite.
    """
    losses, counts, rates = zip(*recent, strict=True)
    found = torch.stack(losses).cpu()  # only here the CPU waits for the device
    values = (found * torch.tensor(counts, dtype=found.dtype)).tolist()
    for behind, (value, lr) in enumerate(zip(values, rates, strict=True)):
        if not math.isfinite(value):
            at = step - len(values) + behind
            raise NonFiniteLoss(f"the loss is {value} at step {at} (learning rate {lr:g})", step)
    return math.fsum(values)
