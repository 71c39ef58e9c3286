"""Batches: shuffled and augmented for training, in order and untouched for evaluation, from any kind of data.

A batch is a pair of inputs and targets. Inputs are a tensor, a tuple of tensors (a network of several inputs) or a dict
of tensors (given by keyword).
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from oneticket.calling import Inputs, each, size_of, tensors_of
from oneticket.data.augmentation import Augmentation, Draws, Normalisation
from oneticket.data.samples import as_batch, as_pair, moved, seeded_everywhere
from oneticket.data.sets import ImageSet, TableSet, TextSet
from oneticket.errors import InputError

Batch = tuple[Inputs, Tensor]
_NO_DATASET = (str, bytes, dict, tuple, Tensor, np.ndarray)  # indexed and counted, but not samples of (input, target)


@runtime_checkable
class BatchSource(Protocol):
    """The data that training and evaluation need. Equal generators give equal batches, bit by bit."""

    @property
    def batch_size(self) -> int:
        """Samples in each batch but the last, which may be smaller and is never dropped."""

    @property
    def samples(self) -> int:
        """Samples in an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, ⌈samples / batch_size⌉."""

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        """Each sample once, in an order drawn from ``order``, changed at random by ``augmentation``."""

    def ordered(self) -> Iterator[Batch]:
        """Each sample once, in the order of the data, unaugmented."""


class _Batches:
    """The common part of all sources: the size of a batch, the number of samples, the device."""

    def __init__(self, samples: int, batch_size: int, device: torch.device | str) -> None:
        if batch_size < 1:
            raise InputError(f"{batch_size} is out of range", where="batch_size", expected="at least 1")
        self.samples = samples
        self.batch_size = batch_size
        self.device = torch.device(device)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def _shuffled(self, order: torch.Generator) -> tuple[Tensor, ...]:
        samples = torch.randperm(self.samples, generator=order).to(self.device)  # once, not batch by batch
        # An empty tensor splits into one empty part, but an empty source has no batch.
        return torch.split(samples, self.batch_size) if self.samples else ()

    def _in_order(self) -> Iterator[slice]:
        return (slice(start, start + self.batch_size) for start in range(0, self.samples, self.batch_size))


class ImageBatches(_Batches):
    """Batches of an image set: float32 [n, C, H, W], normalised, and int64 [n], on ``device``.

    On the CPU the pixels stay memory-mapped and shared by all processes; for another device they are copied once, as
    uint8, and augmented and normalised there.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        normalisation: Normalisation,
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(len(images), batch_size, device)
        if len(normalisation.mean) != images.shape[0]:
            found = f"a normalisation of {len(normalisation.mean)} channels for images of {images.shape[0]}"
            raise InputError(found, where="normalisation", expected="that of the training split of the same data")
        self.normalisation = normalisation
        self.augmentation = augmentation or Augmentation()
        if self.device.type != "cpu":
            images = ImageSet(images.gather().to(self.device), images.labels, images.classes)
        self._images = images
        self._labels = images.labels.to(self.device)
        self._scale, self._offset = normalisation.factors(self.device)

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        draws = Draws.of(self.augmentation, self.samples, augmentation).to(self.device) if self.augmentation else None
        for samples in self._shuffled(order):
            images = self._images.gather(samples)
            if draws is not None:
                images = draws.augment(images, samples, self.augmentation.crop)
            yield self._normalised(images), self._labels.index_select(0, samples)

    def ordered(self) -> Iterator[Batch]:
        index, pixels = self._images.index, self._images.images
        for part in self._in_order():
            yield self._normalised(pixels[part] if index is None else pixels[index[part]]), self._labels[part]

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float().mul_(self._scale).sub_(self._offset)


