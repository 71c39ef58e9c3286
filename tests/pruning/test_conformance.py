"""What every criterion, allocation and control owes, registered today or later; none is named here."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA, ControlContext, Prunable, ScoreContext, Scores, prune
from oneticket.pruning.base import allocate

pytestmark = pytest.mark.usefixtures("few_probes")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
        nn.Linear(10, 3),
    )


def score_context() -> ScoreContext:
    """Everything a criterion may ask for."""
    state = network(seed=1).state_dict()

    def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        return [(torch.randn(6, 1, 4, 4, generator=generator), torch.arange(6) % 3) for _ in range(2)]

    return ScoreContext(initial=lambda: state, batches=batches, generator=lambda: torch.Generator().manual_seed(2))


def control_context() -> ControlContext:
    """Everything a control may ask for."""
    weights = Prunable(network()).values()
    stream = torch.Generator().manual_seed(4)
    return ControlContext(
        generator=lambda: torch.Generator().manual_seed(5),
        initial=lambda: weights,
        trained=lambda: {n: w * torch.rand(w.shape, generator=stream).round() for n, w in weights.items()},
        matching=lambda: {n: [(0, torch.arange(len(w)).flip(0))] for n, w in weights.items()},
        shapes=lambda: {n: w.shape for n, w in weights.items()},
        head=lambda: None,
        gains=lambda: {"0.weight": torch.tensor([1.0, 0.0, -1.0, 2.0]).view(4, 1, 1, 1)},
    )


def ticket() -> Masks:
    """Masks of that network with a collapsed layer, a full one and two between."""
    masks = Masks.full(dict(Prunable(network()).weights()))
    some = {"0.weight": 0.0, "3.weight": 1.0, "6.weight": 0.1, "8.weight": 0.5}
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(m.shape, generator=generator) < some[n] for n, m in masks.items()})


@pytest.mark.parametrize("registry", [CRITERIA, ALLOCATIONS, CONTROLS], ids=lambda registry: registry.kind)
def test_every_entry_says_what_it_is(registry: type) -> None:
    assert list(registry)
    for entry in registry.entries():
        assert entry.summary
        assert entry.name == entry.name.lower()
        assert " " not in entry.name


@pytest.mark.parametrize("name", list(CRITERIA))
def test_criteria_score_every_prunable_weight(name: str) -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    given = score_context()
    random_state = torch.get_rng_state()
    scores = CRITERIA[name](Prunable(model), given)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {n: s.shape for n, s in scores.items()} == {n: w.shape for n, w in Prunable(model).weights()}
    for score in scores.values():
        assert score.is_floating_point()
        assert torch.isfinite(score).all()
        assert not score.requires_grad
        assert score.unique().numel() > 1
        assert CRITERIA.entry(name).facts.scores == "signed" or score.min() >= 0
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [module.training for module in model.modules()] == training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", list(CRITERIA))
def test_criteria_repeat(name: str) -> None:
    first, again = (CRITERIA[name](Prunable(network()), score_context()) for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)


@pytest.mark.parametrize("name", list(CRITERIA))
def test_criteria_prune_in_their_own_rounds(name: str) -> None:
    """Inside what is alive, exactly, and without a trace in the model."""
    model = network()
    alive = prune(Prunable(model), ScoreContext(), criterion="magnitude", allocation="global", density=0.8)
    with torch.no_grad():
        for layer, weight in Prunable(model).weights():
            weight.mul_(alive[layer])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    masks = prune(Prunable(model), score_context(), criterion=name, allocation="global", density=0.1, alive=alive)
    assert masks.kept == math.floor(0.1 * alive.total + 0.5)
    assert masks <= alive
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", [e.name for e in CRITERIA.entries() if e.facts.at == "init"])
def test_criteria_for_initialisation_need_no_training(name: str) -> None:
    """W = W_0 tells the weights of every layer apart."""
    model = network()
    given = ScoreContext(initial=model.state_dict, batches=lambda: score_context().batches, generator=torch.Generator)
    assert all(s.unique().numel() > 1 for s in CRITERIA[name](Prunable(model), given).values())


@functools.cache
def scores_of(criterion: str) -> Scores:
    return CRITERIA[criterion](Prunable(network()), score_context())


@pytest.mark.parametrize("score", list(CRITERIA))
@pytest.mark.parametrize("name", list(ALLOCATIONS))
def test_allocations_are_exact_and_repeat(name: str, score: str) -> None:
    """Signed scores where they are not defined for them are refused before any is computed."""
    model = Prunable(network())
    if CRITERIA.entry(score).facts.scores == "signed" and ALLOCATIONS.entry(name).facts.needs == "nonnegative":
        with pytest.raises(InputError, match=f"'{name}' is not defined for the signed scores of criterion '{score}'"):
            prune(model, ScoreContext(), criterion=score, allocation=name, density=0.5)
        return
    full = Masks.full(dict(model.weights()))
    for density in (1.0, 0.9, 0.51234, 0.3):
        masks, again = (allocate(name, scores_of(score), density, full, model.head_weight) for _ in range(2))
        assert masks.kept == math.floor(density * model.total + 0.5)
        assert list(masks) == list(model.names)
        assert masks == again


@pytest.mark.parametrize("name", list(CRITERIA))
def test_two_rounds_are_exact_and_repeat(name: str) -> None:
    masks, again = (
        prune(Prunable(network()), score_context(), criterion=name, allocation="global", density=0.51234, rounds=2)
        for _ in range(2)
    )
    assert masks.kept == math.floor(0.51234 * masks.total + 0.5)
    assert masks == again


@pytest.mark.parametrize("name", list(ALLOCATIONS))
def test_allocations_prefer_the_better_of_a_layer_and_never_revive(name: str) -> None:
    model, alive = network(), None
    for round_ in range(5):
        masks = prune(
            Prunable(model),
            score_context(),
            criterion="magnitude",
            allocation=name,
            density=0.8**round_,
            alive=alive,
        )
        living = Masks.full(masks) if alive is None else alive
        assert masks <= living
        for layer, weight in Prunable(model).weights():
            kept, gone = weight[masks[layer]].abs(), weight[(living[layer] & ~masks[layer])].abs()
            assert not kept.numel() or not gone.numel() or kept.min() >= gone.max()
        alive = masks


@pytest.mark.parametrize("name", list(ALLOCATIONS))
def test_allocations_count_exactly_when_all_scores_tie(name: str) -> None:
    scores = {n: torch.zeros_like(w.detach()) for n, w in Prunable(network()).weights()}
    full = Masks.full(scores)
    for density in (0.3, 0.31, 0.5, 1.0):
        assert ALLOCATIONS[name](scores, density, full).kept == math.floor(density * full.total + 0.5)


@pytest.mark.parametrize("name", list(CONTROLS))
@pytest.mark.parametrize("density", ["none", "some", "all"])
def test_controls_keep_the_count_and_the_shapes(name: str, density: str) -> None:
    full = Masks.full(ticket())
    before = {"none": ~full, "some": ticket(), "all": full}[density]
    copy = Masks({n: t.clone() for n, t in before.items()})
    after, again = (CONTROLS[name](before, control_context()) for _ in range(2))
    assert after.kept == before.kept
    assert [(n, t.shape) for n, t in after.items()] == [(n, t.shape) for n, t in before.items()]
    assert after == again
    assert before == copy
