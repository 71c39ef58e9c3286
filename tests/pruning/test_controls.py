"""Mask controls: what each keeps of a ticket, and that it moves the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning import CONTROLS, ControlContext
from oneticket.pruning.controls import NATURALLY_ZERO, naturally_zero

SHAPES = {"conv": (8, 3, 3, 3), "fc1": (40, 64), "fc2": (10, 40)}

# What must be given besides a random generator; the others need nothing else.
CARRIED = ("preserved", "other-seed", "elastic")


def ticket(density: float, seed: int = 0) -> Masks:
    """A ticket whose layers have very different densities: ρ^(i+1) in layer i."""
    generator = torch.Generator().manual_seed(seed)
    return Masks(
        {
            name: torch.rand(shape, generator=generator) < density ** (i + 1)
            for i, (name, shape) in enumerate(SHAPES.items())
        }
    )


def weights(seed: int) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=stream) for name, shape in SHAPES.items()}


def given_seed(seed: int = 0, *, zeros: float = 0.0) -> ControlContext:
    """Every circumstance; of the trained weights the fraction ``zeros`` is naturally zero, channels are turned."""
    start = {name: weight + 0.2 for name, weight in weights(100 + seed).items()}  # a spread is not about zero
    trained = {}
    for name, weight in weights(200 + seed).items():
        bound = NATURALLY_ZERO * float(np.std(start[name].numpy().astype(np.float64)))
        zero = torch.rand(weight.shape, generator=torch.Generator().manual_seed(300 + seed)) < zeros
        # The others lie right above the bound, so that any other bound would tell them differently.
        trained[name] = torch.where(zero, weight.sign() * 0.99 * bound, weight.sign() * 1.01 * bound)
    return ControlContext(
        generator=lambda: torch.Generator().manual_seed(seed),
        initial=lambda: start,
        trained=lambda: trained,
        matching=lambda: {name: [(0, torch.arange(shape[0]).roll(seed + 1))] for name, shape in SHAPES.items()},
        shapes=lambda: SHAPES,
        head=lambda: None,
        gains=dict,
    )


@pytest.mark.parametrize("name", CARRIED)
def test_preserved_other_seed_and_elastic_at_equal_depth_are_the_masks_given(name: str) -> None:
    assert CONTROLS[name](ticket(0.4), given_seed()) == ticket(0.4)


@pytest.mark.parametrize("name", [n for n in CONTROLS if n not in CARRIED])
def test_every_other_control_moves_every_layer(name: str) -> None:
    before, after = ticket(0.4), CONTROLS[name](ticket(0.4), given_seed())
    assert all(not torch.equal(before[layer], after[layer]) for layer in before)
    assert CONTROLS[name](ticket(0.4), given_seed(1)) != after


def test_layer_permuted_keeps_each_count() -> None:
    assert CONTROLS["layer-permuted"](ticket(0.4), given_seed()).table() == ticket(0.4).table()


def test_globally_permuted_levels_the_densities() -> None:
    """Each layer's count is hypergeometric: within 5 deviations of ρ N_l, though the ticket's are far from it."""
    assert_levelled(ticket(0.4), CONTROLS["globally-permuted"](ticket(0.4), given_seed()))


def assert_levelled(before: Masks, after: Masks) -> None:
    rho = before.density
    assert after.kept == before.kept
    for row in after.table():
        assert abs(row.kept - rho * row.total) < 5 * (row.total * rho * (1 - rho)) ** 0.5
    assert max(abs(row.density - rho) for row in before.table()) > 0.1


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_even_gives_each_layer_the_tickets_density(density: float, seed: int) -> None:
    before = ticket(density, seed)
    after = CONTROLS["even"](before, given_seed(seed))
    assert after.kept == before.kept
    for row in after.table():
        assert abs(row.kept - before.density * row.total) < 1


def assert_proportional(after: Masks, kept: int, densities: list[float]) -> None:
    """``after`` keeps what min(1, c · density) gives each layer, c such that the sum is right, within one weight."""
    sizes = np.array([np.prod(shape) for shape in SHAPES.values()], dtype=np.float64)
    shares = sizes * np.array(densities)
    low, high = 0.0, 1e4 / min(densities)
    for _ in range(200):
        scale = (low + high) / 2
        low, high = (scale, high) if np.minimum(sizes, scale * shares).sum() < kept else (low, scale)
    ideal = np.minimum(sizes, high * shares)
    assert after.kept == kept
    assert (np.abs([row.kept for row in after.table()] - ideal) < 1 + 1e-6).all()


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_erk_gives_each_layer_its_erk_density(density: float, seed: int) -> None:
    before = ticket(density, seed)
    after = CONTROLS["erk"](before, given_seed(seed))
    assert_proportional(after, before.kept, [sum(shape) / np.prod(shape) for shape in SHAPES.values()])


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_smart_gives_each_layer_its_smart_ratio(density: float, seed: int) -> None:
    """Ratios of four layers, of which the head has no mask: 4² + 4, 3² + 3, 2² + 2. They saturate from the first on.

    As in the code for VGG over 1², 2², 3².
    """
    before = ticket(density, seed)
    for name, ratios in (("smart", [20, 12, 6]), ("smart-vgg", [20, 12 / 4, 6 / 9])):
        assert_proportional(CONTROLS[name](before, given_seed(seed)), before.kept, ratios)


def test_smart_needs_to_know_whether_the_last_layer_is_the_head() -> None:
    def given_head(head: str | None) -> ControlContext:
        return ControlContext(generator=lambda: torch.Generator().manual_seed(0), head=lambda: head)

    before = ticket(0.3)
    for name, ratios in (("smart", [12, 6, 2]), ("smart-vgg", [12, 6 / 4, 2 / 9])):
        assert_proportional(CONTROLS[name](before, given_head("fc2")), before.kept, ratios)
        assert CONTROLS[name](before, given_head("fc2")) != CONTROLS[name](before, given_head(None))


def test_smart_saturates() -> None:
    rows = CONTROLS["smart"](ticket(0.8), given_seed()).table()
    assert rows[0].density == 1.0 > rows[1].density > 2 * rows[2].density > 0


@pytest.mark.parametrize("name", ["even", "erk", "smart", "natural-corrected"])
def test_drawn_positions_forget_the_ticket(name: str) -> None:
    """Over 400 draws every position of a layer is kept equally often, kept by the ticket or not."""
    before, draws = ticket(0.3), 400
    hits = sum(CONTROLS[name](before, given_seed(seed))["fc2"].double() for seed in range(draws)) / draws
    rho = float(hits.mean())
    kept = before["fc2"]
    spread = (rho * (1 - rho) / draws) ** 0.5
    assert abs(float(hits[kept].mean()) - rho) < 4 * spread / float(kept.sum()) ** 0.5
    assert (hits - rho).abs().max() < 5 * spread


# -- weights that dense training drove to zero -------------------------------------------------------------------
def natural(context: ControlContext) -> Masks:
    """From the definition: |W_T| ≤ 10⁻³ σ_l, in float64."""
    return Masks(
        {
            name: torch.from_numpy(
                np.abs(context.trained[name].numpy().astype(np.float64))
                <= 1e-3 * np.std(context.initial[name].numpy().astype(np.float64))
            )
            for name in SHAPES
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_natural_zeros_go_first_and_the_rest_at_random(seed: int) -> None:
    before, context = ticket(0.4, seed), given_seed(seed, zeros=0.5)
    zeros = natural(context)
    assert 0.45 < zeros.density < 0.55
    assert zeros.kept < before.total - before.kept
    after = CONTROLS["natural-corrected"](before, context)
    assert after.kept == before.kept
    assert (after & zeros).kept == 0
    others = ~zeros
    rho = after.kept / others.kept
    for name in SHAPES:
        expected = rho * int(others[name].sum())
        assert abs(int(after[name].sum()) - expected) < 5 * (expected * (1 - rho)) ** 0.5


def test_when_more_are_naturally_zero_than_must_go_they_go_at_random() -> None:
    before, context = ticket(0.95), given_seed(3, zeros=0.5)
    zeros = natural(context)
    assert zeros.kept > before.total - before.kept
    after = CONTROLS["natural-corrected"](before, context)
    assert after.kept == before.kept
    assert ~after <= zeros
    rho = (after & zeros).kept / zeros.kept
    for name in SHAPES:
        expected = rho * int(zeros[name].sum())
        assert abs(int((after[name] & zeros[name]).sum()) - expected) < 5 * (expected * (1 - rho)) ** 0.5


def test_weights_into_units_whose_gain_is_about_zero_are_naturally_zero_too() -> None:
    """A γ of 0 or just above −10⁻³ is about zero, one a little larger is not; layers without γ go by their weights."""
    before, context = ticket(0.3), given_seed(2, zeros=0.1)
    gain = torch.ones(8)
    gain[1], gain[4], gain[6] = 0.0, -0.999e-3, 1.001e-3
    seen = ControlContext(
        generator=lambda: torch.Generator().manual_seed(2),
        initial=lambda: context.initial,
        trained=lambda: context.trained,
        gains=lambda: {"conv": gain.view(8, 1, 1, 1).expand(8, 3, 3, 3)},
    )
    expected = dict(natural(context))
    expected["conv"] = expected["conv"].clone()
    expected["conv"][[1, 4]] = True
    assert naturally_zero(before, seen) == Masks(expected)
    after = CONTROLS["natural-corrected"](before, seen)
    assert after.kept == before.kept
    assert not after["conv"][[1, 4]].any()


def test_without_natural_zeros_it_levels_like_the_globally_permuted() -> None:
    assert not natural(given_seed()).kept
    assert_levelled(ticket(0.4), CONTROLS["natural-corrected"](ticket(0.4), given_seed()))


def test_weights_of_another_network_are_refused() -> None:
    other = ControlContext(
        generator=torch.Generator,
        initial=lambda: {name: torch.randn(shape) for name, shape in SHAPES.items()},
        trained=lambda: {name: torch.randn(2, 2) for name in SHAPES},
    )
    with pytest.raises(InputError, match=r"densely trained weights have no 'conv' of the shape \(8, 3, 3, 3\)"):
        CONTROLS["natural-corrected"](ticket(0.4), other)


# -- what a control may look at ----------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", ["generator", "initial", "trained", "matching", "shapes", "head", "gains"])
def test_what_was_not_given_is_named_and_none_is_asked_for_twice(asked: str) -> None:
    with pytest.raises(InputError, match=rf"not given; expected ControlContext\({asked}=…\)"):
        getattr(ControlContext(), asked)
    calls: list[str] = []
    context = ControlContext(**{asked: lambda: calls.append(asked) or {}})
    assert not calls
    assert getattr(context, asked) is getattr(context, asked)
    assert calls == [asked]


@pytest.mark.parametrize("name", [e.name for e in CONTROLS.entries() if e.facts.needs == "density"])
def test_controls_that_say_they_need_the_density_only_see_nothing_else(name: str) -> None:
    """Two tickets of one density give the same masks, from a generator and the name of a head alone."""
    one = ticket(0.4)
    other = one.permuted(torch.Generator().manual_seed(7), within="network")
    first, second = (
        CONTROLS[name](masks, ControlContext(generator=lambda: torch.Generator().manual_seed(1), head=lambda: None))
        for masks in (one, other)
    )
    if name != "globally-permuted":  # there only the distribution is the same
        assert first == second
    assert first.kept == second.kept == one.kept


def test_masks_of_another_ticket_are_asked_for_by_a_fact() -> None:
    assert {e.name: e.facts.masks_from for e in CONTROLS.entries() if e.facts.masks_from != "own"} == {
        "other-seed": "other-seed",
        "aligned": "other-seed",
        "elastic": "other-depth",
    }
