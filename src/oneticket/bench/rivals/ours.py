"""oneticket itself: the one training loop, called as the laboratory calls it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from oneticket.bench.workload import Workload
from oneticket.data import BatchSource, ImageBatches
from oneticket.masks import Masks
from oneticket.training import OnEpoch, Recipe, Runtime, train


def our_batches(workload: Workload, device: str = "cpu") -> ImageBatches:
    """The batches of ``workload``, from images in memory."""
    return ImageBatches(
        workload.images(),
        workload.batch_size,
        normalisation=workload.normalisation(),
        augmentation=workload.recipe().augment,
        device=device,
    )


def train_ours(
    model: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    device: str = "cpu",
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train ``model`` in place by ``recipe`` on batches of images, by the loop that users run."""
    callbacks = [OnEpoch(lambda record: after_epoch(record.epoch))] if after_epoch else []
    runtime = Runtime(device=device, layout="channels-last")
    train(model, batches, recipe, masks=masks, callbacks=callbacks, runtime=runtime)
