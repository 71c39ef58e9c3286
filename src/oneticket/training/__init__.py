"""Training: recipe, start, runtime, loop, callbacks, cost and masking."""

from typing import Any

from oneticket.training.callbacks import Callback, CallbackList
from oneticket.training.checkpoint import Checkpoint
from oneticket.training.cost import Cost, forward_flops, training_flops
from oneticket.training.evaluation import evaluate
from oneticket.training.loop import train
from oneticket.training.masking import MaskKeeper
from oneticket.training.observers import Observer, OnEpoch
from oneticket.training.recipe import Recipe
from oneticket.training.results import EpochRecord, Snapshot, Training
from oneticket.training.runtime import Runtime
from oneticket.training.schedule import Constant, Cosine, Schedule, StepDecay
from oneticket.training.start import Start
from oneticket.training.state import Loss, TrainState
from oneticket.training.step import Step

__all__ = [
    "Callback",
    "CallbackList",
    "Checkpoint",
    "Constant",
    "Cosine",
    "Cost",
    "EpochRecord",
    "Loss",
    "MaskKeeper",
    "Observer",
    "OnEpoch",
    "Recipe",
    "Runtime",
    "Schedule",
    "Snapshot",
    "Start",
    "Step",
    "StepDecay",
    "TrainState",
    "Training",
    "evaluate",
    "forward_flops",
    "train",
    "training_flops",
]


def __getattr__(name: str) -> Any:
    from oneticket.training import former

    present = {"Companion": "Callback", "Course": "TrainState", "Objective": "Loss"}
    if name not in present:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    former.warn_of(f"oneticket.training.{name}", f"oneticket.training.{present[name]}")
    return Loss if name == "Objective" else getattr(former, name)
