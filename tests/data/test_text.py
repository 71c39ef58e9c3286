"""Text: whole files for training or for testing, windows of bytes, and what is left out, with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import oneticket as ot
from oneticket.data import DataRef, DataSpec, Splits, TextSet, as_batches, counted, open_data, resolve
from oneticket.data.cache import kept
from oneticket.data.parting import for_testing
from oneticket.data.sets import VOCABULARY
from oneticket.errors import InputError

T = 8


def words(number: int, length: int = 45) -> str:
    """A text like no other."""
    return "".join(f"{number}.{place} " for place in range(length))[:length]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Twenty files of five whole windows and five bytes more, a fourth of them in a sub-folder."""
    for number in range(20):
        folder = tmp_path / "texts" / ("inner" if number % 4 == 0 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.txt").write_text(words(number))
    return tmp_path / "texts"


@pytest.fixture
def opened(home: Path, cache: Path) -> Callable[..., Splits]:
    def open_(**keys: object) -> Splits:
        spec = DataSpec(text=str(home), **{"window": T, **keys})  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ref = resolve({"x": spec}, "x", folder=Path(), cache=cache)
        return open_data(ref, cache=cache)

    return open_


def texts_of(part: TextSet) -> set[bytes]:
    return {bytes(window.tolist()) for window in part.gather()}


def numbers_of(part: TextSet) -> set[int]:
    """The files that the windows of a part come from: every window has the start of a file's text or its number."""
    cut = {words(n).encode()[i : i + T]: n for n in range(20) for i in range(0, 40, T)}
    return {cut[window] for window in texts_of(part)}


def test_windows_are_the_bytes_of_the_files_and_whole_files_are_for_testing(opened: Callable[..., Splits]) -> None:
    splits = opened(test=0.2, validation=0)
    train, test = splits.train, splits.test
    assert isinstance(train, TextSet)
    assert isinstance(test, TextSet)
    assert (len(train), len(test), train.shape, train.classes) == (80, 20, (T,), VOCABULARY)
    assert not numbers_of(train) & numbers_of(test)
    assert numbers_of(train) | numbers_of(test) == set(range(20))
    assert counted(test) == 20 * (T - 1)


def test_validation_and_halves_are_of_whole_files(opened: Callable[..., Splits]) -> None:
    splits = opened(test=0.2, validation=0.25)
    assert (len(splits.train), len(splits.validation)) == (60, 20)
    assert not numbers_of(splits.train) & numbers_of(splits.validation)  # type: ignore[arg-type]
    a, b = (opened(test=0.2, validation=0, half=half).train for half in "ab")
    assert not numbers_of(a) & numbers_of(b)  # type: ignore[arg-type]
    assert len(a) == len(b) == 40


def test_fewer_windows_are_a_part_of_more(opened: Callable[..., Splits]) -> None:
    few, more = (texts_of(opened(windows=count, validation=0).train) for count in (10, 35))  # type: ignore[arg-type]
    assert few < more
    with pytest.raises(InputError, match="91 windows are too many: there are 90"):
        opened(windows=91)


def test_another_split_tests_other_files(opened: Callable[..., Splits]) -> None:
    sides = [frozenset(numbers_of(opened(test=0.2, split=split).test)) for split in (0, 1, 0)]  # type: ignore[arg-type]
    assert sides[0] == sides[2] != sides[1]


def test_batches_give_the_tokens_as_inputs_and_targets(opened: Callable[..., Splits]) -> None:
    train = opened(validation=0).train
    batches = as_batches(train, 32)
    for made in (batches.ordered(), batches.epoch(torch.Generator(), torch.Generator())):
        pairs = list(made)
        assert [len(inputs) for inputs, _ in pairs] == [32, 32, 26]
        assert all(i.dtype == torch.int64 and torch.equal(i, t) and i is not t for i, t in pairs)
        joined = torch.cat([inputs for inputs, _ in pairs]).byte()
        assert {bytes(row.tolist()) for row in joined} == texts_of(train)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flip and crop are for an ImageSet, not for TextSet"):
        as_batches(train, 32, augmentation=ot.data.Augmentation(flip=True))


def test_what_is_left_out_is_said_with_its_reason_and_again_from_the_cache(home: Path, cache: Path) -> None:
    (home / "copy.txt").write_text(words(3))
    (home / "short.txt").write_text("short")
    (home / "binary.txt").write_bytes(b"\xff\xfe" * 40)
    (home / "other.dat").write_text(words(99))
    (home / ".hidden").mkdir()
    spec = DataSpec(text=str(home), window=T, pattern="*.txt")
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out") as caught:
            resolve({"x": spec}, "x", folder=Path(), cache=cache)
        told = "\n".join(str(warning.message) for warning in caught)
        for reason in (
            "copy.txt left out: the same text as another file",
            "short.txt left out: shorter than a window of 8 bytes",
            "binary.txt left out: not text in UTF-8",
            "other.dat left out: not *.txt",
            ".hidden left out: hidden",
            "100 of 900 bytes left out: ends of files",
        ):
            assert reason in told


def test_the_identity_is_that_of_the_windows(home: Path, cache: Path, tmp_path: Path) -> None:
    def ref(place: Path, **keys: object) -> DataRef:
        spec = DataSpec(text=str(place), **{"window": T, **keys})  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return resolve({"x": spec}, "x", folder=Path(), cache=cache)

    moved = tmp_path / "moved"
    home.rename(moved)
    first = ref(moved)
    moved.rename(home)
    assert ref(home) == first
    assert len({first, ref(home, window=T + 1), ref(home, test=0.3), ref(home, split=1), ref(home, windows=9)}) == 5
    data = kept(cache, first.fingerprint)
    assert data is not None
    assert (data.kind, data.train.images.dtype) == ("text", torch.uint8)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"per_class": 3}, 'per_class: "per_class" is for pictures and a table, and the data are text'),
        ({"size": 8}, 'size: "size" is for pictures'),
        ({"labels": "shuffled"}, 'labels: "labels" is for pictures and a table'),
        ({"label": "y"}, 'label: "label" is about table'),
        ({"test": "b"}, "test: 'b' is text; expected a fraction"),
        ({"window": 1}, "window: 1 is out of range"),
        ({"windows": 5, "fraction": 0.5}, "windows and fraction are both given"),
        ({"pattern": "*.py"}, r"no \*.py in"),
        ({"window": 50}, "0 of 20 files can be used"),
    ],
)
def test_what_cannot_be_used_is_refused(opened: Callable[..., Splits], keys: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened(**keys)


def test_keys_of_text_are_refused_elsewhere(cache: Path) -> None:
    for spec in (DataSpec(builtin="digits", window=8), DataSpec(builtin="digits", windows=8)):
        with pytest.raises(InputError, match="window"):
            resolve({"x": spec}, "x", folder=Path(), cache=cache)


def test_one_line_opens_a_folder(home: Path, cache: Path) -> None:
    with pytest.warns(UserWarning, match="ends of files"):
        train, test = ot.data.text(home, window=T, test=0.2, cache=cache)
    assert (len(train), len(test)) == (80, 20)
    with pytest.raises(InputError, match=r"^the folder .* does not exist"):
        ot.data.text(home / "absent", cache=cache)


def test_parting_takes_the_fraction_keeps_equals_together_and_moves_few() -> None:
    names = [f"{number}" for number in range(50)]
    sides = for_testing(names, 0.2, 0)
    assert sum(sides) == 10
    without = for_testing(names[1:], 0.2, 0)
    assert sum(a != b for a, b in zip(sides[1:], without, strict=True)) <= 1
    assert set(for_testing(["a", "a", "b", "b"], 0.5, 0)) == {True, False}
    twice = for_testing(["a"] * 5 + ["b"] * 5, 0.3, 0)
    assert len(set(twice[:5])) == len(set(twice[5:])) == 1
    with pytest.raises(InputError, match="cannot be parted"):
        for_testing(["a", "a"], 0.5, 0)
