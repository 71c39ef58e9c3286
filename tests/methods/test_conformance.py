"""What every method owes, registered today or later; none is named here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from oneticket.data import Augmentation, ImageSet, Normalisation
from oneticket.errors import NonFiniteLoss
from oneticket.masks import Masks
from oneticket.methods import METHODS, MethodContext, callback_of, method_options
from oneticket.prunable import Prunable, find_head
from oneticket.randomness import seeded
from oneticket.training import (
    Callback,
    Checkpoint,
    EpochRecord,
    OnEpoch,
    Recipe,
    Runtime,
    Start,
    StepDecay,
    Training,
    TrainState,
    evaluate,
    train,
)

EPOCHS, PER_EPOCH, DENSITY = 4, 5, 0.37
RECIPES = {
    "sgd": Recipe.sgd(epochs=EPOCHS, batch_size=5, schedule=StepDecay(at=("3ep",)), augment=Augmentation(flip=True)),
    "adam": Recipe.adam(epochs=EPOCHS, batch_size=5, lr=0.01, clip_norm=1.0),
}
MAKERS = [entry.name for entry in METHODS.entries() if entry.facts.makes == "masks"]
OTHERS = [name for name in METHODS if name not in MAKERS]


class Killed(Exception):
    """What ends a training from outside."""


def network(seed: int = 0) -> nn.Module:
    with seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(6 * 36, 20),
            nn.ReLU(),
            nn.Linear(20, 3),
        )
    model.get_parameter("4.bias").requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """22 images: in batches of 5, the last one of 2."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (22, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(22) % 3, ("a", "b", "c"))


def masks_for(name: str) -> Masks:
    """Full ones for methods that make masks, or freeze what is outside them; scattered ones for the others."""
    full = Masks.full(dict(Prunable(network()).weights()))
    return full if name in MAKERS or METHODS.entry(name).facts.masked == "frozen" else scattered()


def scattered() -> Masks:
    """Masks at about the density."""
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(w.shape, generator=generator) < DENSITY for n, w in Prunable(network()).weights()})


def run(
    name: str,
    images: ImageSet,
    recipe: str = "sgd",
    *,
    model: nn.Module | None = None,
    beside: Sequence[Callback] = (),
    **options: Any,
) -> tuple[nn.Module, Training]:
    model = model or network()
    context = MethodContext(DENSITY, find_head(model), RECIPES[recipe], masks=scattered)
    callback = callback_of(name, context, {})
    options = {"seed": 2, "masks": masks_for(name), "validation": images} | options
    return model, train(model, images, RECIPES[recipe], callbacks=[callback, *beside], **options)


Undisturbed = Callable[[str, str], tuple[nn.Module, Training]]


@pytest.fixture(scope="module")
def undisturbed(images: ImageSet) -> Undisturbed:
    """The training of a method by a recipe, once for all tests that compare another one with it."""
    known: dict[tuple[str, str], tuple[nn.Module, Training]] = {}

    def find(name: str, recipe: str) -> tuple[nn.Module, Training]:
        if (name, recipe) not in known:
            known[name, recipe] = run(name, images, recipe)
        return known[name, recipe]

    return find


def made(training: Training) -> Masks:
    assert training.masks is not None
    return training.masks


def outside(state: dict[str, Tensor], masks: Masks) -> Tensor:
    return torch.cat([state[name][~mask] for name, mask in masks.items()])


@pytest.fixture
def states() -> Iterator[Callable[[nn.Module], list[dict[str, Tensor]]]]:
    """Watch a network: its state as every step of any optimiser over it left it."""
    found: list[dict[str, Tensor]] = []
    watched: list[nn.Module] = []

    def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if watched and mine & {id(p) for p in watched[0].parameters()}:
            found.append({name: value.clone() for name, value in watched[0].state_dict().items()})

    handle = register_optimizer_step_post_hook(after_step)

    def watch(model: nn.Module) -> list[dict[str, Tensor]]:
        watched.append(model)
        return found

    yield watch
    handle.remove()


@pytest.mark.parametrize("name", list(METHODS))
def test_says_what_it_is_and_which_options_it_has(name: str) -> None:
    entry = METHODS.entry(name)
    assert entry.summary.endswith(".")
    assert entry.name == entry.name.lower()
    assert entry.facts.lr in ("recipe", "last")
    assert entry.facts.start in ("first", "rewind", "end")
    assert method_options(name, {}) == method_options(name, method_options(name, {}))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MAKERS)
def test_ends_at_its_density_exactly_and_stays_there(
    name: str, recipe: str, images: ImageSet, states: Callable[[nn.Module], list[dict[str, Tensor]]]
) -> None:
    model = network()
    seen = states(model)
    masks = made(run(name, images, recipe, model=model)[1])
    count = math.floor(DENSITY * masks.total + 0.5)
    assert masks.kept == count
    assert len(seen) == EPOCHS * PER_EPOCH
    assert not outside(model.state_dict(), masks).any()
    if METHODS.entry(name).facts.trains == "scores":
        state = model.state_dict()
        assert all(torch.equal(state[n], value * masks.get(n, 1)) for n, value in network().named_parameters())
        return
    for state in seen[15:]:  # three quarters are over
        assert not outside(state, masks).any()
    assert sum(int((model.get_parameter(n) != 0).sum()) for n in masks) > 0.8 * count, "kept weights are trained"


