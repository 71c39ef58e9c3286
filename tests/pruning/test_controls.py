"""Mask controls: what each keeps of a ticket, and that it moves the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.masks import Masks
from oneticket.pruning import control

SHAPES = {"conv": (8, 3, 3, 3), "fc1": (40, 64), "fc2": (10, 40)}


def ticket(density: float, seed: int = 0) -> Masks:
    """A ticket whose layers have very different densities: ρ^(i+1) in layer i."""
    generator = torch.Generator().manual_seed(seed)
    return Masks(
        {
            name: torch.rand(shape, generator=generator) < density ** (i + 1)
            for i, (name, shape) in enumerate(SHAPES.items())
        }
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_preserved_is_the_ticket() -> None:
    assert control["preserved"](ticket(0.4), generator()) == ticket(0.4)


@pytest.mark.parametrize("name", [n for n in control if n != "preserved"])
def test_every_other_control_moves_every_layer(name: str) -> None:
    before, after = ticket(0.4), control[name](ticket(0.4), generator())
    assert all(not torch.equal(before[layer], after[layer]) for layer in before)
    assert control[name](ticket(0.4), generator(1)) != after


def test_layer_permuted_keeps_each_count() -> None:
    assert control["layer-permuted"](ticket(0.4), generator()).table() == ticket(0.4).table()


def test_globally_permuted_levels_the_densities() -> None:
    """Each layer's count is hypergeometric: within 5 deviations of ρ N_l, though the ticket's are far from it."""
    before, after = ticket(0.4), control["globally-permuted"](ticket(0.4), generator())
    rho = before.density
    for row in after.table():
        assert abs(row.kept - rho * row.total) < 5 * (row.total * rho * (1 - rho)) ** 0.5
    assert max(abs(row.density - rho) for row in before.table()) > 0.1


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_even_gives_each_layer_the_tickets_density(density: float, seed: int) -> None:
    before = ticket(density, seed)
    after = control["even"](before, generator(seed))
    assert after.kept == before.kept
    for row in after.table():
        assert abs(row.kept - before.density * row.total) < 1


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_erk_gives_each_layer_its_erk_density(density: float, seed: int) -> None:
    before = ticket(density, seed)
    after = control["erk"](before, generator(seed))
    assert after.kept == before.kept
    shares = np.array([sum(shape) for shape in SHAPES.values()], dtype=np.float64)
    sizes = np.array([np.prod(shape) for shape in SHAPES.values()], dtype=np.float64)
    low, high = 0.0, 1e4
    for _ in range(200):
        scale = (low + high) / 2
        low, high = (scale, high) if np.minimum(sizes, scale * shares).sum() < before.kept else (low, scale)
    ideal = np.minimum(sizes, high * shares)
    assert (np.abs([row.kept for row in after.table()] - ideal) < 1 + 1e-6).all()


@pytest.mark.parametrize("name", ["even", "erk"])
def test_drawn_positions_forget_the_ticket(name: str) -> None:
    """Over 400 draws every position of a layer is kept equally often, kept by the ticket or not."""
    before, draws = ticket(0.3), 400
    hits = sum(control[name](before, generator(seed))["fc2"].double() for seed in range(draws)) / draws
    rho = float(hits.mean())
    kept = before["fc2"]
    spread = (rho * (1 - rho) / draws) ** 0.5
    assert abs(float(hits[kept].mean()) - rho) < 4 * spread / float(kept.sum()) ** 0.5
    assert (hits - rho).abs().max() < 5 * spread
