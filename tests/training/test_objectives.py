"""Objectives: losses and metrics against their formulas in float64, and the refusal of other targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import oneticket as ot
from oneticket.errors import InputError
from oneticket.training import evaluate, train
from oneticket.training.objectives import LOSSES, Objective

RECIPE = ot.Recipe.sgd(epochs=2, batch_size=16, lr=0.01)
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(9, (40, 7), generator=torch.Generator().manual_seed(2))


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))


class Language(nn.Module):
    """Token → the scores of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(9, 12), nn.Linear(12, 12), nn.Linear(12, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.table(tokens)).relu())
        return out


def constant(value: Tensor) -> nn.Module:
    """A network that returns rows of ``value``, which its inputs number."""

    class Constant(nn.Module):
        def forward(self, numbers: Tensor) -> Tensor:
            return value[numbers[:, 0]]

    return Constant()


def judged(outputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], **options: Any) -> tuple[float, float]:
    numbers = torch.arange(len(outputs))[:, None]
    return evaluate(constant(torch.from_numpy(outputs)), (numbers, torch.from_numpy(targets)), batch_size=3, **options)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), samples=st.integers(2, 9), columns=st.integers(2, 4))
def test_losses_and_metrics_are_their_formulas_over_all_samples(seed: int, samples: int, columns: int) -> None:
    draw = np.random.default_rng(seed)
    out = draw.normal(size=(samples, columns))
    labels = draw.integers(0, 2, (samples, columns)).astype(float)
    score, loss = judged(out, labels, loss="multi-label")
    p = 1 / (1 + np.exp(-out))
    assert score == pytest.approx(((out > 0) == (labels == 1)).mean())
    assert loss == pytest.approx(-(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(), rel=1e-5)
    known = draw.normal(size=(samples, columns))
    score, loss = judged(out, known, loss="regression")
    assert loss == pytest.approx(((out - known) ** 2).mean(), rel=1e-5)
    spread = ((known - known.mean(0)) ** 2).sum(0)
    assert score == pytest.approx((1 - ((out - known) ** 2).sum(0) / spread).mean(), rel=1e-3, abs=1e-3)
    assert judged(out, known, loss="regression", metric="mean-absolute-error")[0] == pytest.approx(
        np.abs(out - known).mean(), rel=1e-5
    )


def test_next_token_is_the_cross_entropy_of_what_follows_over_every_token_that_counts() -> None:
    draw = np.random.default_rng(0)
    out, tokens = draw.normal(size=(5, 4, 6)), draw.integers(0, 6, (5, 4))
    tokens[0, 2:] = tokens[3, 1] = -100
    total, right, count = 0.0, 0, 0
    for row in range(5):
        for place in range(3):
            wanted = tokens[row, place + 1]
            if wanted != -100:
                scores = out[row, place]
                total += math.log(np.exp(scores).sum()) - scores[wanted]
                right += int(scores.argmax() == wanted)
                count += 1
    score, loss = judged(out, tokens, loss="next-token")
    assert score == pytest.approx(right / count)
    assert loss == pytest.approx(total / count, rel=1e-5)


FITTING: dict[str, tuple[Any, Any, Any]] = {
    "classification": (network(), X, torch.arange(40) % 3),
    "multi-label": (network(), X, (X[:, :3] > 0).float()),
    "regression": (network(1), X, X.sum(1)),
    "next-token": (Language(), TOKENS, TOKENS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_ticket_is_found_and_moved_by_each_loss(name: str) -> None:
    model, inputs, targets = FITTING[name]
    data = (inputs, targets)
    ticket = ot.find_ticket(model, data, recipe=RECIPE, density=0.5, rounds=2, rewind=0, loss=name)  # type: ignore[arg-type]
    result = ot.transfer(ticket, model, data, recipe=RECIPE, test_set=data, validation=data, head="keep", loss=name)  # type: ignore[arg-type]
    first, last = (record.train_loss for record in (result.training.history[0], result.training.history[-1]))
    assert last < first
    assert result.training.history[-1].val_accuracy == pytest.approx(result.test_accuracy)
    assert ot.find_ticket(model, data, recipe=RECIPE, density=0.5, rounds=1, criterion="snip", loss=name).masks.kept  # type: ignore[arg-type]


def test_a_metric_of_ones_own_is_averaged_over_the_samples() -> None:
    def worst(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets[:, 0]).abs().mean()

    out, known = np.array([[1.0], [2.0], [3.0], [5.0]]), np.zeros((4, 1))
    assert judged(out, known, loss="regression", metric=worst)[0] == pytest.approx(11 / 4)

    def squares(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return (model(inputs) - targets).square().mean()

    assert judged(out, known, loss=squares, metric=worst) == pytest.approx((11 / 4, 39 / 4))
    model, data = network(1), (X, X[:, :1])
    assert train(model, data, RECIPE, loss=squares, metric=worst, validation=data).history[-1].val_accuracy
    with pytest.raises(InputError, match="a loss of your own has no metric"):
        train(model, data, RECIPE, loss=squares, validation=data)


WRONG: dict[str, tuple[dict[str, Any], Any, Any, str]] = {
    "unknown": ({"loss": "clasification"}, X, X, "unknown loss 'clasification'.*'classification'"),
    "unknown metric": ({"loss": "regression", "metric": "r3"}, X, X, "unknown metric 'r3'.*'r2'"),
    "metric of another": ({"loss": "regression", "metric": "accuracy"}, X, X, "expected r2 or mean-absolute-error"),
    "classes": ({"loss": "regression"}, X, torch.arange(40) % 3, "torch.int64; expected floating-point"),
    "stretched": ({"loss": "regression"}, X, X[:, :1], r"shape \(16, 1\), the network's outputs \(16, 3\)"),
    "NaN": ({"loss": "regression"}, X, X[:, :3].log(), "targets are not all finite"),
    "beyond 1": ({"loss": "multi-label"}, X, torch.full((40, 3), 2.0), "targets go from 2 to 2; expected 0 or 1"),
    "no tokens": ({"loss": "next-token"}, X, torch.arange(40) % 3, "expected N × T tokens and N × T × vocabulary"),
    "float targets": ({}, X, X[:, :1], "expected class numbers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_targets_that_a_loss_does_not_take_are_refused_before_the_training(kind: str) -> None:
    options, inputs, targets, told = WRONG[kind]
    with pytest.raises(InputError, match=told):
        train(network(), (inputs, targets), RECIPE, **options)


def test_one_logit_and_tokens_shifted_already_are_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"cross-entropy of one output is always 0; expected .*loss='regression'"):
        train(network(1), (X, torch.arange(40) % 2), RECIPE)
    with pytest.raises(InputError, match="targets are shifted by a place already"):
        train(Language(), (TOKENS[:, :-1], TOKENS[:, 1:]), RECIPE, loss="next-token")
    with pytest.raises(InputError, match="or loss='next-token' for tokens"):
        train(Language(), (TOKENS, TOKENS), RECIPE)
    with pytest.raises(InputError, match=r"label_smoothing = 0\.1 with loss = 'regression'"):
        Objective("regression", label_smoothing=0.1)


def test_a_criterion_that_looks_at_classes_is_refused_without_them() -> None:
    with pytest.raises(InputError, match=r"criterion = 'grasp' looks at samples of each class.*snip"):
        ot.find_ticket(network(1), (X, X[:, 0]), recipe=RECIPE, criterion="grasp", rounds=1, loss="regression")
