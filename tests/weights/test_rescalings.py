"""Rescalings against loops in float64, and the moments they restore over 200 draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.weights import DRAWS, RescalingContext, check_optimizer, rescale

SHAPES = {"conv": (6, 4, 3, 3), "fc": (10, 30)}
TIMES = 200


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ticket_context() -> RescalingContext:
    return RescalingContext("rewound")


def redrawn_context(stream: torch.Generator | None = None) -> RescalingContext:
    """That of a built-in model, whose fresh draws are N(0, 2/f_l)."""
    return RescalingContext("re-drawn", he_normal=True, generator=lambda: stream or generator())


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
    after = rescale("none", weights, masks, ticket_context(), optimizer="adam").weights
    assert all(torch.equal(after[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["layer", "smup"])
@pytest.mark.parametrize("drawn", list(DRAWS))
def test_layer_and_smup_divide_by_the_root_of_the_density(name: str, drawn: str) -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescale(name, weights, masks, RescalingContext(drawn), optimizer="adam").weights
    for name, weight in weights.items():
        rho = np.count_nonzero(masks[name].numpy()) / masks[name].numel()
        assert 0.2 < rho < 0.6
        np.testing.assert_allclose(after[name].numpy(), weight.numpy().astype(np.float64) / math.sqrt(rho), rtol=1e-6)


def test_layer_restores_the_second_moment_of_all_entries() -> None:
    """E[w²] over all N_l entries of m∘W/√ρ is that of W: 2/f_l. Mean of 200 draws within 3 standard errors."""
    for name, shape in SHAPES.items():
        fan_in = math.prod(shape[1:])
        moments = []
        for seed in range(TIMES):
            mask = Masks({name: torch.rand(shape, generator=generator(1000 + seed)) < 0.25})
            after = rescale("layer", weights_of(mask, seed), mask, ticket_context(), optimizer="adam").weights[name]
            moments.append(float(after.double().square().mean()))
        error = np.std(moments, ddof=1) / math.sqrt(TIMES)
        assert abs(np.mean(moments) - 2 / fan_in) < 3 * error
        assert 3 * error < 0.1 * 2 / fan_in, "the test could not tell a wrong factor"


def test_fan_in_multiplies_each_unit_of_a_ticket() -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescale("fan-in", weights, masks, ticket_context(), optimizer="adam").weights
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
    for _ in range(TIMES):
        after = rescale("fan-in", weights, masks, redrawn_context(stream), optimizer="adam").weights
        for name, weight in after.items():
            squares[name].append(weight.double().square().flatten(1).sum(dim=1).numpy())
            values[name].append(weight.double().flatten(1).sum(dim=1).numpy())
    misses = 0
    for name in masks:
        for sums, target in ((np.array(squares[name]), 2.0), (np.array(values[name]), 0.0)):
            # Unit i: f_i weights of variance 2/f_i, so its squares sum to 2 on average, whatever f_i; its values to 0.
            error = sums[:, 1:].std(axis=0, ddof=1) / math.sqrt(TIMES)
            misses += int((np.abs(sums[:, 1:].mean(axis=0) - target) > 3 * error).sum())
        assert not np.array(squares[name])[:, 0].any(), "a unit without inputs stays zero"
    # 28 statistics at 3 standard errors: more than one beyond has a probability below 0.3 %.
    assert misses <= 1


def test_fan_in_forgets_the_weights_of_a_fresh_draw_and_follows_its_generator() -> None:
    masks = masks_of()
    draws = [
        rescale("fan-in", weights_of(masks, seed), masks, redrawn_context(generator(stream)), optimizer="adam").weights
        for seed, stream in ((1, 0), (2, 0), (1, 1))
    ]
    assert torch.equal(draws[0]["fc"], draws[1]["fc"])
    assert not torch.equal(draws[0]["fc"], draws[2]["fc"])


def test_fan_in_leaves_a_fresh_draw_of_another_distribution_at_its_own_scale() -> None:
    """torch's default: U(−1/√f, 1/√f), of variance σ² = 1/(3f). Re-drawn or a ticket, a unit gets σ² f/f_i.

    In float64 from the formula, unit by unit; and over all units the mean square of a kept weight, times its f_i, is
    1/3, within 4 standard errors, where a draw from N(0, 2/f_i) would have 2.
    """
    shape, stream = (400, 60), generator(4)
    mask = torch.rand(shape, generator=stream) < 0.1
    weight = (2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1) / math.sqrt(60)
    weights, masks = {"fc": (weight * mask).float()}, Masks({"fc": mask})
    fresh = rescale("fan-in", weights, masks, RescalingContext("re-drawn"), optimizer="adam").weights["fc"]
    learnt = rescale("fan-in", weights, masks, RescalingContext("rewound"), optimizer="adam").weights["fc"]
    kept = mask.numpy().sum(axis=1, keepdims=True)
    expected = (weight * mask).numpy() * np.sqrt(60 / np.maximum(kept, 1))
    np.testing.assert_allclose(fresh.numpy(), expected, rtol=1e-6)
    assert torch.equal(fresh, learnt), "one scale for the arms that are compared"
    scaled = (fresh.numpy().astype(np.float64) ** 2 * kept)[mask.numpy()]
    assert abs(scaled.mean() - 1 / 3) < 4 * scaled.std() / math.sqrt(scaled.size)


@pytest.mark.parametrize("drawn", ["initial", "sign-constant", "sign-redrawn"])
def test_fan_in_keeps_the_signs_of_what_is_no_fresh_draw(drawn: str) -> None:
    masks = masks_of()
    weights = weights_of(masks)
    after = rescale("fan-in", weights, masks, RescalingContext(drawn), optimizer="adam").weights
    expected = rescale("fan-in", weights, masks, ticket_context(), optimizer="adam").weights
    assert all(torch.equal(after[name], expected[name]) for name in masks)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fan_in_counts_the_inputs_of_units_of_transposed_convolutions(dims: int, groups: int) -> None:
    """Their weights list the inputs first; a unit of each group by loops, ticket weights and fresh ones."""
    model, name = nn.Sequential(getattr(nn, f"ConvTranspose{dims}d")(6, 12, 2, groups=groups)), "0.weight"
    chosen = torch.rand(model[0].weight.shape, generator=generator(1)) < 0.4
    chosen[..., 0] = True  # no unit is without inputs
    mask = Masks({name: chosen})
    weights = {name: torch.randn(chosen.shape, generator=generator(2)) * chosen}
    stream = generator(9)
    contexts = [
        RescalingContext(d, he_normal=True, network=lambda: model, generator=lambda: stream)
        for d in ("rewound", "re-drawn")
    ]
    after = rescale("fan-in", weights, mask, contexts[0], optimizer="adam").weights[name]
    fresh = [rescale("fan-in", weights, mask, contexts[1], optimizer="adam").weights[name] for _ in range(TIMES)]
    powers, inputs, units = [], 6 // groups, 12 // groups
    for group in range(groups):
        rows = slice(group * inputs, (group + 1) * inputs)
        for unit in range(units):
            kept = np.count_nonzero(mask[name][rows, unit].numpy())
            expected = weights[name][rows, unit].double() * math.sqrt(inputs * 2**dims / kept)
            torch.testing.assert_close(after[rows, unit].double(), expected, rtol=1e-6, atol=0)
            powers.append([float(draw[rows, unit].double().square().sum()) for draw in fresh])
    # f_i weights of variance 2/f_i: their squares sum to 2 on average, in each unit.
    error = np.std(powers, axis=1, ddof=1) / math.sqrt(TIMES)
    assert (np.abs(np.mean(powers, axis=1) - 2) < 4 * error).all()
    assert (4 * error < 1).all(), "the test could not tell a wrong axis"


@pytest.mark.parametrize("name", ["layer", "fan-in", "smup"])
def test_a_dense_network_is_left_alone(name: str) -> None:
    masks = Masks.full(masks_of())
    weights = weights_of(masks)
    after = rescale(name, weights, masks, ticket_context(), optimizer="adam").weights
    assert all(torch.equal(after[layer], weights[layer]) for layer in weights)


# -- matched -----------------------------------------------------------------------------------------------------
AT_INITIAL_SCALE = {"initial", "re-drawn", "sign-constant", "sign-redrawn", "sign-trained", "sign-trained-all"}


def moment(weight: torch.Tensor, mask: torch.Tensor) -> float:
    """The mean of w² over the kept weights, in float64."""
    kept = weight.numpy().astype(np.float64)[mask.numpy()]
    return float((kept**2).mean())


def sides(drawn: str, seed: int = 0) -> tuple[RescalingContext, dict[str, torch.Tensor], Masks, dict[str, float]]:
    """A context, the arm's weights and masks, and the moments that they have to come to."""
    ticket, random = masks_of(0.3), masks_of(0.3).permuted(generator(seed), within="network")
    learnt = {name: 3 * weight for name, weight in weights_of(ticket, 11).items()}
    fresh = weights_of(random, 20 + seed)
    context = RescalingContext(drawn, ticket=lambda: (learnt, ticket), random=lambda: (fresh, random))
    own, masks, others, kept = (
        (fresh, random, learnt, ticket) if drawn in AT_INITIAL_SCALE else (learnt, ticket, fresh, random)
    )
    return context, own, masks, {name: moment(others[name], kept[name]) for name in masks}


