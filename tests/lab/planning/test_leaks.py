"""Leaks: a plan in which the test images of a target reach a ticket is refused; statistics are of training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from oneticket.data import DataSpec, ImageSet, Normalisation, open_data, resolve
from oneticket.errors import InputError
from oneticket.finding import find_ticket
from oneticket.lab.planning.leaks import find_leak, image_digests
from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.spec.experiment import read_experiment
from oneticket.ticket import Ticket
from oneticket.training import Recipe

MakeData = Callable[..., dict[str, Any]]
SIDE = 6


def picture(number: int, *, side: int = SIDE) -> np.ndarray:
    """A grey picture like no other."""
    return np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> MakeData:
    """``folder("a", train=range(9), test=range(9, 12))`` is a data set of the pictures with these numbers."""

    def make(name: str, *, train: Any, test: Any, side: int = SIDE, colour: bool = False) -> dict[str, Any]:
        for part, numbers in (("train", train), ("test", test)):
            for number in numbers:
                home = tmp_path / name / part / ("odd" if number % 2 else "even")
                home.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(picture(number, side=side))
                (image.convert("RGB") if colour else image).save(home / f"{number:05}.png")
        return {"images": str(tmp_path / name)}

    return make


def found(lab: Any, data: dict[str, Any], *, source: str = "a", target: str = "b") -> Any:
    """The leak between two data sets of a plan, or the refusal of it."""
    raw = lab.raw(data=data, seeds=1, recipe__sgd__batch_size=4)
    raw["transfer"] = [{"sources": [f"{source}@sgd"], "targets": [f"{target}@sgd"], "arms": ["winning"]}]
    raw["search"]["rounds"] = 1
    resolved = ResolvedExperiment(read_experiment(raw), lab.folder, lab.cache)
    try:
        resolved.check(read_experiment(raw).models[0], read_experiment(raw).transfer[0], "transfer[0]")
    except InputError as error:
        return error
    return resolved.leaks


# -- digests ------------------------------------------------------------------------------------------------------
@given(st.data())
def test_images_agree_in_their_digests_when_shape_and_pixels_do(data: st.DataObject) -> None:
    count, channels, height, width = (data.draw(st.integers(1, 3)) for _ in range(4))
    size = count * channels * height * width
    pixels = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    images = torch.tensor(pixels, dtype=torch.uint8).view(count, channels, height, width)
    digests = image_digests(images)
    assert (digests.dtype, digests.shape) == (torch.int64, (count,))
    for i in range(count):
        for j in range(count):
            assert bool(digests[i] == digests[j]) == torch.equal(images[i], images[j])
    for coloured in (images[:, :1].repeat(1, 3, 1, 1), images[:, :1]):
        assert torch.equal(image_digests(coloured), image_digests(images[:, :1])), "grey is grey"
    turned = image_digests(images.reshape(count, channels, width, height))
    assert torch.equal(turned, digests) == (width == height), "two shapes are two images"


def test_a_digest_is_what_anybody_would_compute() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    by_hand = hashlib.blake2b(b"(1, 3, 4)" + bytes(range(12)), digest_size=8).digest()
    assert image_digests(image).numpy().tobytes() == by_hand
    assert image_digests(image.repeat(1, 3, 1, 1)).numpy().tobytes() == by_hand
    assert image_digests(torch.zeros(0, 1, 3, 4, dtype=torch.uint8)).shape == (0,)


@pytest.mark.parametrize("channel", range(3))
def test_one_pixel_of_one_channel_makes_a_colour_of_a_grey(channel: int) -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).repeat(1, 3, 1, 1)
    image[0, channel, 2, 1] += 1
    by_hand = hashlib.blake2b(b"(3, 3, 4)" + image.numpy().tobytes(), digest_size=8).digest()
    assert image_digests(image).numpy().tobytes() == by_hand


# -- what is refused ----------------------------------------------------------------------------------------------
def test_a_source_that_has_seen_the_test_images_is_refused(lab: Any, folder: MakeData) -> None:
    data = {
        "a": folder("a", train=range(100, 140), test=range(20)),
        "b": folder("b", train=range(40), test=range(100, 110)),
    }
    error = found(lab, data)
    assert isinstance(error, InputError)
    assert error.where == "transfer[0].sources"
    assert str(error).startswith("transfer[0].sources: 10 of the 10 test images of b (100 %) are seen by a")
    assert "at most 1 %" in str(error)


def test_a_plan_is_refused_before_anything_runs(lab: Any, folder: MakeData) -> None:
    data = {"a": folder("a", train=range(40), test=range(90, 94)), "b": folder("b", train=range(50, 90), test=range(4))}
    with pytest.raises(InputError, match=r"^transfer\[0\].sources: 4 of the 4 test images of b"):
        lab.plan(
            lab.raw(
                data=data,
                seeds=1,
                transfer=[{"sources": ["a@sgd"], "targets": ["b@sgd"], "arms": ["winning"], "densities": [0.5]}],
            )
        )


@pytest.mark.parametrize(("shared", "refused"), [(0, False), (2, False), (3, True)])
def test_up_to_one_in_a_hundred_is_told_and_not_refused(lab: Any, folder: MakeData, shared: int, refused: bool) -> None:
    train = [*range(1000, 1040), *range(shared)]
    data = {
        "a": folder("a", train=train, test=range(900, 904)),
        "b": folder("b", train=range(500, 540), test=range(200)),
    }
    answer = found(lab, data)
    if refused:
        assert isinstance(answer, InputError)
    else:
        assert [(leak.images, leak.tested, leak.repeated) for leak in answer] == [(shared, 200, None)] * bool(shared)
    if shared == 2:
        assert str(answer[0]) == "2 of the 200 test images of b (1 %) are seen by a"


def test_one_data_set_under_two_names_keeps_train_and_test_apart(lab: Any, folder: MakeData) -> None:
    base = folder("a", train=range(60), test=range(60, 80))
    data = {"a": {**base, "half": "a"}, "b": {"from": "a"}}
    assert found(lab, data) == []


@pytest.mark.parametrize(("repeated", "refused"), [(0, False), (2, False), (3, True), (200, True)])
@pytest.mark.parametrize("target", ["a", "b"])
def test_a_data_set_may_repeat_one_in_a_hundred_of_its_test_images(
    lab: Any, folder: MakeData, repeated: int, refused: bool, target: str
) -> None:
    """Source and target are one data set, under one name or two."""
    base = folder("a", train=range(250), test=range(250 - repeated, 450 - repeated))
    answer = found(lab, {"a": {**base, "validation": 0.0}, "b": {"from": "a"}}, target=target)
    if refused:
        assert isinstance(answer, InputError)
        assert str(answer).startswith(f"transfer[0].sources: {repeated} of the 200 test images of {target} (")
    else:
        told = {(leak.images, leak.tested, leak.repeated, leak.refused) for leak in answer}
        assert told == ({(repeated, 200, repeated / 200, False)} if repeated else set())


def test_a_target_that_has_seen_its_own_test_images_is_refused_without_a_source_too(lab: Any, folder: MakeData) -> None:
    data = {"a": {**folder("a", train=range(60), test=range(50, 70)), "validation": 0.0}}
    raw = lab.raw(data=data, seeds=1, transfer=[{"targets": ["a@sgd"], "arms": ["own"], "densities": [0.5]}])
    with pytest.raises(InputError, match=r"transfer\[0\]\.targets: 10 of the 20 test images of a .* are seen by a"):
        lab.plan(raw)


def test_a_sound_data_set_is_let_through_whichever_classes_are_chosen(lab: Any, folder: MakeData) -> None:
    """Two of 200, and both of the class of 20 images: as of CIFAR-100, which repeats 4 images of one class."""
    base = folder("a", train=range(80), test=[*range(81, 441, 2), *range(100, 136, 2), 0, 2])
    few = {**base, "classes": ["even"], "validation": 0.0}
    (leak,) = found(lab, {"a": few}, target="a")
    assert (leak.images, leak.tested, leak.repeated, leak.refused) == (2, 20, 0.01, False)


def test_a_data_set_that_repeats_itself_is_refused_for_the_images_that_are_used(lab: Any, folder: MakeData) -> None:
    """As a whole it is unsound, but of the chosen class no image is both."""
    base = folder("a", train=range(80), test=[*range(1, 41, 2), *range(100, 140, 2)])
    data = {"a": {**base, "validation": 0.0}, "b": {"from": "a", "classes": ["even"]}}
    assert found(lab, data) == []
    assert "20 of the 40" in str(found(lab, data, target="a"))


def test_of_an_unsound_data_set_few_repeated_images_are_too_many(lab: Any, folder: MakeData) -> None:
    """Two of the 20 of a class, which would be 1 % of all 200; but of the other class there are twenty more."""
    base = folder("a", train=range(80), test=[*range(1, 41, 2), *range(81, 401, 2), *range(100, 136, 2), 0, 2])
    few = {**base, "classes": ["even"], "validation": 0.0}
    assert "2 of the 20" in str(found(lab, {"a": few}, target="a"))


@pytest.mark.parametrize("colour", [(True, False), (False, True)])
def test_a_grey_data_set_kept_as_colours_is_known_again(lab: Any, folder: MakeData, colour: tuple[bool, bool]) -> None:
    """One picture of real colour makes a whole data set RGB, the grey ones in it too."""
    data = {
        "a": folder("a", train=range(40), test=range(200, 204), colour=colour[0]),
        "b": folder("b", train=range(100, 140), test=range(10), colour=colour[1]),
    }
    for name, coloured in zip("ab", colour, strict=True):
        if coloured:
            red = np.stack([picture(n) for n in (901, 902, 903)], axis=2)
            Image.fromarray(red).save(lab.folder / name / "train" / "odd" / "99999.png")
        else:
            data[name]["channels"] = 3
    refs = {
        name: resolve({"d": DataSpec(**spec)}, "d", folder=lab.folder, cache=lab.cache) for name, spec in data.items()
    }
    splits = {name: (ref, open_data(ref, cache=lab.cache)) for name, ref in refs.items()}
    assert all(part.train.shape == (3, SIDE, SIDE) for _, part in splits.values())
    assert "10 of the 10 test images" in str(found(lab, data))


def test_other_sizes_and_channels_hide_nothing(lab: Any, folder: MakeData) -> None:
    seen, fresh = range(40), range(100, 140)
    data = {
        "a": {**folder("a", train=seen, test=range(200, 204)), "size": 9, "channels": 3},
        "b": {**folder("b", train=fresh, test=range(10)), "size": 9, "channels": 3, "fit": "pad"},
    }
    assert "10 of the 10 test images" in str(found(lab, data))


# -- which rows count ---------------------------------------------------------------------------------------------
def test_validation_images_are_seen_too(lab: Any, folder: MakeData) -> None:
    for validation in (0.0, 0.5):
        data = {
            "a": {**folder("a", train=range(40), test=range(200, 204)), "validation": validation},
            "b": folder("b", train=range(100, 140), test=range(40)),
        }
        assert "40 of the 40" in str(found(lab, data))


def test_only_images_that_are_used_count(lab: Any, folder: MakeData) -> None:
    """By hand: which pictures are left in each part, from the files they were made of."""
    specs = {
        "a": DataSpec(**folder("a", train=range(40), test=range(200, 204)), per_class=15, validation=0.2),
        "b": DataSpec(**folder("b", train=range(100, 140), test=range(40)), classes=("odd",)),
    }
    refs = {name: resolve(specs, name, folder=lab.folder, cache=lab.cache) for name in specs}
    data = {name: (ref, open_data(ref, cache=lab.cache)) for name, ref in refs.items()}

    def numbers(part: ImageSet) -> set[int]:
        known = {picture(number).tobytes(): number for number in range(210)}
        return {known[image.numpy().tobytes()] for image in part.gather()}

    (_, there), (_, here) = data["a"], data["b"]
    seen = numbers(there.train) | numbers(there.validation)
    assert len(seen) == 30
    leak = find_leak("a", "b", data, cache=lab.cache)
    assert (leak.images, leak.tested) == (len(seen & numbers(here.test)), 20)
    assert 0 < leak.images < 20


def test_digests_are_worked_out_once(lab: Any, folder: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {
        "a": folder("a", train=range(40), test=range(200, 204)),
        "b": folder("b", train=range(50, 90), test=range(4)),
    }
    first = str(found(lab, data))
    monkeypatch.setattr("oneticket.lab.planning.leaks.image_digests", lambda _: pytest.fail("again"))
    assert str(found(lab, data)) == first


# -- statistics ---------------------------------------------------------------------------------------------------
def test_statistics_never_include_test_images(lab: Any, folder: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mean and deviation that any cell of a plan computes is of training images of its own data."""
    train = {"a": range(40), "b": range(100, 140)}
    data = {name: folder(name, train=numbers, test=range(500, 520)) for name, numbers in train.items()}
    plan = lab.plan(
        lab.raw(
            data=data,
            seeds=1,
            transfer=[
                {
                    "sources": ["a@sgd"],
                    "targets": ["b@sgd"],
                    "arms": ["winning", "own", "snip", "rotation"],
                    "densities": [0.25],
                }
            ],
        )
    )
    looked: list[set[int]] = []
    known = {picture(number).tobytes(): number for number in (*range(40), *range(100, 140), *range(500, 520))}
    of = Normalisation.of

    def spy(images: ImageSet) -> Normalisation:
        looked.append({known[image.numpy().tobytes()] for image in images.gather()})
        return of(images)

    monkeypatch.setattr(Normalisation, "of", spy)
    assert lab.run(plan, lab.store()).complete
    assert len(looked) >= len(plan.cells)
    for numbers in looked:
        assert any(numbers <= set(own) for own in train.values())
        assert len(numbers) == 36, "not the images that are held out for validation either"


