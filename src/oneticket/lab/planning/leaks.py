"""Leaks: whether a source has seen the test samples of a target, found by comparing the samples themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from oneticket.data import AnySet, DataRef, Splits
from oneticket.data.cache import kept, redrawn
from oneticket.data.derivations import NOUNS
from oneticket.data.sets import kind_of
from oneticket.errors import InputError
from oneticket.identity import digest

TOLERATED = 0.01
"""The fraction of a target's test images that a source may have seen: natural data sets repeat a few images."""


class Leak(msgspec.Struct, frozen=True):
    """Test images, windows of text or rows of a target that a source trains or validates on.

    Parameters
    ----------
    source, target : names of the data sets.
    images : number of test images of ``target`` that ``source`` has seen.
    tested : number of test images of ``target``.
    repeated : the fraction of the whole test split that the train split of the same data set repeats; None if source
        and target derive from different data sets.
    noun : what the samples are.
    """

    source: str
    target: str
    images: int
    tested: int
    repeated: float | None
    noun: str = "images"

    def __str__(self) -> str:
        share = 100 * self.images / self.tested
        return (
            f"{self.images} of the {self.tested} test {self.noun} of {self.target} ({share:.3g} %) are seen by "
            f"{self.source}"
        )

    @property
    def refused(self) -> bool:
        """Whether tickets of the source must not be evaluated on the target.

        A data set whose whole split repeats few images is accepted, for every choice of its classes.
        """
        sound = self.repeated is not None and self.repeated <= TOLERATED
        return not sound and self.images > TOLERATED * self.tested


def find_leak(source: str, target: str, data: dict[str, tuple[DataRef, Splits]], *, cache: Path) -> Leak:
    """Find the test images of ``target`` that the data set ``source`` has seen; ``data`` holds both by name.

    Images are equal if shape and pixels are equal as decoded: later changes of size or channels do not hide them, nor
    do grey images stored as colours. Only images that a data set uses count: train and validation of the source, test
    of the target. Windows of text are equal if their bytes are; rows of tables, if their numbers are. Data of different
    kinds have nothing in common.
    """
    (origin, there), (goal, here) = data[source], data[target]
    noun = NOUNS[kind_of(here.test)]
    if kind_of(there.train) != kind_of(here.test):
        return Leak(source, target, 0, len(here.test), None, noun)
    trained, held = _digests(origin, cache)["train"], _digests(goal, cache)["test"]
    seen, tested = trained[torch.cat([_rows(there.train), _rows(there.validation)])], held[_rows(here.test)]
    repeated = None
    if origin.fingerprint == goal.fingerprint:
        repeated = int(torch.isin(held, trained).sum()) / max(len(held), 1)
    return Leak(source, target, int(torch.isin(tested, seen).sum()), len(tested), repeated, noun)


def _rows(part: AnySet) -> Tensor:
    return torch.arange(len(part)) if part.index is None else part.index


def _digests(ref: DataRef, cache: Path) -> dict[str, Tensor]:
    """The digests of all samples that a data set derives from, train and test; computed once and kept."""

    def drawn(part: str) -> Tensor:
        base = kept(cache, ref.fingerprint)
        if base is None:
            raise InputError(f"the data {ref.fingerprint[:12]}… is not in the cache {cache}")
        inputs = base.parts[part].images
        return image_digests(inputs) if base.kind == "images" else row_digests(inputs)

    return redrawn(cache, digest([ref.fingerprint, "digest of each image, grey as grey"]), drawn)


def row_digests(rows: Tensor) -> Tensor:
    """64 bits of BLAKE2 over the bytes of each row; [N, …] → int64 [N]."""
    digests = (hashlib.blake2b(row.data, digest_size=8).digest() for row in rows.numpy())
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype=np.int64).copy())


def image_digests(images: Tensor) -> Tensor:
    """64 bits of BLAKE2 over shape and pixels of each image; uint8 [N, C, H, W] → int64 [N].

    An image of three equal channels is grey and counts as an image of one channel. Between two sets of a hundred
    thousand images each, a collision of different images has the probability 10⁻⁹.
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
