"""Recipes: every default spelled out, everything impossible refused, and the optimiser that is made of one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from oneticket.data import Augmentation
from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.training import Cosine, Recipe, StepDecay

LITERAL: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "epochs": 1}


# -- values --------------------------------------------------------------------------------------------------------
def test_defaults_are_resolved_by_optimiser() -> None:
    """The paper's: SGD 0.1, momentum 0.9, decay 1e-4; Adam 3e-4, decay 1e-4."""
    sgd, adam = Recipe.sgd(epochs=3), Recipe.adam(epochs=3)
    assert (sgd.lr, sgd.momentum, sgd.betas, sgd.weight_decay) == (0.1, 0.9, None, 1e-4)
    assert (adam.lr, adam.momentum, adam.betas, adam.weight_decay) == (3e-4, None, (0.9, 0.999), 1e-4)
    assert Recipe(optimizer="rmsprop", lr=0.1, epochs=1).momentum == 0.0
    assert Recipe(optimizer="adamw", lr=0.1, epochs=1).betas == (0.9, 0.999)
    assert sgd.warmup == "0it"


def test_a_spelled_out_default_is_the_same_recipe() -> None:
    assert Recipe.sgd(epochs=3) == Recipe.sgd(epochs=3, momentum=0.9, warmup="0ep", betas=None)
    assert Recipe.sgd(epochs=3) != Recipe.sgd(epochs=3, momentum=0.0)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.sgd(epochs=2, nesterov=True, schedule=StepDecay(at=("1ep",)), warmup=5, augment=Augmentation(crop=4)),
        Recipe.adam(epochs=2, betas=(0.8, 0.99), schedule=Cosine(final=0.1), clip_norm=1.0, precision="bf16"),
        Recipe(optimizer="rmsprop", lr=0.01, epochs=2, label_smoothing=0.1, decay_norms=False),
    ],
)
def test_a_recipe_survives_writing_and_reading(recipe: Recipe) -> None:
    plain = msgspec.to_builtins(recipe)
    assert msgspec.convert(plain, Recipe) == recipe
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
    assert digest(msgspec.to_builtins(msgspec.convert(plain, Recipe))) == digest(plain)


