"""Update masks: what is outside the mask stays at its value, to the bit; what is inside is trained as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.prunable import Prunable
from oneticket.training import Checkpoint, OnEpoch, Recipe, Runtime, Start, StepDecay, train

RECIPES = {
    "sgd": Recipe.sgd(epochs=3, lr=0.2, batch_size=5, weight_decay=0.1, schedule=StepDecay(at=("2ep",))),
    "adamw": Recipe(optimizer="adamw", epochs=3, lr=0.02, batch_size=5, weight_decay=0.1, clip_norm=0.5),
}
DATA = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def masks_of(density: float) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(w.shape, generator=generator) < density for n, w in Prunable(network()).weights()})


def run(
    method: str, masks: Masks, recipe: Recipe, model: nn.Module | None = None, data: Any = DATA, **options: Any
) -> dict[str, Tensor]:
    model = model or network()
    callback = callback_of(method, MethodContext(1.0, "4", recipe, masks=lambda: masks), {})
    options["callbacks"] = [callback, *options.get("callbacks", ())]
    train(model, data, recipe, masks=Masks.full(dict(Prunable(model).weights())), **options)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_outside_the_mask_keep_their_values_to_the_bit_and_all_others_move(recipe: str) -> None:
    masks, before = masks_of(0.3), network().state_dict()
    after = run("update", masks, RECIPES[recipe])
    for name, value in after.items():
        if name in masks:
            assert torch.equal(value[~masks[name]], before[name][~masks[name]]), name
            assert (value[masks[name]] != before[name][masks[name]]).float().mean() > 0.8, name
        else:
            assert not torch.equal(value, before[name]), name


ALIKE: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
    ("update", "train", dict),
    ("update-fine-tune", "fine-tune", lambda: {"start": Start(lr_schedule="last")}),
]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("method", "whole", "options"), ALIKE, ids=[case[0] for case in ALIKE])
def test_at_density_1_it_is_the_training_of_all_weights_to_the_bit(
    method: str, whole: str, options: Callable[[], dict[str, Any]], recipe: str
) -> None:
    ours, theirs = (run(name, masks_of(1.1), RECIPES[recipe], **options()) for name in (method, whole))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_it_is_sgd_of_the_weights_under_the_mask_with_their_gradient_alone_clipped() -> None:
    """Float64, one batch of all samples a step: momentum, decay and norm of kept weights and biases only."""
    recipe = Recipe.sgd(epochs=5, lr=0.3, batch_size=20, momentum=0.9, weight_decay=0.05, clip_norm=0.1)
    masks, model, (x, y) = masks_of(0.4), network().double(), (DATA[0].double(), DATA[1])
    after = run("update", masks, recipe, model=network().double(), data=(x, y))
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    kept = {name: masks[name].double() if name in masks else torch.ones_like(value) for name, value in values.items()}
    speed = {name: torch.zeros_like(value) for name, value in values.items()}
    for _ in range(5):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        slopes = {name: slope * kept[name] for name, slope in slopes.items()}
        norm = sum(float(slope.square().sum()) for slope in slopes.values()) ** 0.5
        scale = min(1.0, 0.1 / (norm + 1e-6))
        for name, value in values.items():
            speed[name] = 0.9 * speed[name] + scale * slopes[name] + 0.05 * value
            values[name] = value - 0.3 * kept[name] * speed[name]
    for name, value in values.items():
        torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-12)


def test_a_killed_one_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    masks, whole = masks_of(0.3), run("update", masks_of(0.3), RECIPES["adamw"])

    def kill(_: Any) -> None:
        raise KeyboardInterrupt

    runtime = Runtime(checkpoint=Checkpoint(tmp_path / "training.pt", every=0))
    with pytest.raises(KeyboardInterrupt):
        run("update", masks, RECIPES["adamw"], runtime=runtime, callbacks=[OnEpoch(kill)])
    torch.manual_seed(9)
    other = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    resumed = run("update", masks, RECIPES["adamw"], model=other, runtime=runtime)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_masks_that_do_not_fit_or_are_missing_are_refused() -> None:
    with pytest.raises(InputError, match=r"the mask '9\.weight' does not fit the model"):
        run("update", Masks({"9.weight": torch.ones(2, 2, dtype=torch.bool)}), RECIPES["sgd"])
    recipe = RECIPES["sgd"]
    with pytest.raises(InputError, match="the arm's masks: not given"):
        train(network(), DATA, recipe, callbacks=[callback_of("update", MethodContext(1.0, "4", recipe), {})])
