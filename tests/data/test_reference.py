"""From description to identity to images: what identifies data, what does not, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from oneticket.data import DataRef, DataSpec, open_data, resolve
from oneticket.data.cache import Decoded, Part, keep, remember
from oneticket.errors import InputError
from oneticket.identity import canonical_json, digest


def derived(**keys: Any) -> DataSpec:
    return DataSpec(from_="base", **keys)


# -- what identifies data ----------------------------------------------------------------------------------------
def test_a_reference_is_json_and_comes_back_from_it(ref_of: Callable[..., DataRef]) -> None:
    ref = ref_of(x=derived(classes=(2, 0), half="a", fraction=0.9, labels="shuffled", size=8, channels=3, split=3))
    plain = json.loads(canonical_json(msgspec.to_builtins(ref)))
    assert msgspec.convert(plain, DataRef) == ref
    assert digest(plain) == digest(msgspec.to_builtins(ref))
    assert [step["step"] for step in plain["steps"]] == [
        "classes", "half", "fraction", "shuffled_labels", "size", "channels",
    ]  # fmt: skip
    assert not {"x", "base", "animals"} & set(str(plain).replace("'", " ").split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (derived(classes=("eel", "cat")), derived(classes=(2, 0))),
        (derived(classes=("cat", "dog", "eel")), derived()),
        (derived(fraction=1), derived()),
        (derived(size=6), derived()),
        (derived(size=6, fit="pad"), derived()),
        (derived(channels=1), derived()),
        (derived(split=0, validation=0.1, labels="true"), derived()),
        (derived(validation=0), derived(validation=0.0)),
        (DataSpec(path="../{}/animals"), derived()),
    ],
)
def test_trivially_different_descriptions_are_one_data_set(
    ref_of: Callable[..., DataRef], animals: Path, one: DataSpec, other: DataSpec
) -> None:
    if one.path is not None:
        one = msgspec.structs.replace(one, path=one.path.format(animals.parent.name))
    a, b = ref_of(x=one), ref_of("y", y=other)
    assert canonical_json(msgspec.to_builtins(a)) == canonical_json(msgspec.to_builtins(b))


def test_a_chain_says_the_same_as_one_table(ref_of: Callable[..., DataRef]) -> None:
    chain = {"big": derived(size=9, split=2), "x": DataSpec(from_="big", half="a", classes=(0, 1))}
    assert ref_of(**chain) == ref_of(x=derived(classes=(0, 1), half="a", size=9, split=2))


@pytest.mark.parametrize(
    "keys",
    [
        {"classes": (0, 1)},
        {"classes": (2, 1, 0)},
        {"half": "a"},
        {"half": "b"},
        {"half": "a", "split": 1},
        {"per_class": 5},
        {"fraction": 0.5},
        {"labels": "shuffled"},
        {"size": 5},
        {"size": 9},
        {"size": 9, "fit": "pad"},
        {"channels": 3},
        {"split": 1},
        {"validation": 0.3},
    ],
)
def test_every_key_that_changes_the_data_changes_the_reference(
    ref_of: Callable[..., DataRef], keys: dict[str, Any]
) -> None:
    others = [{"half": "a"}, {"half": "b"}, {"size": 9}, {}]
    assert all(ref_of(x=derived(**keys)) != ref_of("y", y=derived(**other)) for other in others if other != keys)


def test_split_and_validation_are_taken_over_through_from(ref_of: Callable[..., DataRef]) -> None:
    parent = derived(split=3, validation=0.2)
    ref = ref_of(p=parent, x=DataSpec(from_="p", half="a"))
    assert (ref.split, ref.validation) == (3, 0.2)
    assert ref == ref_of(x=derived(half="a", split=3, validation=0.2))
    assert ref_of(p=parent, x=DataSpec(from_="p", split=0, validation=0)) == ref_of(x=derived(validation=0))


# -- what is opened ----------------------------------------------------------------------------------------------
def test_opened_data_has_the_images_of_its_labels(ref_of: Callable[..., DataRef], base: Decoded, cache: Path) -> None:
    splits = open_data(ref_of(x=derived(classes=("eel", "cat"), validation=0.25)), cache=cache)
    rows = zip(base.train.images, base.train.labels, strict=True)
    original = {image.numpy().tobytes(): int(label) for image, label in rows}
    for part in (splits.train, splits.validation):
        assert part.classes == ("eel", "cat")
        names = [base.classes[original[image.numpy().tobytes()]] for image in part.gather()]
        assert names == [part.classes[label] for label in part.labels]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 5, 6)
    assert torch.equal(splits.test.labels, torch.tensor([1] * 3 + [0] * 3))


def test_halves_of_one_split_have_nothing_in_common_once_opened(ref_of: Callable[..., DataRef], cache: Path) -> None:
    def seen(half: str) -> set[bytes]:
        splits = open_data(ref_of(x=derived(half=half)), cache=cache)
        return {image.numpy().tobytes() for part in (splits.train, splits.validation) for image in part.gather()}

    assert not seen("a") & seen("b")
    assert len(seen("a") | seen("b")) == 28


def test_opening_twice_gives_the_same_and_copies_no_pixels(ref_of: Callable[..., DataRef], cache: Path) -> None:
    ref = ref_of(x=derived(half="a"))
    one, two = open_data(ref, cache=cache), open_data(ref, cache=cache)
    assert torch.equal(one.validation.gather(), two.validation.gather())
    assert one.train.images.data_ptr() == one.validation.images.data_ptr()


def test_writing_to_opened_images_does_not_reach_the_cache(ref_of: Callable[..., DataRef], cache: Path) -> None:
    ref = ref_of(x=derived())
    before = open_data(ref, cache=cache)
    original = before.train.images.clone()
    before.train.images.zero_()
    assert torch.equal(open_data(ref, cache=cache).train.images, original)


def test_other_pixels_are_made_once_and_shared_by_subsets(ref_of: Callable[..., DataRef], cache: Path) -> None:
    keys: dict[str, Any] = {"size": 8, "fit": "pad", "channels": 3}
    whole = open_data(ref_of(x=derived(**keys)), cache=cache)
    assert whole.train.shape == whole.validation.shape == whole.test.shape == (3, 8, 8)
    folders = sorted(os.listdir(cache / "data"))
    half = open_data(ref_of(x=derived(half="a", **keys)), cache=cache)
    assert sorted(os.listdir(cache / "data")) == folders
    small = open_data(ref_of(x=derived(half="a")), cache=cache)
    assert torch.equal(half.train.gather()[:, :1, 1:-1, 1:-1], small.train.gather())


def test_data_that_is_not_in_the_cache(ref_of: Callable[..., DataRef], cache: Path, tmp_path: Path) -> None:
    ref = ref_of(x=derived())
    with pytest.raises(InputError, match=r"is not in the cache"):
        open_data(ref, cache=tmp_path / "elsewhere")
    file = cache / "data" / ref.fingerprint / "train-images.npy"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"is not in the cache"):
        open_data(ref, cache=cache)
    assert ref_of(x=derived()) == ref
    assert len(open_data(ref, cache=cache).train) == 25


# -- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (derived(classes=("cat", "dgo")), r"^data.x: classes: the data has no class 'dgo'.*'dog'\?"),
        (derived(classes=(3,)), "^data.x: classes: the data has no class 3"),
        (derived(per_class=8), "^data.x: per_class: .* class 'eel' has 7"),
        (derived(per_class=2), "^data.x: validation: .* leaves none to validate on"),
        (derived(validation=0.99), "^data.x: validation: .* leaves no training image of class 'cat'"),
        (derived(size=5, fit="pad"), "^data.x: size: images of 6×6 cannot be padded to 5×5"),
        (DataSpec(path="animal"), r"^data.x: the folder .* does not exist .*'animals'\?"),
        (DataSpec(builtin="mnist"), "^data.x: unknown built-in data set 'mnist'"),
        (DataSpec(from_="bsae"), r"^data.x.from: unknown data set 'bsae'.*'base'\?"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_resolved(
    ref_of: Callable[..., DataRef], spec: DataSpec, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ref_of(x=spec)


def test_classes_without_test_images_leave_an_empty_split(tmp_path: Path, cache: Path, base: Decoded) -> None:
    keep_only = base.test.labels < 2
    reduced = Decoded(base.classes, base.train, Part(base.test.images[keep_only], base.test.labels[keep_only]))
    name = keep(cache, reduced)
    specs = {"x": derived(classes=("eel",)), "base": DataSpec(path="animals")}
    for memo in (cache / "data" / "memo").iterdir():
        remember(cache, memo.name, name)
    with pytest.raises(InputError, match=r"^data.x: the test split is empty"):
        resolve(specs, "x", folder=tmp_path, cache=cache)
