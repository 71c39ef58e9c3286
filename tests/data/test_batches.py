"""Batches: every sample once, nothing frozen, nothing dropped, the same for the same generators."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from oneticket.data import (
    Augmentation,
    BatchSource,
    DatasetBatches,
    ImageBatches,
    ImageSet,
    Normalisation,
    TensorBatches,
    as_batches,
)
from oneticket.errors import InputError

COUNT = 23
RAW = Normalisation((0.0,), (1 / 255,))  # leaves pixels as they are, 0 to 255


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = COUNT) -> ImageSet:
    """Image i shows the number i in every pixel, and a 255 in its upper left corner; its label is i modulo 3."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 6, 6)
    images[:, :, 0, 0] = 255
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"))


class Pairs(Dataset[Any]):
    """A user's dataset of (float vector, int); with ``noisy``, its own random transform from all three generators."""

    def __init__(self, noisy: bool = False, count: int = COUNT) -> None:
        self.noisy, self.count = noisy, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        drawn = [float(torch.rand(())), random.random(), float(np.random.rand())] if self.noisy else [0.0] * 3
        return torch.tensor([float(row), *drawn]), row % 3


def images_of(batch_size: int) -> BatchSource:
    return ImageBatches(numbered(), batch_size, normalisation=RAW, augmentation=Augmentation(flip=True))


def tensors_of(batch_size: int) -> BatchSource:
    return TensorBatches(torch.arange(COUNT).float()[:, None], torch.arange(COUNT) % 3, batch_size)


def dataset_of(batch_size: int) -> BatchSource:
    return DatasetBatches(Pairs(noisy=True), batch_size)


SOURCES = [images_of, tensors_of, dataset_of]
Make = Callable[[int], BatchSource]


def number(inputs: torch.Tensor) -> list[int]:
    """Which samples these are: by their lower right pixel, or by their first entry."""
    last = inputs[:, 0, -1, -1] if inputs.dim() == 4 else inputs[:, 0]
    return last.round().int().tolist()


# -- what every source does --------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_every_sample_comes_once_in_each_epoch_and_in_evaluation(make: Make, batch_size: int) -> None:
    source = make(batch_size)
    assert isinstance(source, BatchSource)
    assert (source.samples, source.batch_size) == (COUNT, batch_size)
    for batches in (list(source.epoch(seeded(0), seeded(1))), list(source.ordered())):
        assert len(batches) == source.steps_per_epoch == -(-COUNT // batch_size)
        assert [len(inputs) for inputs, _ in batches][:-1] == [batch_size] * (len(batches) - 1)
        seen = [sample for inputs, _ in batches for sample in number(inputs)]
        assert sorted(seen) == list(range(COUNT))
        assert [int(t) for _, targets in batches for t in targets] == [sample % 3 for sample in seen]


@pytest.mark.parametrize("make", SOURCES)
def test_evaluation_is_in_order_and_the_same_each_time(make: Make) -> None:
    source = make(5)
    one, two = list(source.ordered()), list(source.ordered())
    assert [sample for inputs, _ in one for sample in number(inputs)] == list(range(COUNT))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, two, strict=True))


@pytest.mark.parametrize("make", SOURCES)
def test_equal_generators_give_equal_batches_and_others_another_order(make: Make) -> None:
    def epoch(order: int, augmentation: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(make(5).epoch(seeded(order), seeded(augmentation)))

    torch.manual_seed(1)
    one = epoch(0, 1)
    torch.manual_seed(2)
    two = epoch(0, 1)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, two, strict=True))

    def order(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
        return [sample for inputs, _ in batches for sample in number(inputs)]

    assert order(one) == order(epoch(0, 2)) != order(epoch(3, 1))
    assert order(one) != list(range(COUNT))


@pytest.mark.parametrize("make", SOURCES)
def test_the_next_epoch_with_the_same_generator_has_another_order(make: Make) -> None:
    source, order, augmentation = make(COUNT), seeded(0), seeded(1)
    first, second = (number(next(iter(source.epoch(order, augmentation)))[0]) for _ in range(2))
    assert first != second


@pytest.mark.parametrize("make", SOURCES)
def test_the_global_generators_are_left_alone(make: Make) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]

    before = state()
    for _ in make(5).epoch(seeded(0), seeded(1)):
        assert state() == before
    list(make(5).ordered())
    assert state() == before


