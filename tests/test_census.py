"""What is pruned and counted, against what computes: unused, frozen and dense weights are named."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from oneticket.census import take_census
from oneticket.errors import InputError

X = torch.randn(4, 6)


def network(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *extra, nn.Linear(8, 3))


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a @ self.b


class Scaled(nn.Module):
    """A matrix that is not a weight: entry by entry, as a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.ones(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.places + self.places


class Dropped(nn.Module):
    """Layers of which the first alone is used."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(9)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def test_an_ordinary_network_has_nothing_to_tell() -> None:
    norm = nn.BatchNorm1d(8)
    for model in (network(), network(norm), network(nn.Linear(8, 8), Scaled()), network(norm, norm)):
        census = take_census(model, X)
        assert (census.unused, census.frozen, census.dense, census.told(0.5)) == ((), (), (), "")


def test_tables_of_words_are_not_prunable_and_no_news() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Flatten(), nn.Linear(16, 3))
    assert take_census(model, torch.tensor([[1, 2], [3, 4]])).told() == ""


def test_unused_layers_are_named() -> None:
    census = take_census(network(Dropped()), X)
    assert census.unused == tuple(f"2.blocks.{n}.weight" for n in range(1, 9))
    assert set(census.unused) <= set(census.view.names), "and counted as before"
    assert "never uses '2.blocks.1.weight', " in census.told()
    assert "'2.blocks.6.weight' and 2 more, which hold 512 of the 624 prunable weights" in census.told()


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrised_layers_are_named(wrap: object) -> None:
    census = take_census(network(wrap(nn.Linear(8, 8))), X)  # type: ignore[operator]
    assert census.view.names == ("0.weight",)
    assert census.dense
    assert all(name.startswith("2.parametrizations.weight.") for name in census.dense)
    assert "not prunable and stay dense" in census.told()


def test_a_parametrised_head_is_a_head() -> None:
    model = network()
    parametrizations.weight_norm(model[2])
    census = take_census(model, X)
    assert (census.view.head, census.told()) == ("2", "")


def test_layers_of_a_users_own_and_frozen_ones_are_named() -> None:
    census = take_census(network(LoRA()), X)
    assert census.frozen == ("2.base.weight",)
    assert census.dense == ("2.a", "2.b")
    text = census.told(0.25)
    assert "'2.base.weight' are pruned, but frozen" in text
    assert "32 weights: density 0.25 of what is prunable is 0.417 of all these weights" in text
    assert pytest.approx(0.417, abs=5e-4) == (0.25 * 112 + 32) / (112 + 32)


def test_a_set_of_ones_own_is_taken_as_meant() -> None:
    census = take_census(network(LoRA()), X, only=["0.weight", "2.a"])
    assert (census.dense, census.frozen, census.told()) == ((), (), "")
    assert take_census(network(Dropped()), X, only=["2.blocks.1.weight"]).unused == ("2.blocks.1.weight",)


def old_weight_norm(layer: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


OLD = {
    "weight_norm": old_weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "iterated": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.5), "weight", 0.5),
    "structured": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),
    "bias": lambda layer: prune.l1_unstructured(layer, "bias", amount=0.5),
}


@pytest.mark.parametrize("kind", OLD)
def test_weights_that_a_hook_computes_are_refused(kind: str) -> None:
    """They are not parameters, and can't be copied after a pass."""
    tensor = "bias" if kind == "bias" else "weight"
    with pytest.raises(InputError, match=rf"model: '2\.{tensor}' is computed by a hook .*prune\.remove"):
        take_census(network(OLD[kind](nn.Linear(8, 8))), X)


def test_without_a_batch_the_head_is_presumed_and_nothing_told() -> None:
    census = take_census(network(Dropped()), None)
    assert (census.view.head, census.told()) == ("3", "")


def test_with_the_head_named_a_pass_that_fails_is_no_obstacle() -> None:
    census = take_census(network(), torch.randn(4, 5), head="2")
    assert (census.view.names, census.told()) == (("0.weight",), "")
    with pytest.raises(InputError, match="head: Sequential fails on a batch of shape"):
        take_census(network(), torch.randn(4, 5))
    with pytest.raises(InputError, match="head: the model has no layer '3'"):
        take_census(network(), X, head="3")
