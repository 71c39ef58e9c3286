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

    ``repeated`` is the part of a whole test split that its own train split holds, where both are derived from one data
    set; None where they are of two.
    """

    source: str
    target: str
    images: int
    tested: int
    repeated: float | None

    def __str__(self) -> str:
        share = 100 * self.images / self.tested
        return (
            f"{self.images} of the {self.tested} test images of {self.target} ({share:.3g} %) are seen by {self.source}"
        )

    @property
    def refused(self) -> bool:
        """Whether no ticket of the source may be judged on the target.

        A data set whose split as a whole repeats few images is let through, whichever of its classes are chosen.
        """
        sound = self.repeated is not None and self.repeated <= TOLERATED
        return not sound and self.images > TOLERATED * self.tested


def find_leak(source: str, target: str, data: dict[str, tuple[DataRef, Splits]], *, cache: Path) -> Leak:
    """What the data set ``source`` has seen of the test images of ``target``; ``data`` holds both by name.

    Images are the same when shape and pixels are, as they were decoded: what is done to sizes and channels afterwards
    does not hide them, nor that grey ones were kept as colours. Only rows that a data set uses count: train and
    validation of the source, test of the target.
    """
    (origin, there), (goal, here) = data[source], data[target]
    trained, held = _digests(origin, cache)["train"], _digests(goal, cache)["test"]
    seen, tested = trained[torch.cat([_rows(there.train), _rows(there.validation)])], held[_rows(here.test)]
    repeated = None
    if origin.fingerprint == goal.fingerprint:
        repeated = int(torch.isin(held, trained).sum()) / max(len(held), 1)
    return Leak(source, target, int(torch.isin(tested, seen).sum()), len(tested), repeated)


def _rows(part: ImageSet) -> Tensor:
    return torch.arange(len(part)) if part.index is None else part.index


def _digests(ref: DataRef, cache: Path) -> dict[str, Tensor]:
    """The digests of all images that a data set is derived from, train and test; worked out once and kept."""

    def drawn(part: str) -> Tensor:
        base = kept(cache, ref.fingerprint)
        if base is None:
            raise InputError(f"the data {ref.fingerprint[:12]}… is not in the cache {cache}")
        return image_digests(base.parts[part].images)

    return redrawn(cache, digest([ref.fingerprint, "digest of each image, grey as grey"]), drawn)


def image_digests(images: Tensor) -> Tensor:
    """64 bits of BLAKE2 over shape and pixels of each image; uint8 [N, C, H, W] → int64 [N].

    An image of three equal channels is grey: it counts as one of one channel. Among a hundred thousand images and as
    many others, some two different ones agree with a probability of 10⁻⁹.
    """
    size = tuple(images.shape[2:])
    shapes = {n: hashlib.blake2b(str((n, *size)).encode(), digest_size=8) for n in {1, images.shape[1]}}

    def digested(image: np.ndarray) -> bytes:
        if len(image) == 3 and (image[0] == image[1]).all() and (image[0] == image[2]).all():
            image = image[:1]
        content = shapes[len(image)].copy()
        content.update(image.data)
        return content.digest()

    return torch.from_numpy(np.frombuffer(b"".join(map(digested, images.numpy())), dtype=np.int64).copy())