@pytest.mark.parametrize("drawn", list(DRAWS))
def test_matched_gives_each_layer_the_second_moment_of_the_other_side(drawn: str) -> None:
    context, weights, masks, wanted = sides(drawn)
    after = rescale("matched", weights, masks, context, optimizer="adam").weights
    for name, weight in weights.items():
        factor = math.sqrt(wanted[name] / moment(weight, masks[name]))
        assert not 0.8 < factor < 1.2
        np.testing.assert_allclose(after[name].numpy(), weight.numpy().astype(np.float64) * factor, rtol=1e-6)
        assert moment(after[name], masks[name]) == pytest.approx(wanted[name], rel=1e-6)


def test_a_matched_ticket_has_the_moment_of_the_initial_distribution() -> None:
    """The random ticket's kept weights are N(0, 2/f_l) wherever they are: mean over 200 of them within 3 errors."""
    moments: dict[str, list[float]] = {name: [] for name in SHAPES}
    for seed in range(TIMES):
        context, weights, masks, _ = sides("rewound", seed)
        for name, weight in rescale("matched", weights, masks, context, optimizer="adam").weights.items():
            moments[name].append(moment(weight, masks[name]))
    for name, shape in SHAPES.items():
        error = np.std(moments[name], ddof=1) / math.sqrt(TIMES)
        target = 2 / math.prod(shape[1:])
        assert abs(np.mean(moments[name]) - target) < 3 * error
        assert 3 * error < 0.1 * target, "the test could not tell a wrong factor"


