"""Image sets: sharing pixels, and what does not fit together."""

from __future__ import annotations

import pytest
import torch

from oneticket.data import ImageSet
from oneticket.errors import InputError

PIXELS = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
NAMES = ("cat", "dog")


def test_a_derived_set_shares_the_pixels_and_shows_its_own_rows() -> None:
    derived = ImageSet(PIXELS, torch.tensor([1, 0, 1]), NAMES, index=torch.tensor([3, 0, 0]))
    assert derived.images.data_ptr() == PIXELS.data_ptr()
    assert (len(derived), derived.shape) == (3, (3, 2, 2))
    assert torch.equal(derived.gather(), PIXELS[[3, 0, 0]])
    assert torch.equal(derived.gather(torch.tensor([2, 0])), PIXELS[[0, 3]])


def test_a_set_without_index_gathers_itself() -> None:
    whole = ImageSet(PIXELS, torch.tensor([1, 0, 1, 0]), NAMES)
    assert torch.equal(whole.gather(), PIXELS)
    assert torch.equal(whole.gather(torch.tensor([2, 2])), PIXELS[[2, 2]])


@pytest.mark.parametrize(
    ("images", "labels", "index", "message"),
    [
        (PIXELS.float(), torch.zeros(4).long(), None, "torch.uint8 of shape"),
        (PIXELS[0], torch.zeros(3).long(), None, "torch.uint8 of shape"),
        (PIXELS, torch.zeros(4), None, "torch.int64 of shape"),
        (PIXELS, torch.zeros(3).long(), None, "4 images, but 3 labels"),
        (PIXELS, torch.zeros(4).long(), torch.zeros(3).long(), "3 images, but 4 labels"),
        (PIXELS, torch.tensor([0, 1, 2, 0]), None, "labels go from 0 to 2"),
        (PIXELS, torch.tensor([0, 1, -1, 0]), None, "labels go from -1 to 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    images: torch.Tensor, labels: torch.Tensor, index: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ImageSet(images, labels, NAMES, index)


def test_the_digest_tells_samples_apart_and_not_how_they_are_stored() -> None:
    pixels = torch.randint(0, 256, (6, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    chosen = torch.tensor([4, 1])
    shared = ImageSet(pixels, labels[chosen], ("cat", "dog"), index=chosen)
    copied = ImageSet(pixels[chosen].clone(), labels[chosen], ("cat", "dog"))
    assert shared.digest() == copied.digest()
    assert shared.digest() != ImageSet(pixels[chosen.flip(0)], labels[chosen], ("cat", "dog")).digest()
    assert shared.digest() != ImageSet(pixels[chosen], 1 - labels[chosen], ("cat", "dog")).digest()
