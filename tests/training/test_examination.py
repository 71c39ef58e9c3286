"""Examination: what would stop a training later, or make it meaningless, is refused before its first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oneticket as ot
from oneticket.errors import InputError
from oneticket.training import Checkpoint, Observer, Runtime, evaluate, train

RECIPE = ot.Recipe.sgd(epochs=1, batch_size=16, lr=0.01)
INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(48) % 3
PAIR = INPUTS, LABELS


def network(outputs: int = 3, *middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, outputs))


def one_hot(labels: Tensor, classes: int = 3) -> Tensor:
    return F.one_hot(labels, classes).float()


class Returning(nn.Module):
    """A network that wraps its output."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inside, self.wrap = network(), wrap

    def forward(self, inputs: Tensor) -> Any:
        return self.wrap(self.inside(inputs))


class Remembering(nn.Module):
    """A network with extra state that is not a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.inside(inputs)
        return out

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def frozen() -> nn.Module:
    return network().requires_grad_(False)


def in_inference() -> nn.Module:
    with torch.inference_mode():
        return network()


WRONG_NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "meta": (lambda: network().to("meta"), r"model: '0.weight' is on the meta device.*to_empty"),
    "inference": (in_inference, r"model: '0.weight' was made in inference mode"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"model: '0.weight' has no shape yet.*one batch"),
    "frozen": (frozen, r"model: no parameter has requires_grad"),
    "sparse": (lambda: nn.Sequential(nn.EmbeddingBag(9, 6, sparse=True), nn.Linear(6, 3)), r"sparse gradients"),
    "dictionary": (
        lambda: Returning(lambda out: {"a": out, "b": out}),
        r"returns a dict of a, b; expected one tensor, N × classes",
    ),
    "tuple": (lambda: Returning(lambda out: ("out",)), r"returns a tuple; expected one tensor"),
    "flat": (lambda: Returning(lambda out: out[:, 0]), r"has the shape \(16,\); expected N × classes"),
    "one output": (lambda: network(1), r"the cross-entropy of one output is always 0"),
    "too few outputs": (lambda: network(2), r"labels go from 0 to 2, and the network has 2 outputs"),
    "other inputs": (lambda: nn.Sequential(nn.Linear(7, 3)), r"fails on a batch of torch.float32 of shape \(16, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_NETWORKS)
def test_a_network_that_cannot_be_trained_is_refused(kind: str) -> None:
    make, told = WRONG_NETWORKS[kind]
    with pytest.raises(InputError, match=told):
        train(make(), PAIR, RECIPE)


WRONG_DATA: dict[str, tuple[Any, str]] = {
    "float targets of one column": ((INPUTS, LABELS.float()[:, None]), r"targets are torch.float32 of shape \(16, 1\)"),
    "float targets": ((INPUTS, LABELS.float()), r"torch.float32 of shape \(16,\); expected class numbers, torch.int64"),
    "int32 labels": ((INPUTS, LABELS.int()), r"targets are torch.int32"),
    "boolean labels": ((INPUTS, LABELS > 1), r"targets are torch.bool"),
    "a column of labels": ((INPUTS, LABELS[:, None]), r"targets are torch.int64 of shape \(16, 1\)"),
    "labels from 1": ((INPUTS, LABELS + 1), r"labels go from 1 to 3, and the network has 3 outputs.*subtract 1"),
    "a late label": ((INPUTS, torch.cat([LABELS[:-1], torch.tensor([9])])), r"labels go from 0 to 9"),
    "negative labels": ((INPUTS, LABELS - 1), r"labels go from -1 to 1"),
    "not probabilities": ((INPUTS, torch.rand(48, 3) + 1), r"targets are not probabilities of classes"),
    "numpy texts": ((INPUTS.numpy(), LABELS.numpy().astype(str)), r"train_set: tuple cannot be made into batches"),
    "one array": (INPUTS.numpy(), r"train_set: ndarray cannot be made into batches"),
    "float64": ((INPUTS.double(), LABELS), r"fails on a batch of torch.float64.*inputs.to\(torch.float32\)"),
    "whole numbers": ((INPUTS.int(), LABELS), r"fails on a batch of torch.int32.*inputs.to\(torch.float32\)"),
    "lengths": ((INPUTS, LABELS[:-1]), r"train_set: 48 inputs, but 47 targets"),
    "empty": ((INPUTS[:0], LABELS[:0]), r"the training set is empty"),
    "NaN": ((INPUTS.where(INPUTS < 2, torch.nan), LABELS), r"inputs of train_set are not all finite"),
    "a text": ("data", r"train_set: str cannot be made into batches"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_DATA)
def test_data_that_cannot_be_learnt_is_refused_before_the_training(kind: str) -> None:
    given, told = WRONG_DATA[kind]
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=told):
        train(model, given, RECIPE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [kind for kind in WRONG_DATA if kind not in ("empty", "float targets of one column")])
@pytest.mark.parametrize("where", ["validation", "test_set"])
def test_data_to_evaluate_on_is_refused_before_the_training(kind: str, where: str) -> None:
    steps: list[int] = []

    class Counting(Observer):
        def on_step_end(self, state: Any) -> None:
            steps.append(state.step)

    ticket = ot.find_ticket(network(), PAIR, recipe=RECIPE, density=0.5, rounds=1, rewind=0)
    with pytest.raises(InputError, match=where if kind != "lengths" else "47 targets"):
        ot.transfer(ticket, network(), PAIR, recipe=RECIPE, callbacks=[Counting()], **{where: WRONG_DATA[kind][0]})
    assert not steps


def test_a_search_over_a_constant_loss_gives_no_ticket() -> None:
    with pytest.raises(InputError, match="cross-entropy of one output is always 0"):
        ot.find_ticket(network(1), (INPUTS, torch.randn(48, 1)), recipe=RECIPE, density=0.5, rounds=1, rewind=0)


def test_soft_targets_train_but_can_not_be_evaluated_on() -> None:
    soft = INPUTS, one_hot(LABELS)
    assert train(network(), soft, RECIPE).steps == 3
    with pytest.raises(InputError, match=r"validation: targets are torch.float32 of shape \(48, 3\)"):
        train(network(), soft, RECIPE, validation=soft)
    with pytest.raises(InputError, match=r"evaluate: targets are torch.float32"):
        evaluate(network(), (INPUTS[:3], one_hot(LABELS[:3])))  # as many rows as columns: argmax would compare


def test_a_loss_of_ones_own_may_have_other_targets() -> None:
    def squares(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(model(inputs), targets)

    assert train(network(1), (INPUTS, torch.randn(48, 1)), RECIPE, loss=squares).steps == 3


def test_a_wrong_label_behind_the_first_batch_is_refused_where_it_is_met() -> None:
    samples = list(zip(INPUTS, [*LABELS[:-1].tolist(), 7], strict=True))
    with pytest.raises(InputError, match="labels go from 0 to 7"):
        train(network(), samples, RECIPE)
    with pytest.raises(InputError, match="labels go from 0 to 7"):
        evaluate(network(), samples)


# -- BatchNorm -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("samples", "size", "better"), [(33, 16, 17), (5, 4, 5), (9, 1, 3), (1, 16, None)])
def test_a_last_batch_of_one_under_batchnorm_is_refused(samples: int, size: int, better: int | None) -> None:
    data, recipe = (INPUTS[:samples], LABELS[:samples]), ot.Recipe.sgd(epochs=1, batch_size=size)
    with pytest.raises(InputError, match=rf"batch_size = {size}:.*BatchNorm") as caught:
        train(network(3, nn.BatchNorm1d(8)), data, recipe)
    assert str(caught.value).endswith(f"batch_size = {better}" if better else "more samples")
    if better:
        assert train(network(3, nn.BatchNorm1d(8)), data, ot.Recipe.sgd(epochs=1, batch_size=better)).steps
    assert train(network(), data, recipe).steps, "without BatchNorm one sample is enough"


def test_batchnorm_of_images_takes_one_sample() -> None:
    images = torch.randn(5, 1, 4, 4), LABELS[:5]
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    assert train(model, images, ot.Recipe.sgd(epochs=1, batch_size=4)).steps == 2


# -- what is left alone --------------------------------------------------------------------------------------------
def test_the_examination_leaves_no_trace() -> None:
    """The numbers of a training are those without it: statistics, random state and hooks are untouched."""
    calls: list[int] = []
    hooked = network(3, nn.BatchNorm1d(8), nn.Dropout(0.5))
    plain = network(3, nn.BatchNorm1d(8), nn.Dropout(0.5))
    plain.load_state_dict(hooked.state_dict())
    hooked.register_forward_pre_hook(lambda *_: calls.append(1))  # with a hook nothing is tried
    state = torch.get_rng_state()
    train(plain, PAIR, RECIPE, runtime=Runtime(compact=False))
    train(hooked, PAIR, RECIPE, runtime=Runtime(compact=False))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == 3
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), hooked.state_dict().values(), strict=True)
    )


def test_extra_state_is_refused_where_it_would_have_to_be_kept(tmp_path: Any) -> None:
    assert train(Remembering(), PAIR, RECIPE).steps == 3
    for options in ({"snapshots": ["1ep"]}, {"runtime": Runtime(checkpoint=Checkpoint(tmp_path / "c"))}):
        with pytest.raises(InputError, match=r"model: '_extra_state' in its state is a dict"):
            train(Remembering(), PAIR, RECIPE, **options)
    with pytest.raises(InputError, match="_extra_state"):
        ot.find_ticket(Remembering(), PAIR, recipe=RECIPE, density=0.5, rounds=1, rewind=0)


def test_whole_numbers_are_right_for_an_embedding() -> None:
    model = nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, 3))
    words = torch.from_numpy(np.arange(48 * 4).reshape(48, 4) % 9)
    assert train(model, (words, LABELS), RECIPE).steps == 3