class RowBatches(_Batches):
    """Batches of windows of text or of rows of a table, on ``device``.

    Of text inputs and targets are the tokens, int64 [n, T]; of a table float32 [n, F] and labels int64 [n]. What is
    memory-mapped stays so, and is read batch by batch.
    """

    def __init__(self, rows: TextSet | TableSet, batch_size: int, device: torch.device | str = "cpu") -> None:
        super().__init__(len(rows), batch_size, device)
        self._rows = rows

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        return (self._picked(samples.cpu()) for samples in self._shuffled(order))

    def ordered(self) -> Iterator[Batch]:
        return (self._picked(torch.arange(self.samples)[part]) for part in self._in_order())

    def _picked(self, samples: Tensor) -> Batch:
        rows = self._rows.gather(samples)
        if isinstance(self._rows, TableSet):
            return moved((rows, self._rows.labels.index_select(0, samples)), self.device)
        return moved((rows.long(), rows.long()), self.device)


class TensorBatches(_Batches):
    """Batches of inputs [N, …] (a tensor, or a tuple or dict of them) and targets [N, …], unchanged, on ``device``."""

    def __init__(self, inputs: Inputs, targets: Tensor, batch_size: int, device: torch.device | str = "cpu") -> None:
        for part in tensors_of(inputs):
            if len(part) != len(targets):
                raise InputError(f"{len(part)} inputs, but {len(targets)} targets", expected="equally many")
        super().__init__(size_of(inputs), batch_size, device)
        self._inputs, self._targets = each(lambda part: part.to(device), inputs), targets.to(device)

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        for samples in self._shuffled(order):
            yield self._picked(samples), self._targets.index_select(0, samples)

    def ordered(self) -> Iterator[Batch]:
        # Copies: a network that writes into its inputs must not reach the data.
        return ((self._sliced(part), self._targets[part]) for part in self._in_order())

    def _picked(self, samples: Tensor) -> Inputs:
        return each(lambda part: part.index_select(0, samples), self._inputs)

    def _sliced(self, place: slice) -> Inputs:
        return each(lambda part: part[place].clone(), self._inputs)


