"""Work: how many samples met how many kept weights, and the operations that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.training import (
    Callback,
    Checkpoint,
    EpochRecord,
    OnEpoch,
    Recipe,
    Runtime,
    Start,
    TrainState,
    forward_flops,
    train,
    training_flops,
)

SAMPLES = (torch.arange(22.0).view(22, 1).expand(22, 6) / 22, torch.arange(22) % 3)
RECIPE = Recipe.sgd(epochs=3, batch_size=5)  # five steps an epoch, the last with two samples
NAMES = ("0.weight", "2.weight")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 3))


def full() -> Masks:
    return Masks.full({name: network().get_parameter(name) for name in NAMES})


def first(count: int) -> Masks:
    """The first ``count`` weights of each tensor."""
    return Masks({name: (torch.arange(mask.numel()) < count).view(mask.shape) for name, mask in full().items()})


class Thinning(Callback):
    """Other masks at given moments: before the optimiser's step, as RigL has it, or after, as pruning has it."""

    def __init__(self, early: dict[int, int], late: dict[int, int]) -> None:
        self._early, self._late = early, late

    def after_backward(self, state: TrainState) -> None:
        if state.step in self._early:
            state.replace_masks(first(self._early[state.step]))

    def after_step(self, state: TrainState) -> None:
        if state.step in self._late:
            state.replace_masks(first(self._late[state.step]))


class Watched(nn.Sequential):
    """Notes at each training forward pass how many samples came, and how many of its weights are not zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            alive = sum(int(self.get_parameter(name).count_nonzero()) for name in NAMES)
            self.__dict__.setdefault("notes", []).append((len(inputs), alive))
        return super().forward(inputs)


CHANGES = [({}, {}), ({}, {0: 20, 6: 9, 9: 3}), ({2: 20, 7: 11}, {}), ({4: 20}, {4: 15, 14: 2})]


@pytest.mark.parametrize(("early", "late"), CHANGES)
def test_operations_are_those_of_the_weights_that_each_forward_pass_had(
    early: dict[int, int], late: dict[int, int]
) -> None:
    model = Watched(*network())
    result = train(model, SAMPLES, RECIPE, masks=full(), callbacks=[Thinning(early, late)])
    dense, masked = training_flops(model, torch.zeros(1, 6), result.samples, result.masks, result.work)
    notes: list[tuple[int, int]] = model.__dict__["notes"]
    assert result.samples == sum(count for count, _ in notes) == 66
    head = 4 * 3
    assert masked == sum(3 * count * 2 * (alive + head) for count, alive in notes)
    assert dense == 3 * 66 * 2 * (6 * 8 + 8 * 4 + head)


def test_a_change_counts_from_the_next_forward_pass_on() -> None:
    early = train(network(), SAMPLES, RECIPE, masks=full(), callbacks=[Thinning({2: 20}, {})])
    late = train(network(), SAMPLES, RECIPE, masks=full(), callbacks=[Thinning({}, {2: 20})])
    assert early.work == late.work == {(48, 32): 15, (20, 20): 51}


def test_without_masks_there_is_only_one_kind_of_work() -> None:
    result = train(network(), SAMPLES, RECIPE)
    assert result.work == {(): 66}
    assert train(network(), SAMPLES, RECIPE, masks=full(), start=Start(step="3ep")).work == {}


def test_a_killed_training_forgets_no_work(tmp_path: Path) -> None:
    changes = {0: 20, 6: 9, 9: 3}
    whole = train(network(), SAMPLES, RECIPE, masks=full(), callbacks=[Thinning({}, changes)])
    assert len(whole.work) == 4

    class Killed(Exception):
        pass

    def kill(_: EpochRecord) -> None:
        raise Killed

    checkpoint = Checkpoint(tmp_path / "training.pt", every=0)
    for on_epoch in (kill, kill, None):
        try:
            resumed = train(
                network(), SAMPLES, RECIPE, masks=full(), runtime=Runtime(checkpoint=checkpoint),
                callbacks=[Thinning({}, changes), *([OnEpoch(on_epoch)] if on_epoch else [])],
            )  # fmt: skip
        except Killed:
            continue
    assert resumed.resumed_at == 10
    assert resumed.work == whole.work


@settings(max_examples=25)
@given(st.dictionaries(st.tuples(st.integers(0, 48), st.integers(0, 32)), st.integers(1, 1000), min_size=1, max_size=3))
def test_operations_add_up_over_the_kinds_of_work(work: dict[tuple[int, ...], int]) -> None:
    """Each kind on its own, through masks that keep so many weights; together, from their numbers alone."""
    model, example = network(), torch.zeros(1, 6)
    apart = 0
    for kept, count in work.items():
        masks = {
            name: (torch.arange(mask.numel()) < number).view(mask.shape)
            for number, (name, mask) in zip(kept, full().items(), strict=True)
        }
        apart += 3 * count * forward_flops(model, example, masks)[1]
    samples = sum(work.values())
    assert training_flops(model, example, samples, full(), work) == (3 * samples * 184, apart)
    assert training_flops(model, example, samples, masks) == (
        3 * samples * 184,
        3 * samples * forward_flops(model, example, masks)[1],
    )