def test_matched_random_arms_have_the_tickets_moment_at_every_draw() -> None:
    for seed in range(TIMES):
        context, weights, masks, wanted = sides("re-drawn", seed)
        for name, weight in rescale("matched", weights, masks, context, optimizer="adam").weights.items():
            assert moment(weight, masks[name]) == pytest.approx(wanted[name], rel=1e-6)


@pytest.mark.parametrize("mine", ["kept", "collapsed", "zero"])
@pytest.mark.parametrize("theirs", ["kept", "collapsed", "zero"])
def test_matched_leaves_a_layer_alone_where_a_side_has_no_moment(mine: str, theirs: str) -> None:
    def side(kind: str, value: float) -> tuple[dict[str, torch.Tensor], Masks]:
        weight = torch.full((2, 3), 0.0 if kind == "zero" else value)
        return {"w": weight}, Masks({"w": torch.full((2, 3), kind != "collapsed")})

    (weights, masks), other = side(mine, 2.0), side(theirs, 5.0)
    after = rescale(
        "matched", weights, masks, RescalingContext("re-drawn", ticket=lambda: other), optimizer="adam"
    ).weights["w"]
    expected = 5.0 if mine == theirs == "kept" else weights["w"] * masks["w"]
    assert torch.equal(after, torch.full((2, 3), 5.0) if isinstance(expected, float) else expected)


# -- learning rates ----------------------------------------------------------------------------------------------
def rates(masks: Masks, optimizer: str) -> dict[str, float]:
    """The factors that belong to the weights of ``smup``."""
    weights = {name: torch.ones(mask.shape) * mask for name, mask in masks.items()}
    return dict(rescale("smup", weights, masks, ticket_context(), optimizer=optimizer).lr_factors)


def test_smup_rates_are_over_the_density() -> None:
    masks = masks_of()
    for optimizer in ("adam", "adamw"):
        factors = rates(masks, optimizer)
        assert factors == {
            n: pytest.approx(m.numel() / np.count_nonzero(m.numpy()), rel=1e-12) for n, m in masks.items()
        }
    assert rates(Masks.full(masks), "adam") == dict.fromkeys(masks, 1.0)
    assert rates(~Masks.full(masks), "adam") == dict.fromkeys(masks, 1.0)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_smup_is_refused_with_optimisers_it_was_not_derived_for(optimizer: str) -> None:
    with pytest.raises(InputError, match=rf"'smup' with the optimiser '{optimizer}'.*expected adam or adamw"):
        rates(masks_of(), optimizer)
    with pytest.raises(InputError, match=rf"'smup' with the optimiser '{optimizer}'.*expected adam or adamw"):
        check_optimizer("smup", optimizer)


@pytest.mark.parametrize("asked", ["network", "batch", "ticket", "random", "generator"])
def test_what_a_rescaling_was_not_given_is_named(asked: str) -> None:
    with pytest.raises(InputError, match=rf"not given; expected RescalingContext\({asked}=…\)"):
        getattr(RescalingContext("rewound"), asked)


def test_an_unknown_draw_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown draw 'redrawn'.*did you mean 're-drawn'"):
        RescalingContext("redrawn")
