"""The cache: keyed by content, decoded once, written whole or not at all, by one process or by two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneticket.data import DataRef, DataSpec, default_cache, open_data, reference, resolve
from oneticket.data.cache import Decoded, Part, _written, fingerprint, keep, remember
from oneticket.errors import InputError


def derived(**keys: Any) -> DataSpec:
    return DataSpec(from_="base", **keys)


def test_the_fingerprint_is_of_the_content_not_of_the_files(
    ref_of: Callable[..., DataRef], base: Decoded, animals: Path
) -> None:
    for part, data in base.parts.items():
        for row, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            file = animals / part / base.classes[label] / f"{row:02}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(file)
    assert ref_of(x=DataSpec(images="animals")) == ref_of(x=derived())


@pytest.mark.parametrize("change", ["pixel", "label", "class", "split"])
def test_the_fingerprint_sees_every_part_of_the_content(change: str) -> None:
    def data() -> tuple[Decoded, Decoded]:
        images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        whole = Decoded(("cat", "dog"), Part(images, labels), Part(images[:2], labels[:2]))
        pixels, other = images.clone(), labels.clone()
        pixels[3, 0, 1, 1], other[3] = 1, 0
        return whole, {
            "pixel": Decoded(whole.classes, Part(pixels, labels), whole.test),
            "label": Decoded(whole.classes, Part(images, other), whole.test),
            "class": Decoded(("cat", "eel"), whole.train, whole.test),
            "split": Decoded(whole.classes, whole.test, whole.train),
        }[change]

    assert fingerprint(data()[0]) == fingerprint(data()[0])
    assert fingerprint(data()[0]) != fingerprint(data()[1])


def test_unchanged_files_are_decoded_once_and_changed_ones_again(
    ref_of: Callable[..., DataRef], animals: Path, decodings: list[str]
) -> None:
    first = ref_of(x=derived())
    assert ref_of(x=derived(half="a")).fingerprint == first.fingerprint
    assert decodings == [first.fingerprint]
    status = (animals / "test.parquet").stat()
    os.utime(animals / "test.parquet", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert ref_of(x=derived()) == first
    assert len(decodings) == 2
    (animals / "train.parquet").write_bytes((animals / "test.parquet").read_bytes())
    assert ref_of(x=derived(validation=0)).fingerprint != first.fingerprint
    assert len(decodings) == 3


def test_a_deleted_cache_is_made_again(ref_of: Callable[..., DataRef], cache: Path, decodings: list[str]) -> None:
    first = ref_of(x=derived())
    for file in (cache / "data" / first.fingerprint).iterdir():
        file.unlink()
    (cache / "data" / first.fingerprint).rmdir()
    assert ref_of(x=derived()) == first
    assert len(decodings) == 2
    assert len(open_data(first, cache=cache).train) == 25


def test_images_of_different_sizes_take_the_first_size_of_their_chain(
    folder_of: Callable[[dict[str, bytes]], Path], cache: Path, decodings: list[str]
) -> None:
    files = {}
    for part, count in {"train": 6, "test": 3}.items():
        for row in range(count):
            file = BytesIO()
            Image.fromarray(np.full((4 + row, 5), 9 * row, dtype=np.uint8)).save(file, "PNG")
            files[f"{part}/x/{row}.png"] = file.getvalue()
    home = folder_of(files)
    specs = {
        "photos": DataSpec(images=str(home)),
        "half": DataSpec(from_="photos", half="a"),
        "small": DataSpec(from_="half", size=8, validation=0.4),
        "large": DataSpec(from_="small", size=16),
        "other": DataSpec(from_="photos", size=12),
    }
    with pytest.raises(InputError, match=r"^data.photos: size: images have different sizes"):
        resolve(specs, "half", folder=home, cache=cache)
    refs = {name: resolve(specs, name, folder=home, cache=cache) for name in ("small", "large", "other", "small")}
    assert len(decodings) == 2
    assert refs["small"].fingerprint == refs["large"].fingerprint != refs["other"].fingerprint
    assert [open_data(ref, cache=cache).train.shape for ref in refs.values()] == [(1, 8, 8), (1, 16, 16), (1, 12, 12)]
    assert refs["other"].steps == ()


def test_nothing_half_written_is_ever_seen(cache: Path) -> None:
    def fail() -> None:
        with _written(cache, "name") as folder:
            assert folder is not None
            (folder / "half.npy").write_text("half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match=r"no space left"):
        fail()
    assert os.listdir(cache / "data") == []


def test_two_writers_of_one_content_agree(cache: Path) -> None:
    with _written(cache, "name") as one, _written(cache, "name") as two:
        assert one is not None
        assert two is not None
        for folder in (one, two):
            (folder / "content").write_text("the same")
    assert os.listdir(cache / "data") == ["name"]
    with _written(cache, "name") as three:
        assert three is None


SECOND = """
import sys
from pathlib import Path

import filelock

from oneticket.data import DataSpec, cache, open_data, reference, resolve


