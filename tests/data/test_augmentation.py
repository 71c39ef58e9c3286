"""Augmentation against a naive reference for each image, and normalisation against NumPy in float64."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.data import Augmentation, ImageSet, Normalisation
from oneticket.data.augmentation import Draws
from oneticket.errors import InputError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(0))


def image_set(images: torch.Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("only",))


def test_augmentation_is_nothing_unless_asked_for() -> None:
    assert not Augmentation()
    assert Augmentation(flip=True)
    assert Augmentation(crop=1)
    with pytest.raises(msgspec.ValidationError, match="`flips`"):
        msgspec.convert({"flips": True}, Augmentation)
    with pytest.raises(InputError, match="crop = -1; expected 0 or more pixels"):
        Augmentation(crop=-1)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(0, 4), st.integers(0, 9))
def test_augmenting_a_batch_equals_padding_cropping_and_flipping_each_image(
    count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    images = noise(count, channels, height, width)
    draws = Draws.of(Augmentation(flip=True, crop=padding), count + 3, seeded(seed))
    samples = torch.randperm(count + 3, generator=seeded(seed))[:count]
    batch = draws.augment(images, samples, padding)
    for image, result, sample in zip(images, batch, samples, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
        top, left = draws.corner[sample].tolist()
        window = padded[:, top : top + height, left : left + width]
        expected = window[:, :, ::-1] if draws.mirrored[sample] else window
        assert np.array_equal(result.numpy(), expected)


def test_flipping_twice_is_nothing() -> None:
    images = noise(5, 3, 4, 7)
    draws = Draws(torch.ones(5, dtype=torch.bool), torch.zeros(5, 2, dtype=torch.int64))
    once = draws.augment(images, torch.arange(5), 0)
    assert torch.equal(once, images.flip(3))
    assert torch.equal(draws.augment(once, torch.arange(5), 0), images)


def test_corners_and_flips_are_uniform() -> None:
    draws = Draws.of(Augmentation(flip=True, crop=2), 20_000, seeded(0))
    assert abs(draws.mirrored.double().mean() - 0.5) < 4 * (0.25 / 20_000) ** 0.5
    cells = torch.bincount(draws.corner[:, 0] * 5 + draws.corner[:, 1], minlength=25)
    assert len(cells) == 25
    assert float((cells - 800).abs().max()) < 5 * 800**0.5


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), Augmentation(crop=3)])
def test_each_part_of_the_augmentation_draws_for_itself(augmentation: Augmentation) -> None:
    both, one = (Draws.of(a, 50, seeded(0)) for a in (Augmentation(flip=True, crop=3), augmentation))
    assert torch.equal(one.mirrored, both.mirrored if augmentation.flip else torch.zeros(50, dtype=torch.bool))
    assert torch.equal(one.corner, both.corner if augmentation.crop else torch.zeros(50, 2, dtype=torch.int64))


@pytest.mark.parametrize("index", [None, torch.tensor([3, 3, 0, 7])])
def test_statistics_are_exact(index: torch.Tensor | None) -> None:
    images = noise(5000, 3, 2, 3)
    images[:, 1] //= 3
    count = len(images) if index is None else len(index)
    normalisation = Normalisation.of(ImageSet(images, torch.zeros(count, dtype=torch.int64), ("only",), index))
    pixels = (images if index is None else images[index]).numpy().astype(np.float64) / 255
    assert normalisation.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-14)
    assert normalisation.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-14)


def test_a_channel_without_variation_is_divided_by_one_grey_level() -> None:
    normalisation = Normalisation.of(image_set(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)))
    assert normalisation.mean == pytest.approx((0.2,))
    assert normalisation.std == pytest.approx((1 / 255,))


def test_an_empty_set_has_no_statistics() -> None:
    with pytest.raises(InputError, match="an empty image set has no mean"):
        Normalisation.of(image_set(noise(0, 1, 2, 2)))
