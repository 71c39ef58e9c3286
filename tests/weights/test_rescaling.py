"""Rescalings against loops in float64, and the moments they restore over 200 draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from oneticket.masks import Masks
from oneticket.weights import RescalingContext, rescaling

SHAPES = {"conv": (6, 4, 3, 3), "fc": (10, 30)}
DRAWS = 200


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ticket_context() -> RescalingContext:
    return RescalingContext(redrawn=False, generator=generator())


def masks_of(density: float = 0.3) -> Masks:
    """Random masks; in each layer the unit 0 has lost every input and the unit 1 none."""
    chosen = {name: torch.rand(shape, generator=generator(5)) < density for name, shape in SHAPES.items()}
    for mask in chosen.values():
        mask[0], mask[1] = False, True
    return Masks(chosen)


def weights_of(masks: Masks, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Masked weights from N(0, 2/f_l)."""
    stream = generator(seed)
    draws = {n: torch.randn(m.shape, generator=stream) * math.sqrt(2 / m[0].numel()) for n, m in masks.items()}
    return {name: (w * masks[name]).to(dtype) for name, w in draws.items()}


def test_none_changes_nothing() -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescaling["none"](weights, masks, ticket_context())
    assert all(torch.equal(after[name], weights[name]) for name in weights)


@pytest.mark.parametrize("redrawn", [False, True])
def test_layer_divides_by_the_root_of_the_density(redrawn: bool) -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescaling["layer"](weights, masks, RescalingContext(redrawn=redrawn, generator=generator()))
    for name, weight in weights.items():
        rho = np.count_nonzero(masks[name].numpy()) / masks[name].numel()
        assert 0.2 < rho < 0.6
        np.testing.assert_allclose(after[name].numpy(), weight.numpy().astype(np.float64) / math.sqrt(rho), rtol=1e-6)


def test_layer_restores_the_second_moment_of_all_entries() -> None:
    """E[w²] over all N_l entries of m∘W/√ρ is that of W: 2/f_l. Mean of 200 draws within 3 standard errors."""
    for name, shape in SHAPES.items():
        fan_in = math.prod(shape[1:])
        moments = []
        for seed in range(DRAWS):
            mask = Masks({name: torch.rand(shape, generator=generator(1000 + seed)) < 0.25})
            after = rescaling["layer"](weights_of(mask, seed), mask, ticket_context())[name]
            moments.append(float(after.double().square().mean()))
        error = np.std(moments, ddof=1) / math.sqrt(DRAWS)
        assert abs(np.mean(moments) - 2 / fan_in) < 3 * error
        assert 3 * error < 0.1 * 2 / fan_in, "the test could not tell a wrong factor"


def test_fan_in_multiplies_each_unit_of_a_ticket() -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescaling["fan-in"](weights, masks, ticket_context())
    for name, weight in weights.items():
        for unit in range(weight.shape[0]):
            mask = masks[name][unit].numpy()
            kept, inputs = int(mask.sum()), mask.size
            expected = weight[unit].numpy().astype(np.float64) * (math.sqrt(inputs / kept) if kept else 0.0)
            np.testing.assert_allclose(after[name][unit].numpy(), expected, rtol=1e-6)
        assert torch.equal(after[name][1], weight[1]), "a unit that kept all its inputs keeps its weights"


def test_fan_in_draws_each_unit_anew_with_variance_two_over_its_inputs() -> None:
    """Mean over 200 draws of a unit's mean square over its kept inputs: 2/f_i within 3 standard errors, each unit."""
    masks, stream = masks_of(), generator(9)
    weights = weights_of(masks)
    squares: dict[str, list[np.ndarray]] = {name: [] for name in masks}
    values: dict[str, list[np.ndarray]] = {name: [] for name in masks}
    for _ in range(DRAWS):
        after = rescaling["fan-in"](weights, masks, RescalingContext(redrawn=True, generator=stream))
        for name, weight in after.items():
            squares[name].append(weight.double().square().flatten(1).sum(dim=1).numpy())
            values[name].append(weight.double().flatten(1).sum(dim=1).numpy())
    misses = 0
    for name in masks:
        for sums, target in ((np.array(squares[name]), 2.0), (np.array(values[name]), 0.0)):
            # Unit i: f_i weights of variance 2/f_i, so its squares sum to 2 on average, whatever f_i; its values to 0.
            error = sums[:, 1:].std(axis=0, ddof=1) / math.sqrt(DRAWS)
            misses += int((np.abs(sums[:, 1:].mean(axis=0) - target) > 3 * error).sum())
        assert not np.array(squares[name])[:, 0].any(), "a unit without inputs stays zero"
    # 28 statistics at 3 standard errors: more than one beyond has a probability below 0.3 %.
    assert misses <= 1


def test_fan_in_forgets_the_weights_of_a_fresh_draw_and_follows_its_generator() -> None:
    masks = masks_of()
    draws = [
        rescaling["fan-in"](weights_of(masks, seed), masks, RescalingContext(redrawn=True, generator=generator(stream)))
        for seed, stream in ((1, 0), (2, 0), (1, 1))
    ]
    assert torch.equal(draws[0]["fc"], draws[1]["fc"])
    assert not torch.equal(draws[0]["fc"], draws[2]["fc"])


@pytest.mark.parametrize("name", ["layer", "fan-in"])
def test_a_dense_network_is_left_alone(name: str) -> None:
    masks = Masks.full(masks_of())
    weights = weights_of(masks)
    after = rescaling[name](weights, masks, ticket_context())
    assert all(torch.equal(after[layer], weights[layer]) for layer in weights)
