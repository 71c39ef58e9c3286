"""L1: the proximal step is the minimiser it claims to be, and the training is SGD with that step and a cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.l1 import soften
from oneticket.training import Recipe, Start, StepDecay, train

Small = Callable[..., nn.Sequential]
NAMES = ("0.weight", "3.weight")
FINITE = st.floats(-5, 5, allow_subnormal=False)


@given(values=st.lists(FINITE, min_size=1, max_size=8), tau=st.floats(0, 3), others=st.lists(FINITE, max_size=20))
def test_the_proximal_step_minimises(values: list[float], tau: float, others: list[float]) -> None:
    """No other x has a smaller (x − w)²/2 + τ|x|; and where |w| ≤ τ it is exactly 0."""
    weight = torch.tensor(values, dtype=torch.float64)
    found = weight.clone()
    soften([found], [tau])
    for w, x in zip(values, found.tolist(), strict=True):
        least = (x - w) ** 2 / 2 + tau * abs(x)
        near = [x + step for step in (-1e-3, -1e-6, 1e-6, 1e-3)]
        for other in (*others, *near, 0.0, w):
            assert least <= (other - w) ** 2 / 2 + tau * abs(other) + 1e-12
        assert (x == 0.0) == (abs(w) <= tau)
    np.testing.assert_allclose(found, np.sign(values) * np.maximum(np.abs(values) - tau, 0), atol=1e-15)


def test_each_tensor_has_its_own_threshold() -> None:
    first, second = torch.tensor([1.0, -0.2]), torch.tensor([1.0, -0.2])
    soften([first, second], [0.25, 0.5])
    assert first.tolist() == [0.75, 0.0]
    assert second.tolist() == [0.5, 0.0]


def test_the_training_is_sgd_with_proximal_steps_until_the_cut(small: Small, samples: tuple[Tensor, Tensor]) -> None:
    """Against a loop written out here: the rate of each step and weight, prunable weights only, 6 of 8 steps."""
    factors, strength = {"3.weight": 0.5}, 0.3
    recipe = Recipe.sgd(epochs=8, batch_size=8, lr=0.2, momentum=0.0, weight_decay=0.0, schedule=StepDecay(at=("3ep",)))
    model, reference = small(), small()
    callback = callback_of("l1", MethodContext(0.25, "5", recipe), {"strength": strength, "cut": 0.75})
    full = Masks.full({name: model.get_parameter(name) for name in NAMES})
    result = train(model, samples, recipe, masks=full, start=Start(lr_factors=factors), callbacks=[callback])

    parameters = dict(reference.named_parameters())
    masks = {name: torch.ones_like(parameters[name]) for name in NAMES}
    for step in range(8):
        reference.zero_grad()
        F.cross_entropy(reference(samples[0]), samples[1]).backward()
        rate = 0.2 if step < 3 else 0.02
        with torch.no_grad():
            for name, parameter in parameters.items():
                eta = rate * factors.get(name, 1.0)
                parameter -= eta * parameter.grad
                if name in NAMES and step < 6:
                    parameter.copy_(parameter.sign() * (parameter.abs() - eta * strength).clamp(min=0))
            if step == 5:
                every = torch.cat([parameters[name].abs().flatten() for name in NAMES])
                least = every.sort(descending=True).values[7]
                masks = {name: (parameters[name].abs() >= least).double() for name in NAMES}
                assert sum(int(mask.sum()) for mask in masks.values()) == 8
            for name in NAMES:
                parameters[name] *= masks[name]
    assert result.masks == Masks({name: mask.bool() for name, mask in masks.items()})
    for name, parameter in parameters.items():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-9, atol=1e-12)


def test_the_density_is_exact_where_the_penalty_left_fewer(small: Small, samples: tuple[Tensor, Tensor]) -> None:
    """A penalty that zeroes everything: the first weights by index are kept, and learn."""
    recipe, model = Recipe.sgd(epochs=4, batch_size=4), small()
    callback = callback_of("l1", MethodContext(0.25, "5", recipe), {"strength": 1e6, "cut": 0.5})
    full = Masks.full({name: model.get_parameter(name) for name in NAMES})
    masks = train(model, samples, recipe, masks=full, callbacks=[callback]).masks
    assert masks is not None
    assert masks["0.weight"].flatten().nonzero().flatten().tolist() == list(range(8))
    assert not masks["3.weight"].any()


def test_options_are_checked() -> None:
    context = MethodContext(0.5, "5", Recipe.sgd(epochs=1))
    for options in ({"strength": 0.0}, {"strength": -1.0}, {"cut": 0.0}, {"cut": 1.1}):
        with pytest.raises(InputError, match="method 'l1'"):
            callback_of("l1", context, options)
