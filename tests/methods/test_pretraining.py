"""Pre-training: what each task learns, that the head is left alone, and that a killed one goes on."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.data import ImageBatches, ImageSet, Normalisation
from oneticket.errors import InputError
from oneticket.methods import PRETRAININGS, PretrainingTask
from oneticket.methods.pretraining import _Masked, _Rotated, _Stage, masked_inputs
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Checkpoint, EpochRecord, Recipe, StepDecay, TrainState, train

SHAPE = (1, 8, 8)
RECIPE = Recipe.sgd(epochs=4, lr=0.05, batch_size=32)


def images(count: int = 96, shape: tuple[int, int, int] = SHAPE) -> ImageSet:
    """Bright upper halves of random images, so that there is something to be learned."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 80, (count, *shape), generator=generator)
    pixels[:, :, : shape[1] // 2] += 150
    return ImageSet(pixels.to(torch.uint8), torch.arange(count) % 5, tuple("abcde"))


def network(name: str, **options: object) -> nn.Module:
    return build(ModelSpec(name=name, options=dict(options)), input_shape=SHAPE, classes=5, seed=1)


def task_for(model: nn.Module, head: str, *, where: Path | None = None, epochs: int = 4, data: ImageSet | None = None,
             heard: list[EpochRecord] | None = None) -> PretrainingTask:  # fmt: skip
    data = data or images()
    return PretrainingTask(
        model,
        head,
        ImageBatches(data, 32, normalisation=Normalisation.of(data)),
        Recipe.sgd(epochs=epochs, lr=0.05, batch_size=32),
        seed=7,
        checkpoint=None if where is None else lambda part: Checkpoint(where / f"{part}.pt", every=0.0),
        on_epoch=None if heard is None else heard.append,
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


NETWORKS = [("lenet-300-100", {}), ("conv-2", {}), ("resnet20", {"width": 0.25})]


@pytest.fixture(params=NETWORKS, ids=lambda pair: pair[0])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    from oneticket.prunable import find_head

    model = network(request.param[0], **request.param[1])
    return model, find_head(model, 5)


@pytest.mark.parametrize("task", list(PRETRAININGS))
def test_the_body_learns_and_the_head_stays_as_it_is(task: str, pair: tuple[nn.Module, str]) -> None:
    model, head = pair
    before = state(model)
    training = PRETRAININGS[task](task_for(model, head))
    after = state(model)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith(f"{head}.")]
    assert training.samples == 96 * training.history[-1].epoch * (4 if task == "rotation" else 1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.get_submodule(head)._forward_hooks


@pytest.mark.parametrize("task", ["rotation", "denoising"])
def test_the_loss_of_the_task_falls(task: str) -> None:
    training = PRETRAININGS[task](task_for(network("lenet-300-100"), "head", epochs=6))
    assert training.history[-1].train_loss < 0.7 * training.history[0].train_loss


def test_in_layer_wise_pre_training_every_layer_learns_alone_and_reconstructs_better() -> None:
    heard: list[EpochRecord] = []
    training = PRETRAININGS["layer-wise"](task_for(network("lenet-300-100"), "head", epochs=8, heard=heard))
    first, second = training.history[:4], training.history[4:]
    assert first[-1].train_loss < first[0].train_loss
    assert second[-1].train_loss < second[0].train_loss
    assert [record.epoch for record in training.history] == list(range(1, 9))
    assert [record.step for record in training.history] == [3 * epoch for epoch in range(1, 9)]
    assert heard == training.history


def test_every_layer_has_the_whole_schedule_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 epochs of 3 steps with drops at 6 and 7 for two layers: each has 12 steps, two of them warm-up."""
    rates: list[float] = []
    monkeypatch.setattr(TrainState, "set_lr", lambda _, lr: rates.append(lr))
    task = task_for(network("lenet-300-100"), "head")
    recipe = Recipe.sgd(epochs=8, lr=0.05, batch_size=32, warmup="1ep", schedule=StepDecay(at=("6ep", "7ep")))
    PRETRAININGS["layer-wise"](dataclasses.replace(task, recipe=recipe))
    layer = [0.025, 0.05, *[0.05] * 7, 0.005, 0.005, 0.0005]
    assert rates == pytest.approx(layer * 2)


def test_layer_wise_pre_training_leaves_normalisation_alone() -> None:
    # 8 × 8 images are 1 × 1 maps behind the third pooling: of one image there is nothing to normalise with there.
    model = network("vgg11", width=0.125)
    others = {name: value for name, value in state(model).items() if value.dim() < 2}
    assert any("running_var" in name for name in others)
    PRETRAININGS["layer-wise"](task_for(model, "head", epochs=1))
    for name, value in others.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not any(torch.equal(state(model)[name], network("vgg11", width=0.125).state_dict()[name])
                   for name in Prunable(model, head="head").names), "every layer has learned"  # fmt: skip


def test_a_layer_is_left_alone_once_it_is_the_next_ones_turn() -> None:
    model = network("lenet-300-100")
    one = copy.deepcopy(model)
    PRETRAININGS["layer-wise"](task_for(model, "head", epochs=2))
    stage = task_for(one, "head", epochs=2)
    names = [name for name, module in one.named_modules() if isinstance(module, nn.Linear)]
    # Two epochs for two layers: the first one's training is that of one epoch of it alone.
    first = _Stage(one, names[0], stage.train_set.ordered().__next__()[0], _seed(names[0]))
    for parameter in one.parameters():
        parameter.requires_grad_(parameter in set(first.layer.parameters()))
    train(first, stage.train_set, Recipe.sgd(epochs=1, lr=0.05, batch_size=32), seed=7, loss=first.loss)
    assert torch.equal(model.get_submodule(names[0]).weight, one.get_submodule(names[0]).weight)


def _seed(name: str) -> int:
    return Streams(7).seed("head", "layer-wise", name)


def test_the_four_rotations_of_an_image_are_told_apart_by_their_labels() -> None:
    data = images(8)
    plain = ImageBatches(data, 8, normalisation=Normalisation.of(data))
    (inputs, _), (turned, labels) = next(plain.ordered()), next(_Rotated(plain).ordered())
    assert turned.shape == (32, *SHAPE)
    for quarter in range(4):
        assert torch.equal(turned[labels == quarter], torch.rot90(inputs, quarter, dims=(2, 3)))


def test_every_image_is_trained_on_in_all_rotations_each_with_its_label() -> None:
    """By hand: after q quarter turns counter-clockwise pixel (i, j) is what was at (j, n − 1 − i), q times."""
    generator = torch.Generator().manual_seed(1)
    data = ImageSet(
        torch.randint(0, 256, (7, 1, 5, 5), generator=generator).to(torch.uint8), torch.zeros(7).long(), ("a",)
    )
    plain = ImageBatches(data, 3, normalisation=Normalisation.of(data))
    upright = torch.cat([inputs for inputs, _ in plain.ordered()]).tolist()
    order, changes = (torch.Generator().manual_seed(seed) for seed in (2, 3))
    batches = list(_Rotated(plain).epoch(order, changes))
    assert [len(inputs) for inputs, _ in batches] == [12, 12, 4]
    met = set()
    for inputs, labels in batches:
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [len(inputs) // 4] * 4
        for (pixels,), quarters in zip(inputs.tolist(), labels.tolist(), strict=True):
            (number,) = [n for n, (image,) in enumerate(upright) if turned(image, quarters) == pixels]
            met.add((number, quarters))
    assert met == {(number, quarters) for number in range(7) for quarters in range(4)}


def turned(image: list[list[float]], quarters: int) -> list[list[float]]:
    last = len(image) - 1
    for _ in range(quarters):
        image = [[image[j][last - i] for j in range(last + 1)] for i in range(last + 1)]
    return image


@pytest.mark.parametrize(
    ("task", "name"), [("autoencoder", "lenet-300-100"), ("autoencoder", "conv-2"), ("denoising", "lenet-300-100")]
)
def test_the_loss_of_a_reconstruction_is_that_of_a_pass_by_hand(
    task: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of one epoch: mean over samples and pixels of (decoder(features) − clean input)², in float64."""
    model, data, begun, seen = network(name), images(), [], []

    def spy(network: nn.Module, batches: Any, *arguments: Any, **options: Any) -> Any:
        begun.append(copy.deepcopy(network))
        order, changes = (Streams(7).generator(stream, 0) for stream in ("data-order", "augmentation"))
        seen.extend(batches.epoch(order, changes))
        return train(network, batches, *arguments, **options)

    monkeypatch.setattr("oneticket.methods.pretraining.train", spy)
    whole = ImageBatches(data, 96, normalisation=Normalisation.of(data))
    recipe = Recipe.sgd(epochs=1, lr=0.05, batch_size=96)
    training = PRETRAININGS[task](PretrainingTask(model, "head", whole, recipe, seed=7))
    body = begun[0].double()
    first, last = (getattr(body.head, number) for number in ("0", "2"))
    body.head = nn.Identity()
    assert [tuple(layer.weight.shape) for layer in (first, last)] == [(512, first.in_features), (64, 512)]
    pixels = data.images.double() / 255
    inputs = (pixels - pixels.mean()) / pixels.std(correction=0)
    given = inputs
    if task == "denoising":
        inputs = inputs[torch.randperm(96, generator=Streams(7).generator("data-order", 0))]
        given = torch.where(seen[0][0] == 0, 0.0, inputs)
        assert bool(((given == 0).flatten(1).sum(1) == 16).all()), "a quarter of 64 pixels"
    with torch.no_grad():
        features = body(given)
        hidden = (features @ first.weight.T + first.bias).clamp(min=0)
        restored = hidden @ last.weight.T + last.bias
    expected = (restored - inputs.reshape(96, 64)).square().mean().item()
    assert training.steps == 1
    assert training.history[0].train_loss == pytest.approx(expected, rel=1e-5)


def test_masking_noise_is_drawn_for_each_input_batch_and_epoch_and_repeats() -> None:
    """In each of them another ⌊νd⌉ values of each input are 0, the others and the targets are as they were."""
    data = images(12)
    plain = ImageBatches(data, 8, normalisation=Normalisation.of(data))

    def epoch(number: int, seed: int = 7) -> tuple[Tensor, Tensor]:
        order, changes = torch.Generator().manual_seed(2), Streams(seed).generator("augmentation", number)
        noisy, clean = zip(*_Masked(plain, seed).epoch(order, changes), strict=True)
        assert [len(part) for part in noisy] == [8, 4]
        return torch.cat(noisy), torch.cat(clean)

    order, changes = (torch.Generator().manual_seed(2) for _ in range(2))
    inputs = torch.cat([batch for batch, _ in plain.epoch(order, changes)])
    gone = []
    for number, seed in ((0, 7), (1, 7), (0, 8)):
        noisy, clean = epoch(number, seed)
        assert torch.equal(clean, inputs)
        zero = noisy == 0
        assert torch.equal(noisy[~zero], clean[~zero])
        assert zero.flatten(1).sum(1).tolist() == [16] * 12
        gone += list(zero.flatten(1))
    assert len({tuple(row.tolist()) for row in gone}) == 36, "none is drawn twice"
    assert torch.equal(epoch(1)[0], epoch(1)[0])


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.25, 0.4, 1.0]))
def test_masking_noise_takes_an_exact_part_of_each_input(count: int, values: int, fraction: float) -> None:
    inputs = torch.arange(1.0, count * values + 1).view(count, values)
    found = masked_inputs(inputs, fraction, torch.Generator().manual_seed(values))
    assert (found == 0).sum(1).tolist() == [math.floor(fraction * values + 0.5)] * count
    assert torch.equal(found[found != 0], inputs[found != 0])


