"""What every draw, choice of norms and rescaling owes, registered today or later; none is named here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.weights import (
    DRAWS,
    NORMS,
    RESCALINGS,
    DrawContext,
    RescalingContext,
    check_optimizer,
    norm_names,
    rescale,
)

MOMENTS = ("initial", "rewound", "trained", "redrawn")


class Odd(nn.Module):
    """A thinned layer, a normalisation, a collapsed layer, a full one, an empty one, a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.thinned = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.collapsed = nn.Linear(16, 3)
        self.full = nn.Linear(16, 3, bias=False)
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.vector = nn.Parameter(torch.randn(3))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 4, 4) → (batch, 3)."""
        maps = self.norm(self.thinned(images)).relu().flatten(1)
        return self.vector * (self.collapsed(maps) + self.full(maps))


def state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Odd().state_dict()


def masks() -> Masks:
    thinned = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    thinned[2] = False
    return Masks(
        {
            "thinned.weight": thinned,
            "collapsed.weight": torch.zeros(3, 16, dtype=torch.bool),
            "full.weight": torch.ones(3, 16, dtype=torch.bool),
            "empty": torch.zeros(0, 4, dtype=torch.bool),
            "vector": torch.tensor([True, False, True]),
        }
    )


def origins() -> DrawContext:
    """Everything a draw may look at."""
    moments = {key: lambda seed=seed: state(seed) for seed, key in enumerate(MOMENTS)}
    return DrawContext(**moments, masks=masks, generator=lambda: torch.Generator().manual_seed(7))


def context(name: str, network: nn.Module, dtype: torch.dtype) -> RescalingContext:
    """Everything a rescaling may look at."""
    stream = torch.Generator().manual_seed(3)
    images = torch.randn(20, 1, 4, 4, generator=stream).to(dtype)
    return RescalingContext(
        name,
        generator=lambda: torch.Generator().manual_seed(2),
        network=lambda: copy.deepcopy(network),
        batch=lambda: images,
        ticket=lambda: (state(1), masks()),
        random=lambda: (state(3), masks().permuted(torch.Generator().manual_seed(4), within="network")),
    )


@pytest.mark.parametrize("registry", [DRAWS, NORMS, RESCALINGS], ids=lambda registry: registry.kind)
def test_every_entry_says_what_it_is(registry: type) -> None:
    assert list(registry)
    for entry in registry.entries():
        assert entry.summary
        assert entry.name == entry.name.lower()
        assert " " not in entry.name


@pytest.mark.parametrize("name", list(DRAWS))
def test_draws_give_a_full_state_and_repeat(name: str) -> None:
    first, again = (DRAWS[name](origins()) for _ in range(2))
    assert {k: (t.shape, t.dtype) for k, t in first.items()} == {k: (t.shape, t.dtype) for k, t in state(0).items()}
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(tensor.requires_grad for tensor in first.values())
    Odd().load_state_dict(first)


@pytest.mark.parametrize("name", list(DRAWS))
@pytest.mark.parametrize("choice", list(NORMS))
def test_norms_change_nothing_but_norms(choice: str, name: str) -> None:
    drawn, names = DRAWS[name](origins()), norm_names(Odd())
    after = NORMS[choice](drawn, origins(), names)
    assert list(after) == list(drawn)
    assert all(torch.equal(after[key], drawn[key]) for key in drawn.keys() - set(names))
    assert any(torch.equal(after["norm.running_var"], state(seed)["norm.running_var"]) for seed in range(len(MOMENTS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("drawn", list(DRAWS))
@pytest.mark.parametrize("name", list(RESCALINGS))
def test_rescalings_keep_masks_shapes_dtypes_and_their_input(name: str, drawn: str, dtype: torch.dtype) -> None:
    kept = masks()
    values = DRAWS[drawn](origins())
    network = Odd().to(dtype)
    network.load_state_dict({n: t * kept[n] if n in kept else t for n, t in values.items()})
    weights = {n: network.state_dict()[n].clone() for n in kept}
    before = {n: w.clone() for n, w in weights.items()}
    after, again = (
        rescale(name, weights, kept, context(drawn, network, dtype), optimizer="adam").weights for _ in range(2)
    )
    assert {n: (w.shape, w.dtype) for n, w in after.items()} == {n: (w.shape, w.dtype) for n, w in before.items()}
    for layer, weight in after.items():
        assert torch.isfinite(weight).all()
        assert not weight[~kept[layer]].any()
        assert not weight[~kept[layer]].signbit().any(), "masked is 0.0, not -0.0"
        assert weight[kept[layer]].all(), "a kept weight is not lost"
        assert torch.equal(weight, again[layer])
        assert torch.equal(weights[layer], before[layer])
        assert not weight.requires_grad
        assert not weight.numel() or weight.data_ptr() != weights[layer].data_ptr()


@pytest.mark.parametrize("name", [e.name for e in RESCALINGS.entries() if e.facts.needs != "ticket"])
def test_a_rescaling_that_compounds_says_so(name: str) -> None:
    """Rescaled once more, weights change only where the fact says that they would."""
    kept, network = masks(), Odd()
    network.load_state_dict({n: t * kept[n] if n in kept else t for n, t in state(1).items()})
    states = [network.state_dict()]
    for _ in range(2):
        network.load_state_dict(states[-1])
        weights = {n: states[-1][n].clone() for n in kept}
        given = context("trained", copy.deepcopy(network), torch.float32)
        states.append(states[-1] | rescale(name, weights, kept, given, optimizer="adam").weights)
    same = all(torch.equal(states[2][n], states[1][n]) for n in kept)
    assert same is (RESCALINGS.entry(name).facts.again != "compounds")


@pytest.mark.parametrize("name", [e.name for e in RESCALINGS.entries() if not (e.facts.needs or e.facts.optimizers)])
def test_rescalings_without_a_fact_need_weights_and_masks_only(name: str) -> None:
    kept = masks()
    weights = {n: state(1)[n] * kept[n] for n in kept}
    assert rescale(name, weights, kept, RescalingContext("rewound"), optimizer="adam").weights.keys() == kept.keys()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", [e.name for e in RESCALINGS.entries() if not e.facts.optimizers])
def test_a_rescaling_for_any_optimiser_leaves_learning_rates_alone(name: str, optimizer: str) -> None:
    kept, network = masks(), Odd()
    network.load_state_dict({n: t * kept[n] if n in kept else t for n, t in state(1).items()})
    weights = {n: network.state_dict()[n].clone() for n in kept}
    check_optimizer(name, optimizer)
    given = context("rewound", network, torch.float32)
    assert rescale(name, weights, kept, given, optimizer=optimizer).lr_factors == {}
