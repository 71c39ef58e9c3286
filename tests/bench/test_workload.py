"""Workloads: made from a seed, with exactly the masks they ask for."""

from __future__ import annotations

import torch
from msgspec.structs import replace

from oneticket.bench.workload import Workload, faded
from oneticket.prunable import Prunable
from oneticket.pruning import kept_count


def test_images_come_from_the_seed_alone(tiny: Workload) -> None:
    torch.manual_seed(1)
    one = tiny.images()
    torch.manual_seed(2)
    assert one.digest() == tiny.images().digest() != tiny.images(seed=1).digest()
    assert (len(one), one.shape) == (tiny.steps * tiny.batch_size, tiny.shape)
    assert set(one.labels.tolist()) == set(range(10))


def test_masks_have_exactly_the_density(tiny: Workload) -> None:
    assert tiny.masks() is None
    for density in (0.02, 0.5):
        masks = replace(tiny, density=density).masks()
        assert masks is not None
        assert masks.kept == kept_count(density, masks.total)
        assert set(masks) == set(Prunable(tiny.network()).names)


def test_fading_scales_each_weight_by_its_two_units(tiny: Workload) -> None:
    before = {name: value.clone() for name, value in Prunable(tiny.network()).weights()}
    after = dict(Prunable(faded(tiny.network(), seed=0)).weights())
    for name, weight in before.items():
        factor = (after[name].detach() / weight).double().flatten(2).mean(2)
        # One factor for each row times one for each column is a matrix of rank one.
        torch.testing.assert_close(factor * factor[0, 0], factor[:, :1] * factor[:1], rtol=1e-4, atol=0)
        assert factor.std() > 0.1


def test_the_recipe_trains_an_epoch_more_than_is_timed(tiny: Workload) -> None:
    assert tiny.recipe().epochs == tiny.epochs + 1
    assert tiny.recipe().augment
    assert not replace(tiny, augment=False).recipe().augment
    assert replace(tiny, precision="bf16").recipe().precision == "bf16"
