"""The training loop, which trains every network of oneticket."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from oneticket.calling import Inputs
from oneticket.conversion import Seed, checked
from oneticket.masks import Masks
from oneticket.randomness import Streams, seeded
from oneticket.training.callbacks import Callback, CallbackList
from oneticket.training.examination import check_state, examine
from oneticket.training.former import former_keywords
from oneticket.training.objectives import Judge, Loss, LossName, MetricName, Objective
from oneticket.training.observers import observing
from oneticket.training.recipe import Recipe
from oneticket.training.results import Training
from oneticket.training.runtime import Runtime
from oneticket.training.start import Start, Timetable
from oneticket.training.state import TrainState
from oneticket.training.step import Step


@former_keywords
@checked
def train(
    model: nn.Module,
    train_set: Any,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    start: Start = Start(),
    validation: Any = None,
    snapshots: Sequence[str | int | Step] = (),
    loss: LossName | Loss | None = None,
    metric: MetricName | Judge | None = None,
    callbacks: Sequence[Callback] = (),
    seed: Seed = 0,
    runtime: Runtime = Runtime(),
) -> Training:
    """Train ``model`` in place by ``recipe``; masked weights are exactly 0.0 throughout.

    Parameters
    ----------
    model : any module that maps a batch to logits (N × classes), or to the input of ``loss``.
    train_set, validation : any inputs of :func:`oneticket.data.as_batches`.
    recipe : optimiser, learning rates, epochs, batch size, augmentation, precision.
    masks : parameter name → boolean mask of its shape; those weights are zeroed before the first step and stay so.
    start : where the training begins; by default at step 0 with a fresh optimiser.
    snapshots : moments at which to keep a copy of the network and of the optimiser's memory.
    loss : ``"classification"`` (cross-entropy; the default but for a TextSet), ``"multi-label"``, ``"regression"``,
        ``"next-token"``, or a function of network, inputs and targets that gives the mean loss of the batch; see
        :class:`oneticket.training.objectives.Objective`.
    metric : what ``val_accuracy`` holds, by default that of the loss; a loss of your own needs one for ``validation``.
    callbacks : callbacks that modify or observe the training.
    seed : the replicate; data order, augmentation and dropout come from its named streams.
    runtime : device, layout, threads, checkpoint; none changes numbers beyond rounding.

    Returns
    -------
    Training : history, snapshots, masks and cost; the trained network is ``model``.

    Raises
    ------
    NonFiniteLoss : with step and learning rate, when the loss is no longer finite.
    InputError : an empty training set, a start or a snapshot outside the training, masks that fit no parameter.

    Examples
    --------
    >>> import torch
    >>> from oneticket.training import Recipe, train
    >>> model, data = torch.nn.Linear(4, 2), (torch.randn(20, 4), torch.arange(20) % 2)
    >>> train(model, data, Recipe.sgd(epochs=3, batch_size=5)).steps
    12
    """
    began = time.perf_counter()
    if snapshots or runtime.checkpoint is not None:
        check_state(model)
    objective = Objective.of(train_set, recipe, loss, metric)
    data, evaluated = examine(
        model, train_set, recipe, device=runtime.device, objective=objective, evaluated={"validation": validation}
    )
    times = Timetable.of(recipe, data.steps_per_epoch, start, snapshots)
    hooks = CallbackList([*start.callbacks, *callbacks], *observing(evaluated.get("validation"), runtime, start.cycles))
    streams = Streams(seed)
    state = TrainState(
        model, masks, recipe, data, times, start, runtime, objective=objective, callbacks=hooks, streams=streams
    )
    with state.active():
        hooks.on_train_start(state)
        with state.kernels.at_work(state.network):  # not earlier: callbacks may check the type of a layer
            while state.step < times.total:
                epoch, done = divmod(state.step, times.per_epoch)
                state.network.train()
                batches = data.epoch(streams.generator("data-order", epoch), streams.generator("augmentation", epoch))
                with seeded(streams.seed("noise", epoch)):
                    state.resume_noise()
                    for inputs, targets in islice(batches, done, None):
                        train_step(state, hooks, inputs, targets, clip_norm=recipe.clip_norm)
                with hooks.evaluation_weights():
                    hooks.on_validation(state)
                hooks.on_epoch_end(state)
            hooks.on_train_end(state)
    return state.result(time.perf_counter() - began)


def train_step(
    state: TrainState, hooks: CallbackList, inputs: Inputs, targets: Tensor, *, clip_norm: float | None = None
) -> None:
    """One optimiser step; callbacks rely on the order of its events."""
    state.set_lr(state.times.lr(state.step))
    inputs = state.laid_out(inputs)
    hooks.before_forward(state)
    state.count(len(targets))
    with state.autocast():
        loss = state.loss_of(state.network, inputs, targets)
    penalty = hooks.penalty(state)
    state.clear_gradients()
    (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
    hooks.after_backward(state)
    if clip_norm is not None:
        state.masking.mask_gradients()  # the norm must not count masked weights
        clip_grad_norm_(state.network.parameters(), clip_norm)
    state.optimizer.step()
    hooks.after_step(state)
    state.advance(loss.detach())
    hooks.on_step_end(state)
