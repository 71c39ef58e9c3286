"""The reference loop: lottery tickets trained and searched for as it is done today.

One example at a time through PIL (flip, crop, to tensor, normalise), collated by a DataLoader; NCHW, float32; masks
multiplied into the weights before each forward pass; a dense optimiser over all weights; one training at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oneticket.data import ImageSet, Normalisation
from oneticket.errors import InputError

LOADER_WORKERS = 0
"""Processes of the loader. None by default: on two cores they take from the two threads that compute the step."""

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """Pictures in memory, each transformed at every access, as torchvision's data sets do."""

    def __init__(self, images: ImageSet, normalisation: Normalisation, *, augment: bool) -> None:
        self.pil = _pil()
        pixels = images.gather().permute(0, 2, 3, 1).numpy()
        self.pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        self.labels = images.labels.tolist()
        self.mean = torch.tensor(normalisation.mean).view(-1, 1, 1)
        self.std = torch.tensor(normalisation.std).view(-1, 1, 1)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.pil.Image.fromarray(np.ascontiguousarray(self.pixels[index]))
        if self.augment:
            image = self.random_crop(self.random_flip(image), padding=4)
        return self.normalised(to_tensor(image)), self.labels[index]

    def random_flip(self, image: Any) -> Any:
        """Mirrored left to right with probability ½."""
        if torch.rand(1) < 0.5:
            return image.transpose(self.pil.Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def random_crop(self, image: Any, padding: int) -> Any:
        """A window of the picture's size, cut out of the picture with a black border."""
        width, height = image.size
        image = self.pil.ImageOps.expand(image, border=padding, fill=0)
        left = int(torch.randint(0, 2 * padding + 1, (1,)))
        top = int(torch.randint(0, 2 * padding + 1, (1,)))
        return image.crop((left, top, left + width, top + height))

    def normalised(self, image: Tensor) -> Tensor:
        """Each channel minus its mean, over its standard deviation."""
        return image.clone().sub_(self.mean).div_(self.std)


def to_tensor(image: Any) -> Tensor:
    """A PIL picture as float32 [C, H, W] from 0 to 1."""
    pixels = torch.from_numpy(np.array(image, copy=True))
    if pixels.dim() == 2:
        pixels = pixels[:, :, None]
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def loader(
    images: ImageSet, normalisation: Normalisation, batch_size: int, *, augment: bool, workers: int = LOADER_WORKERS
) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches, float32 [n, C, H, W] and int64 [n]."""
    dataset = PictureDataset(images, normalisation, augment=augment)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    epochs: int,
    *,
    lr: float,
    masks: dict[str, Tensor] | None = None,
    device: str = "cpu",
    after_epoch: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Train ``model`` in place, calling ``after_epoch`` with each epoch's number; returns the loss of each step."""
    model.to(device)
    parameters = dict(model.named_parameters())
    kept = {name: mask.to(device, torch.float32) for name, mask in (masks or {}).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    criterion = nn.CrossEntropyLoss()
    losses = []
    for epoch in range(1, epochs + 1):
        for inputs, labels in batches:
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            model.train()
            for name, mask in kept.items():
                parameters[name].data *= mask
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if device != "cpu":
            torch.cuda.synchronize(device)
        if after_epoch is not None:
            after_epoch(epoch)
    return losses


def search(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prunable: Iterable[str],
    *,
    epochs: int,
    lr: float,
    rounds: int,
    prune: float,
) -> dict[str, Tensor]:
    """Iterative magnitude pruning, rewound to the end of epoch 1: the masks of the last round, float32.

    ``rounds + 1`` trainings one after the other: the dense one, then from the rewind point, and the last ticket from
    the start of the schedule.
    """
    names = list(prunable)
    rewound: dict[str, Tensor] = {}

    def keep(epoch: int) -> None:
        if epoch == 1:
            rewound.update({name: value.clone() for name, value in model.state_dict().items()})

    train(model, batches, epochs, lr=lr, after_epoch=keep)
    masks = {name: torch.ones_like(model.state_dict()[name]) for name in names}
    for number in range(1, rounds + 1):
        masks = prune_globally(model, masks, prune)
        model.load_state_dict(rewound)
        train(model, batches, epochs if number == rounds else epochs - 1, lr=lr, masks=masks)
    return masks


def prune_globally(model: nn.Module, masks: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """The masks without this fraction of the remaining weights, the smallest in the whole network."""
    weights = {name: model.state_dict()[name].abs() for name in masks}
    remaining = torch.cat([weights[name][masks[name] == 1] for name in masks])
    threshold = remaining.sort().values[round(fraction * len(remaining))]
    return {name: torch.where(weights[name] >= threshold, masks[name], 0.0) for name in masks}


def _pil() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise InputError("the reference loop needs Pillow", expected="pip install 'oneticket[data]'") from None
    return PIL
