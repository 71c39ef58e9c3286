"""SET, in both forms, and RigL: what goes, what grows, when, and that every layer always has equally many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.dynamic_sparse import drop_fraction, regrown, survivors
from oneticket.prunable import Prunable
from oneticket.pruning import ALLOCATIONS
from oneticket.training import Callback, Recipe, TrainState, train

Small = Callable[..., nn.Sequential]
MakeState = Callable[..., TrainState]


def at(state: TrainState, step: int) -> TrainState:
    state.step = step
    return state


def bools(text: str) -> Tensor:
    return torch.tensor([character == "1" for character in text])


# -- one layer -----------------------------------------------------------------------------------------------------
def test_regrows_exactly_the_largest_gradients() -> None:
    """Six in use, eight not; three go, three grow; what ties goes, and grows, by index."""
    mask = bools("111111" + "00000000")
    weight = torch.tensor([0.5, -0.1, 0.3, -0.3, 2.0, 0.3] + 8 * [0.0])
    # Dropped: 0.1, and of the three 0.3 the later two (3 and 5). They may come back: 3 has a large gradient.
    interest = torch.tensor([99.0, 1.0, 99.0, 7.0, 99.0, 2.0, 0.0, 5.0, 6.0, 5.0, 0.0, 4.0, 5.0, 1.0])
    assert torch.equal(regrown(mask, weight, interest, 3), bools("101110" + "01100000"))
    assert torch.equal(regrown(mask, weight, interest, 1), bools("101111" + "00100000"))
    assert torch.equal(regrown(mask, weight, interest, 0), mask)


def test_a_dense_layer_stays_dense() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(regrown(mask, torch.randn(2, 3), torch.randn(2, 3).abs(), 4), mask)


@given(st.data())
def test_regrowth_against_sorting(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 14))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    few = st.lists(st.integers(-3, 3), min_size=n, max_size=n)
    weight, interest = np.array(data.draw(few), dtype=float) * mask, np.abs(data.draw(few)).astype(float)
    count = data.draw(st.integers(0, int(mask.sum())))
    in_use = sorted(np.flatnonzero(mask), key=lambda i: (-abs(weight[i]), i))
    staying = in_use[: len(in_use) - count]
    grown = sorted(set(range(n)) - set(staying), key=lambda i: (-interest[i], i))[:count]
    found = regrown(torch.from_numpy(mask), torch.from_numpy(weight), torch.from_numpy(interest), count)
    assert found.nonzero().flatten().tolist() == sorted([*staying, *grown])
    assert int(found.sum()) == mask.sum()


@given(st.data())
def test_survivors_against_sorting(data: st.DataObject) -> None:
    """By sign: of the positive ones the ⌊ζn⌋ smallest go, of the negative ones the ⌊ζn⌋ largest; zeros go."""
    n = data.draw(st.integers(1, 14))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weight = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    zeta = data.draw(st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]))
    expected: list[int] = []
    for sign in (1, -1):
        side = sorted((i for i in range(n) if mask[i] and sign * weight[i] > 0), key=lambda i: (-abs(weight[i]), i))
        expected += side[: len(side) - math.floor(zeta * len(side))]
    found = survivors(torch.from_numpy(mask), torch.from_numpy(weight), zeta)
    assert found.nonzero().flatten().tolist() == sorted(expected)


def test_the_drop_fraction_in_numbers() -> None:
    """α/2 (1 + cos(πt/T)) at t/T = 0, 1/3, 1/2, 2/3 and 1."""
    found = [drop_fraction(t, 600, 0.3) for t in (0, 200, 300, 400, 600)]
    assert found == pytest.approx([0.3, 0.225, 0.15, 0.075, 0.0], abs=1e-15)


# -- a training ----------------------------------------------------------------------------------------------------
@dataclass
class Moment:
    """A step between its backward pass and its optimiser step, before or after masks may have changed."""

    masks: Masks
    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    momentum: dict[str, Tensor]


@dataclass
class Witness(Callback):
    """Writes down every such moment."""

    seen: list[Moment] = field(default_factory=list)

    def after_backward(self, state: TrainState) -> None:
        weights, memory = state.weights(), state.optimizer.state
        self.seen.append(
            Moment(
                state.masks,
                {n: w.detach().clone() for n, w in weights.items()},
                {n: w.grad.clone() for n, w in weights.items() if w.grad is not None},
                {n: memory[w]["momentum_buffer"].clone() for n, w in weights.items() if w in memory},
            )
        )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 14), nn.Tanh(), nn.Linear(14, 2)).double()


def witnessed(
    name: str, samples: tuple[Tensor, Tensor], *, density: float = 0.3, seed: int = 0, **options: object
) -> tuple[list[Moment], list[Moment]]:
    """Each of 40 steps before and after the method acted."""
    model, recipe = network(), Recipe.sgd(epochs=10, batch_size=2, lr=0.05)
    before, after = Witness(), Witness()
    callbacks = [after, callback_of(name, MethodContext(density, "4", recipe), options), before]
    train(model, samples, recipe, masks=Masks.full(dict(Prunable(model).weights())), callbacks=callbacks, seed=seed)
    return before.seen, after.seen


@pytest.mark.parametrize("name", ["set-cosine", "rigl"])
def test_connections_move_when_and_as_many_as_they_should(name: str, samples: tuple[Tensor, Tensor]) -> None:
    """T_end = 30 of 40 steps, so every third step, from the third to the 27th."""
    before, after = witnessed(name, samples)
    start = before[0].masks
    scores = {n: torch.rand(m.shape) for n, m in start.items()}
    erk = ALLOCATIONS["erk"](scores, 0.3, Masks.full(start))
    assert [row.kept for row in start.table()] == [row.kept for row in erk.table()]
    moved = []
    for step, (then, now) in enumerate(zip(before, after, strict=True)):
        assert [row.kept for row in now.masks.table()] == [row.kept for row in start.table()]
        assert step == 0 or then.masks == after[step - 1].masks
        for layer, mask in now.masks.items():
            assert not now.weights[layer][~mask].any()
            kept = then.masks[layer] & mask
            assert torch.equal(now.weights[layer][kept], then.weights[layer][kept])
            grown = mask & ~then.masks[layer]
            assert not now.weights[layer][grown].any()
            if step:
                assert not now.momentum[layer][~mask | grown].any()
                assert torch.equal(now.momentum[layer][kept], then.momentum[layer][kept])
            due = math.floor(0.15 * (1 + math.cos(math.pi * step / 30)) * int(mask.sum()))
            assert int(grown.sum()) <= (due if 0 < step < 30 and step % 3 == 0 else 0)
        if now.masks != then.masks:
            moved.append(step)
    assert moved[0] == 3
    assert moved[-1] <= 27
    assert len(moved) >= 7


def test_set_moves_connections_between_epochs_to_the_end(samples: tuple[Tensor, Tensor]) -> None:
    """Ten epochs of four steps: masks change before the steps 4, 8, … 36, and before no other."""
    _, after = witnessed("set", samples, density=0.5, drop=0.4)
    first = after[0].masks
    moved = 0
    for step in range(1, 40):
        then, now = after[step - 1], after[step]
        if step % 4:
            assert now.masks == then.masks
            continue
        for layer, mask in now.masks.items():
            assert int(mask.sum()) == int(first[layer].sum())
            # The step before has changed the weights since `then`; those that stay are unchanged by the move itself.
            grown = mask & ~then.masks[layer]
            moved += int(grown.sum())
            assert not now.weights[layer][grown].any()
            assert not now.momentum[layer][grown | ~mask].any()
    assert moved > 20


def test_set_drops_by_sign_and_begins_what_grows_anew(small: Small, state_of: MakeState) -> None:
    """One move, against the definition: who stays, with weight and momentum, and that all others begin at zero."""
    model = small()
    state = state_of(model)
    callback = callback_of("set", MethodContext(0.6, "5", Recipe.sgd(epochs=4)), {"drop": 0.5})
    callback.on_train_start(state)
    masks, expected = state.masks, {}
    for name, weight in state.weights().items():
        state.optimizer.state[weight]["momentum_buffer"] = torch.ones_like(weight) * masks[name]
        values, staying = weight.detach().clone(), torch.zeros_like(masks[name])
        for own in ((values > 0) & masks[name], (values < 0) & masks[name]):
            least = values[own].abs().sort().values[int(own.sum()) // 2 :]  # half of them, rounded down, go
            staying |= own & torch.isin(values.abs(), least)
        expected[name] = staying, values
    for step in (0, 5, 11):  # neither before the first epoch nor within one
        callback.before_forward(at(state, step))
        assert state.masks == masks
    callback.before_forward(at(state, 10))
    for name, weight in state.weights().items():
        staying, values = expected[name]
        now, memory = state.masks[name], state.optimizer.state[weight]["momentum_buffer"]
        assert int(now.sum()) == int(masks[name].sum())
        assert bool((now | ~staying).all()), "what is far from zero stays"
        assert torch.equal(weight.detach()[staying], values[staying])
        assert not weight.detach()[~staying].any()
        assert torch.equal(memory, staying.to(memory))


def test_rigl_grows_where_the_gradient_of_the_step_is_largest(samples: tuple[Tensor, Tensor]) -> None:
    before, after = witnessed("rigl", samples)
    changed = 0
    for step in range(3, 28, 3):
        then, now = before[step], after[step]
        for layer, mask in then.masks.items():
            count = math.floor(0.15 * (1 + math.cos(math.pi * step / 30)) * int(mask.sum()))
            assert then.gradients[layer][~mask].any(), "gradients are dense"
            weight, slope = (t[layer].abs().flatten().tolist() for t in (then.weights, then.gradients))
            in_use = sorted(mask.flatten().nonzero().flatten().tolist(), key=lambda i, w=weight: (-w[i], i))
            staying = in_use[: len(in_use) - count]
            free = sorted(set(range(mask.numel())) - set(staying), key=lambda i, g=slope: (-g[i], i))
            assert now.masks[layer].flatten().nonzero().flatten().tolist() == sorted([*staying, *free[:count]])
            changed += int((now.masks[layer] & ~mask).sum())
    assert changed > 10


def test_random_growth_is_anywhere_with_equal_chances(small: Small, state_of: MakeState) -> None:
    """Over 400 steps of their own noise each free position is grown as often as another, to 5 standard errors."""
    model = small()
    state = state_of(model, steps=10_000)
    callback = callback_of("set-cosine", MethodContext(0.5, "5", Recipe.sgd(epochs=4)), {"every": 1, "drop": 1.0})
    callback.on_train_start(state)
    start = state.masks
    layer = max(start, key=lambda name: start[name].numel())
    counts, trials = torch.zeros(start[layer].shape), 400
    for step in range(1, trials + 1):
        state.replace_masks(start)
        callback.after_backward(at(state, step))
        counts += state.masks[layer]
    kept = int(start[layer].sum())
    dropped = math.floor(kept * drop_fraction(1, 7500, 1.0))
    assert dropped == kept - 1, "nearly all, so nearly every position is free"
    free = counts.flatten()[counts.flatten() < trials]
    assert len(free) == counts.numel() - 1
    chance = dropped / len(free)
    spread = math.sqrt(trials * chance * (1 - chance))
    assert abs(float(free.mean()) - trials * chance) < 1e-4
    assert float((free - trials * chance).abs().max()) < 5 * spread


def test_a_method_starts_from_the_same_masks_as_the_other_and_from_others_with_another_seed(
    samples: tuple[Tensor, Tensor],
) -> None:
    asked = (("set", 0), ("rigl", 0), ("set-cosine", 0), ("set", 1))
    starts = [witnessed(name, samples, seed=seed)[0][0].masks for name, seed in asked]
    assert starts[0] == starts[1] == starts[2]
    assert starts[0] != starts[3]


def test_long_intervals_and_options(samples: tuple[Tensor, Tensor]) -> None:
    before, after = witnessed("rigl", samples, every=2, stop=0.5, drop=0.9)
    moved = [step for step in range(40) if before[step].masks != after[step].masks]
    assert set(moved) <= set(range(2, 20, 2))
    assert len(moved) >= 6
    context = MethodContext(0.5, "5", Recipe.sgd(epochs=1))
    for name in ("set", "set-cosine", "rigl"):
        for options in ({"every": 0}, {"stop": 0.0}, {"drop": 1.2}, {"drop": 0.0}):
            with pytest.raises(InputError, match=f"method '{name}'"):
                callback_of(name, context, options)