def test_images_that_are_not_square_cannot_be_rotated() -> None:
    data = images(shape=(1, 8, 6))
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 5))
    with pytest.raises(InputError, match="square"):
        PRETRAININGS["rotation"](task_for(model, "3", data=data))


@pytest.mark.parametrize("task", list(PRETRAININGS))
def test_the_same_lesson_gives_the_same_network_also_after_a_kill(task: str, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    whole, killed = network("lenet-300-100"), network("lenet-300-100")
    PRETRAININGS[task](task_for(whole, "head"))

    class Deadly(list[EpochRecord]):
        def append(self, record: EpochRecord) -> None:
            super().append(record)
            if len(self) == 3:
                raise Killed

    with pytest.raises(Killed):
        PRETRAININGS[task](task_for(killed, "head", where=tmp_path, heard=Deadly()))
    again = network("lenet-300-100")
    training = PRETRAININGS[task](task_for(again, "head", where=tmp_path))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert training.history[-1].epoch == 4


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 8), (2, 7), (3, 10)])
def test_the_decoder_of_a_convolution_gives_the_shape_of_its_input(stride: int, size: int) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=stride, padding=1), nn.Flatten(), nn.LazyLinear(5))
    example = torch.randn(2, 2, size, size)
    model(example)
    stage = _Stage(model, "0", example, 0)
    code = model[0](example).relu().double()
    code = (code - code.mean((0, 2, 3), keepdim=True)) / (code.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    restored = stage.decoder.double()(code / math.sqrt(3 * 9 / stride**2))
    assert restored.shape == example.shape
    power = float((example.double() ** 2).mean())
    expected = ((restored - example / math.sqrt(power)) ** 2).mean().item()
    stage.float()
    assert stage.loss(stage, example, torch.zeros(2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_a_last_batch_of_one_image_ends_no_layer_wise_pre_training(name: str, options: dict[str, object]) -> None:
    model = network(name, **options)
    training = PRETRAININGS["layer-wise"](task_for(model, "head", epochs=1, data=images(65)))
    assert training.samples == 65 * training.history[-1].epoch
    assert all(math.isfinite(record.train_loss) for record in training.history)


def test_of_one_value_a_unit_nothing_is_learned() -> None:
    """A value less its mean is zero, as it is of a whole batch: nothing reconstructed, and no gradient."""
    one, example = network("lenet-300-100"), torch.randn(3, *SHAPE)
    stage = _Stage(one, "linear1", example, 0)
    loss = stage.loss(stage, example[:1], torch.zeros(1))
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert all(p.grad is None or not p.grad.any() for p in stage.parameters())
    stage.loss(stage, example, torch.zeros(3)).backward()
    assert all(p.grad is not None and p.grad.any() for p in stage.parameters() if p.dim() > 1)
