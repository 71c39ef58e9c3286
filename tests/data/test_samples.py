"""Whatever people hold is trained on as tensors are: arrays, dicts, several inputs, loaders and streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import oneticket as ot
from oneticket.data import as_batches
from oneticket.errors import InputError

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 3
RECIPE = ot.Recipe.sgd(epochs=2, batch_size=8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Output:
    logits: Tensor


class ByKeyword(nn.Module):
    """A network of the kind of transformers: keywords in, an object with logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor, scale: Tensor | None = None) -> Output:
        inputs = pixel_values if scale is None else pixel_values * scale[:, None]
        return Output(self.classifier(self.body(inputs).relu()))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (self.left(one) + self.right(two)).relu()
        return self.head(hidden), hidden


class Stream(IterableDataset[Any]):
    def __init__(self, samples: int = 20, told: int | None = 20) -> None:
        self.samples, self.told = samples, told

    def __iter__(self) -> Iterator[Any]:
        return zip(X[: self.samples], Y[: self.samples], strict=True)

    def __len__(self) -> int:
        if self.told is None:
            raise TypeError
        return self.told


DICT = {"pixel_values": X, "scale": torch.ones(20), "labels": Y}
ROWS = [{"pixel_values": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]


@pytest.mark.parametrize("data", [DICT, ROWS, ({"pixel_values": X}, Y), (X, Y), DataLoader(ROWS, batch_size=8)])
def test_a_ticket_of_a_network_that_returns_an_object_is_found_and_moved(data: Any) -> None:
    torch.manual_seed(0)
    ticket = ot.find_ticket(ByKeyword(), data, recipe=RECIPE, density=0.5, rounds=2, rewind=0)
    assert (ticket.head, list(ticket.masks)) == ("classifier", ["body.weight"])
    moved = ot.transfer(ticket, ByKeyword(), data, recipe=RECIPE, test_set=data, validation=data)
    assert moved.test_accuracy == moved.training.history[-1].val_accuracy


def test_a_network_of_several_inputs_learns_by_its_first_output() -> None:
    ticket = ot.find_ticket(Two(), ((X, X.flip(0)), Y), recipe=RECIPE, density=0.5, rounds=1)
    assert ticket.head == "head"
    for batch, _ in as_batches(((X, X.flip(0)), Y), 8).ordered():
        assert torch.equal(batch[0].flip(0)[-1], X[len(batch[0]) - 1]) or len(batch) == 2


def test_arrays_are_the_tensors_of_torchs_types() -> None:
    kinds = [(np.float64, torch.float32), (np.float32, torch.float32), (np.float16, torch.float16)]
    for given, wanted in kinds:
        inputs, targets = next(as_batches((X.numpy().astype(given), Y.numpy().astype(np.int32)), 20).ordered())
        assert (inputs.dtype, targets.dtype) == (wanted, torch.int64)
        assert torch.equal(targets, Y)
    backwards = X.numpy()[::-1], Y.numpy()[::-1]
    inputs, _ = next(as_batches(backwards, 20).ordered())
    assert torch.equal(inputs, X.flip(0))


def test_tokens_are_their_own_targets_but_for_the_padding() -> None:
    ids = torch.arange(12).view(2, 6)
    attended = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    inputs, targets = next(as_batches({"input_ids": ids, "attention_mask": attended}, 2).ordered())
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert targets.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, -100, -100]]


@pytest.mark.parametrize("workers", [0])
def test_a_loader_keeps_its_order_and_equal_generators_give_equal_epochs(workers: int) -> None:
    data = TensorDataset(X, Y)
    own = torch.Generator().manual_seed(7)
    for loader in (DataLoader(data, 8, shuffle=True), DataLoader(data, 8, shuffle=True, generator=own)):
        source = as_batches(loader, 99)
        before, state = torch.get_rng_state(), own.get_state()
        first, again, other = (list(source.epoch(seeded(s), seeded(s))) for s in (1, 1, 2))
        assert [len(y) for _, y in first] == [8, 8, 4]
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0][0], other[0][0])
        assert torch.equal(torch.cat([y for _, y in first]).sort()[0], Y.sort()[0])
        assert torch.equal(torch.cat([x for x, _ in source.ordered()]), X)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(own.get_state(), state)
    dropping = as_batches(DataLoader(data, 8, drop_last=True), 99)
    assert (dropping.samples, dropping.steps_per_epoch, dropping.batch_size) == (16, 2, 8)
    assert len(list(dropping.epoch(seeded(0), seeded(0)))) == 2


def test_a_stream_is_read_as_it_comes_and_must_have_its_length() -> None:
    source = as_batches(Stream(), 8)
    assert torch.equal(torch.cat([x for x, _ in source.epoch(seeded(0), seeded(0))]), X)
    assert ot.train(nn.Linear(6, 3), Stream(), RECIPE).steps == 6
    with pytest.raises(InputError, match="Stream has no length; expected __len__"):
        as_batches(Stream(told=None), 8)
    with pytest.raises(InputError, match="Stream ended after 2 of 3 batches"):
        ot.train(nn.Linear(6, 3), Stream(samples=16), RECIPE)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"labels": Y}, "dict cannot be made into batches"),
        ({"pixel_values": X, "labels": "many"}, "dict cannot be made into batches"),
        (((X, X[:3]), Y), "3 inputs, but 20 targets"),
        ([{"a": x} for x in X], r"list does not give \(input, target\) pairs of tensors or numbers, but a"),
    ],
)
def test_what_has_no_targets_is_refused(data: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        list(as_batches(data, 8).ordered())