@pytest.mark.parametrize("make", SOURCES)
def test_a_batch_without_samples_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match="batch_size: 0 is out of range"):
        make(0)


@pytest.mark.parametrize(
    "data", [numbered(0), (torch.zeros(0, 2), torch.zeros(0)), Pairs(count=0)], ids=["images", "tensors", "dataset"]
)
def test_an_empty_set_has_no_batches(data: object) -> None:
    source = as_batches(data, 4, normalisation=RAW if isinstance(data, ImageSet) else None)
    assert source.steps_per_epoch == 0
    assert list(source.epoch(seeded(0), seeded(1))) == list(source.ordered()) == []


# -- images ------------------------------------------------------------------------------------------------------
def augmented(epochs: int, batch_size: int = 23, order: int = 0, **keys: Any) -> list[torch.Tensor]:
    """The images of each epoch in the order of the data."""
    source = ImageBatches(numbered(), batch_size, normalisation=RAW, augmentation=Augmentation(**keys))
    orders, draws = seeded(order), seeded(1)
    found = []
    for _ in range(epochs):
        images = torch.cat([inputs for inputs, _ in source.epoch(orders, draws)])
        # The middle is never padding: there each image shows its number.
        found.append(images[images[:, 0, 3, 3].argsort()])
    return found


def test_a_flip_is_drawn_for_each_image_in_each_epoch() -> None:
    epochs = [(images[:, 0, 0, 5] == 255).tolist() for images in augmented(6, flip=True)]
    assert all(0 < sum(flips) < COUNT for flips in epochs)
    assert len({tuple(flips) for flips in epochs}) == 6


def test_a_crop_is_drawn_for_each_image_in_each_epoch() -> None:
    epochs = [[int((image == 0).sum()) for image in images[1:]] for images in augmented(6, crop=2)]
    assert all(len(set(black)) > 3 for black in epochs)
    assert len({tuple(black) for black in epochs}) == 6


def test_an_image_gets_the_same_augmentation_in_any_order_and_batch_size() -> None:
    reference = augmented(1, flip=True, crop=2)[0]
    assert torch.equal(augmented(1, batch_size=4, flip=True, crop=2)[0], reference)
    assert torch.equal(augmented(1, order=9, flip=True, crop=2)[0], reference)


def test_without_augmentation_and_in_evaluation_the_images_are_as_they_are() -> None:
    assert torch.allclose(augmented(1)[0], numbered().images.float(), atol=1e-4)
    source = ImageBatches(numbered(), 7, normalisation=RAW, augmentation=Augmentation(flip=True, crop=2))
    evaluated = torch.cat([inputs for inputs, _ in source.ordered()])
    assert torch.allclose(evaluated, numbered().images.float(), atol=1e-4)


