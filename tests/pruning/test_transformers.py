"""Criteria, allocations and controls on the built-in transformers; derivatives against differences in float64."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA, ControlContext, Prunable, ScoreContext, prune

pytestmark = pytest.mark.usefixtures("few_probes")
SHAPES = {"vit": (1, 8, 8), "gpt": (6,)}
CLASSES, SAMPLES = 4, 8
SCORED = [
    (model, entry.name)
    for model in SHAPES
    for entry in CRITERIA.entries()
    if entry.name != "synflow" and (model == "vit" or entry.facts.needs != "classes")
]


def network(name: str, seed: int = 0) -> nn.Module:
    spec = ModelSpec(name=name, options={"width": 8, "depth": 2, "heads": 2})
    return build(spec, input_shape=SHAPES[name], classes=CLASSES, seed=seed, tokens=name == "gpt")


def batch(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name == "gpt":
        tokens = torch.randint(CLASSES, (SAMPLES, 6), generator=generator)
        return tokens, tokens
    return torch.randn(SAMPLES, *SHAPES[name], generator=generator), torch.arange(SAMPLES) % CLASSES


def next_token(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs)[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def context(name: str, dtype: torch.dtype = torch.float32) -> ScoreContext:
    state = network(name, 1).to(dtype).state_dict()
    inputs, targets = batch(name)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    return ScoreContext(
        initial=lambda: state,
        batches=lambda: [(inputs, targets)],
        generator=lambda: torch.Generator().manual_seed(2),
        loss=next_token if name == "gpt" else None,
    )


@pytest.mark.parametrize(("model", "criterion"), SCORED)
def test_criteria_score_every_prunable_weight_and_prune_exactly(model: str, criterion: str) -> None:
    net = network(model)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    scores = CRITERIA[criterion](Prunable(net), context(model))
    assert {n: s.shape for n, s in scores.items()} == {n: w.shape for n, w in Prunable(net).weights()}
    assert all(s.isfinite().all() and s.unique().numel() > 1 for s in scores.values())
    masks = prune(Prunable(net), context(model), criterion=criterion, allocation="global", density=0.3)
    assert masks.kept == math.floor(0.3 * masks.total + 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("model", SHAPES)
def test_synflow_says_that_layernorm_does_not_conserve_the_flow(model: str) -> None:
    with pytest.raises(InputError, match=r"LayerNorm\) normalises by its own input, so it does not conserve the flow"):
        CRITERIA["synflow"](Prunable(network(model)), context(model))


def written_out(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False) -> Tensor:
    """Attention as in Vaswani et al. 2017, eq. 1."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return scores.softmax(-1) @ value


def slopes(net: nn.Module, name: str, temperature: float) -> dict[str, Tensor]:
    inputs, targets = batch(name)
    if name == "gpt":
        value = next_token(net, inputs, targets)
    else:
        value = F.cross_entropy(net(inputs.double()) / temperature, targets)
    weights = dict(Prunable(net).weights())
    return dict(zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True))


@pytest.mark.parametrize("model", SHAPES)
def test_snip_is_the_gradient_of_the_written_out_network(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(model).double()
    found = CRITERIA["snip"](Prunable(net), context(model, torch.float64))
    monkeypatch.setattr(F, "scaled_dot_product_attention", written_out)
    for name, slope in slopes(net, model, 1).items():
        expected = (slope * net.get_parameter(name)).abs()
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-12)


def test_grasp_goes_through_attention_and_layernorm(monkeypatch: pytest.MonkeyPatch) -> None:
    """W ∘ (H g), with H g from gradients a small step ahead and behind."""
    net = network("vit").double()
    found = CRITERIA["grasp"](Prunable(net), context("vit", torch.float64))
    monkeypatch.setattr(F, "scaled_dot_product_attention", written_out)
    way, step = slopes(net, "vit", 200), 1e-3
    ends = []
    for sign in (1, -1):
        moved = network("vit").double()
        with torch.no_grad():
            for name, weight in Prunable(moved).weights():
                weight.add_(way[name], alpha=sign * step)
        ends.append(slopes(moved, "vit", 200))
    for name, weight in Prunable(net).weights():
        expected = (ends[0][name] - ends[1][name]) / (2 * step) * weight.detach()
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-12)


@functools.cache
def ticket(name: str) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in Prunable(network(name)).weights()})


@pytest.mark.parametrize("model", SHAPES)
def test_allocations_are_exact(model: str) -> None:
    net = Prunable(network(model))
    for name in ALLOCATIONS:
        masks = prune(net, context(model), criterion="magnitude", allocation=name, density=0.5)
        assert masks.kept == math.floor(0.5 * masks.total + 0.5), name


@pytest.mark.parametrize("model", SHAPES)
def test_controls_keep_the_count_and_the_shapes(model: str) -> None:
    weights = Prunable(network(model)).values()
    given = ControlContext(
        generator=lambda: torch.Generator().manual_seed(5),
        initial=lambda: weights,
        trained=lambda: weights,
        matching=lambda: {n: [(0, torch.arange(len(w)).flip(0))] for n, w in weights.items()},
        shapes=lambda: {n: w.shape for n, w in weights.items()},
        head=lambda: None,
        gains=dict,
    )
    for name in CONTROLS:
        after = CONTROLS[name](ticket(model), given)
        assert after.kept == ticket(model).kept, name
        assert {n: m.shape for n, m in after.items()} == {n: m.shape for n, m in ticket(model).items()}


@pytest.mark.parametrize(("blocks", "depth", "origins"), [
    ("append", 5, (0, 1, 2, 1, 2)), ("interleave", 5, (0, 1, 1, 2, 2)), ("append", 2, (0, 1)),
])  # fmt: skip
def test_a_transformer_of_another_depth_gets_the_blocks_of_a_ticket(
    blocks: Any, depth: int, origins: tuple[int, ...]
) -> None:
    """``elastic``: the blocks after the first are repeated or dropped, the layer before them stays as it is."""

    def vit(depth: int) -> Prunable:
        spec = ModelSpec(name="vit", options={"width": 8, "depth": depth, "heads": 2})
        return Prunable(build(spec, input_shape=SHAPES["vit"], classes=CLASSES, seed=0))

    generator = torch.Generator().manual_seed(3)
    found = Masks({n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in vit(3).weights()})
    shapes = {n: w.shape for n, w in vit(depth).weights()}
    given = ControlContext(generator=torch.Generator, shapes=lambda: shapes, head=lambda: None, blocks=blocks)
    after = CONTROLS["elastic"](found, given)
    assert list(after) == list(shapes)
    assert torch.equal(after["embed.weight"], found["embed.weight"])
    for number, origin in enumerate(origins):
        for part in ("attention.query", "attention.output", "mlp.contract"):
            assert torch.equal(after[f"blocks.{number}.{part}.weight"], found[f"blocks.{origin}.{part}.weight"])