def test_other_test_images_change_no_weight(lab: Any, folder: MakeData) -> None:
    ends = []
    for name, test in (("a", range(500, 520)), ("b", range(600, 620))):
        data = {"d": folder(name, train=range(40), test=test)}
        plan = lab.plan(
            lab.raw(data=data, seeds=1, transfer=[{"targets": ["d@sgd"], "arms": ["own"], "densities": [0.25]}])
        )
        store = lab.store(name)
        assert lab.run(plan, store).complete
        ends.append([(store.folder(cell) / "weights-end.safetensors").read_bytes() for cell in plan.cells])
    assert ends[0] == ends[1]


def test_a_ticket_says_what_was_trained_on_and_what_was_normalised_by(lab: Any) -> None:
    ref = resolve({"d": DataSpec(builtin="digits", per_class=8)}, "d", folder=lab.folder, cache=lab.cache)
    splits = open_data(ref, cache=lab.cache)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 10))
    ticket = find_ticket(model, splits.train, recipe=Recipe.sgd(epochs=1), density=0.5, rounds=1, rewind=0, name="d")
    ticket.save(lab.folder / "d.safetensors")
    (seen,) = Ticket.load(lab.folder / "d.safetensors").provenance.seen
    assert (seen.name, seen.split, seen.normalised_by, seen.samples) == ("d", "train", "train", len(splits.train))
    assert seen.fingerprint == splits.train.digest() != splits.test.digest()


