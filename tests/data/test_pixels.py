"""Size and channels, against references written here and against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oneticket.data.pixels import fitted, recoloured
from oneticket.errors import InputError


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_padding_keeps_the_image_in_the_middle_of_black(height: int, width: int, more: int) -> None:
    side = max(height, width) + more
    image = noise(2, 3, height, width).clamp_min(1)
    padded = fitted(image, side, "pad")
    assert padded.shape == (2, 3, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    assert torch.equal(padded[:, :, top : top + height, left : left + width], image)
    assert int((padded > 0).sum()) == image.numel()


def test_padding_does_not_shrink() -> None:
    with pytest.raises(InputError, match="images of 4×7 cannot be padded to 6×6"):
        fitted(noise(1, 1, 4, 7), 6, "pad")


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_an_image_of_the_right_size_stays_as_it_is(fit: str) -> None:
    image = noise(2, 3, 5, 5)
    assert torch.equal(fitted(image, 5, fit), image)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (28, 28, 32), (64, 64, 32), (30, 50, 20)])
def test_resizing_agrees_with_pillow_to_one_grey_level(height: int, width: int, side: int) -> None:
    """Pillow's BILINEAR is the antialiased triangle filter too; it works in 8-bit fixed point."""
    image = noise(1, 3, height, width)
    reference = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR)
    difference = fitted(image, side, "resize")[0].permute(1, 2, 0).int() - torch.from_numpy(np.array(reference)).int()
    assert int(difference.abs().max()) <= 1


def test_resizing_many_images_equals_resizing_each() -> None:
    images = noise(1030, 1, 6, 6)
    assert torch.equal(fitted(images, 4, "resize")[1025:], fitted(images[1025:], 4, "resize"))


def test_grey_becomes_the_luma_that_pillow_computes() -> None:
    image = noise(2, 3, 16, 16)
    grey = [np.array(Image.fromarray(i.permute(1, 2, 0).numpy()).convert("L")) for i in image]
    assert np.array_equal(recoloured(image, 1)[:, 0].numpy(), np.stack(grey))


def test_colour_repeats_grey_and_going_back_is_lossless() -> None:
    image = noise(2, 1, 5, 5)
    colour = recoloured(image, 3)
    assert all(torch.equal(colour[:, [c]], image) for c in range(3))
    assert torch.equal(recoloured(colour, 1), image)