class Telling(filelock.FileLock):
    def acquire(self, *arguments, **keys):
        try:
            return super().acquire(timeout=0)
        except filelock.Timeout:
            print("waiting", flush=True)
            return super().acquire(*arguments, **keys)


def telling(place, data):
    print("decoded", flush=True)
    return cache.keep(place, data)


cache.FileLock, reference.keep = Telling, telling
folder, place = map(Path, sys.argv[1:])
ref = resolve({"x": DataSpec(path="animals")}, "x", folder=folder, cache=place)
print(ref.fingerprint, len(open_data(ref, cache=place).train))
"""
"""What a second process does: it tells when it has to wait for the lock, and when it decodes."""


def test_two_processes_at_once_decode_once(
    animals: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process asks while the first decodes; the first goes on when the second has told what it does."""
    second: list[subprocess.Popen[str]] = []
    told: list[str] = []

    def keep_while_another_asks(place: Path, data: Decoded) -> str:
        command = [sys.executable, "-c", SECOND, str(tmp_path), str(cache)]
        second.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert second[0].stdout is not None
        told.append(second[0].stdout.readline())
        return keep(place, data)

    monkeypatch.setattr(reference, "keep", keep_while_another_asks)
    ref = resolve({"x": DataSpec(path="animals")}, "x", folder=tmp_path, cache=cache)
    assert told == ["waiting\n"]
    rest, _ = second[0].communicate()
    assert rest.split() == [ref.fingerprint, str(len(open_data(ref, cache=cache).train))]
    assert sorted(os.listdir(cache / "data")) == sorted([ref.fingerprint, "locks", "memo"])


def test_the_default_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "oneticket"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "oneticket"


def test_a_cache_that_cannot_be_written(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"the cache cannot be written"):
        resolve({"x": DataSpec(path="animals")}, "x", folder=tmp_path, cache=tmp_path / "file" / "cache")


# -- damage -------------------------------------------------------------------------------------------------------
def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


DAMAGES = (flip, shorten, lambda file: file.write_bytes(b""), os.unlink, lambda file: file.write_bytes(b"\0" * 64))


NAMES = ("meta.json", "train-images.npy", "test-images.npy", "train-labels.npy")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "resized"), [*((name, False) for name in NAMES), *((name, True) for name in NAMES[:3])]
)
def test_damaged_data_is_dropped_with_one_line_and_made_anew(
    ref_of: Callable[..., DataRef], cache: Path, decodings: list[str], caplog: pytest.LogCaptureFixture, name: str,
    resized: bool, damage: Callable[[Path], object],
) -> None:  # fmt: skip
    keys: dict[str, Any] = {"size": 8} if resized else {}
    ref = ref_of(x=derived(**keys))
    before = open_data(ref, cache=cache).train
    images, labels = before.gather(), before.labels.clone()
    del before  # its images are those of the file
    homes = {file.parent for file in cache.glob(f"data/*/{name}")}
    (home,) = (home for home in homes if (home.name != ref.fingerprint) == resized)
    damage(home / name)
    assert ref_of(x=derived(**keys)) == ref
    again = open_data(ref, cache=cache).train
    assert torch.equal(again.gather(), images)
    assert torch.equal(again.labels, labels)
    assert len(decodings) == (1 if resized else 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{home} is damaged or of an earlier version; it is dropped and made anew"
    ]


def test_data_is_compared_once_and_again_when_its_files_change(
    ref_of: Callable[..., DataRef], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ref_of(x=derived())
    compared: list[str] = []
    real = fingerprint
    monkeypatch.setattr("oneticket.data.cache.fingerprint", lambda data: (compared.append("x"), real(data))[1])
    for _ in range(3):
        open_data(ref, cache=cache)
    assert not compared, "it was when it was resolved"
    file = cache / "data" / ref.fingerprint / "train-labels.npy"
    file.write_bytes(file.read_bytes())
    for _ in range(3):
        open_data(ref, cache=cache)
    assert len(compared) == 1


@pytest.mark.parametrize("text", ["", "0" * 64, "0" * 64 + " " + "1" * 64, "\x00", "long" * 999, "é" * 40])
def test_a_memo_that_is_damaged_or_of_an_earlier_version_is_written_anew(
    ref_of: Callable[..., DataRef], cache: Path, decodings: list[str], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    ref = ref_of(x=derived())
    (memo,) = (cache / "data" / "memo").iterdir()
    whole = memo.read_bytes()
    memo.write_text(text)
    assert ref_of(x=derived()) == ref
    assert len(decodings) == 2
    assert memo.read_bytes() == whole
    assert len(caplog.records) == (len(text) != 64)


def test_the_memo_of_other_files_is_not_believed(ref_of: Callable[..., DataRef], cache: Path) -> None:
    ref = ref_of(x=derived())
    (memo,) = (cache / "data" / "memo").iterdir()
    other = Decoded(("a",), *(Part(torch.zeros(9, 1, 6, 6, dtype=torch.uint8), torch.zeros(9).long()) for _ in "ab"))
    remember(cache, "0" * 64, keep(cache, other))
    memo.write_bytes((memo.parent / ("0" * 64)).read_bytes())
    assert ref_of(x=derived()) == ref
