"""Allocations against references written out with sorting and bisection."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning import ALLOCATIONS, Prunable, ScoreContext, Scores, prune

# A small first convolution, as in real networks: ERK makes it dense at quite low densities.
NETWORK = {"conv1": (8, 3, 3, 3), "conv2": (16, 8, 3, 3), "fc1": (40, 64), "fc2": (10, 40)}
SHAPES = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)


def scored(shapes: dict[str, tuple[int, ...]], seed: int = 0, levels: int | None = None) -> Scores:
    """Random scores; with ``levels``, only so many different values, so that they tie."""
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: (s * levels).floor() if levels else s for name, s in scores.items()}


def best_of(score: torch.Tensor, alive: torch.Tensor, count: int) -> np.ndarray:
    """Mask of the ``count`` best alive by sorting: descending score, then ascending index."""
    flat, living = score.numpy().ravel(), alive.numpy().ravel()
    order = [i for i in np.lexsort((np.arange(flat.size), -flat)) if living[i]]
    mask = np.zeros(flat.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(score.shape)


def counts(masks: Masks) -> list[int]:
    return [row.kept for row in masks.table()]


def total_of(scores: Scores) -> int:
    return sum(s.numel() for s in scores.values())


def shares_of(name: str, scores: Scores) -> list[int] | list[Fraction]:
    """What each layer's number of kept weights is proportional to, as long as no layer is full."""
    sizes, depth = [s.numel() for s in scores.values()], len(scores) + 1  # the head is a layer that is not pruned
    smart = [n * ((depth - i + 1) ** 2 + (depth - i + 1)) for i, n in enumerate(sizes, start=1)]
    return {
        "layerwise": sizes,
        "erk": [sum(s.shape) for s in scores.values()],
        "smart": smart,
        "smart-vgg": [Fraction(share, i**2) for i, share in enumerate(smart, start=1)],
    }[name]


def divided(total: int, shares: list[int] | list[Fraction], caps: list[int]) -> list[int]:
    """``total`` by ``shares`` with exact fractions: one layer after the other is filled, the rest is rounded."""
    full: set[int] = set()
    while True:
        free = [i for i in range(len(shares)) if i not in full]
        rest = (total - sum(caps[i] for i in full)) / Fraction(sum(shares[i] for i in free) or 1)
        over = [i for i in free if shares[i] * rest >= caps[i]]
        if not over:
            break
        full.add(over[0])
    parts = [caps[i] if i in full else math.floor(shares[i] * rest) for i in range(len(shares))]
    for i in sorted(free, key=lambda i: (math.floor(shares[i] * rest) - shares[i] * rest, i))[: total - sum(parts)]:
        parts[i] += 1
    return parts


@st.composite
def cases(draw: st.DrawFn) -> tuple[Scores, float, Masks]:
    """Scores that tie, weights of which some are dead, and a density that those alive can meet."""
    shapes = {f"layer{i}": shape for i, shape in enumerate(draw(SHAPES))}
    scores = scored(shapes, seed=draw(st.integers(0, 1000)), levels=draw(st.sampled_from([1, 3, 1000])))
    keep = draw(st.sampled_from([0.5, 0.9, 1.0]))
    alive = Masks({name: s <= keep for name, s in scored(shapes, seed=draw(st.integers(0, 1000))).items()})
    return scores, draw(st.floats(0, 1)) * alive.kept / alive.total, alive


# -- every allocation by itself, whatever is alive -----------------------------------------------------------------
@given(cases())
def test_global_keeps_the_best_of_the_network(case: tuple[Scores, float, Masks]) -> None:
    scores, density, alive = case
    masks = ALLOCATIONS["global"](scores, density, alive)
    flat = torch.cat([s.flatten() for s in scores.values()])
    living = torch.cat([a.flatten() for a in alive.values()])
    expected = best_of(flat, living, math.floor(density * flat.numel() + 0.5))
    np.testing.assert_array_equal(torch.cat([m.flatten() for m in masks.values()]).numpy(), expected)
    assert [(n, m.shape) for n, m in masks.items()] == [(n, s.shape) for n, s in scores.items()]


