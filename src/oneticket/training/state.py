"""`TrainState`: the mutable state of a running training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from oneticket.calling import Inputs, each
from oneticket.data import BatchSource
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.kernels.plain import lay_out
from oneticket.kernels.pointwise import right_gradients
from oneticket.masks import Masks
from oneticket.randomness import Streams
from oneticket.training.callbacks import CallbackList
from oneticket.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from oneticket.training.compact import CompactModel, compacted
from oneticket.training.kernels import Kernels, choose_kernels
from oneticket.training.masking import MaskKeeper
from oneticket.training.objectives import Loss as Loss
from oneticket.training.objectives import Objective
from oneticket.training.recipe import Recipe
from oneticket.training.results import EpochRecord, Snapshot, Training
from oneticket.training.runtime import Runtime, kept_heap, threads_of
from oneticket.training.start import Start, Timetable


class TrainState:
    """The state of a running training: network, optimiser, masks and progress. Callbacks get it at every moment.

    Parameters
    ----------
    model, masks, recipe, start, runtime : as for :func:`oneticket.training.train`.
    data : batches to train on.
    times : the timetable.
    streams : the random streams of the replicate.
    objective : the loss to minimise, and the metric of the validation.
    callbacks : the callbacks that the loop calls.

    Attributes
    ----------
    network : the network that computes in training: ``model`` itself, or a compact network in its place if no callback
        modifies the training. ``optimizer`` steps its parameters.
    step : the number of steps taken; during a step, the number of that step, counted from 0.
    loss, lr, batch : mean loss (a scalar on the device), learning rate and number of samples of the step.
    history, snapshots, work : as in :class:`oneticket.training.Training`, up to now.
    validated : accuracy and loss on the validation split at the end of this epoch; None without one.
    within_epoch : what a checkpoint within an epoch holds besides: the losses so far, and the state of the noise.
    times, samples, names : timetable; samples in an epoch; names of the masked parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | None,
        recipe: Recipe,
        data: BatchSource,
        times: Timetable,
        start: Start,
        runtime: Runtime,
        *,
        objective: Objective,
        callbacks: CallbackList,
        streams: Streams,
    ) -> None:
        _check_masks(model, masks)
        self.callbacks = callbacks
        self.loss_of: Loss = objective.loss
        self.objective = objective
        self._model, self._masks, self._runtime, self._streams = model, masks, runtime, streams
        model.to(runtime.device)
        undisturbed = not callbacks.modifies  # then nothing but the optimiser changes weights, gradients and masks
        self._fixed = masks if undisturbed and objective.name is not None and runtime.compact else None
        choose = partial(choose_kernels, loss=self.loss_of, batches=data, precision=recipe.precision)
        with right_gradients(model):
            self.kernels: Kernels = choose(model, channels_last=runtime.layout == "channels-last")
            lay_out(model, self.kernels.layout)
            self._compact = CompactModel(model, masks)
            if self._fixed is not None:
                how = recipe.precision, self.kernels.memory_format, runtime.compute
                with threads_of(runtime.threads):
                    self._compact = compacted(model, self._fixed, data, *how)
            self.network: nn.Module = self._compact.model
            if self.network is not model:
                self.kernels = choose(self.network, channels_last=self.kernels.layout == "channels-last")
                self.kernels = msgspec.structs.replace(self.kernels, sparse=self._compact.sparse)
        lay_out(self.network, self.kernels.layout)
        self.optimizer = recipe.make_optimizer(self.network, self._compact.to_compact(start.lr_factors))
        self._compact.attach(self.optimizer)
        if start.optimizer_state is not None:
            self._load_optimizer(start.optimizer_state)
        self.masking = _masking(self.network, self.optimizer, self._compact.masks, undisturbed=undisturbed)
        self._stepped = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._kept = tuple(int(mask.sum()) for mask in self._fixed.values()) if self._fixed else None
        device = torch.device(runtime.device).type
        self._autocast = torch.autocast(device, dtype=torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        self.times, self.samples, self.names = times, data.samples, tuple(masks or ())
        self.step = self.resumed_at = times.first
        self.loss, self.lr, self.batch = torch.zeros(()), -1.0, 0
        self.history: list[EpochRecord] = []
        self.snapshots: dict[str, Snapshot] = {}
        self.work: dict[tuple[int, ...], int] = {}
        self.validated: tuple[float | None, float | None] = (None, None)
        self.within_epoch: dict[str, Any] = {}

    # -- for callbacks ---------------------------------------------------------------------------------------------
    @property
    def model(self) -> nn.Module:
        """The network that was given to ``train``, with the current weights."""
        self.write_back()
        return self._model

    def weights(self) -> dict[str, nn.Parameter]:
        """The masked parameters of ``model`` by name."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name] for name in self.names}

    @property
    def masks(self) -> Masks:
        """The current masks, on the CPU; methods that make masks while training begin with full masks."""
        return self._fixed or Masks(dict(zip(self.names, self.masking.masks, strict=True)))

    def replace_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Keep other masks from now on: masked weights, and the optimiser's memory of them, become zero."""
        self.masking.replace([masks[name] for name in self.names])

    def generator(self, purpose: str, step: int) -> torch.Generator:
        """A random generator on the CPU for a purpose and a step; equal arguments give equal generators."""
        return self._streams.generator("mask", purpose, step)

    # -- one step --------------------------------------------------------------------------------------------------
    def set_lr(self, lr: float) -> None:
        """Set the learning rate to ``lr``, times each parameter's factor."""
        if lr != self.lr:
            self.lr = lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["factor"]

    def laid_out(self, inputs: Inputs) -> Inputs:
        """``inputs`` in the layout of the network."""
        return each(self._laid_out, inputs)

    def _laid_out(self, part: Tensor) -> Tensor:
        return part.contiguous(memory_format=self.kernels.memory_format) if part.dim() == 4 else part

    def count(self, samples: int) -> None:
        """Add ``samples`` to the work done with the present numbers of kept weights."""
        self.batch = samples
        kept = self._kept or self.masking.kept
        self.work[kept] = self.work.get(kept, 0) + samples

    def autocast(self) -> AbstractContextManager[Any]:
        """A context with the recipe's precision."""
        return self._autocast

    def clear_gradients(self) -> None:
        """Clear all gradients."""
        for parameter in self._stepped:  # like `zero_grad`, at a third of its cost
            parameter.grad = None

    def advance(self, loss: Tensor) -> None:
        """Count the step, whose loss was ``loss``."""
        self.loss = loss
        self.step += 1

    # -- in the shapes of the full network -------------------------------------------------------------------------
    def write_back(self) -> None:
        """Write the current weights into the network that was given to ``train``."""
        self._compact.expand_into(self._model)

    def snapshot(self) -> Snapshot:
        """A copy of the full network's state and of the optimiser's memory, on the CPU."""
        state = self._compact.to_full(self.network.state_dict())
        memory = self._compact.to_full(optimizer_tensors(self.network, self.optimizer))
        return Snapshot({n: _copied(t) for n, t in state.items()}, {n: t.cpu() for n, t in memory.items()})

    def state_dict(self) -> dict[str, Any]:
        """The state to continue from, in the shapes of the full network."""
        return {
            "step": self.step,
            "model": self._compact.to_full(self.network.state_dict()),
            "optimizer": self._compact.to_full(optimizer_tensors(self.network, self.optimizer)),
            "history": [msgspec.to_builtins(entry) for entry in self.history],
            "work": self.work,
            "snapshots": {name: [s.state, s.optimizer] for name, s in self.snapshots.items()},
            "masks": dict(self.masks),
            "callbacks": self.callbacks.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from the state that :meth:`state_dict` returned."""
        self.step = self.resumed_at = saved["step"]
        self.history = [msgspec.convert(record, EpochRecord) for record in saved["history"]]
        self.work = saved["work"]
        self.snapshots = {name: Snapshot(*parts) for name, parts in saved["snapshots"].items()}
        self.network.load_state_dict(self._compact.to_compact(saved["model"]))
        self._load_optimizer(saved["optimizer"])
        if self._fixed is None:
            self.replace_masks(saved["masks"])

    def resume(self) -> dict[str, Any] | None:
        """Continue from the checkpoint, if there is one, and return its content for the callbacks."""
        saved = self._runtime.checkpoint.load() if self._runtime.checkpoint else None
        if saved is not None:
            self.load_state_dict(saved)
            self.within_epoch = saved.get("within_epoch", {})
        return saved

    def resume_noise(self) -> None:
        """Set torch's global generators to where a checkpoint within this epoch found them."""
        if self.within_epoch:
            states = self.within_epoch["noise"]
            torch.set_rng_state(states[0])
            for device, state in enumerate(states[1 : 1 + torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
            self.within_epoch = {}

    def _load_optimizer(self, memory: Mapping[str, Tensor]) -> None:
        load_optimizer_tensors(self.network, self.optimizer, self._compact.to_compact(memory))

    # -- beginning and end -----------------------------------------------------------------------------------------
    @contextmanager
    def active(self) -> Iterator[None]:
        """A context in which masks are kept; however it ends, the full network gets the latest weights.

        Raises
        ------
        NonFiniteLoss : raised again from inside, with the steps, the samples and the history so far.
        """
        with (
            threads_of(self._runtime.threads), self.masking, self._compact.written_back(self._model), kept_heap(),
            right_gradients(self.network),
        ):  # fmt: skip
            try:
                yield
            except NonFiniteLoss as error:
                steps, samples = error.steps - self.times.first, sum(self.work.values())
                raise NonFiniteLoss(str(error), steps, samples, self.history) from None

    def result(self, seconds: float) -> Training:
        """The result of the training; the full network returns to the plain layout."""
        lay_out(self._model, "contiguous")
        return Training(
            history=self.history,
            snapshots=self.snapshots,
            steps=self.times.total - self.times.first,
            samples=sum(self.work.values()),
            seconds=seconds,
            resumed_at=self.resumed_at,
            masks=None if self._masks is None else self.masks,
            work=self.work,
            kernels=self.kernels,
        )


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_masks(model: nn.Module, masks: Masks | None) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in (masks or {}).items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise InputError(f"the mask '{name}' does not fit the model", expected="name and shape of a parameter")


def _masking(
    network: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks | None, *, undisturbed: bool
) -> MaskKeeper:
    parameters = dict(network.named_parameters())
    masked = [(parameters[name], mask) for name, mask in (masks or {}).items()]
    return MaskKeeper(optimizer, masked, undisturbed=undisturbed)
