"""oneticket itself: the one training loop, called as the laboratory calls it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from oneticket.data import ImageBatches, ImageSet, Normalisation
from oneticket.masks import Masks
from oneticket.training import Recipe, train


def train_ours(
    model: nn.Module,
    images: ImageSet,
    normalisation: Normalisation,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    device: str = "cpu",
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train ``model`` in place by ``recipe`` on these images, with whatever the loop does about masks and layout."""
    batches = ImageBatches(
        images, recipe.batch_size, normalisation=normalisation, augmentation=recipe.augment, device=device
    )
    train(
        model,
        batches,
        recipe,
        masks=masks,
        channels_last=len(images.shape) == 3,
        device=device,
        on_epoch=(lambda record: after_epoch(record.epoch)) if after_epoch else None,
    )
