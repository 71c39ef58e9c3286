"""What may be pruned: convolutions, linear, recurrent and attention weights; never norms, biases or the head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.prunable import Prunable, by_unit, check_head, find_head, transposed_groups
from oneticket.pruning import ScoreContext, prune


class Mixed(nn.Module):
    """A bit of everything that has parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
        self.up = nn.ConvTranspose1d(4, 2, 3)
        self.embed = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.memory = nn.LSTM(8, 6, num_layers=2)
        self.attention = nn.MultiheadAttention(6, 2)
        self.head = nn.Linear(6, 5)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_the_default_set() -> None:
    assert Prunable(Mixed()).names == (
        "stem.0.weight",
        "up.weight",
        "memory.weight_ih_l0",
        "memory.weight_hh_l0",
        "memory.weight_ih_l1",
        "memory.weight_hh_l1",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    )


@pytest.mark.parametrize("prune_head", [False, True])
def test_norms_and_biases_are_never_prunable(prune_head: bool) -> None:
    model = Mixed()
    norms = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    never = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, norms) for p, _ in m.named_parameters()}
    names = set(Prunable(model, prune_head=prune_head).names)
    assert never
    assert not names & never
    assert not any("bias" in name for name in names)
    assert ("head.weight" in names) is prune_head


def test_weights_are_the_models_own_and_values_are_copies() -> None:
    model = small()
    prunable = Prunable(model)
    assert [(n, w is model[0].weight) for n, w in prunable.weights()] == [("0.weight", True)]
    assert prunable.total == 24
    values = prunable.values()
    values["0.weight"].zero_()
    assert bool(model[0].weight.any())


def test_a_weight_that_two_layers_share_counts_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert Prunable(model).names == ("0.weight",)


def test_only_narrows_and_is_checked() -> None:
    model = Mixed()
    assert Prunable(model, only=["up.weight"]).names == ("up.weight",)
    with pytest.raises(InputError, match=r"no parameter 'up.wieght' to prune.*did you mean 'up.weight'"):
        Prunable(model, only=["up.wieght"])
    with pytest.raises(InputError, match="nothing to prune"):
        Prunable(model, only=[])
    with pytest.raises(InputError, match="nothing to prune; expected a convolution or linear layer besides its head"):
        Prunable(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_weights_stand_in_the_models_order_however_they_are_named() -> None:
    """What `smart` keeps falls with depth, so it would be other weights in another order."""
    model = nn.Sequential(nn.Linear(5, 20), nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 3))
    names = ("0.weight", "1.weight", "2.weight")
    usual, turned = Prunable(model), Prunable(model, only=["2.weight", "0.weight", "1.weight", "0.weight"])
    assert usual.names == turned.names == names
    assert [name for name, _ in turned.weights()] == list(turned.values()) == list(names)
    kept = [prune(v, ScoreContext(), criterion="magnitude", allocation="smart", density=0.3) for v in (usual, turned)]
    assert kept[0] == kept[1]


def test_the_heads_weight_is_known_where_it_may_be_pruned() -> None:
    assert Prunable(small()).head_weight is None
    assert Prunable(small(), prune_head=True).head_weight == "3.weight"
    assert Prunable(small(), only=["3.weight"]).head_weight == "3.weight"
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert Prunable(tied, prune_head=True).head_weight == "0.weight", "under the one name that it has"


def test_the_head_is_the_last_linear_layer_or_the_one_that_fits() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 7))
    assert find_head(model) == "2"
    assert find_head(model, classes=3) == "1"
    assert Prunable(model, head="0").names == ("1.weight", "2.weight")
    convolutional = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 10, 1))
    assert find_head(convolutional, classes=10) == "1"
    assert Prunable(convolutional, head="1").names == ("0.weight",)


def test_a_head_that_cannot_be_found_says_how_to_name_it() -> None:
    with pytest.raises(InputError, match=r'head="…"; the model has no such layer'):
        find_head(nn.Conv2d(1, 2, 3))
    with pytest.raises(InputError, match=r"no linear layer with 9 outputs; .*'0' \(6 outputs\), '3' \(3 outputs\)"):
        find_head(small(), classes=9)


def test_a_head_that_is_none_is_refused() -> None:
    check_head(small(), "3")
    with pytest.raises(InputError, match=r"no layer '2' that could be its head; expected one of 0, 1, 3"):
        check_head(small(), "2")
    with pytest.raises(InputError, match=r"did you mean 'head'"):
        Prunable(Mixed(), head="hed")


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [(nn.Linear(7, 3), 7), (nn.Conv2d(4, 8, 3), 36), (nn.Conv2d(4, 8, 3, groups=2), 18), (nn.Conv1d(2, 5, 4), 8)],
)
def test_as_many_weights_enter_a_unit_as_torch_counts(layer: nn.Module, inputs: int) -> None:
    _, rows, units, rest = by_unit(layer.weight).shape
    assert units == len(layer.weight)
    assert rows * rest == inputs == torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_weights_by_unit_are_those_that_enter_it(kind: str, dims: int, groups: int) -> None:
    """Those that a channel of the output has a gradient by; every convolution, plain and transposed."""
    layer = getattr(nn, f"{kind}{dims}d")(4, 6, 2, groups=groups)
    transposed = transposed_groups(layer)
    assert transposed == (groups if kind == "ConvTranspose" else None)
    output = layer(torch.ones(1, 4, *[3] * dims))
    numbered = torch.arange(layer.weight.numel()).view_as(layer.weight)
    rows = by_unit(numbered, transposed).movedim(2, 1).flatten(2).flatten(0, 1)
    assert len(rows) == 6
    for channel, row in enumerate(rows):
        (gradient,) = torch.autograd.grad(output[:, channel].sum(), layer.weight, retain_graph=True)
        assert sorted(row.tolist()) == numbered[gradient != 0].tolist()
        assert len(row) == 4 // groups * 2**dims
