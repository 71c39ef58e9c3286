"""Training: recipe, schedule, loop, checkpoint, cost; and the keeper of masks."""

from oneticket.training.checkpoint import Checkpoint
from oneticket.training.companion import Companion, Course
from oneticket.training.cost import Cost, forward_flops, training_flops
from oneticket.training.evaluation import evaluate
from oneticket.training.keeping import MaskKeeper
from oneticket.training.loop import EpochRecord, Objective, Snapshot, Training, train
from oneticket.training.recipe import Recipe
from oneticket.training.schedule import Constant, Cosine, Schedule, StepDecay
from oneticket.training.step import Step

__all__ = [
    "Checkpoint",
    "Companion",
    "Constant",
    "Cosine",
    "Cost",
    "Course",
    "EpochRecord",
    "MaskKeeper",
    "Objective",
    "Recipe",
    "Schedule",
    "Snapshot",
    "Step",
    "StepDecay",
    "Training",
    "evaluate",
    "forward_flops",
    "train",
    "training_flops",
]
