"""What every draw and rescaling owes, registered today or later; none is named here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oneticket.masks import Masks
from oneticket.weights import Origins, RescalingContext, draw, rescaling


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).state_dict()


def masks() -> Masks:
    """A thinned tensor, a collapsed one, a full one, an empty one, a vector."""
    thinned = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    thinned[2] = False
    return Masks(
        {
            "thinned": thinned,
            "collapsed": torch.zeros(3, 16, dtype=torch.bool),
            "full": torch.ones(3, 16, dtype=torch.bool),
            "empty": torch.zeros(0, 4, dtype=torch.bool),
            "vector": torch.tensor([True, False, True]),
        }
    )


@pytest.mark.parametrize("registry", [draw, rescaling], ids=lambda registry: registry.kind)
def test_every_entry_says_what_it_is(registry: type) -> None:
    assert list(registry)
    for entry in registry.entries():
        assert entry.summary
        assert entry.name == entry.name.lower()
        assert " " not in entry.name


@pytest.mark.parametrize("name", list(draw))
def test_draws_give_a_full_state_and_repeat(name: str) -> None:
    origins = {
        key: lambda seed=seed: state(seed) for seed, key in enumerate(["initial", "rewound", "trained", "redrawn"])
    }
    first, again = (draw[name](Origins(**origins)) for _ in range(2))
    assert {k: (t.shape, t.dtype) for k, t in first.items()} == {k: (t.shape, t.dtype) for k, t in state(0).items()}
    assert all(torch.equal(first[k], again[k]) for k in first)
    nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).load_state_dict(first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("redrawn", [False, True])
@pytest.mark.parametrize("name", list(rescaling))
def test_rescalings_keep_masks_shapes_dtypes_and_their_input(name: str, redrawn: bool, dtype: torch.dtype) -> None:
    kept = masks()
    stream = torch.Generator().manual_seed(1)
    weights = {n: (torch.randn(m.shape, generator=stream) * m).to(dtype) for n, m in kept.items()}
    before = {n: w.clone() for n, w in weights.items()}
    results = []
    for _ in range(2):
        context = RescalingContext(redrawn=redrawn, generator=torch.Generator().manual_seed(2))
        results.append(rescaling[name](weights, kept, context))
    after, again = results
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