@pytest.mark.parametrize("name", ["layerwise", "erk", "smart"])
@given(case=cases())
def test_layers_get_their_share_and_keep_their_best(name: str, case: tuple[Scores, float, Masks]) -> None:
    scores, density, alive = case
    masks = ALLOCATIONS[name](scores, density, alive)
    total = math.floor(density * total_of(scores) + 0.5)
    assert masks.kept == total
    shares = np.array(shares_of(name, scores), dtype=np.float64)
    caps = np.array(counts(alive), dtype=np.float64)
    low, high = 0.0, 1e4
    for _ in range(200):
        scale = (low + high) / 2
        low, high = (scale, high) if np.minimum(caps, scale * shares).sum() < total else (low, scale)
    assert (np.abs(counts(masks) - np.minimum(caps, high * shares)) < 1 + 1e-6).all()
    for layer, score in scores.items():
        expected = best_of(score, alive[layer], int(masks[layer].sum()))
        np.testing.assert_array_equal(masks[layer].numpy(), expected)


# -- global --------------------------------------------------------------------------------------------------------
def test_global_may_collapse_a_layer_and_says_so() -> None:
    scores = {"weak": torch.full((2, 2), 0.1), "strong": torch.full((2, 2), 0.9)}
    masks = ALLOCATIONS["global"](scores, 0.5, Masks.full(scores))
    assert masks.collapsed() == ["weak"]
    assert masks.density == 0.5


def test_global_compares_layers_of_different_precision() -> None:
    scores = {"half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16), "double": torch.tensor([1.0, 0.25]).double()}
    masks = ALLOCATIONS["global"](scores, 0.5, Masks.full(scores))
    assert [m.tolist() for m in masks.values()] == [[False, True], [True, False]]


# -- layerwise -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", [0.8**n for n in range(1, 20, 3)])
def test_layerwise_gives_each_layer_the_same_density(density: float) -> None:
    scores = scored(NETWORK)
    masks = ALLOCATIONS["layerwise"](scores, density, Masks.full(scores))
    assert masks.kept == math.floor(density * total_of(scores) + 0.5)
    for row in masks.table():
        assert abs(row.kept - density * row.total) < 1.5


def test_layerwise_rounds_the_largest_remainders_up() -> None:
    scores = scored({"a": (3,), "b": (5,), "c": (12,)})
    # Shares of 9 of 20: 1.35, 2.25, 5.4.
    assert counts(ALLOCATIONS["layerwise"](scores, 0.45, Masks.full(scores))) == [1, 2, 6]


def test_layerwise_passes_on_what_a_thinned_layer_cannot_take() -> None:
    scores = scored({"a": (10,), "b": (10,), "c": (20,)})
    alive = Masks.full(scores)
    alive = Masks({**alive, "a": torch.arange(10) < 2})
    assert counts(ALLOCATIONS["layerwise"](scores, 0.5, alive)) == [2, 6, 12]


# -- uniform+ ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", [0.9, 0.5, 0.2, 0.15])
def test_uniform_plus_spares_the_ends(density: float) -> None:
    scores = scored(NETWORK)
    masks = ALLOCATIONS["uniform+"](scores, density, Masks.full(scores), head="fc2")
    total, rho = math.floor(density * total_of(scores) + 0.5), masks.densities()
    assert masks.kept == total
    assert rho["conv1"] == 1.0
    sizes = {name: s.numel() for name, s in scores.items()}
    everywhere = (total - sizes["conv1"]) / (total_of(scores) - sizes["conv1"])
    if everywhere >= 0.2:
        expected = dict.fromkeys(("conv2", "fc1", "fc2"), everywhere)
    else:
        between = (total - sizes["conv1"] - 0.2 * sizes["fc2"]) / (sizes["conv2"] + sizes["fc1"])
        expected = {"conv2": between, "fc1": between, "fc2": 0.2}
    for name, value in expected.items():
        assert abs(rho[name] - value) * sizes[name] < 1 + 1e-9


def test_both_sides_of_twenty_percent_were_tested() -> None:
    scores = scored(NETWORK)
    full = Masks.full(scores)
    last = [ALLOCATIONS["uniform+"](scores, d, full, head="fc2").densities()["fc2"] for d in (0.5, 0.2)]
    assert last[0] > 0.4
    assert last[1] == 0.2


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2, 0.15, 0.06])
def test_uniform_plus_spares_no_layer_but_the_head_for_being_the_last(density: float) -> None:
    """A head that is not prunable is dense: the last of the prunable ones is a layer as the others are."""
    scores = scored(NETWORK)
    masks = ALLOCATIONS["uniform+"](scores, density, Masks.full(scores))
    rest = math.floor(density * total_of(scores) + 0.5) - 216
    sizes = [s.numel() for s in scores.values()]
    assert counts(masks) == [216, *divided(rest, sizes[1:], sizes[1:])]


def test_the_head_of_uniform_plus_may_stand_anywhere() -> None:
    scores = scored({"fc1": (10, 10), "fc2": (30, 30)})
    assert counts(ALLOCATIONS["uniform+"](scores, 0.1, Masks.full(scores), head="fc1")) == [20, 80]


