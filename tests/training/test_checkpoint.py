"""Checkpoints: killed after any epoch and continued, a training ends with the bits it would have had."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.data import Augmentation, ImageSet
from oneticket.masks import Masks
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
    train,
)
from oneticket.training.checkpoint import load_optimizer_tensors, optimizer_tensors

Data = tuple[Tensor, Tensor]
MakeNetwork = Callable[..., nn.Sequential]
EPOCHS, PER_EPOCH = 4, 5


class Killed(Exception):
    """What ends a training from outside."""


class Counted(nn.Module):
    """Everything that a resumed training could get wrong: statistics, dropout, masks; counts its training batches."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.wide = nn.Conv2d(4, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.3)
            self.head = nn.Linear(4 * 36, 3)
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += self.training
        return self.head(self.drop(self.norm(self.wide(self.conv(images))).relu()).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """22 images: in batches of 5, the last one of 2."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (22, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(22) % 3, ("a", "b", "c"))


SHAPES = {"conv.weight": (4, 1, 3, 3), "wide.weight": (4, 4, 3, 3)}
MASKS = Masks({n: torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5 for n, shape in SHAPES.items()})
COMMON: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 5,
    "schedule": StepDecay(at=("2ep2it",)),
    "augment": Augmentation(flip=True, crop=1),
}
RECIPES = {
    "sgd": Recipe.sgd(nesterov=True, **COMMON),
    "adam": Recipe.adam(lr=0.01, **COMMON),
    "rmsprop": Recipe(optimizer="rmsprop", lr=0.003, momentum=0.5, **COMMON),
}


def run(model: nn.Module, images: ImageSet, recipe: Recipe, **options: Any) -> Training:
    snapshots = ["1ep", "1ep3it", "4ep"]
    return train(model, images, recipe, masks=MASKS, validation=images, seed=2, snapshots=snapshots, **options)


def killer(epoch: int) -> Callable[[EpochRecord], None]:
    def kill(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Killed

    return kill


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_resumed_is_uninterrupted_to_the_bit(name: str, epoch: int, images: ImageSet, tmp_path: Path) -> None:
    whole, dying, resumed = Counted(0), Counted(0), Counted(99)
    expected = run(whole, images, RECIPES[name])
    path = tmp_path / "checkpoint" / "training.pt"
    with pytest.raises(Killed):
        run(
            dying,
            images,
            RECIPES[name],
            runtime=Runtime(checkpoint=Checkpoint(path, every=0)),
            callbacks=[OnEpoch(killer(epoch))],
        )
    heard: list[EpochRecord] = []
    torch.manual_seed(epoch)
    found = run(
        resumed, images, RECIPES[name], runtime=Runtime(checkpoint=Checkpoint(path)), callbacks=[OnEpoch(heard.append)]
    )

    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert found.history == expected.history
    assert heard == expected.history[epoch:]
    assert found.snapshots.keys() == expected.snapshots.keys() == {"1ep", "1ep3it", "4ep"}
    for moment, snapshot in expected.snapshots.items():
        for ours, theirs in ((found.snapshots[moment].state, snapshot.state),
                             (found.snapshots[moment].optimizer, snapshot.optimizer)):  # fmt: skip
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert found.resumed_at == epoch * PER_EPOCH
    assert (found.steps, found.samples) == (expected.steps, expected.samples)
    assert whole.batches == EPOCHS * PER_EPOCH
    assert resumed.batches == (EPOCHS - epoch) * PER_EPOCH, "finished epochs are skipped, not computed again"


def test_killed_again_and_again(images: ImageSet, tmp_path: Path) -> None:
    whole = Counted(0)
    run(whole, images, RECIPES["adam"])
    path, batches = tmp_path / "training.pt", 0
    for epoch in (1, 2, 3):
        dying = Counted(epoch if epoch > 1 else 0)
        with pytest.raises(Killed):
            run(
                dying,
                images,
                RECIPES["adam"],
                runtime=Runtime(checkpoint=Checkpoint(path, every=0)),
                callbacks=[OnEpoch(killer(epoch))],
            )
        batches += dying.batches
    last = Counted(7)
    run(last, images, RECIPES["adam"], runtime=Runtime(checkpoint=Checkpoint(path, every=0)))
    assert batches + last.batches == EPOCHS * PER_EPOCH
    for key, value in whole.state_dict().items():
        assert torch.equal(last.state_dict()[key], value), key


class Counts(Callback):
    """Observes, and has a memory."""

    modifies = False

    def __init__(self) -> None:
        self.seen = 0

    def on_step_end(self, state: TrainState) -> None:
        self.seen += 1

    def on_epoch_end(self, state: TrainState) -> None:
        self.seen += 100

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.seen = saved["seen"]


class Kill(Callback):
    """Ends the training when that many steps are taken, after whatever was saved then."""

    modifies = False

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self.steps:
            raise Killed


@pytest.mark.parametrize("steps", range(1, 2 * PER_EPOCH))
@pytest.mark.parametrize("name", RECIPES)
def test_killed_after_any_step_it_ends_with_the_same_bits(
    name: str, steps: int, images: ImageSet, tmp_path: Path
) -> None:
    """Batches, augmentation, dropout, statistics, losses of the epoch, snapshots and memories go on where they were."""
    whole, dying, resumed = Counted(0), Counted(0), Counted(99)
    counts = Counts(), Counts(), Counts()
    expected = run(whole, images, RECIPES[name], callbacks=[counts[0]])
    runtime = Runtime(checkpoint=Checkpoint(tmp_path / "training.pt", every=0))
    with pytest.raises(Killed):
        run(dying, images, RECIPES[name], runtime=runtime, callbacks=[counts[1], Kill(steps)])
    torch.manual_seed(steps)
    found = run(resumed, images, RECIPES[name], runtime=runtime, callbacks=[counts[2], Kill(-1)])
    # The end of an epoch comes after its last step: killed between the two, a training repeats that step.
    assert found.resumed_at == (steps if steps % PER_EPOCH else steps - 1)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert found.history == expected.history
    assert (found.work, found.samples) == (expected.work, expected.samples)
    assert counts[2].seen == counts[0].seen
    for moment, snapshot in expected.snapshots.items():
        assert all(torch.equal(found.snapshots[moment].state[key], value) for key, value in snapshot.state.items())


@pytest.mark.parametrize(("seconds", "expected"), [(1, [15]), (6, [2, 4, 7, 9, 12, 14, 17, 19])])
def test_within_an_epoch_it_saves_only_where_an_epoch_is_longer_than_the_interval(
    network: MakeNetwork, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, expected: list[int]
) -> None:
    """A checkpoint is a write of the whole state: epochs of 5 steps and an interval of 12 seconds."""
    now, saved = 0.0, list[int]()
    monkeypatch.setattr("time.monotonic", lambda: now)

    class Told(Checkpoint):
        def save(self, state: dict[str, Any]) -> None:
            saved.append(state["step"])
            super().save(state)

    class Clock(Callback):
        def before_forward(self, state: TrainState) -> None:
            nonlocal now
            now += seconds

    runtime = Runtime(checkpoint=Told(tmp_path / "training.pt", every=12))
    train(network(), data, Recipe.sgd(epochs=4, batch_size=5), callbacks=[Clock()], runtime=runtime)
    assert saved == expected


def test_a_training_killed_in_a_long_epoch_goes_on_within_it(network: MakeNetwork, data: Data, tmp_path: Path) -> None:
    whole, dying, resumed = network(), network(), network(seed=9)
    recipe = Recipe.adam(epochs=3, batch_size=5)
    train(whole, data, recipe)
    checkpoint = Checkpoint(tmp_path / "training.pt", every=0)
    steps = 0

    def forward(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 9:  # in the second epoch
            raise Killed

    handle = dying.register_forward_hook(forward)
    with pytest.raises(Killed):
        train(dying, data, recipe, runtime=Runtime(checkpoint=checkpoint))
    handle.remove()
    assert train(resumed, data, recipe, runtime=Runtime(checkpoint=checkpoint)).resumed_at == 8
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_checkpoints_are_written_no_more_often_than_asked_and_never_at_the_end(
    network: MakeNetwork, data: Data, tmp_path: Path
) -> None:
    rarely, often = Checkpoint(tmp_path / "rarely.pt", every=3600), Checkpoint(tmp_path / "often.pt", every=0)
    saved: list[int] = []
    for checkpoint in (rarely, often):
        recipe = Recipe.sgd(epochs=3, batch_size=5)
        train(
            network(),
            data,
            recipe,
            runtime=Runtime(checkpoint=checkpoint),
            callbacks=[OnEpoch(lambda _: saved.append(len(os.listdir(tmp_path))))],
        )
    assert saved == [0, 0, 0, 1, 1, 1]
    found = often.load()
    assert found is not None
    assert found["step"] == 14


# -- the file ------------------------------------------------------------------------------------------------------
def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "training.pt").load() is None


def test_a_file_that_is_no_checkpoint_is_dropped_aloud_and_never_executed(
    network: MakeNetwork, data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Starting afresh without a word would hide that the work is lost; unpickling objects would run foreign code."""

    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "training.pt"
    for content in ("object", "damage"):
        caplog.clear()
        if content == "object":
            torch.save({"step": 1, "model": Foreign()}, path)
        else:
            Checkpoint(path).save({"step": 1, "model": {"w": torch.ones(100)}})
            path.write_bytes(path.read_bytes()[:-200])
        result = train(network(), data, Recipe.sgd(epochs=1), runtime=Runtime(checkpoint=Checkpoint(path)))
        assert result.resumed_at == 0
        assert [record.getMessage().count("training.pt is damaged") for record in caplog.records] == [1]
        assert not path.exists()
    assert not (tmp_path / "executed").exists()


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt")
    checkpoint.save({"step": 5})
    with pytest.raises(Exception, match=r"pickle|local object"):
        checkpoint.save({"step": lambda: 6})
    assert checkpoint.load() == {"step": 5}


def test_a_checkpoint_of_another_network_is_refused(network: MakeNetwork, data: Data, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", every=0)
    train(network(), data, Recipe.sgd(epochs=2, batch_size=5), runtime=Runtime(checkpoint=checkpoint))
    with pytest.raises(RuntimeError, match="Missing key"):
        train(nn.Linear(6, 3), data, Recipe.sgd(epochs=2, batch_size=5), runtime=Runtime(checkpoint=checkpoint))


# -- the optimiser's memory ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", RECIPES)
def test_what_an_optimiser_remembers_is_copied_out_and_in(name: str, network: MakeNetwork, data: Data) -> None:
    one, two = network(), network()
    first, second = RECIPES[name].make_optimizer(one), RECIPES[name].make_optimizer(two)
    for model, optimizer in ((one, first), (two, second)):
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    for group in first.param_groups:
        group["lr"] = 0.0
    one[0].weight.grad += 1  # type: ignore[operator]
    first.step()
    tensors = optimizer_tensors(one, first)
    before = {key: value.clone() for key, value in tensors.items()}
    load_optimizer_tensors(two, second, tensors)
    first.step()
    second.step()
    assert all(torch.equal(tensors[key], before[key]) for key in before), "values, tied to neither optimiser"
    again = optimizer_tensors(one, first)
    assert again.keys() == before.keys()
    assert any(not torch.equal(again[key], before[key]) for key in before)
    assert {key.rpartition("/")[0] for key in tensors} == {name for name, _ in one.named_parameters()}


@pytest.mark.parametrize("name", RECIPES)
def test_memory_from_a_file_lies_in_memory_as_the_weights_do(name: str, images: ImageSet) -> None:
    """A file keeps no strides. Fused optimisers take weight and momentum element by element as they lie in memory."""
    whole, rest = Counted(0), Counted(99)
    snapshot = run(whole, images, RECIPES[name]).snapshots["1ep"]
    rest.load_state_dict(snapshot.state)
    from_file = {key: value.contiguous() for key, value in snapshot.optimizer.items()}
    start = Start(step="1ep", optimizer_state=from_file)
    train(rest, images, RECIPES[name], start=start, seed=2, masks=MASKS)
    for key, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[key], value), key
    model = Counted(0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = RECIPES[name].make_optimizer(model)
    load_optimizer_tensors(model, optimizer, from_file)
    for quantity, value in optimizer.state[model.wide.weight].items():
        assert value.dim() == 0 or value.stride() == model.wide.weight.stride(), quantity


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda _: b"", lambda data: data + b"\0", lambda data: b"\0" * len(data)]
)
def test_a_damaged_checkpoint_is_dropped_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt")
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.load() is None
    assert not checkpoint.path.exists()
    (record,) = caplog.records
    assert "is dropped, and the training starts anew" in record.getMessage()
