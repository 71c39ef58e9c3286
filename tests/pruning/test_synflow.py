"""SynFlow against R with and without each weight, and against the collapse that it was made to avoid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.metrics import find_paths
from oneticket.models import ModelSpec, build
from oneticket.pruning import CRITERIA, Prunable, ScoreContext, prune

SOURCES = ScoreContext(batches=lambda: [(torch.full((7, 2, 5, 5), 3.0), torch.zeros(7, dtype=torch.int64))])


def flow(case: Any, state: dict[str, Tensor]) -> Tensor:
    """R: the sum of the outputs for all-ones input; |W|, |γ|/√(σ² + ε), and nothing that is added."""

    def normalise(maps: Tensor, name: str) -> Tensor:
        factor = state[f"{name}.weight"].abs() / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return maps * factor.view(1, -1, 1, 1)

    products = {n: torch.zeros_like(t) if n.endswith("bias") else t.abs() for n, t in state.items()}
    return case.formula(products, torch.ones(1, 2, 5, 5, dtype=torch.float64), normalise).sum()


def test_the_score_is_the_flow_that_goes_with_the_weight(case: Any) -> None:
    """R is linear in every single weight, so (∂R/∂W) ∘ W is R less the R without that weight: no derivative needed."""
    state = case.state()
    whole = flow(case, state)
    assert float(whole) > 0
    for name, scores in CRITERIA["synflow"](Prunable(case.model), SOURCES).items():
        assert scores.dtype == torch.float64
        for index in np.ndindex(*scores.shape):
            without = state[name].clone()
            without[index] = 0
            expected = whole - flow(case, state | {name: without})
            assert abs(float(scores[index] - expected)) < 1e-10 * float(whole)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.03])
def test_a_hundred_exponential_rounds(density: float, case: Any) -> None:
    """Tanaka et al., Algorithm 1: in round k of 100 the best ρ^(k/100) N stay, scored anew."""
    names = Prunable(case.model).names
    state = case.state()
    total = sum(state[n].numel() for n in names)
    kept = np.ones(total, dtype=bool)
    for k in range(1, 101):
        leaves = {n: state[n].clone().requires_grad_() for n in names}
        flow(case, state | leaves).backward()
        scores = np.concatenate([(leaf.grad * leaf).detach().numpy().ravel() for leaf in leaves.values()])
        order = [i for i in np.lexsort((np.arange(total), -scores)) if kept[i]]
        kept = np.zeros(total, dtype=bool)
        kept[order[: math.floor(density ** (k / 100) * total + 0.5)]] = True
        parts = np.split(kept, np.cumsum([state[n].numel() for n in names])[:-1])
        state |= {
            n: state[n] * torch.from_numpy(part).view(state[n].shape) for n, part in zip(names, parts, strict=True)
        }
    masks = prune(Prunable(case.model), SOURCES, criterion="synflow", allocation="global", density=density)
    np.testing.assert_array_equal(torch.cat([mask.flatten() for mask in masks.values()]).numpy(), kept)
    one_shot = prune(Prunable(case.model), SOURCES, criterion="synflow", allocation="global", density=density, rounds=1)
    assert density > 0.2 or masks != one_shot


def test_every_layer_of_a_chain_carries_the_whole_flow() -> None:
    """The conservation law (Tanaka et al., Theorem 2), which holds where there are no shortcuts."""
    model = build(ModelSpec(name="vgg11", options={"width": 0.1}), input_shape=(2, 8, 8), classes=5, seed=0)
    view = Prunable(model, prune_head=True)
    sums = [float(s.sum()) for s in CRITERIA["synflow"](view, SOURCES).values()]
    assert len(sums) == 9
    assert sums == pytest.approx([sums[0]] * 9, rel=1e-10)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_layer_collapses_at_99_9_percent_where_magnitudes_at_initialisation_do(seed: int) -> None:
    model = build(ModelSpec(name="vgg19", options={"width": 0.125}), input_shape=(3, 8, 8), classes=10, seed=seed)
    view = Prunable(model)
    evidence = ScoreContext(
        initial=model.state_dict, batches=lambda: [(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))]
    )
    flowing, large = (
        prune(view, evidence, criterion=name, allocation="global", density=0.001)
        for name in ("synflow", "magnitude-init")
    )
    assert flowing.kept == large.kept == math.floor(0.001 * view.total + 0.5)
    assert large.collapsed()
    assert not flowing.collapsed()
    # What is left is connected: some flow reaches the output.
    with torch.no_grad():
        for name, weight in view.weights():
            weight.mul_(flowing[name])
    assert all(float(s.sum()) > 0 for s in CRITERIA["synflow"](view, evidence).values())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_at_99_9_percent_of_a_residual_network_what_is_left_is_on_a_path(seed: int) -> None:
    """A block may go whole here, since its shortcut carries on; magnitudes at initialisation lose more of them."""
    model = build(ModelSpec(name="resnet20", options={"width": 0.5}), input_shape=(3, 8, 8), classes=10, seed=seed)
    view, example = Prunable(model), torch.zeros(4, 3, 8, 8)
    evidence = ScoreContext(initial=model.state_dict, batches=lambda: [(example, torch.zeros(4, dtype=torch.int64))])
    flowing, large = (
        prune(view, evidence, criterion=name, allocation="global", density=0.001)
        for name in ("synflow", "magnitude-init")
    )
    assert flowing.kept == large.kept == math.floor(0.001 * view.total + 0.5)
    # The last of the hundred rounds may cut off a weight that it keeps.
    assert find_paths(model, flowing, example[:1]).density > 0.95 * flowing.density
    assert len(flowing.collapsed()) < 0.6 * len(large.collapsed())


def test_masked_weights_score_zero_and_carry_nothing(case: Any) -> None:
    """In a later round of a search the flow is that of what is alive."""
    view = Prunable(case.model)
    name = "conv1.weight"
    with torch.no_grad():
        view.model.conv1.weight[1:] = 0
    scores = CRITERIA["synflow"](view, SOURCES)
    assert float(scores[name][1:].abs().max()) == 0
    assert float(scores["conv2.weight"][:, 1:].abs().max()) == 0
    assert float(scores["conv2.weight"][:, 0].min()) > 0


def test_the_batches_give_a_shape_and_nothing_else(case: Any) -> None:
    other = ScoreContext(batches=lambda: [(torch.randn(2, 2, 5, 5), torch.ones(2, dtype=torch.int64))])
    first, second = (CRITERIA["synflow"](Prunable(case.model), given) for given in (SOURCES, other))
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_signs_biases_shifts_and_running_means_do_not_matter(case: Any) -> None:
    before = CRITERIA["synflow"](Prunable(case.model), SOURCES)
    with torch.no_grad():
        for name, tensor in case.model.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                tensor.normal_()
            elif name.endswith("weight"):
                tensor.mul_(torch.where(torch.rand(tensor.shape) < 0.5, 1, -1))
    after = CRITERIA["synflow"](Prunable(case.model), SOURCES)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_flow_that_float32_could_not_hold() -> None:
    """Forty layers 8 wide, all weights 16, and a head of ones: R = (8 · 16)⁴⁰ · 8 · 3 = 24 · 2²⁸⁰, exactly."""
    layers = [nn.Linear(8, 8, bias=False) for _ in range(40)]
    model = nn.Sequential(*layers, nn.Linear(8, 3, bias=False))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 16.0)
    nn.init.ones_(model[-1].weight)
    given = ScoreContext(batches=lambda: [(torch.ones(1, 8), torch.zeros(1))])
    scores = CRITERIA["synflow"](Prunable(model), given)
    assert all(set(s.flatten().tolist()) == {24 * 2.0**280 / 64} for s in scores.values())
    masks = prune(Prunable(model), given, criterion="synflow", allocation="global", density=0.25, rounds=1)
    # All scores tie, so those of the lower index stay.
    assert masks == Masks({f"{i}.weight": torch.full((8, 8), i < 10) for i in range(40)})


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(1, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)]
)
def test_normalisation_by_the_input_itself_is_refused(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(InputError, match=r"criterion 'synflow': '1' \(\w+\) normalises by its own input"):
        CRITERIA["synflow"](Prunable(model), SOURCES)