def test_twenty_percent_of_the_head_is_rounded_up() -> None:
    scores = scored({"conv": (1, 1, 1), "middle": (100, 9), "last": (99,)})
    masks = ALLOCATIONS["uniform+"](scores, 0.1, Masks.full(scores), head="last")
    assert counts(masks) == [1, 79, 20]


def test_uniform_plus_without_convolutions_spares_the_head_only() -> None:
    scores = scored({"fc1": (30, 30), "fc2": (10, 10)})
    assert counts(ALLOCATIONS["uniform+"](scores, 0.1, Masks.full(scores), head="fc2")) == [80, 20]
    assert counts(ALLOCATIONS["uniform+"](scores, 0.5, Masks.full(scores), head="fc2")) == [450, 50]
    assert counts(ALLOCATIONS["uniform+"](scores, 0.1, Masks.full(scores))) == [90, 10]


def test_a_first_convolution_that_is_also_the_head_stays_dense() -> None:
    scores = scored({"fc": (30, 30), "conv": (10, 1, 3)})
    for head in ("conv", None):
        assert counts(ALLOCATIONS["uniform+"](scores, 0.1, Masks.full(scores), head=head)) == [63, 30]


def test_uniform_plus_refuses_what_cannot_be() -> None:
    scores = scored(NETWORK)
    least = 216 + 80
    full, density = Masks.full(scores), least / total_of(scores)
    assert ALLOCATIONS["uniform+"](scores, density, full, head="fc2").collapsed() == ["conv2", "fc1"]
    refused = r"uniform\+': needs 296 weights .* of the head, but the density gives 295; .* at least 0.06"
    with pytest.raises(InputError, match=refused):
        ALLOCATIONS["uniform+"](scores, (least - 1) / total_of(scores), full, head="fc2")
    with pytest.raises(InputError, match=r"for the first convolution, but the density gives 215"):
        ALLOCATIONS["uniform+"](scores, 215 / total_of(scores), full)
    thinned = Masks({**Masks.full(scores), "conv1": scores["conv1"] > 0.1})
    with pytest.raises(InputError, match=r"needs 216 weights of 'conv1', but only \d+ are alive"):
        ALLOCATIONS["uniform+"](scores, 0.5, thinned)


# -- erk -----------------------------------------------------------------------------------------------------------
def erk_densities(shapes: list[tuple[int, ...]], density: float) -> tuple[np.ndarray, bool]:
    """ρ_l = min(1, ε Σdims/Πdims) with the ε that meets the density, by bisection; and whether a layer saturates."""
    raw = np.array([sum(shape) / np.prod(shape) for shape in shapes], dtype=np.float64)
    sizes = np.array([np.prod(shape) for shape in shapes], dtype=np.float64)
    low, high = 0.0, 1e6
    for _ in range(300):
        epsilon = (low + high) / 2
        met = (np.minimum(1, epsilon * raw) * sizes).sum() / sizes.sum()
        low, high = (epsilon, high) if met < density else (low, epsilon)
    return np.minimum(1, high * raw), bool((high * raw > 1).any())


@pytest.mark.parametrize(("density", "saturates"), [(0.9, True), (0.5, True), (0.2, False), (0.05, False)])
def test_erk_densities_also_where_layers_saturate(density: float, saturates: bool) -> None:
    scores = scored(NETWORK)
    masks = ALLOCATIONS["erk"](scores, density, Masks.full(scores))
    expected, saturated = erk_densities(list(NETWORK.values()), density)
    assert saturated is saturates
    assert masks.kept == math.floor(density * total_of(scores) + 0.5)
    for row, rho in zip(masks.table(), expected, strict=True):
        assert abs(row.kept - rho * row.total) < 1.5
        assert rho < 1 or row.kept == row.total


def test_erk_by_hand() -> None:
    """Linear layers 10×10 and 30×30: shares 20 : 60. At 0.16, 160 of 1000: 40 and 120. At 0.8, 200 > 100: dense."""
    scores = scored({"a": (10, 10), "b": (30, 30)})
    assert counts(ALLOCATIONS["erk"](scores, 0.16, Masks.full(scores))) == [40, 120]
    assert counts(ALLOCATIONS["erk"](scores, 0.8, Masks.full(scores))) == [100, 700]


