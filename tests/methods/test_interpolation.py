"""Interpolated normalisation parameters: what a step sees, its gradient, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.interpolation import Interpolated
from oneticket.prunable import Prunable
from oneticket.training import Checkpoint, EpochRecord, OnEpoch, Recipe, Runtime, TrainState, train

Small = Callable[..., nn.Sequential]
MakeState = Callable[..., TrainState]


def at(state: TrainState, step: int) -> TrainState:
    state.step = step
    return state


TRAINED = {"1.weight": torch.tensor([2.0, -1.0, 0.5, 3.0]), "1.bias": torch.tensor([1.0, 0.0, -2.0, 0.3])}
FRESH = {"1.weight": torch.ones(4), "1.bias": torch.zeros(4)}


def psi(model: nn.Module) -> Tensor:
    return torch.cat([model.get_parameter(name).detach() for name in FRESH]).clone()


def test_a_step_sees_the_mixture_and_has_its_gradient(
    small: Small, state_of: MakeState, samples: tuple[Tensor, Tensor]
) -> None:
    """d loss((1 − a)ψ + a·fresh)/dψ by finite differences, a drawn for the step."""
    model, step, h = small(), 5, 1e-6
    state = state_of(model)
    callback = Interpolated(TRAINED, FRESH)
    callback.on_train_start(state)
    trained, fresh = (torch.cat([t.double() for t in end.values()]) for end in (TRAINED, FRESH))
    assert torch.equal(psi(model), trained)
    share = float(torch.rand((), generator=state.generator("interpolation", step)))
    assert 0 < share < 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    callback.before_forward(at(state, step))
    torch.testing.assert_close(psi(model), (1 - share) * trained + share * fresh, rtol=1e-12, atol=1e-12)
    F.cross_entropy(model(samples[0]), samples[1]).backward()
    callback.after_backward(at(state, step))
    assert torch.equal(psi(model), trained), "put back to the bit"
    assert all(torch.equal(model.get_parameter(n), before[n]) for n, _ in model.named_parameters())

    def loss(at: Tensor) -> float:
        other = small()
        mixture = (1 - share) * at + share * fresh
        with torch.no_grad():
            for name, values in zip(FRESH, mixture.split(4), strict=True):
                other.get_parameter(name).copy_(values)
            return float(F.cross_entropy(other(samples[0]), samples[1]))

    slopes = [(loss(trained + h * unit) - loss(trained - h * unit)) / (2 * h) for unit in torch.eye(8).double()]
    gradient = torch.cat([model.get_parameter(name).grad for name in FRESH])  # type: ignore[misc]
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-8)
    callback.before_forward(at(state, step + 1))
    assert not torch.allclose(psi(model), (1 - share) * trained + share * fresh), "another step, another mixture"


def test_until_then_parameters_are_trained_as_they_are(small: Small, state_of: MakeState) -> None:
    model = small()
    callback = Interpolated(TRAINED, FRESH, until=0.5)
    state = state_of(model)  # 40 steps
    callback.on_train_start(state)
    start, seen = psi(model), []
    for step in range(40):
        callback.before_forward(at(state, step))
        seen.append(not torch.equal(psi(model), start))
        callback.after_backward(at(state, step))
        with callback.evaluation_weights():
            assert torch.equal(psi(model), start)
    assert seen == [True] * 20 + [False] * 20


def test_buffers_are_left_to_the_network(small: Small, state_of: MakeState) -> None:
    model = small()
    names = [name for name in model.state_dict() if name.startswith("1.")]
    ends = [{name: torch.full_like(model.state_dict()[name], value) for name in names} for value in (3, 1)]
    before = model.state_dict()["1.running_var"].clone()
    callback = Interpolated(*ends)
    state = state_of(model)
    callback.on_train_start(state)
    callback.before_forward(at(state, 0))
    assert torch.equal(model.state_dict()["1.running_var"], before)
    assert (psi(model) < 3).all()


def test_a_network_without_normalisation_is_left_alone(samples: tuple[Tensor, Tensor]) -> None:
    with_it, without = (nn.Linear(3, 2).double() for _ in range(2))
    without.load_state_dict(with_it.state_dict())
    recipe = Recipe.sgd(epochs=2, batch_size=4)
    train(with_it, samples, recipe, callbacks=[Interpolated({}, {})])
    train(without, samples, recipe)
    assert torch.equal(with_it.weight, without.weight)


def test_states_that_do_not_fit_are_refused(small: Small, state_of: MakeState) -> None:
    with pytest.raises(InputError, match=r"'1.bias' is among only one"):
        Interpolated(TRAINED, {"1.weight": FRESH["1.weight"]})
    with pytest.raises(InputError, match="until = 0"):
        Interpolated(TRAINED, FRESH, until=0)
    for ends in (
        ({"9.weight": torch.ones(4)}, {"9.weight": torch.ones(4)}),
        ({"1.weight": torch.ones(3)}, {"1.weight": torch.ones(3)}),
        ({"1.weight": torch.ones(4)}, {"1.weight": torch.ones(1)}),
    ):
        with pytest.raises(InputError, match="does not fit the model"):
            Interpolated(*ends).on_train_start(state_of(small()))


@pytest.mark.parametrize("name", ["train", "l0", "rigl", "bwn"])
def test_goes_with_any_method_and_resumes_to_the_bit(
    name: str, small: Small, samples: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    recipe = Recipe.adam(epochs=4, batch_size=3, lr=0.01)

    def run(seed: int = 0, epoch: int | None = None, checkpoint: Checkpoint | None = None) -> nn.Sequential:
        def kill(record: EpochRecord) -> None:
            if record.epoch == epoch:
                raise KeyboardInterrupt

        model = small(seed)
        method = callback_of(name, MethodContext(0.4, "5", recipe), {})
        callbacks = [method, Interpolated(TRAINED, FRESH, until=0.8), OnEpoch(kill)]
        masks = Masks.full(dict(Prunable(model).weights()))
        train(
            model,
            samples,
            recipe,
            masks=masks,
            runtime=Runtime(checkpoint=checkpoint),
            callbacks=callbacks,
        )
        return model

    whole = run()
    for epoch in (1, 3):
        path = tmp_path / f"{epoch}.pt"
        with pytest.raises(KeyboardInterrupt):
            run(epoch=epoch, checkpoint=Checkpoint(path, every=0))
        resumed = run(seed=9, checkpoint=Checkpoint(path))
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key
    kept = sum(int((whole.get_parameter(n) != 0).sum()) for n, _ in Prunable(whole).weights())
    assert kept <= (13 if name in ("l0", "rigl") else 32)
