"""Every method on the built-in transformers, and every draw, choice of norms and rescaling under its masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.methods import METHODS, MethodContext, callback_of
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.training import Recipe, train
from oneticket.weights import DRAWS, NORMS, RESCALINGS, DrawContext, RescalingContext, rescale
from oneticket.weights.norms import norm_names

SHAPES = {"vit": (1, 8, 8), "gpt": (6,)}
CLASSES, DENSITY = 4, 0.3
RECIPE = Recipe.adam(epochs=3, lr=1e-3, batch_size=4)


def network(name: str, seed: int = 0) -> nn.Module:
    spec = ModelSpec(name=name, options={"width": 8, "depth": 2, "heads": 2})
    return build(spec, input_shape=SHAPES[name], classes=CLASSES, seed=seed, tokens=name == "gpt")


def data(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name == "gpt":
        tokens = torch.randint(CLASSES, (8, 6), generator=generator)
        return tokens, tokens
    return torch.randn(8, *SHAPES[name], generator=generator), torch.arange(8) % CLASSES


def scattered(name: str) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(w.shape, generator=generator) < DENSITY for n, w in Prunable(network(name)).weights()})


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", SHAPES)
def test_a_method_keeps_or_makes_exact_masks(name: str, method: str) -> None:
    facts = METHODS.entry(method).facts
    full = Masks.full(dict(Prunable(network(name)).weights()))
    given = full if facts.makes == "masks" or facts.masked == "frozen" else scattered(name)
    model = network(name)
    callback = callback_of(method, MethodContext(DENSITY, "head", RECIPE, masks=lambda: scattered(name)), {})
    loss = "next-token" if name == "gpt" else "classification"
    training = train(model, data(name), RECIPE, masks=given, seed=0, loss=loss, callbacks=[callback])
    assert training.masks is not None
    assert all(math.isfinite(record.train_loss) for record in training.history)
    if facts.makes == "masks":
        assert training.masks.kept == math.floor(DENSITY * full.total + 0.5)
    else:
        assert training.masks == given
    state = model.state_dict()
    assert not any(state[n][~mask].any() for n, mask in training.masks.items())


@pytest.mark.parametrize("name", SHAPES)
def test_draws_and_norms_give_whole_states(name: str) -> None:
    states = {key: network(name, seed).state_dict() for seed, key in enumerate(("initial", "rewound", "trained"))}
    given = DrawContext(
        **{key: lambda key=key: states[key] for key in states},
        redrawn=lambda: network(name, 7).state_dict(),
        masks=lambda: scattered(name),
        generator=lambda: torch.Generator().manual_seed(5),
    )
    for draw in DRAWS:
        values = DRAWS[draw](given)
        assert {n: v.shape for n, v in values.items()} == {n: v.shape for n, v in states["initial"].items()}, draw
        assert all(v.isfinite().all() for v in values.values()), draw
    names, state = norm_names(network(name)), dict(states["rewound"])
    assert len(names) == 2 * (2 * 2 + 1), "gain and shift of two LayerNorms a block, and of the last"
    for choice in NORMS:
        values = NORMS[choice](state, given, names)
        assert all(torch.equal(values[n], v) for n, v in state.items() if n not in names), choice


@pytest.mark.parametrize("rescaling", list(RESCALINGS))
@pytest.mark.parametrize("name", SHAPES)
def test_rescalings_keep_masks_and_finite_values(name: str, rescaling: str) -> None:
    masks, model = scattered(name), network(name, 1)
    state = {n: v * masks[n] if n in masks else v for n, v in model.state_dict().items()}
    model.load_state_dict(state)
    other = network(name, 2).state_dict()
    given = RescalingContext(
        "re-drawn",
        generator=lambda: torch.Generator().manual_seed(5),
        network=lambda: model,
        batch=lambda: data(name)[0],
        ticket=lambda: (other, masks),
        random=lambda: (other, masks),
    )
    after = rescale(rescaling, {n: state[n] for n in masks}, masks, given, optimizer="adam").weights
    for n, mask in masks.items():
        assert after[n].isfinite().all()
        assert not after[n][~mask].any()
