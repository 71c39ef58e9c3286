"""Mask controls on a convolutional and on residual networks: equal masks from references that share the random numbers.

Counts are worked out in exact fractions, positions with numpy from the permutations that the generator gives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oneticket.coupling import channel_groups, permuted
from oneticket.masks import Masks
from oneticket.metrics.alignment import match_channels
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import CONTROLS, ControlContext, ScoreContext, prune
from oneticket.pruning.controls import NATURALLY_ZERO

Shapes = dict[str, tuple[int, ...]]
DENSITIES = (0.9, 0.5, 0.1, 0.02)


def ticket(case: Any, density: float) -> Masks:
    """The largest weights: a mask whose layers have densities of their own."""
    return prune(Prunable(case.model), ScoreContext(), criterion="magnitude", allocation="global", density=density)


def shapes_of(masks: Masks) -> Shapes:
    return {name: tuple(mask.shape) for name, mask in masks.items()}


def permutations(seed: int) -> Callable[[int], np.ndarray]:
    """The permutations that a generator of this seed gives, one after the other."""
    stream = torch.Generator().manual_seed(seed)
    return lambda n: torch.randperm(n, generator=stream).numpy()


def control_context(case: Any, seed: int) -> ControlContext:
    """A third of the trained weights a little below the bound under which they count as naturally zero."""
    stream = torch.Generator().manual_seed(1000 + seed)
    start = {n: w.detach() + 0.3 for n, w in Prunable(case.model).weights()}
    trained = {}
    for name, weight in start.items():
        bound = NATURALLY_ZERO * float(np.std(weight.numpy()))
        small = torch.rand(weight.shape, generator=stream) < 1 / 3
        trained[name] = torch.where(small, -0.999 * bound, 1.001 * bound)
    return ControlContext(
        generator=lambda: torch.Generator().manual_seed(seed), initial=lambda: start, trained=lambda: trained,
        head=lambda: None, gains=dict,
    )  # fmt: skip


def equal(after: Masks, expected: dict[str, np.ndarray]) -> None:
    assert list(after) == list(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(after[name].numpy(), mask, err_msg=name)


def cut(flat: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    return {n: part.reshape(shape) for (n, shape), part in zip(shapes.items(), np.split(flat, ends), strict=True)}


# -- permuted ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", DENSITIES)
def test_layer_permuted(density: float, case: Any) -> None:
    before, drawn = ticket(case, density), permutations(3)
    expected = {n: m.numpy().ravel()[drawn(m.numel())].reshape(m.shape) for n, m in before.items()}
    equal(CONTROLS["layer-permuted"](before, control_context(case, 3)), expected)
    assert all(int(mask.sum()) == int(before[name].sum()) for name, mask in expected.items())


@pytest.mark.parametrize("density", DENSITIES)
def test_globally_permuted(density: float, case: Any) -> None:
    before = ticket(case, density)
    flat = np.concatenate([mask.numpy().ravel() for mask in before.values()])
    expected = cut(flat[permutations(4)(flat.size)], shapes_of(before))
    equal(CONTROLS["globally-permuted"](before, control_context(case, 4)), expected)


# -- drawn ---------------------------------------------------------------------------------------------------------
def densities(name: str, shapes: Shapes) -> list[Fraction]:
    """What the density of each layer is proportional to, from methods §2 and §4."""
    depth = len(shapes) + 1  # with the head, which is not pruned
    return {
        "even": [Fraction(1) for _ in shapes],
        "erk": [Fraction(sum(shape), math.prod(shape)) for shape in shapes.values()],
        "smart": [Fraction((depth - i + 1) ** 2 + (depth - i + 1)) for i in range(1, depth + 1)],
    }[name]


def counts(total: int, sizes: list[int], ratios: list[Fraction]) -> tuple[list[int], int]:
    """ρ_l = min(1, c · ratio_l) with Σ ρ_l N_l = total, largest remainders rounded up; and how many layers are full.

    Layers fill up in the order of their ratios, so the number of full ones says which they are.
    """
    by_ratio = sorted(range(len(sizes)), key=lambda i: -ratios[i])
    for full in range(len(sizes) + 1):
        rest = by_ratio[full:]
        budget = total - sum(sizes[i] for i in by_ratio[:full])
        scale = Fraction(budget, 1) / (sum(ratios[i] * sizes[i] for i in rest) or 1)
        if all(scale * ratios[i] < 1 for i in rest):
            break
    shares = [Fraction(size) for size in sizes]
    for i in rest:
        shares[i] = scale * ratios[i] * sizes[i]
    whole = [math.floor(share) for share in shares]
    for i in sorted(range(len(sizes)), key=lambda i: (whole[i] - shares[i], i))[: total - sum(whole)]:
        whole[i] += 1
    return whole, full


@pytest.mark.parametrize("name", ["even", "erk", "smart"])
def test_layer_ratios_with_positions_at_random(name: str, case: Any) -> None:
    filled = set()
    for density in DENSITIES:
        before, drawn = ticket(case, density), permutations(5)
        shapes = shapes_of(before)
        sizes = [math.prod(shape) for shape in shapes.values()]
        parts, full = counts(before.kept, sizes, densities(name, shapes))
        filled.add(full)
        expected = {}
        for (layer, shape), count in zip(shapes.items(), parts, strict=True):
            flat = np.zeros(math.prod(shape), dtype=bool)
            flat[drawn(flat.size)[:count]] = True
            expected[layer] = flat.reshape(shape)
        equal(CONTROLS[name](before, control_context(case, 5)), expected)
    assert 0 in filled
    assert name == "even" or max(filled) >= 1, "also where layers saturate"


@pytest.mark.parametrize("density", [0.9, 0.8, 0.5, 0.1])
def test_natural_corrected(density: float, case: Any) -> None:
    """|W_T| ≤ 10⁻³ σ_l behind all others in a queue in random order, of which the first are kept."""
    before, given = ticket(case, density), control_context(case, 6)
    zero = np.concatenate(
        [(np.abs(given.trained[n].numpy()) <= 1e-3 * np.std(given.initial[n].numpy())).ravel() for n in before]
    )
    assert 0.2 < zero.mean() < 0.45
    places = permutations(6)(zero.size)  # the larger, the further to the front
    order = sorted(range(zero.size), key=lambda i: (zero[i], -places[i]))
    flat = np.zeros(zero.size, dtype=bool)
    flat[order[: before.kept]] = True
    after = CONTROLS["natural-corrected"](before, given)
    equal(after, cut(flat, shapes_of(before)))
    assert (flat & zero).any() == (density > 1 - zero.mean()), "zeros stay only where all others do"


def chances(name: str, before: Masks, natural: dict[str, Tensor]) -> dict[str, Tensor]:
    """The probability with which ``name`` keeps each weight."""
    one = {layer: torch.ones(mask.shape) for layer, mask in before.items()}
    if name == "layer-permuted":
        return {layer: one[layer] * rho for layer, rho in before.densities().items()}
    if name == "globally-permuted":
        return {layer: one[layer] * before.density for layer in before}
    if name == "natural-corrected":
        others = sum(int((~zero).sum()) for zero in natural.values())
        return {layer: ~natural[layer] * (before.kept / others) for layer in before}
    sizes = [mask.numel() for mask in before.values()]
    parts, _ = counts(before.kept, sizes, densities(name, shapes_of(before)))
    return {layer: one[layer] * part / size for layer, part, size in zip(before, parts, sizes, strict=True)}


@pytest.mark.parametrize("name", ["layer-permuted", "globally-permuted", "even", "erk", "smart", "natural-corrected"])
def test_every_position_is_as_likely_as_the_control_says(name: str, case: Any) -> None:
    """Over 300 draws each weight within 5 standard errors, each layer within 4."""
    before, draws, given = ticket(case, 0.3), 300, control_context(case, 0)
    bound = {n: NATURALLY_ZERO * float(np.std(start.numpy())) for n, start in given.initial.items()}
    natural = {n: weight.abs() <= bound[n] for n, weight in given.trained.items()}
    hits = {n: torch.zeros(m.shape) for n, m in before.items()}
    for seed in range(draws):
        drawn = ControlContext(
            generator=lambda s=seed: torch.Generator().manual_seed(s),
            initial=lambda: given.initial,
            trained=lambda: given.trained,
            head=lambda: None,
            gains=dict,
        )
        after = CONTROLS[name](before, drawn)
        hits = {n: hits[n] + after[n] for n in hits}
    for layer, rho in chances(name, before, natural).items():
        error, spread = hits[layer] / draws - rho, (rho * (1 - rho) / draws).sqrt()
        assert bool((error.abs() <= 5 * spread + 1e-6).all())
        assert abs(float(error.mean())) <= 4 * float(spread.max()) / rho.numel() ** 0.5 + 1e-6


# -- carried -------------------------------------------------------------------------------------------------------
def test_masks_that_are_carried_as_they_are(case: Any) -> None:
    before = ticket(case, 0.2)
    shapes = ControlContext(shapes=lambda: shapes_of(before))
    for name in ("preserved", "other-seed", "elastic"):
        assert CONTROLS[name](before, shapes) == before


@pytest.mark.parametrize("name", ["vgg19", "resnet20", "resnet50"])
def test_aligned_undoes_a_permutation_of_channels(name: str) -> None:
    """Batch-normalised networks, bottleneck blocks and projections among them; overlap 1, equal functions."""
    width = {"vgg19": 0.125, "resnet20": 0.25, "resnet50": 0.0625}[name]
    model = build(ModelSpec(name=name, options={"width": width}), input_shape=(3, 16, 16), classes=4, seed=1)
    stream = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dim() == 1 and not key.startswith("head"):
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=stream))
    model.double().eval()
    images = torch.randn(24, 3, 16, 16, generator=stream, dtype=torch.float64)
    view = Prunable(model)
    masks = prune(view, ScoreContext(), criterion="magnitude", allocation="global", density=0.2)
    groups = channel_groups(model, images[:2])
    orders = [torch.randperm(group.channels, generator=stream) for group in groups]
    there = copy.deepcopy(model)
    there.load_state_dict(permuted(model.state_dict(), groups, orders))
    moved = Masks(permuted(masks, groups, orders))
    assert moved.overlap(masks) < 0.5
    batches: list[tuple[Tensor, Tensor]] = [(images, torch.zeros(24).long())]
    matching = match_channels(model, there, batches, names=view.names)
    assert CONTROLS["aligned"](moved, ControlContext(matching=lambda: matching)) == masks
    torch.testing.assert_close(there(images), model(images), rtol=1e-9, atol=1e-9)