def test_the_training_split_is_normalised_to_mean_0_and_standard_deviation_1() -> None:
    images = torch.randint(0, 200, (500, 3, 8, 8), dtype=torch.uint8, generator=seeded(0))
    images[:, 2] //= 5
    data = ImageSet(images, torch.zeros(500, dtype=torch.int64), ("only",))
    source = ImageBatches(data, 64, normalisation=Normalisation.of(data))
    pixels = torch.cat([inputs for inputs, _ in source.ordered()]).double()
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-6
    assert (pixels.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_batches_are_float32_images_and_int64_labels_of_a_derived_set() -> None:
    whole = numbered()
    part = ImageSet(whole.images, torch.tensor([1, 0, 1]), ("x", "y"), index=torch.tensor([20, 4, 9]))
    inputs, targets = next(iter(ImageBatches(part, 8, normalisation=RAW).ordered()))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert inputs.is_contiguous()
    assert number(inputs) == [20, 4, 9]
    assert targets.tolist() == [1, 0, 1]


def test_the_pixels_of_the_set_are_never_changed() -> None:
    data = numbered()
    before = data.images.clone()
    source = ImageBatches(data, 5, normalisation=Normalisation.of(data), augmentation=Augmentation(flip=True, crop=1))
    list(source.epoch(seeded(0), seeded(1)))
    list(source.ordered())
    assert torch.equal(data.images, before)


def test_a_normalisation_of_other_channels_is_refused() -> None:
    with pytest.raises(InputError, match="a normalisation of 3 channels for images of 1"):
        ImageBatches(numbered(), 4, normalisation=Normalisation((0.0,) * 3, (1.0,) * 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_batches_of_the_cpu() -> None:
    data, augmentation = numbered(), Augmentation(flip=True, crop=2)
    both = [
        ImageBatches(data, 5, normalisation=Normalisation.of(data), augmentation=augmentation, device=device)
        for device in ("cpu", "cuda")
    ]
    for (a, b), (c, d) in zip(*(source.epoch(seeded(0), seeded(1)) for source in both), strict=True):
        assert c.device.type == d.device.type == "cuda"
        assert torch.allclose(a, c.cpu(), atol=1e-6)
        assert torch.equal(b, d.cpu())


# -- a user's own dataset ----------------------------------------------------------------------------------------
def test_the_random_transforms_of_a_dataset_are_never_frozen() -> None:
    source, order, augmentation = dataset_of(5), seeded(0), seeded(1)
    epochs = [torch.cat([inputs for inputs, _ in source.epoch(order, augmentation)]) for _ in range(3)]
    for transform in (1, 2, 3):
        drawn = torch.cat([epoch[:, transform] for epoch in epochs])
        assert len(drawn.unique()) == 3 * COUNT


def test_a_dataset_that_gives_no_pairs_is_refused() -> None:
    class Single(Pairs):
        def __getitem__(self, row: int) -> Any:
            return torch.zeros(2)

    with pytest.raises(InputError, match=r"Single does not give \(input, target\) pairs"):
        next(iter(DatasetBatches(Single(), 4).ordered()))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(2), 0)])


# -- any data ----------------------------------------------------------------------------------------------------
def test_each_kind_of_data_gets_its_batches() -> None:
    pair = (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    assert isinstance(as_batches(numbered(), 4), ImageBatches)
    assert isinstance(as_batches(pair, 4), TensorBatches)
    assert isinstance(as_batches(list(pair), 4), TensorBatches)
    assert isinstance(as_batches(TensorDataset(*pair), 4), TensorBatches)
    assert isinstance(as_batches(Pairs(), 4), DatasetBatches)
    assert isinstance(as_batches([(torch.zeros(2), 0)] * 3, 4), DatasetBatches)
    source = tensors_of(3)
    assert as_batches(source, 99) is source


def test_an_image_set_is_normalised_by_itself_unless_told_otherwise() -> None:
    data = numbered()
    own, given = as_batches(data, COUNT), as_batches(data, COUNT, normalisation=RAW)
    assert abs(float(next(iter(own.ordered()))[0].mean())) < 1e-5
    assert float(next(iter(given.ordered()))[0].max()) == pytest.approx(255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mnist", "str cannot be made into batches"),
        (torch.zeros(3), "Tensor cannot be made into batches"),
        ((torch.zeros(3),) * 3, "tuple cannot be made into batches"),
        (Stream(), "Stream has no length; expected __len__, the number of samples in an epoch"),
        (None, "NoneType cannot be made into batches; expected an ImageSet, a pair"),
        ((torch.zeros(3), torch.zeros(2)), "3 inputs, but 2 targets"),
    ],
)
def test_anything_else_is_refused(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_batches(data, 4)


def test_augmentation_that_would_not_happen_is_refused() -> None:
    with pytest.raises(InputError, match="flip and crop are for an ImageSet, not for Pairs"):
        as_batches(Pairs(), 4, augmentation=Augmentation(flip=True))
    as_batches(Pairs(), 4, augmentation=Augmentation())
