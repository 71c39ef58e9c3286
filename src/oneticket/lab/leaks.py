"""Leaks: whether a source has seen the test images of a target, found by comparing the images themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from oneticket.data import DataRef, ImageSet, Splits
from oneticket.data.cache import kept, redrawn
from oneticket.errors import InputError
from oneticket.identity import digest

TOLERATED = 0.01
"""The part of a target's test images that a source may have seen: natural data sets hold a few images twice."""


class Leak(msgspec.Struct, frozen=True):
    """So many ``images``, of the ``tested`` ones of ``target``, are among those that ``source`` trains or validates on.

    ``same_data`` says that both are derived from one data set: then the images are equal, but none is in both its train
    and its test split.
    """

    source: str
    target: str
    images: int
    tested: int
    same_data: bool

    def __str__(self) -> str:
        share = 100 * self.images / self.tested
        return (
            f"{self.images} of the {self.tested} test images of {self.target} ({share:.3g} %) are seen by {self.source}"
        )

    @property
    def refused(self) -> bool:
        """Whether no ticket of the source may be judged on the target. How data was split is not for us to refuse."""
        return not self.same_data and self.images > TOLERATED * self.tested


def find_leak(source: str, target: str, data: dict[str, tuple[DataRef, Splits]], *, cache: Path) -> Leak:
    """What the data set ``source`` has seen of the test images of ``target``; ``data`` holds both by name.

    Images are the same when shape and pixels are, as they were decoded: what is done to sizes and channels afterwards
    does not hide them. Only rows that a data set uses count: train and validation of the source, test of the target.
    """
    (origin, there), (goal, here) = data[source], data[target]
    seen = _digests(origin, cache)["train"][torch.cat([_rows(there.train), _rows(there.validation)])]
    tested = _digests(goal, cache)["test"][_rows(here.test)]
    images = int(torch.isin(tested, seen).sum())
    return Leak(source, target, images, len(tested), origin.fingerprint == goal.fingerprint)


def _rows(part: ImageSet) -> Tensor:
    return torch.arange(len(part)) if part.index is None else part.index


def _digests(ref: DataRef, cache: Path) -> dict[str, Tensor]:
    """The digests of all images that a data set is derived from, train and test; worked out once and kept."""

    def drawn(part: str) -> Tensor:
        base = kept(cache, ref.fingerprint)
        if base is None:
            raise InputError(f"the data {ref.fingerprint[:12]}… is not in the cache {cache}")
        return image_digests(base.parts[part].images)

    return redrawn(cache, digest([ref.fingerprint, "digest of each image"]), drawn)


def image_digests(images: Tensor) -> Tensor:
    """64 bits of BLAKE2 over shape and pixels of each image; uint8 [N, C, H, W] → int64 [N].

    Among a hundred thousand images and as many others, some two different ones agree with a probability of 10⁻⁹.
    """
    shape = hashlib.blake2b(str(tuple(images.shape[1:])).encode(), digest_size=8)

    def digested(image: np.ndarray) -> bytes:
        content = shape.copy()
        content.update(image.data)
        return content.digest()

    return torch.from_numpy(np.frombuffer(b"".join(map(digested, images.numpy())), dtype=np.int64).copy())