# -- smart ---------------------------------------------------------------------------------------------------------
def test_smart_by_hand() -> None:
    """Three layers of 100, the last of them the head: ratios 12 : 6 : 2. At 0.1, 30 of 300: 18, 9, 3.

    At 0.7, 126 > 100: dense, 110 as 6 : 2. With a head that is not pruned behind them, 20 : 12 : 6: of 30, 15.8, 9.5,
    4.7. Over l², 12 : 6/4 : 2/9 and 20 : 12/4 : 6/9: 26.2, 3.3, 0.5 and 25.4, 3.8, 0.8.
    """
    scores = scored({"a": (10, 10), "b": (10, 10), "c": (10, 10)})
    full = Masks.full(scores)
    assert counts(ALLOCATIONS["smart"](scores, 0.1, full, head="c")) == [18, 9, 3]
    assert counts(ALLOCATIONS["smart"](scores, 0.7, full, head="c")) == [100, 83, 27]
    assert counts(ALLOCATIONS["smart"](scores, 0.1, full)) == [16, 9, 5]
    assert counts(ALLOCATIONS["smart-vgg"](scores, 0.1, full, head="c")) == [26, 3, 1]
    assert counts(ALLOCATIONS["smart-vgg"](scores, 0.1, full)) == [25, 4, 1]


@pytest.mark.parametrize(("prune_head", "last"), [(False, 2), (True, 1)])
def test_smart_counts_the_head_as_a_layer(case: Any, prune_head: bool, last: int) -> None:
    """Through ``prune``: the ratio of the last prunable layer is k² + k with k = 2, or 1 where it is the head."""
    view = Prunable(case.model, prune_head=prune_head)
    masks = prune(view, ScoreContext(), criterion="magnitude", allocation="smart", density=0.1)
    depths = reversed(range(last, len(masks) + last))
    shares = [w.numel() * (k**2 + k) for k, (_, w) in zip(depths, view.weights(), strict=True)]
    assert counts(masks) == divided(masks.kept, shares, [w.numel() for _, w in view.weights()])


# -- lamp ----------------------------------------------------------------------------------------------------------
def test_lamp_by_hand() -> None:
    """Squares 4, 9, 1 get 4/13, 1, 1/14; squares 100, 100, 400, 0 get 100/500, 100/600, 1, 0: of equals the first."""
    scores = {"a": torch.tensor([2.0, 3.0, 1.0]), "b": torch.tensor([10.0, 10.0, 20.0, 0.0])}
    kept = {
        1: ([False, True, False], [False] * 4),
        2: ([False, True, False], [False, False, True, False]),
        3: ([True, True, False], [False, False, True, False]),
        4: ([True, True, False], [True, False, True, False]),
        5: ([True, True, False], [True, True, True, False]),
        6: ([True, True, True], [True, True, True, False]),
    }
    for count, (a, b) in kept.items():
        masks = ALLOCATIONS["lamp"](scores, count / 7, Masks.full(scores))
        assert (masks["a"].tolist(), masks["b"].tolist()) == (a, b)


def test_lamp_sums_the_suffix_not_the_layer() -> None:
    """Suffix sums give 1, 36/100 and 1, 16/41, 9/50; sums of the layer 0.64, 0.36 and 0.5, 0.32, 0.18."""
    scores = {"a": torch.tensor([8.0, 6.0, 0.0, 0.0]), "b": torch.tensor([5.0, 4.0, 3.0])}
    masks = ALLOCATIONS["lamp"](scores, 3 / 7, Masks.full(scores))
    assert (masks["a"].tolist(), masks["b"].tolist()) == ([True, False, False, False], [True, True, False])


def lamp_reference(scores: Scores, total: int, alive: Masks) -> dict[str, int]:
    """How many of each layer are among the ``total`` best by exact w²/Σw² over those at least as large and alive."""
    ranked: list[tuple[Fraction, int, str]] = []
    start = 0
    for name, score in scores.items():
        living = [(int(w), i) for i, w in enumerate(score.flatten().tolist()) if alive[name].flatten()[i]]
        for w, i in living:
            suffix = sum(v * v for v, j in living if (v, -j) >= (w, -i))
            ranked.append((Fraction(w * w, suffix or 1), -(start + i), name))
        start += score.numel()
    best = sorted(ranked, reverse=True)[:total]
    return {name: sum(layer == name for _, _, layer in best) for name in scores}


@given(cases())
def test_lamp_is_the_best_by_exact_suffix_shares(case: tuple[Scores, float, Masks]) -> None:
    scores, density, alive = case
    whole = {name: (s * 1000).floor() for name, s in scores.items()}
    masks = ALLOCATIONS["lamp"](whole, density, alive)
    expected = lamp_reference(whole, math.floor(density * total_of(whole) + 0.5), alive)
    for layer, score in whole.items():
        np.testing.assert_array_equal(masks[layer].numpy(), best_of(score, alive[layer], expected[layer]))


