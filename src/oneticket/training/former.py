"""Deprecated forms that work for one more minor version: a `Companion` runs as a `Callback`; old keywords of `train`.

Every use warns and names the new form. :data:`oneticket.renamed.GONE_IN` removes this file and all uses of it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.renamed import GONE_IN

if TYPE_CHECKING:
    from oneticket.training.callbacks import Callback
    from oneticket.training.state import TrainState

P = ParamSpec("P")
R = TypeVar("R")


def warn_of(old: str, new: str, *, stacklevel: int = 3) -> None:
    """A DeprecationWarning that names the new word."""
    warnings.warn(
        f"{old} is now {new}; the old form goes in oneticket {GONE_IN}", DeprecationWarning, stacklevel=stacklevel
    )


# -- keywords of `train` ------------------------------------------------------------------------------------------
_OF_START = ("optimizer_state", "lr_schedule", "lr_factors")
_OF_RUNTIME = ("device", "compact", "checkpoint")


def former_keywords(train: Callable[P, R]) -> Callable[P, R]:
    """``train`` with the keywords that ``Start``, ``Runtime``, ``loss`` and ``callbacks`` replaced."""

    @functools.wraps(train)
    def understanding(*arguments: P.args, **options: P.kwargs) -> R:
        return train(*arguments, **_translated(options))

    return understanding


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    from oneticket.training.observers import OnEpoch
    from oneticket.training.runtime import Runtime
    from oneticket.training.start import Start

    old = {"companion", "objective", "on_epoch", "channels_last", *_OF_START, *_OF_RUNTIME} & options.keys()
    start = options.get("start", Start())
    if not isinstance(start, Start):
        warn_of(f"train(start={start!r})", f"start=Start(step={start!r})", stacklevel=4)
        start = Start(step=start)
    if not old:
        return options | {"start": start}
    for word in sorted(old):
        home = "start=Start(…)" if word in _OF_START else "runtime=Runtime(…)"
        special = {
            "companion": "callbacks=[…]",
            "on_epoch": "callbacks=[OnEpoch(…)]",
            "objective": "loss=…",
            "channels_last": "runtime=Runtime(layout='channels-last')",
        }
        warn_of(f"train({word}=…)", special.get(word, home), stacklevel=4)
    new = {word: value for word, value in options.items() if word not in old}
    given = {word: options[word] for word in old if options[word] is not None}
    callbacks = [given["companion"]] if "companion" in given else []
    callbacks += [OnEpoch(given["on_epoch"])] if "on_epoch" in given else []
    of_start = {word: given[word] for word in _OF_START if word in given}
    of_runtime = {word: given[word] for word in _OF_RUNTIME if word in given}
    if given.get("channels_last"):
        of_runtime["layout"] = "channels-last"
    new["start"] = msgspec.structs.replace(start, **of_start)
    new["runtime"] = msgspec.structs.replace(options.get("runtime", Runtime()), **of_runtime)
    new["callbacks"] = [*options.get("callbacks", ()), *callbacks]
    if "objective" in given:
        new["loss"] = given["objective"]
    return new


# -- companions ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Course:
    """The training as a `Companion` knows it; now `TrainState`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    keeper: Any
    names: tuple[str, ...]
    steps: int
    first: int
    per_epoch: int
    samples: int
    generator: Callable[[str, int], torch.Generator]

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def weights(self) -> dict[str, nn.Parameter]:
        """The masked parameters by name."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name] for name in self.names}

    @property
    def masks(self) -> Masks:
        """The current masks, on the CPU."""
        return Masks(dict(zip(self.names, self.keeper.masks, strict=True)))

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Keep other masks from now on."""
        self.keeper.replace([masks[name] for name in self.names])


class Companion:
    """The old form of a callback; now `Callback`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        warn_of(f"{cls.__name__}(Companion)", "oneticket.training.Callback")

    def begin(self, course: Course) -> None:
        """The training starts."""

    def before_forward(self, step: int) -> None:
        """Before the forward pass of a step."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss."""
        return None

    def after_backward(self, step: int) -> None:
        """Gradients are computed."""

    def after_step(self, step: int) -> None:
        """The optimiser has stepped."""

    @contextmanager
    def judged(self) -> Iterator[None]:
        """A context with the weights to evaluate."""
        yield

    def finish(self) -> None:
        """Training is over."""

    def state(self) -> dict[str, Any]:
        """The memory between steps."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Restore the memory that :meth:`state` returned."""


def _course(state: TrainState) -> Course:
    times = state.times
    return Course(
        state.model, state.optimizer, state.masking, state.names, times.total, times.first, times.per_epoch,
        state.samples, state.generator,
    )  # fmt: skip


def in_present_form(callback: Callback | Companion) -> Callback:
    """``callback`` itself; a companion is wrapped in a callback that runs it."""
    if not isinstance(callback, Companion):
        return callback
    companion: Companion = callback
    from oneticket.training.callbacks import Callback

    class Running(Callback):
        """Calls the companion's methods at their moments."""

        modifies = type(companion) is not Companion

        def on_train_start(self, state: TrainState) -> None:
            companion.begin(_course(state))

        def before_forward(self, state: TrainState) -> None:
            companion.before_forward(state.step)

        def penalty(self, state: TrainState) -> Tensor | None:
            return companion.penalty()

        def after_backward(self, state: TrainState) -> None:
            companion.after_backward(state.step)

        def after_step(self, state: TrainState) -> None:
            companion.after_step(state.step)

        def evaluation_weights(self) -> AbstractContextManager[None]:
            return companion.judged()

        def on_train_end(self, state: TrainState) -> None:
            companion.finish()

        def state_dict(self) -> dict[str, Any]:
            return companion.state()

        def load_state_dict(self, saved: dict[str, Any]) -> None:
            companion.resume(saved)

    Running.__name__ = type(companion).__name__
    return Running()