@pytest.mark.slow
@pytest.mark.realdata
def test_cifar_100_holds_a_few_images_twice(real_data: Path, tmp_path: Path) -> None:
    specs = {"cifar": DataSpec(path=str(real_data / "cifar100_jpeg"), validation=0.0)}
    ref = resolve(specs, "cifar", folder=tmp_path, cache=tmp_path)
    splits = open_data(ref, cache=tmp_path)
    leak = find_leak("cifar", "cifar", {"cifar": (ref, splits)}, cache=tmp_path)
    train = {image.numpy().tobytes() for image in splits.train.gather()}
    assert leak.images == sum(image.numpy().tobytes() in train for image in splits.test.gather())
    assert 0 < leak.images < 100
    assert leak.repeated == leak.images / 10_000


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "gtsrb32", "tiny_imagenet200_subset",
                                  "miniplaces100_64"])  # fmt: skip
def test_no_data_set_of_ours_is_refused_as_its_own_target(real_data: Path, tmp_path: Path, name: str) -> None:
    specs = {name: DataSpec(builtin=name) if name == "digits" else DataSpec(path=str(real_data / name))}
    ref = resolve(specs, name, folder=tmp_path, cache=tmp_path)
    leak = find_leak(name, name, {name: (ref, open_data(ref, cache=tmp_path))}, cache=tmp_path)
    assert not leak.refused
    assert leak.images == (1 if name == "tiny_imagenet200_subset" else 0)
