"""SNIP and GraSP against their definitions: derivatives by masks, the whole Hessian, finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning import CRITERIA, Prunable, ScoreContext, Scores, prune

State = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def evidence(batches: list[Batch]) -> ScoreContext:
    return ScoreContext(batches=lambda: batches)


def loss(case: Any, state: State, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Mean cross-entropy, BatchNorm with the mean and the biased variance of the batch."""

    def normalise(maps: Tensor, name: str) -> Tensor:
        mean = maps.mean((0, 2, 3), keepdim=True)
        variance = (maps - mean).square().mean((0, 2, 3), keepdim=True)
        gain, shift = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (maps - mean) / (variance + 1e-5).sqrt() * gain + shift

    logits = case.formula(state, batch[0], normalise) / temperature
    return -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(batch[1])), batch[1]].mean()


def flat_loss(case: Any, batch: Batch, temperature: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of all prunable weights in one vector, and that vector."""
    shapes = {name: weight.shape for name, weight in Prunable(case.model).weights()}
    start = case.state()

    def value(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        given = {n: part.view(shape) for (n, shape), part in zip(shapes.items(), parts, strict=True)}
        return loss(case, start | given, batch, temperature)

    return value, torch.cat([start[name].flatten() for name in shapes])


def first_ten_of_each(batches: list[Batch]) -> Batch:
    seen, images, labels = dict.fromkeys(range(3), 0), [], []
    for inputs, targets in batches:
        for image, label in zip(inputs, targets.tolist(), strict=True):
            seen[label] += 1
            if seen[label] <= 10:
                images.append(image)
                labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def slope(value: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    return torch.autograd.grad(value(vector.requires_grad_()), vector)[0]


def check(case: Any, name: str, scores: Scores, expected: Tensor) -> None:
    """Scores to 1e-10 of the largest, and equal masks: the best by the reference, equal ones by index."""
    flat = torch.cat([s.flatten() for s in scores.values()]).numpy()
    scale = float(expected.abs().max())
    np.testing.assert_allclose(flat / scale, expected.numpy() / scale, rtol=0, atol=1e-10)
    for density in (0.5, 0.1):
        view = Prunable(case.model)
        masks = prune(view, evidence(case.batches), criterion=name, allocation="global", density=density)
        chosen = np.zeros(view.total, dtype=bool)
        chosen[np.lexsort((np.arange(view.total), -expected.numpy()))[: math.floor(density * view.total + 0.5)]] = True
        np.testing.assert_array_equal(torch.cat([m.flatten() for m in masks.values()]).numpy(), chosen)


# -- snip ----------------------------------------------------------------------------------------------------------
def test_snip_is_the_derivative_by_the_mask_on_the_first_batch(case: Any) -> None:
    """Lee et al., eq. 4: the derivative of L(c ∘ W) by c at c = 1."""
    value, weights = flat_loss(case, case.batches[0], 1.0)
    gates = torch.ones_like(weights, requires_grad=True)
    expected = torch.autograd.grad(value(gates * weights), gates)[0].abs()
    check(case, "snip", CRITERIA["snip"](Prunable(case.model), evidence(case.batches)), expected)


def test_snip_says_what_the_loss_loses(case: Any) -> None:
    """Shrinking one weight by the factor 1 − δ changes the loss by δ times its score, up to δ²."""
    value, weights = flat_loss(case, case.batches[0], 1.0)
    scores = CRITERIA["snip"](Prunable(case.model), evidence(case.batches))
    flat = torch.cat([s.flatten() for s in scores.values()])
    for i in range(0, len(flat), 7):
        step = torch.zeros_like(weights)
        step[i] = 1e-5 * weights[i]
        measured = (value(weights + step) - value(weights - step)).abs() / 2e-5
        assert float(measured) == pytest.approx(float(flat[i]), rel=1e-5, abs=1e-9)


# -- grasp ---------------------------------------------------------------------------------------------------------
def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(case: Any) -> None:
    """The whole Hessian, row by row, of the loss of ten samples a class with logits over 200."""
    samples = first_ten_of_each(case.batches)
    assert samples[1].bincount().tolist() == [10, 10, 10]
    value, weights = flat_loss(case, samples, 200.0)
    hessian = torch.autograd.functional.hessian(value, weights)
    expected = weights * (hessian @ slope(value, weights.clone()))
    assert (expected < 0).any()
    assert (expected > 0).any()
    check(case, "grasp", CRITERIA["grasp"](Prunable(case.model), evidence(case.batches)), expected)


def test_the_hessian_gradient_product_agrees_with_finite_differences(case: Any) -> None:
    """H g is the change of the gradient along g: (∇L(W + hg) − ∇L(W − hg)) / 2h."""
    value, weights = flat_loss(case, first_ten_of_each(case.batches), 200.0)
    gradient = slope(value, weights.clone())
    step = 1e-4 / float(gradient.norm())
    ahead, behind = (slope(value, (weights + sign * step * gradient).detach()) for sign in (1, -1))
    measured = (ahead - behind) / (2 * step)
    scores = CRITERIA["grasp"](Prunable(case.model), evidence(case.batches))
    product = torch.cat([s.flatten() for s in scores.values()]) / weights
    torch.testing.assert_close(product, measured, rtol=1e-5, atol=1e-6 * float(measured.abs().max()))


def test_what_grasp_keeps_carries_the_gradient_flow(case: Any) -> None:
    """Scaling the weights by 1 − δ where the published score −W ∘ (H g) is largest raises ‖g‖² most, not least."""
    value, weights = flat_loss(case, first_ten_of_each(case.batches), 200.0)
    scores = CRITERIA["grasp"](Prunable(case.model), evidence(case.batches))
    flat = torch.cat([s.flatten() for s in scores.values()])
    first_to_go, last_to_go = flat.argsort()[:10], flat.argsort()[-10:]

    def flow_without(indices: Tensor) -> float:
        changed = weights.clone()
        changed[indices] *= 1 - 1e-4
        return float(slope(value, changed).square().sum())

    whole = float(slope(value, weights.clone()).square().sum())
    assert flow_without(first_to_go) > whole > flow_without(last_to_go)


def test_masked_weights_have_no_part_in_the_gradient_flow(case: Any) -> None:
    """With zeros for masked weights, the scores are those of the network that lacks these weights."""
    view = Prunable(case.model)
    alive = prune(view, ScoreContext(), criterion="magnitude", allocation="global", density=0.6)
    with torch.no_grad():
        for name, weight in view.weights():
            weight.mul_(alive[name])
    value, weights = flat_loss(case, first_ten_of_each(case.batches), 200.0)
    living = torch.cat([mask.flatten() for mask in alive.values()]).nonzero().flatten()

    def of_the_living(values: Tensor) -> Tensor:
        return value(torch.zeros_like(weights).index_put((living,), values))

    hessian = torch.autograd.functional.hessian(of_the_living, weights[living])
    expected = torch.zeros_like(weights)
    expected[living] = weights[living] * (hessian @ slope(of_the_living, weights[living].clone()))
    scores = CRITERIA["grasp"](view, evidence(case.batches))
    flat = torch.cat([s.flatten() for s in scores.values()])
    scale = float(expected.abs().max())
    torch.testing.assert_close(flat / scale, expected / scale, rtol=0, atol=1e-10)


class Counted:
    """Batches that count how many were taken."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.taken = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.taken += 1
            yield batch


def test_no_more_batches_are_read_than_needed(case: Any) -> None:
    images = torch.randn(15, 2, 5, 5, dtype=torch.float64)
    batches = Counted([(images, torch.arange(15) % 3) for _ in range(6)])
    CRITERIA["grasp"](Prunable(case.model), ScoreContext(batches=lambda: batches))
    assert batches.taken == 2
    CRITERIA["snip"](Prunable(case.model), ScoreContext(batches=lambda: batches))
    assert batches.taken == 3


def test_a_class_with_fewer_samples_gives_what_it_has(case: Any) -> None:
    few = case.batches[:1]
    value, weights = flat_loss(case, few[0], 200.0)
    hessian = torch.autograd.functional.hessian(value, weights)
    expected = weights * (hessian @ slope(value, weights.clone()))
    scores = CRITERIA["grasp"](Prunable(case.model), evidence(few))
    flat, scale = torch.cat([s.flatten() for s in scores.values()]), float(expected.abs().max())
    torch.testing.assert_close(flat / scale, expected / scale, rtol=0, atol=1e-10)


# -- both ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["snip", "grasp"])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_network_is_left_as_it_was(name: str, training: bool, case: Any) -> None:
    """Running statistics, modes, gradients the caller holds, and parameters that he has frozen."""
    model = case.model.train(training)
    model.conv2.eval()
    model.conv1.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before, modes = case.state(), [module.training for module in model.modules()]
    with torch.no_grad():
        scores = CRITERIA[name](Prunable(model), evidence(case.batches))
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not model.conv1.weight.requires_grad
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "head.weight")
    assert scores["conv1.weight"].abs().max() > 0


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_dropout_is_off(name: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
    batches = [(torch.randn(12, 6), torch.arange(12) % 3)]
    plain = CRITERIA[name](Prunable(nn.Sequential(*layers)), evidence(batches))
    dropping = nn.Sequential(*layers[:3], nn.Dropout(0.5), layers[3])
    random_state = torch.get_rng_state()
    assert torch.equal(CRITERIA[name](Prunable(dropping), evidence(batches))["0.weight"], plain["0.weight"])
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_no_batches_are_refused(name: str) -> None:
    view = Prunable(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    with pytest.raises(InputError, match="training batches, but there are none"):
        CRITERIA[name](view, evidence([]))
    with pytest.raises(InputError, match=r"looks at training batches: not given"):
        CRITERIA[name](view, ScoreContext())


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_weight_without_part_in_the_output_scores_zero(name: str) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.used(inputs).tanh())

    torch.manual_seed(0)
    scores = CRITERIA[name](Prunable(Unused()), evidence([(torch.randn(9, 4), torch.arange(9) % 3)]))
    assert torch.equal(scores["unused.weight"], torch.zeros(5, 4))
    assert scores["used.weight"].abs().min() > 0


def test_equal_scores_go_by_index() -> None:
    """A unit that never fires scores zero in all its weights; of those the first are kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, 100.0]))
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    masks = prune(Prunable(model), evidence(batches), criterion="snip", allocation="global", density=0.75)
    assert masks == Masks({"0.weight": torch.tensor([[True, True, False, False], [True] * 4])})
