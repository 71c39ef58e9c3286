"""Image sets: uint8 pixels that may be shared and memory-mapped, the labels, and the names of the classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from oneticket.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images. Sets derived from one base share its pixels and differ by ``index`` and ``labels``.

    Parameters
    ----------
    images : Tensor
        uint8 [M, C, H, W]; may be a memory map.
    labels : Tensor
        int64 [N], each from 0 to ``len(classes) - 1``.
    classes : tuple of str
        The name of each class.
    index : Tensor, optional
        int64 [N], the row of ``images`` that each sample shows; without it sample i shows row i (then N = M).

    Raises
    ------
    InputError
        When these do not fit together.

    Examples
    --------
    >>> pixels = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    >>> pair = ImageSet(pixels, torch.tensor([0, 1]), ("cat", "dog"), index=torch.tensor([2, 0]))
    >>> len(pair), pair.shape, pair.gather().flatten().tolist()
    (2, (1, 1, 1), [2, 0])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise InputError(f"images are {found}", where="images", expected="torch.uint8 of shape [N, C, H, W]")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise InputError(f"labels are {found}", where="labels", expected="torch.int64 of shape [N]")
        rows = len(self.images) if self.index is None else len(self.index)
        if rows != len(self.labels):
            raise InputError(f"{rows} images, but {len(self.labels)} labels", where="labels", expected="as many")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            found = f"labels go from {int(self.labels.min())} to {int(self.labels.max())}"
            raise InputError(found, where="labels", expected=f"0 to {len(self.classes) - 1}, one for each class")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 of pixels and labels: it identifies the samples, whatever the set is called."""
        content = hashlib.sha256(str(tuple(self.shape)).encode())
        for samples in torch.split(torch.arange(len(self)), 4096):
            content.update(self.gather(samples).numpy().tobytes())
        content.update(self.labels.numpy().tobytes())
        return content.hexdigest()

    def gather(self, samples: Tensor | None = None) -> Tensor:
        """The images of these samples (int64 [n]; None for all, in order), uint8 [n, C, H, W]."""
        rows = samples if self.index is None else self.index if samples is None else self.index[samples]
        return self.images if rows is None else self.images.index_select(0, rows)


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set. No sample is in two of them; ``validation`` may be empty."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
