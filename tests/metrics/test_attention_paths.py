"""Paths through attention: against the gradients of real weights, and on the built-in transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.metrics import UnknownPaths, find_paths
from oneticket.models import ModelSpec, blank, build
from oneticket.models.transformer import MLP, Attention
from oneticket.prunable import Prunable

SHAPES = {"vit": (1, 8, 8), "gpt": (5,)}


def masks_of(model: nn.Module, density: float = 1.0, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = Prunable(model, head="head").weights()
    return Masks({name: torch.rand(w.shape, generator=generator) < density for name, w in weights})


def transformer(name: str, **options: object) -> nn.Module:
    spec = ModelSpec(name=name, options={"width": 16, "depth": 2, "heads": 4} | options)
    return build(spec, input_shape=SHAPES[name], classes=7, seed=0, tokens=name == "gpt")


class Small(nn.Module):
    """A layer in, attention, an MLP, the mean, a head; residual or not, and without a normalisation."""

    def __init__(self, *, causal: bool, residual: bool) -> None:
        super().__init__()
        self.embed, self.residual = nn.Linear(3, 8), residual
        self.attention, self.mlp, self.head = Attention(8, 2, causal=causal), MLP(8, 1.0), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for part in (self.attention, self.mlp):
            x = part(x) + x if self.residual else part(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_weights_on_no_path_are_those_without_a_gradient(causal: bool, residual: bool, seed: int) -> None:
    """Without biases, real weights and a real input have exactly zero gradients off the paths and others on them."""
    model = Small(causal=causal, residual=residual).double()
    masks = masks_of(model, 0.3, seed)
    paths = find_paths(model, masks, torch.zeros(1, 4, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator).mul_(masks.get(name, torch.tensor(not name.endswith("bias"))))
    outputs = model(torch.randn(1, 4, 3, generator=generator, dtype=torch.float64))
    (outputs * torch.randn(1, 2, generator=generator, dtype=torch.float64)).sum().backward()
    assert 0 < paths.masks.kept < masks.kept
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert torch.equal(paths.masks[name], mask & (gradient.abs() > 1e-15)), name


@pytest.mark.parametrize("name", SHAPES)
def test_every_weight_of_a_dense_transformer_is_on_a_path(name: str) -> None:
    model = transformer(name)
    paths = find_paths(model, masks_of(model), blank(SHAPES[name], tokens=name == "gpt"))
    assert (paths.density, paths.dead) == (1.0, 0)
    for p in model.parameters():
        p.data.fill_(float("nan"))
    assert find_paths(model, masks_of(model), blank(SHAPES[name], tokens=name == "gpt")).density == 1.0, "values"


@pytest.mark.parametrize("name", SHAPES)
def test_a_channel_of_the_queries_needs_that_of_the_keys(name: str) -> None:
    model = transformer(name)
    masks = dict(masks_of(model))
    for part, channel in (("query", 3), ("value", 5)):
        masks[f"blocks.1.attention.{part}.weight"][channel] = False
    paths = find_paths(model, Masks(masks), blank(SHAPES[name], tokens=name == "gpt"))
    lost = {n: (~m).nonzero() for n, m in paths.masks.items() if not m.all()}
    assert set(lost) == {f"blocks.1.attention.{part}.weight" for part in ("query", "key", "value", "output")}
    assert set(lost["blocks.1.attention.key.weight"][:, 0].tolist()) == {3}
    assert set(lost["blocks.1.attention.output.weight"][:, 1].tolist()) == {5}
    assert paths.dead == 3, "the query, the key that nothing asks for, the value"


def test_of_a_single_position_no_score_is_on_a_path() -> None:
    model = transformer("gpt", depth=1)
    densities = find_paths(model, masks_of(model), torch.zeros(1, 1, dtype=torch.int64)).masks.densities()
    assert {n for n, d in densities.items() if d == 0} == {f"blocks.0.attention.{p}.weight" for p in ("query", "key")}
    assert {d for n, d in densities.items() if "query" not in n and "key" not in n} == {1.0}


def test_a_mask_of_the_network_hides_positions() -> None:
    class Masked(nn.Module):
        def __init__(self, hidden: Tensor) -> None:
            super().__init__()
            self.value, self.head, self.hidden = nn.Linear(4, 4), nn.Linear(4, 2), hidden

        def forward(self, x: Tensor) -> Tensor:
            first, second = x, self.value(x)
            second = torch.cat([second[:, :1], first[:, 1:]], 1)  # only the first position comes from the layer
            return self.head(F.scaled_dot_product_attention(first, first, second, self.hidden)[:, 1])

    for hidden, kept in (([False, True, True], 0), ([True, True, False], 16)):
        for mask in (torch.tensor(hidden), torch.tensor(hidden).double().log()):
            model = Masked(mask.expand(3, 3))
            assert find_paths(model, masks_of(model), torch.zeros(1, 3, 4)).masks.kept == kept


def test_a_masked_table_of_tokens_is_a_layer_over_all_tokens() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 2))
    masks = {"0.weight": torch.ones(5, 4, dtype=torch.bool), "2.weight": torch.ones(6, 12, dtype=torch.bool)}
    masks["0.weight"][:, 1] = False
    masks["0.weight"][:4, 2] = False
    masks["2.weight"][:, 3::4] = False
    found = find_paths(model, Masks(masks), torch.zeros(1, 3, dtype=torch.int64)).masks
    expected = masks["0.weight"].clone()
    expected[:, 3] = False
    assert torch.equal(found["0.weight"], expected)
    assert torch.equal(found["2.weight"].any(0), torch.tensor([True, False, True, False] * 3))


def test_attention_that_cannot_be_followed_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, step: object) -> None:
            super().__init__()
            self.step, self.value, self.head = step, nn.Linear(4, 4), nn.Linear(4, 2)
            self.asked = nn.Parameter(torch.zeros(1, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.step(self, x, self.value(x))[:, 0])

    for step in (
        lambda m, x, v: F.scaled_dot_product_attention(m.asked, x, v),
        lambda m, x, v: F.scaled_dot_product_attention(x[:, None], x[:, None], v[:, None], enable_gqa=True)[:, 0],
    ):
        model = Odd(step)
        with pytest.raises(UnknownPaths, match="is not known to the search for paths"):
            find_paths(model, masks_of(model), torch.zeros(1, 3, 4))