class DatasetBatches(_Batches):
    """Batches of any map-style dataset of (input, target) pairs or of dicts, collated by torch, on ``device``.

    The dataset's own random transforms are drawn anew in every epoch. While a batch is fetched, the global generators
    of torch, NumPy and Python are seeded from the augmentation generator; afterwards their state is restored, so that
    neither side disturbs the other. In ``ordered`` they are seeded with a constant.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, device: torch.device | str = "cpu") -> None:
        if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
            raise InputError(f"{type(dataset).__name__} is not a map-style dataset", expected="__len__ and __getitem__")
        super().__init__(len(dataset), batch_size, device)
        self._dataset = dataset

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        sampler = RandomSampler(self._dataset, generator=order) if self.samples else None
        return self._fetched(sampler, augmentation)

    def ordered(self) -> Iterator[Batch]:
        return self._fetched(None, torch.Generator().manual_seed(0))

    def _fetched(self, sampler: RandomSampler | None, draws: torch.Generator) -> Iterator[Batch]:
        # With its own generator, or the loader would take its base seed from torch's global one.
        loader = DataLoader(self._dataset, self.batch_size, sampler=sampler, generator=torch.Generator())
        batches = iter(loader)
        for _ in range(self.steps_per_epoch):
            with seeded_everywhere(int(torch.randint(2**32, (), generator=draws))):
                batch = next(batches)
            yield moved(as_batch(batch, self._dataset), self.device)


class LoaderBatches(_Batches):
    """The batches of a DataLoader, or of an iterable dataset of known length, as they come, on ``device``.

    The loader's own size, order, collation and workers; its random choices, and those of the dataset, are drawn anew in
    every epoch from the two generators. ``ordered`` gives the samples of a map-style dataset in its order, and those of
    an iterable one as they come.

    Raises
    ------
    InputError
        For a stream of unknown length, and in an epoch for one that ends before its length.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device | str = "cpu") -> None:
        self._name = type(loader.dataset).__name__
        try:
            length, samples = len(loader), len(cast("Sized", loader.dataset))
        except TypeError:
            expected = "__len__, the number of samples in an epoch, or a BatchSource of your own"
            raise InputError(f"{self._name} has no length", expected=expected) from None
        size = loader.batch_size
        if size is None:  # a sampler of batches of its own
            size = getattr(loader.batch_sampler, "batch_size", None) or max(1, -(-samples // max(1, length)))
        super().__init__(min(samples, length * size) if loader.drop_last else samples, size, device)
        self._loader, self._length = loader, length

    @property
    def steps_per_epoch(self) -> int:
        return self._length

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        return self._fetched(self._loader, self._length, order, augmentation)

    def ordered(self) -> Iterator[Batch]:
        loader, fixed = self._loader, torch.Generator().manual_seed(0)
        if isinstance(loader.dataset, IterableDataset):
            return self._fetched(loader, self._length, fixed, fixed)
        in_order = DataLoader(loader.dataset, self.batch_size, collate_fn=loader.collate_fn)
        return self._fetched(in_order, len(in_order), fixed, fixed)

    def _fetched(
        self, loader: DataLoader[Any], length: int, order: torch.Generator, draws: torch.Generator
    ) -> Iterator[Batch]:
        own, seed = _own_generators(loader), int(torch.randint(2**32, (), generator=order))
        with seeded_everywhere(seed, *own):
            batches = iter(loader)
        for done in range(length):
            # A sampler draws its order with the first batch, and may draw again at the end.
            seed = seed if done == 0 else int(torch.randint(2**32, (), generator=draws))
            with seeded_everywhere(seed, *own):
                batch = next(batches, None)
            if batch is None:
                found = f"{self._name} ended after {done} of {length} batches"
                raise InputError(found, expected="as many samples as its __len__ says")
            yield moved(as_batch(batch, loader.dataset), self.device)


def _own_generators(loader: DataLoader[Any]) -> set[torch.Generator]:
    """The generators of a loader and its samplers: by their state the order would differ from call to call."""
    holders = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return {generator for generator in found if isinstance(generator, torch.Generator)}


def as_batches(
    data: object,
    batch_size: int,
    *,
    normalisation: Normalisation | None = None,
    augmentation: Augmentation | None = None,
    device: torch.device | str = "cpu",
) -> BatchSource:
    """Batches of any kind of data.

    Parameters
    ----------
    data : ImageSet, TextSet, TableSet, pair of tensors or arrays, TensorDataset, dict, dataset, DataLoader, BatchSource
        A BatchSource is returned as it is, with its own batch size, normalisation and augmentation. The inputs of a
        pair may be a tuple (a network of several inputs) or a dict (given by keyword). A dict, or a dataset of dicts,
        has its targets under ``labels`` or ``label``; without them the targets are its ``input_ids``. NumPy numbers
        become tensors of torch's default types. An iterable dataset is streamed, in its own order.
    batch_size : int
        Samples in each batch but the last; a DataLoader has its own.
    normalisation : Normalisation, optional
        For an ImageSet; by default that of ``data`` itself, so give that of the training split with a set to evaluate
        on.
    augmentation : Augmentation, optional
        For an ImageSet; any other dataset augments by itself.
    device : torch.device or str, default "cpu"
        Where the batches are.

    Returns
    -------
    BatchSource

    Raises
    ------
    InputError
        For data of another kind, and for augmentation of anything but an ImageSet.
    """
    if isinstance(data, BatchSource):
        return data
    if isinstance(data, ImageSet):
        normalisation = normalisation or Normalisation.of(data)
        return ImageBatches(data, batch_size, normalisation=normalisation, augmentation=augmentation, device=device)
    if isinstance(data, TextSet | TableSet) and not augmentation:
        return RowBatches(data, batch_size, device)
    if augmentation:
        found = f"flip and crop are for an ImageSet, not for {type(data).__name__}"
        raise InputError(found, expected="no augmentation in the recipe; let the dataset draw its own")
    pair = as_pair(data.tensors if isinstance(data, TensorDataset) else data)
    if pair is not None:
        return TensorBatches(*pair, batch_size, device)
    if isinstance(data, DataLoader | IterableDataset):
        return LoaderBatches(data if isinstance(data, DataLoader) else DataLoader(data, batch_size), device)
    if isinstance(data, Sized) and hasattr(data, "__getitem__") and not isinstance(data, _NO_DATASET):
        return DatasetBatches(cast("Dataset[Any]", data), batch_size, device)
    raise InputError(
        f"{type(data).__name__} cannot be made into batches",
        expected="an ImageSet, a pair (inputs, targets) of tensors, a dataset, a DataLoader or a BatchSource",
    )
