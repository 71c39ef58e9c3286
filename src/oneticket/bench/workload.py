"""Workload: what every rival trains: a network, images made from a seed, a recipe and masks."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from oneticket.data import Augmentation, ImageSet, Normalisation
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import ScoreContext, prune
from oneticket.randomness import seeded
from oneticket.training import Recipe
from oneticket.training.recipe import Precision

CLASSES = 10
LR = 0.01  # small enough that no network diverges on images that are noise
FADING = 1.0  # standard deviation of the logarithm of a unit's scale; see `faded`


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network trained on ``steps`` batches an epoch; ``epochs`` epochs are timed, after one that is not.

    ``width`` multiplies the channels, ``shape`` is that of an image (C, H, W), ``augment`` says whether images are
    flipped and cropped with a border of 4, ``density`` is the fraction of the prunable weights that is kept.
    """

    model: str
    shape: tuple[int, int, int]
    steps: int
    epochs: int = 2
    width: float = 1.0
    batch_size: int = 128
    augment: bool = True
    precision: Precision = "float32"
    density: float = 1.0

    def images(self, seed: int = 0) -> ImageSet:
        """``steps`` whole batches of noise, labelled in turn: what a step costs does not depend on the pixels."""
        generator = torch.Generator().manual_seed(seed)
        count = self.steps * self.batch_size
        pixels = torch.randint(0, 256, (count, *self.shape), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % CLASSES
        return ImageSet(pixels, labels, tuple(str(label) for label in range(CLASSES)))

    def network(self, seed: int = 0) -> nn.Module:
        """The network with weights drawn from ``seed``; masked ones are not zeroed yet."""
        spec = ModelSpec(name=self.model, options={"width": self.width})
        return build(spec, input_shape=self.shape, classes=CLASSES, seed=seed)

    def recipe(self, epochs: int | None = None) -> Recipe:
        """SGD with momentum and weight decay, by default for one epoch more than is timed."""
        return Recipe.sgd(
            epochs=epochs or self.epochs + 1,
            lr=LR,
            batch_size=self.batch_size,
            augment=Augmentation(flip=True, crop=4) if self.augment else Augmentation(),
            precision=self.precision,
        )

    def masks(self, seed: int = 0) -> Masks | None:
        """Masks of exactly ``density``, global by magnitude of the faded weights; None for a dense network."""
        if self.density == 1:
            return None
        network = faded(self.network(seed), seed)
        return prune(
            Prunable(network), ScoreContext(), criterion="magnitude", allocation="global", density=self.density
        )

    def normalisation(self) -> Normalisation:
        """That of uniform noise, given to every rival: a step does not compute it."""
        return Normalisation(mean=(0.5,) * self.shape[0], std=(0.29,) * self.shape[0])


@torch.no_grad()
def faded(network: nn.Module, seed: int) -> nn.Module:
    """``network`` with the incoming and outgoing weights of each unit scaled by a log-normal factor.

    Weight decay makes whole units of a trained network fade, so that pruning by magnitude takes most of their weights;
    in a fresh network no unit has faded. This imitates a trained ticket; ``--ticket`` measures a real one.
    """
    with seeded(seed):
        for _, weight in Prunable(network).weights():
            outputs, inputs = weight.shape[:2]
            beside = (1,) * (weight.dim() - 2)
            weight.mul_(_scales(outputs).view(outputs, 1, *beside)).mul_(_scales(inputs).view(1, inputs, *beside))
    return network


def _scales(units: int) -> Tensor:
    return (torch.randn(units) * FADING).exp()