@given(cases())
def test_lamp_is_blind_to_a_layers_scale(case: tuple[Scores, float, Masks]) -> None:
    scores, density, alive = case
    first = next(iter(scores))
    scaled = scores | {first: scores[first] * 1024}
    assert ALLOCATIONS["lamp"](scaled, density, alive) == ALLOCATIONS["lamp"](scores, density, alive)


def test_lamp_empties_no_layer_as_long_as_each_can_have_one() -> None:
    scores = {"weak": torch.rand(50) * 1e-6, "strong": torch.rand(5000) + 1}
    masks = ALLOCATIONS["lamp"](scores, 2 / 5050, Masks.full(scores))
    assert counts(masks) == [1, 1]


def test_lamp_refuses_signed_scores_of_what_is_alive() -> None:
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, -4.0])}
    with pytest.raises(InputError, match=r"allocation 'lamp': some scores of 'b' are negative; expected scores that"):
        ALLOCATIONS["lamp"](scores, 0.5, Masks.full(scores))
    alive = Masks({"a": torch.ones(2, dtype=torch.bool), "b": torch.tensor([True, False])})
    assert counts(ALLOCATIONS["lamp"](scores, 0.5, alive)) == [1, 1]


# -- on networks ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["layerwise", "erk", "smart", "smart-vgg"])
@pytest.mark.parametrize("density", [0.9, 0.5, 0.1, 0.01])
def test_layer_budgets_of_networks(name: str, density: float, case: Any) -> None:
    """A convolutional and a residual network, down to where layers saturate and up to where most are full."""
    scores = {n: w.detach().abs() for n, w in Prunable(case.model).weights()}
    masks = ALLOCATIONS[name](scores, density, Masks.full(scores))
    total = math.floor(density * total_of(scores) + 0.5)
    expected = divided(total, shares_of(name, scores), [s.numel() for s in scores.values()])
    for (layer, score), count in zip(scores.items(), expected, strict=True):
        np.testing.assert_array_equal(masks[layer].numpy(), best_of(score, Masks.full(scores)[layer], count))


@pytest.mark.parametrize("prune_head", [False, True])
def test_uniform_plus_of_networks(case: Any, prune_head: bool) -> None:
    """First convolution whole, a head that is prunable at 20 % where its share would be less, the rest at one density.

    By default the head is dense, and no other layer has a floor.
    """
    view = Prunable(case.model, prune_head=prune_head)
    scores = {n: w.detach().abs() for n, w in view.weights()}
    sizes, raised = [s.numel() for s in scores.values()], set()
    for density in (0.9, 0.6, 0.5, 0.4, 0.35):
        rest = math.floor(density * sum(sizes) + 0.5) - sizes[0]
        expected = [sizes[0], *divided(rest, sizes[1:], sizes[1:])]
        least = math.ceil(sizes[-1] / 5) if prune_head else 0
        raised.add(expected[-1] < least)
        if expected[-1] < least:
            expected = [sizes[0], *divided(rest - least, sizes[1:-1], sizes[1:-1]), least]
        masks = prune(view, ScoreContext(), criterion="magnitude", allocation="uniform+", density=density)
        for (layer, score), count in zip(scores.items(), expected, strict=True):
            np.testing.assert_array_equal(masks[layer].numpy(), best_of(score, Masks.full(scores)[layer], count))
    assert raised == ({False, True} if prune_head else {False}), "both sides of 20 % where there is a floor"


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1, 0.01])
def test_lamp_of_networks(density: float, case: Any) -> None:
    """Against numpy's sort and reversed cumulative sum of the published definition."""
    scores = {n: w.detach().abs() for n, w in Prunable(case.model).weights()}
    levels = []
    for score in scores.values():
        w = score.numpy().ravel()
        order = np.argsort(w)
        suffix = np.cumsum((w[order] ** 2)[::-1])[::-1]
        level = np.empty_like(w)
        level[order] = w[order] ** 2 / suffix
        levels.append(level)
    flat = torch.from_numpy(np.concatenate(levels))
    total = math.floor(density * flat.numel() + 0.5)
    expected = best_of(flat, torch.ones(flat.shape, dtype=torch.bool), total)
    masks = ALLOCATIONS["lamp"](scores, density, Masks.full(scores))
    np.testing.assert_array_equal(torch.cat([m.flatten() for m in masks.values()]).numpy(), expected)