@pytest.mark.parametrize("density", [1.0, 0.02, 0.5])
@pytest.mark.parametrize("name", MAKERS)
def test_is_exact_at_any_density_and_in_the_shortest_trainings(name: str, density: float, images: ImageSet) -> None:
    for batch_size in (22, 11, 7):  # trainings of one, two and four steps
        recipe, model = Recipe.sgd(epochs=1, batch_size=batch_size), network()
        callback = callback_of(name, MethodContext(density, "10", recipe), {})
        masks = made(train(model, images, recipe, masks=masks_for(name), callbacks=[callback]))
        assert masks.kept == math.floor(density * masks.total + 0.5)
        assert not outside(model.state_dict(), masks).any()
    start = train(model, images, recipe, masks=masks_for(name), start=Start(step="1ep"), callbacks=[callback_of(
        name, MethodContext(density, "10", recipe), {})])  # fmt: skip
    assert made(start).kept == math.floor(density * masks.total + 0.5), "without a single step"


@pytest.mark.parametrize("name", list(METHODS))
def test_a_training_that_diverges_says_so_and_nothing_else(name: str, images: ImageSet) -> None:
    """A rate that is far too high may be one setting of a grid: it counts as guessing, and the others go on."""
    for rate in (1e5, 1e30):
        recipe, model = Recipe.sgd(epochs=EPOCHS, batch_size=5, lr=rate), network()
        callback = callback_of(name, MethodContext(DENSITY, find_head(model), recipe, masks=scattered), {})
        with contextlib.suppress(NonFiniteLoss):
            masks = made(train(model, images, recipe, masks=masks_for(name), callbacks=[callback], seed=2))
            assert name not in MAKERS or masks.kept == math.floor(DENSITY * masks.total + 0.5)


@pytest.mark.parametrize("name", OTHERS)
def test_keeps_the_masks_it_was_given(
    name: str, images: ImageSet, states: Callable[[nn.Module], list[dict[str, Tensor]]]
) -> None:
    model = network()
    seen = states(model)
    masks = made(run(name, images, model=model)[1])
    assert masks == masks_for(name)
    for state in [*seen, model.state_dict()]:
        assert not outside(state, masks).any()


@pytest.mark.parametrize(("recipe", "epochs"), [("sgd", (1, 3)), ("adam", (2,))])
@pytest.mark.parametrize("name", list(METHODS))
def test_resumed_is_undisturbed_to_the_bit(
    name: str, recipe: str, epochs: tuple[int, ...], images: ImageSet, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    whole, expected = undisturbed(name, recipe)
    for epoch in epochs:

        def kill(record: EpochRecord, at: int = epoch) -> None:
            if record.epoch == at:
                raise Killed

        path = tmp_path / f"{epoch}.pt"
        with pytest.raises(Killed):
            run(name, images, recipe, runtime=Runtime(checkpoint=Checkpoint(path, every=0)), beside=[OnEpoch(kill)])
        torch.manual_seed(epoch)
        runtime = Runtime(checkpoint=Checkpoint(path))
        resumed, found = run(name, images, recipe, model=network(seed=99), runtime=runtime)
        assert found.resumed_at == epoch * PER_EPOCH
        assert found.history == expected.history
        assert made(found) == made(expected)
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), (epoch, key)


class Kill(Callback):
    """Ends the training after a step, once it has been saved."""

    modifies = False

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self.step:
            raise Killed


@pytest.mark.parametrize("step", [1, 4, 8, 19, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 3, 6, 13))])
@pytest.mark.parametrize("name", list(METHODS))
def test_killed_within_an_epoch_it_ends_with_the_same_bits(
    name: str, step: int, images: ImageSet, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    whole, expected = undisturbed(name, "sgd")
    runtime = Runtime(checkpoint=Checkpoint(tmp_path / "training.pt", every=0))
    with pytest.raises(Killed):
        run(name, images, "sgd", runtime=runtime, beside=[Kill(step)])
    resumed, found = run(name, images, "sgd", model=network(seed=99), runtime=runtime)
    assert found.resumed_at == step
    assert found.history == expected.history
    assert made(found) == made(expected)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize("name", list(METHODS))
def test_repeats_and_draws_from_its_seed_only(name: str, images: ImageSet) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, one = run(name, images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, two = run(name, images)
    assert one.history == two.history
    assert made(one) == made(two)
    for key, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", list(METHODS))
def test_leaves_the_network_as_one_would_expect_it(name: str, images: ImageSet) -> None:
    """Equal names, shapes and types, the same parameter objects, trained or not as before; gives the same answer."""
    fresh, model = network(), network()
    parameters = dict(model.named_parameters())
    run(name, images, model=model)
    assert {n: (v.shape, v.dtype) for n, v in model.state_dict().items()} == {
        n: (v.shape, v.dtype) for n, v in fresh.state_dict().items()
    }
    assert all(parameters[n] is parameter for n, parameter in model.named_parameters())
    for n, parameter in fresh.named_parameters():
        assert parameters[n].requires_grad == parameter.requires_grad, n
        assert parameters[n].is_leaf
    frozen = dict(fresh.named_parameters())["4.bias"]
    assert torch.equal(parameters["4.bias"], frozen)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_layout_in_memory_changes_rounding_only(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    data = torch.randn(22, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(22) % 3
    states = []
    for runtime in (Runtime(), Runtime(layout="channels-last")):
        model = network().double()
        run(name, data, "adam", model=model, validation=data, runtime=runtime)  # type: ignore[arg-type]
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_last_judgement_is_that_of_the_result(name: str, images: ImageSet) -> None:
    """What the history says of the last epoch is what the trained network, as it is left, does."""
    model, training = run(name, images)
    accuracy, loss = evaluate(model, images, normalisation=Normalisation.of(images))
    last = training.history[-1]
    assert last.val_accuracy == accuracy
    assert last.val_loss == pytest.approx(loss, rel=1e-6)