def test_whole_numbers_of_a_file_become_what_the_field_holds() -> None:
    recipe = msgspec.convert({**LITERAL, "lr": 1}, Recipe)
    assert type(recipe.lr) is float


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lr": 0.0}, "lr = 0.0; expected a number above 0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"lr": float("inf")}, "lr = inf"),
        ({"epochs": 0}, "epochs = 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"momentum": -0.1}, "momentum = -0.1"),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"warmup": "soon"}, "'soon' is not a valid moment"),
        ({"betas": (0.9, 0.99)}, "no betas with sgd"),
        ({"nesterov": True, "momentum": 0.0}, "a momentum above 0 with nesterov"),
        ({"optimizer": "adam", "momentum": 0.9}, "no momentum with adam: use betas"),
        ({"optimizer": "adamw", "momentum": 0.0}, "no momentum with adamw"),
        ({"optimizer": "adam", "betas": (0.9, 1.0)}, "betas"),
        ({"optimizer": "rmsprop", "nesterov": True, "momentum": 0.9}, "nesterov only with sgd"),
        ({"optimizer": "rmsprop", "betas": (0.9, 0.99)}, "no betas with rmsprop"),
    ],
)
def test_what_cannot_be_is_refused_in_python_and_in_a_file(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Recipe(**LITERAL | changes)
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert(LITERAL | changes, Recipe)


@pytest.mark.parametrize("changes", [{"optimizer": "SGD"}, {"optimizer": "adamax"}, {"precision": "bfloat16"}])
def test_unknown_words_are_refused_in_python_and_in_a_file(changes: dict[str, Any]) -> None:
    """An unknown optimiser must not become AdamW, nor an unknown precision float32."""
    with pytest.raises(InputError, match="did you mean"):
        Recipe(**LITERAL | changes)
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.convert(LITERAL | changes, Recipe)


@pytest.mark.parametrize(
    "changes", [{"epochs": "3"}, {"epochs": 2.5}, {"epochs": True}, {"lr": "0.1"}, {"momentun": 0.9}, {"betas": [0.9]}]
)
def test_wrong_types_and_unknown_keys_of_a_file_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(LITERAL | changes, Recipe)


@pytest.mark.parametrize("key", ["nesterov", "decay_norms"])
@pytest.mark.parametrize("value", ["False", "false", "True", 0, 1])
def test_only_booleans_are_booleans(key: str, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `bool`"):
        msgspec.convert({**LITERAL, key: value}, Recipe)
    with pytest.raises(InputError, match=f"{key} = {value!r}; expected True or False"):
        Recipe(**{**LITERAL, key: value})


# -- the optimiser -------------------------------------------------------------------------------------------------
class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.groups = nn.GroupNorm(2, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.layernorm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


SPARED = {
    "conv.bias", "norm.weight", "norm.bias", "groups.weight", "groups.bias", "layernorm.weight", "layernorm.bias",
    "attention.in_proj_bias", "attention.out_proj.bias", "head.bias",
}  # fmt: skip


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[set[str], float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [({names[id(p)] for p in group["params"]}, group["weight_decay"]) for group in optimizer.param_groups]


def test_everything_is_decayed_unless_said_otherwise() -> None:
    model = Normed()
    every = {name for name, _ in model.named_parameters()}
    assert groups_by_name(model, Recipe.sgd(epochs=1).make_optimizer(model)) == [(every, 1e-4)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_biases_and_norms_can_be_spared_from_decay(optimizer: Any) -> None:
    model = Normed()
    recipe = Recipe(optimizer=optimizer, lr=0.1, epochs=1, weight_decay=0.5, decay_norms=False)
    every = {name for name, _ in model.named_parameters()}
    assert groups_by_name(model, recipe.make_optimizer(model)) == [(every - SPARED, 0.5), (SPARED, 0.0)]


@pytest.mark.parametrize(
    ("recipe", "kind", "settings"),
    [
        (Recipe.sgd(epochs=1, nesterov=True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1}),
        (Recipe.sgd(epochs=1, momentum=0.0), torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        (Recipe.adam(epochs=1, betas=(0.8, 0.9)), torch.optim.Adam, {"betas": (0.8, 0.9), "lr": 3e-4, "eps": 1e-8}),
        (Recipe(optimizer="adamw", lr=0.01, epochs=1), torch.optim.AdamW, {"betas": (0.9, 0.999), "lr": 0.01}),
        (
            Recipe(optimizer="rmsprop", lr=0.01, epochs=1, momentum=0.5),
            torch.optim.RMSprop,
            {"momentum": 0.5, "alpha": 0.99},
        ),
    ],
)
def test_the_optimiser_is_the_one_described(recipe: Recipe, kind: type, settings: dict[str, Any]) -> None:
    optimizer = recipe.make_optimizer(nn.Linear(2, 2))
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in settings} == settings
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_factor_on_the_rate_leaves_decay_alone(optimizer: Any) -> None:
    """A step without a gradient is nothing but decoupled decay: w (1 − ηλ), whatever the factor of the group.

    With L2 the decay is a part of the gradient, and λ is what the recipe says.
    """
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    recipe = Recipe(optimizer=optimizer, lr=0.01, epochs=1, weight_decay=0.1)
    made = recipe.make_optimizer(model, {"0.weight": 20.0, "1.weight": 0.3})
    assert [group["lr"] for group in made.param_groups] == pytest.approx([0.003, 0.01, 0.2])
    if optimizer != "adamw":
        assert {group["weight_decay"] for group in made.param_groups} == {0.1}
        return
    before = [weight.detach().double().clone() for weight in model.parameters()]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    made.step()
    for weight, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach().double(), old * (1 - 0.01 * 0.1), rtol=1e-6, atol=0)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    names, _ = groups_by_name(model, Recipe.sgd(epochs=1).make_optimizer(model))[0]
    assert names == {"0.bias", "1.weight", "1.bias"}
